"""A cache directory that another user made, or could change, is not believed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from bucketfs.cache import places
from bucketfs.cache.journal import Journal
from bucketfs.cache.rows import Removal
from bucketfs.errors import FsError
from tests.tree.builder import Bucket, planted
from tests.tree.test_cache import opened

OTHER = 4711


def planted_journal(root: Path) -> Path:
    """A directory under the name of a cache, whose journal has `precious` deleted."""
    made = opened(root)
    made.close()
    journal = Journal(made.directory / places.JOURNAL)
    journal.remove([Removal("precious", "")])
    journal.close()
    return made.directory


def given_away(directory: Path) -> None:
    for path in (directory, *directory.iterdir()):
        os.chown(path, OTHER, OTHER, follow_symlinks=False)


@pytest.mark.needs_root("acts as another user")
async def test_the_journal_of_another_user_is_not_carried_out(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.chmod(tmp_path, 0o1777)
    bucket.poke("precious", b"bytes")
    given_away(theirs := planted_journal(tmp_path))
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("precious") == b"bytes"
        assert mount.cache.directory != theirs
    assert bucket.peek("precious") == b"bytes"
    told = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert [r.getMessage() for r in told] == [
        f"the cache directory {theirs} is not used: {theirs} belongs to user {OTHER}"
    ]
    assert theirs not in list(places.directories(tmp_path))
    with pytest.raises(FsError, match="belongs to user"):
        places.lock(theirs)


@pytest.mark.needs_root("acts as another user")
async def test_one_file_of_another_user(tmp_path: Path) -> None:
    ours = planted_journal(tmp_path)
    (ours / "journal.sqlite-wal").write_bytes(b"")
    os.chown(ours / "journal.sqlite-wal", OTHER, OTHER)
    cache = opened(tmp_path)
    assert cache.directory != ours
    cache.close()


@pytest.mark.parametrize(
    "name", ["name", "lock", "journal.sqlite", "index.sqlite-shm", "unsaved", "0.pages"]
)
async def test_a_link_in_it_is_not_followed(tmp_path: Path, name: str) -> None:
    first = opened(tmp_path / "root")
    first.close()
    target = tmp_path / "target"
    (first.directory / name).unlink(missing_ok=True)
    (first.directory / name).symlink_to(target)
    cache = opened(tmp_path / "root")
    assert cache.directory != first.directory
    assert not target.exists()
    cache.close()


async def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    first = opened(tmp_path / "root")
    first.close()
    first.directory.rename(tmp_path / "elsewhere")
    first.directory.symlink_to(tmp_path / "elsewhere")
    cache = opened(tmp_path / "root")
    assert cache.directory != first.directory
    cache.close()
    assert list(places.directories(tmp_path / "root")) == [cache.directory]


async def test_a_loose_mode_is_mended(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.close()
    first.directory.chmod(0o775)
    cache = opened(tmp_path)
    assert cache.directory == first.directory
    assert cache.directory.stat().st_mode & 0o7777 == 0o700
    cache.close()


async def test_who_can_rename_the_directory_can_replace_it(tmp_path: Path) -> None:
    root = tmp_path / "loose" / "root"
    opened(root).close()
    root.parent.chmod(0o777)
    with pytest.raises(FsError, match=r"loose can be written by other users .*use_cache"):
        opened(root)


@pytest.mark.needs_root("acts as another user")
async def test_a_root_of_another_user_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, OTHER, OTHER)
    with pytest.raises(FsError, match=rf"root belongs to user {OTHER}; with use_cache name"):
        opened(root)
    assert not list(root.iterdir())


@pytest.mark.parametrize("kind", ["directory", "pipe"])
async def test_something_else_in_place_of_the_lock(tmp_path: Path, kind: str) -> None:
    first = opened(tmp_path)
    first.close()
    lock = first.directory / "lock"
    lock.unlink()
    if kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    cache = opened(tmp_path)
    assert cache.directory != first.directory
    cache.close()
