"""Owners change their files right after an `ls`, before anything was asked of each file.

The kernel then knows the type of an entry alone, and decides by itself who is the owner
(default_permissions). Each test does a thing first on files of another's: that must be refused.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.mounts import SHARED, Mount, Mounts, as_user
from tests.harness.posix import refused
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness

pytestmark = pytest.mark.needs_root("acts as another user")

UID = 1000
BIG = b"x" * 5000  # too long to be a symbolic link: its type is known from the listing


def put(bucket: Witness, key: str, uid: int, mode: int = 0o644) -> None:
    bucket.put(key, BIG, uid=str(uid), gid=str(uid), mode=str(stat.S_IFREG | mode))


def nothing(path: Path) -> None:
    return


def listed(path: Path) -> None:
    os.listdir(path.parent)


def listed_by_others(path: Path) -> None:
    as_user(lambda: len(os.listdir(path.parent)), uid=UID + 7)


LOOKS = [nothing, listed, listed_by_others]
CHANGES: dict[str, Callable[[Path], object]] = {
    "chmod": lambda path: path.chmod(0o600),
    "utime": lambda path: os.utime(path, (1, 2)),
    "touch": os.utime,
    "chown": lambda path: os.chown(path, UID, UID),
    "chgrp": lambda path: os.chown(path, -1, UID),
}


@pytest.mark.parametrize("look", LOOKS)
def test_the_owner_may(mount: Mounts, bucket: Witness, look: Callable[[Path], None]) -> None:
    for name in CHANGES:
        put(bucket, f"d/{name}", UID)
    path = mount(bucket, *SHARED).path / "d"
    for name, change in CHANGES.items():
        look(path / name)
        as_user(functools.partial(change, path / name))


@pytest.mark.parametrize("look", LOOKS)
def test_others_may_not(mount: Mounts, bucket: Witness, look: Callable[[Path], None]) -> None:
    for name in CHANGES:
        put(bucket, f"d/{name}", UID + 1)
    path = mount(bucket, *SHARED).path / "d"
    for name, change in CHANGES.items():
        look(path / name)
        with refused(errno.EPERM, errno.EACCES):
            as_user(functools.partial(change, path / name))
        found = (path / name).stat()
        assert (found.st_uid, found.st_mode) == (UID + 1, stat.S_IFREG | 0o644)


def test_who_may_write_may_touch(mount: Mounts, bucket: Witness) -> None:
    put(bucket, "f", UID + 1, 0o666)
    path = mount(bucket, *SHARED).path / "f"
    listed(path)
    as_user(lambda: os.utime(path))


def test_each_sees_for_himself(mount: Mounts, bucket: Witness) -> None:
    """One has looked a name up, which another one then uses."""
    put(bucket, "d/f", UID)
    put(bucket, "d/g", UID + 1)
    path = mount(bucket, *SHARED).path / "d"
    with refused(errno.EPERM):
        as_user(lambda: (path / "f").chmod(0o600), uid=UID + 1)
    as_user(lambda: (path / "f").chmod(0o600), uid=UID)
    with refused(errno.EPERM):
        as_user(lambda: (path / "g").chmod(0o600), uid=UID)
    as_user(lambda: (path / "g").chmod(0o600), uid=UID + 1)
    assert [(path / name).stat().st_mode & 0o777 for name in "fg"] == [0o600, 0o600]


@pytest.fixture
def sticky(mount: Mounts, bucket: Witness) -> Mount:
    """A directory like /tmp."""
    bucket.put("tmp/", mode=str(stat.S_IFDIR | 0o1777), uid="0", gid="0")
    put(bucket, "tmp/mine", UID)
    put(bucket, "tmp/theirs", UID + 1)
    bucket.put("tmp/mydir/", mode=str(stat.S_IFDIR | 0o755), uid=str(UID), gid=str(UID))
    bucket.put("tmp/theirdir/", mode=str(stat.S_IFDIR | 0o755), uid=str(UID + 1), gid="0")
    return mount(bucket, *SHARED)


@pytest.mark.needs("marker_metadata")
@pytest.mark.parametrize("look", LOOKS)
def test_removing_in_a_sticky_directory(
    sticky: Mount, bucket: Witness, look: Callable[[Path], None]
) -> None:
    path = sticky.path / "tmp"
    look(path / "mine")
    with refused(errno.EPERM):
        as_user((path / "theirs").unlink)
    with refused(errno.EPERM):
        as_user((path / "theirdir").rmdir)
    with refused(errno.EPERM):
        as_user(lambda: (path / "theirs").rename(path / "new"))
    with refused(errno.EPERM):
        as_user(lambda: (path / "mine").rename(path / "theirs"))
    as_user(lambda: (path / "mine").rename(path / "mine2"))
    as_user((path / "mine2").unlink)
    as_user((path / "mydir").rmdir)
    assert sorted(os.listdir(path)) == ["theirdir", "theirs"]


@pytest.mark.needs("marker_metadata")
def test_removing_asks_nothing_more(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    for number in range(20):
        put(bucket, f"d/{number}", UID)
    bucket.put("d/", mode=str(stat.S_IFDIR | 0o777))
    path = mount(bucket, *SHARED, "open_ttl=30", url=counted.url).path / "d"

    def remove() -> None:
        for name in os.listdir(path):
            (path / name).unlink()

    as_user(path.stat)
    counted.clear()
    as_user(remove)
    assert "HeadObject" not in counted.counts(), counted.story()
    assert "GetObject" not in counted.counts(), counted.story()
