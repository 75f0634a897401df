"""Changing attributes: merged into one request over a short while, or into the upload."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError
from bucketfs.store.base import ObjectInfo, Sink
from bucketfs.tree.core.inode import Inode
from bucketfs.tree.saving.change import Change
from tests.tree.builder import TTL, Bucket, Mount, planted, said

pytestmark = pytest.mark.mock_clock


def change(mount: Mount, inode: Inode, **values: int) -> None:
    """A setattr, as the FUSE layer does it."""
    assert mount.tree.changer.change(inode, Change(**values))
    mount.tree.later.attributes(inode)


async def test_chmod_chown_and_utimens_are_one_copy(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"bytes", said(0o100600, color="red"))
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        bucket.requested()
        change(mount, inode, mode=0o4755)
        await trio.sleep(0.001)
        change(mount, inode, uid=5, gid=6)
        await trio.sleep(0.001)
        change(mount, inode, mtime_ns=123, atime_ns=456)
        assert mount.tree.posix(inode).uid == 5, "shown at once"
        await trio.sleep(5)
        assert bucket.requested() == {"CopyObject": 1}
        metadata = bucket.objects["f"].headers.metadata
        assert (
            metadata.items()
            >= {
                "mode": str(stat.S_IFREG | 0o4755),
                "uid": "5",
                "gid": "6",
                "mtime": "0.000000123",
                "atime": "0.000000456",
                "color": "red",
            }.items()
        )
        assert bucket.peek("f") == b"bytes"
        assert not mount.tree.state.open_inodes


class Short(Bucket):
    """A store that takes a part of an object for all of it."""

    async def get(
        self, key: str, sink: Sink, *, start: int = 0, stop: int | None = None, **rest: object
    ) -> ObjectInfo:
        info = await super().get(key, sink, start=start, stop=3)
        return replace(info, size=3)


async def test_a_version_has_the_size_that_was_listed(tmp_path: Path) -> None:
    bucket = Short()
    bucket.poke("f", b"bytes")
    async with planted(bucket, tmp_path) as mount:
        await mount.root_listed()
        bucket.requested()
        inode = await mount.find("f")
        assert bucket.requested() == {"GetObject": 1, "HeadObject": 1}
        assert inode.size == 5
        assert not mount.tree.attributes.is_here(inode)


async def test_a_change_during_the_copy_is_saved_too(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"bytes")
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        bucket.latency = 1.0
        change(mount, inode, mode=0o600)
        await trio.sleep(0.5)
        change(mount, inode, mode=0o644)
        await trio.sleep(10)
        assert bucket.objects["f"].headers.metadata["mode"] == str(0o100644)
        assert not mount.tree.state.open_inodes


async def test_changes_of_an_open_written_file_go_with_its_bytes(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        change(mount, handle.inode, mode=0o600, mtime_ns=5)
        await trio.sleep(1)
        await mount.close(handle)
        await trio.sleep(5)
        assert bucket.requested() == {"ListObjectsV2": 1, "PutObject": 1}
        metadata = bucket.objects["f"].headers.metadata
        assert (metadata["mode"], metadata["mtime"]) == (str(0o100600), "0.000000005")


async def test_a_chmod_before_more_is_written(bucket: Bucket, tmp_path: Path) -> None:
    """The copy of the attributes gives the object a new ETag; the upload must expect that one."""
    bucket.poke("f", b"base")
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        change(mount, handle.inode, mode=0o600)
        await trio.sleep(5)
        await mount.write(handle, 4, b" more")
        await mount.close(handle)
        assert bucket.peek("f") == b"base more"
        assert bucket.objects["f"].headers.metadata["mode"] == str(0o100600)


async def test_a_chmod_while_the_bytes_are_published(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        bucket.latency = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.close, handle)
            await trio.sleep(0.5)
            change(mount, handle.inode, mode=0o600)
        await trio.sleep(5)
        assert bucket.objects["f"].headers.metadata["mode"] == str(0o100600)
        assert not mount.tree.state.open_inodes


async def test_a_failed_change_is_tried_again(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"bytes", said(0o100600))
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        bucket.refuse("CopyObject", "SlowDown")
        change(mount, inode, mode=0o644)
        await trio.sleep(5)
        assert mount.tree.posix(inode).mode == 0o100644
        bucket.fault = None
        await trio.sleep(100)
        assert bucket.objects["f"].headers.metadata["mode"] == str(0o100644)


async def test_a_refused_change_is_given_up_and_the_truth_shown(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", b"bytes", said(0o100600))
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        bucket.refuse("CopyObject", "EntityTooLarge")
        change(mount, inode, mode=0o644)
        await trio.sleep(5)
        assert bucket.requested()["CopyObject"] == 1
        again = await mount.find("f")
        assert again is inode
        assert mount.tree.posix(again).mode == 0o100600
        assert not mount.tree.state.open_inodes


async def test_a_change_does_not_undo_what_someone_else_wrote(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", b"bytes")
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        bucket.poke("f", b"theirs")
        change(mount, inode, mode=0o600)
        await trio.sleep(TTL * 3)
        assert bucket.peek("f") == b"theirs"
        assert await mount.read("f") == b"theirs"


async def test_directories_keep_theirs_in_the_marker(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("d/f", b"x")
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.directory("d")
        change(mount, inode, mode=0o700, uid=9)
        await trio.sleep(5)
        assert bucket.objects["d/"].headers.metadata["mode"] == str(stat.S_IFDIR | 0o700)
    async with planted(bucket, tmp_path) as mount:
        posix = mount.tree.posix(await mount.find("d"))
        assert (posix.mode, posix.uid) == (stat.S_IFDIR | 0o700, 9)


async def test_bytes_of_a_directorys_object_stay(bucket: Bucket, tmp_path: Path) -> None:
    """Also where nobody has asked for its attributes."""
    bucket.poke("d/", b"bytes")
    bucket.poke("d/f", b"x")
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        change(mount, await mount.find("d"), mode=0o700)
        await trio.sleep(5)
        assert bucket.objects["d/"].headers.metadata["mode"] == str(stat.S_IFDIR | 0o700)
        assert bucket.peek("d/") == b"bytes"


async def test_xattrs_and_their_limit(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"x")
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        mount.tree.changer.set_xattr(inode, "user.a", b"1")
        with pytest.raises(FsError, match="ENOSPC"):
            mount.tree.changer.set_xattr(inode, "user.b", bytes(3000))
        with pytest.raises(FsError, match="ENODATA"):
            mount.tree.changer.remove_xattr(inode, "user.b")
        mount.tree.later.attributes(inode)
        await trio.sleep(5)
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        assert mount.tree.posix(inode).xattrs == {"user.a": b"1"}
        mount.tree.changer.remove_xattr(inode, "user.a")
        mount.tree.later.attributes(inode)
        assert mount.tree.posix(inode).xattrs == {}


async def test_new_entries_take_group_from_a_setgid_directory(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("d/", b"", said(stat.S_IFDIR | 0o2775, gid="42"))
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("d/f")
        below = await mount.mkdir("d/sub")
        assert mount.tree.posix(handle.inode).gid == 42
        assert mount.tree.posix(below).gid == 42
        assert mount.tree.posix(below).mode & stat.S_ISGID


@pytest.mark.parametrize("below", ["f", "sub"])
async def test_new_entries_take_group_from_a_setgid_directory_that_others_have_touched(
    bucket: Bucket, tmp_path: Path, below: str
) -> None:
    """A listing has shown that, and the kernel, which has it by its number, does not ask anew."""
    bucket.poke("d/", b"", said(stat.S_IFDIR | 0o2775, gid="42"))
    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        await mount.names("d")
        await trio.sleep(2)
        before = bucket.objects["d/"]
        bucket.objects["d/"] = replace(before, last_modified=before.last_modified + 9)
        await mount.tree.lister.ensure(directory)
        assert directory.posix is None
        entries = mount.tree.entries
        if below == "f":
            made = await entries.make(directory, below, stat.S_IFREG | 0o644, 0, 0)
        else:
            made = await entries.make_directory(directory, below, 0o755, 0, 0)
            assert mount.tree.posix(made).mode & stat.S_ISGID
        assert mount.tree.posix(made).gid == 42


async def test_directory_times_and_links_move_with_entries(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("d/", b"", said(stat.S_IFDIR | 0o755, mtime="5"))
    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        assert mount.tree.posix(directory).mtime_ns == 5 * 10**9
        assert mount.tree.nlink(directory) == 2
        await mount.mkdir("d/sub")
        assert mount.tree.posix(directory).mtime_ns > 5 * 10**9
        assert mount.tree.nlink(directory) == 3


async def test_attributes_of_what_others_removed_are_not_tried_for_ever(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.poke("f", b"bytes", said(0o100644))
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        change(mount, inode, mode=0o600)
        del bucket.objects["f"]
        await trio.sleep(5)
        assert "f was removed by someone else: the attributes set here are lost" in caplog.text
        assert bucket.requested()["CopyObject"] == 1
        assert mount.tree.outstanding.waiting() == []
        assert await mount.names() == set()


async def test_the_kernel_keeps_no_pages_of_what_others_had_replaced_before(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", b"first", said(0o100644))
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == b"first"
        bucket.poke("f", b"other", said(0o100644))
        mount.expire()
        inode = await mount.find("f")
        await mount.tree.attributes.complete(inode)
        change(mount, inode, mode=0o600)
        await trio.sleep(0.5)
        assert bucket.requested()["CopyObject"] == 1
        handle = await mount.open("f")
        assert not handle.keep_cache
        await mount.close(handle)
        handle = await mount.open("f")
        assert handle.keep_cache, "of the version that was opened before"
        await mount.close(handle)
