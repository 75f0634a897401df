"""What a lock in the bucket has the tree do: look at an open file anew, and write nothing more."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bucketfs.errors import FsError
from tests.tree.builder import Bucket, Mount, planted

pytestmark = pytest.mark.mock_clock


async def test_an_open_file_becomes_the_newest_version(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        assert await mount.pread(handle, 0, 10) == b"old"
        bucket.poke("f", b"by others")
        assert await mount.tree.opener.look_again(handle)
        assert await mount.pread(handle, 0, 10) == b"by others"
        bucket.requested()
        assert not await mount.tree.opener.look_again(handle)
        assert bucket.requested() == {"HeadObject": 1}
        await mount.write(handle, 9, b", and us")
        await mount.close(handle)
        assert bucket.peek("f") == b"by others, and us"
        assert mount.stored() == ["f"]


async def test_a_new_file_becomes_the_one_that_others_have_made(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        assert not await mount.tree.opener.look_again(handle)
        bucket.poke("f", b"theirs")
        assert await mount.tree.opener.look_again(handle)
        assert await mount.pread(handle, 0, 10) == b"theirs"
        await mount.close(handle)
        assert bucket.peek("f") == b"theirs"
        assert mount.stored() == ["f"]


async def test_what_is_written_and_not_stored_is_stored_first(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 0, b"own")
        assert not await mount.tree.opener.look_again(handle)
        assert bucket.peek("f") == b"own"
        await mount.write(handle, 0, b"new")
        bucket.poke("f", b"by others")
        with pytest.raises(FsError) as failed:
            await mount.tree.opener.look_again(handle)
        assert failed.value.errno == errno.ESTALE
        with pytest.raises(FsError):  # it is a descriptor of that conflict
            await mount.close(handle)
        assert bucket.peek("f") == b"by others"
        (aside,) = [key for key in mount.stored() if "conflict" in key]
        assert bucket.peek(aside) == b"new"


async def test_what_others_have_removed_cannot_be_locked(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f")
        del bucket.objects["f"]
        with pytest.raises(FsError) as failed:
            await mount.tree.opener.look_again(handle)
        assert failed.value.errno == errno.ESTALE
        await mount.close(handle)


async def test_what_others_have_replaced_and_a_program_has_opened_cannot_be_locked(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The new version is another file here: who has the old one open would read old bytes."""
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path, open_ttl=0.0) as mount:
        old = await mount.open("f", os.O_RDWR)
        assert await mount.pread(old, 0, 10) == b"old"
        bucket.poke("f", b"by others")
        with pytest.raises(FsError):  # the kernel looks the name up again
            await mount.open("f", os.O_RDWR)
        new = await mount.open("f", os.O_RDWR)
        assert new.inode is not old.inode
        with pytest.raises(FsError) as failed:
            await mount.tree.opener.look_again(old)
        assert failed.value.errno == errno.ESTALE
        assert not await mount.tree.opener.look_again(new)
        assert await mount.pread(new, 0, 10) == b"by others"
        await mount.close(old)
        await mount.close(new)


@pytest.mark.parametrize("overwrite", [False, True])
async def test_what_was_written_under_a_lost_lock_goes_beside(
    bucket: Bucket, tmp_path: Path, overwrite: bool
) -> None:
    """Even if nobody has changed the object since, and whoever closes last is to win."""
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path, overwrite=overwrite) as mount:
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 0, b"own")
        mount.tree.opener.fence([handle])
        assert handle.fenced
        with pytest.raises(FsError) as failed:
            await mount.close(handle)
        assert failed.value.errno == errno.EIO
        assert bucket.peek("f") == b"old"
        (aside,) = [key for key in mount.stored() if "conflict" in key]
        assert bucket.peek(aside) == b"own"
        await writes_again(mount)


async def writes_again(mount: Mount) -> None:
    handle = await mount.open("f", os.O_RDWR)
    assert not handle.fenced
    await mount.write(handle, 0, b"new")
    await mount.close(handle)
    assert mount.bucket.peek("f") == b"new"
