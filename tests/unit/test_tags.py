"""What page files say of themselves, with extended attributes and without."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bucketfs.cache import orphans
from bucketfs.cache.journal import Journal
from bucketfs.cache.pages import Tag

TAG = Tag("dir/key \u00e4", 10, whole=True, written=7, since=5)


@pytest.fixture(params=["xattr", "beside"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page file, on a file system with and without extended attributes."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if request.param == "beside":
        for name in ("setxattr", "getxattr", "removexattr"):
            monkeypatch.setattr(os, name, refuse)
    path = tmp_path / "0.pages"
    path.write_bytes(b"01234567")
    return path


def test_put_and_drop(path: Path) -> None:
    assert Tag.read(path) is None
    Tag("other", 1, whole=False, written=1, since=1).put(path)
    TAG.put(path)
    assert Tag.read(path) == TAG
    Tag.drop(path)
    Tag.drop(path)
    assert Tag.read(path) is None
    assert [one.name for one in path.parent.iterdir()] == ["0.pages"]


def test_what_the_journal_does_not_name_is_kept(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    TAG.put(path)
    other = path.with_name("1.pages")
    other.write_bytes(b"nobody needs it")
    journal = Journal(path.with_name("journal.sqlite"))
    (kept,) = orphans.keep(path.parent, journal)
    assert kept.read_bytes() == b"01234567\0\0"
    assert kept.name.endswith("-key \u00e4")
    (failed,) = journal.failed()
    assert (failed.path, failed.key) == (f"unsaved/{kept.name}", TAG.key)
    assert str(kept) in caplog.text
    assert orphans.keep(path.parent, journal) == []
    assert other.exists()
    assert not Tag.beside(path).exists()
    journal.close()


def test_a_tag_that_cannot_be_read_counts(path: Path) -> None:
    TAG.put(path)
    if Tag.beside(path).exists():
        Tag.beside(path).write_bytes(b"{")
    else:
        os.setxattr(path, "user.bucketfs.waits", b"\xff")
    tag = Tag.read(path)
    assert tag is not None
    assert tag.key == ""


def test_a_disk_that_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TAG.put(tmp_path / "absent.pages")
