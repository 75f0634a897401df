"""Files larger than the cache: parts leave the disk, the writer waits, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, NoAnswer, StoreError
from bucketfs.file import content as content_module
from bucketfs.file import shelf as shelf_module
from bucketfs.file.shelf import HIDDEN
from bucketfs.store.memory import Fault
from bucketfs.tree.open import Handle
from tests.tree.builder import MIB, Bucket, Mount, noise, planted

pytestmark = pytest.mark.mock_clock

PART = 5 * MIB
CACHE = 24 * MIB
SIZE = 83 * MIB
DATA = noise(SIZE)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything at a fraction of its size, so that the tests need not move much."""
    monkeypatch.setattr(content_module, "STREAM_FROM", 2 * PART)
    monkeypatch.setattr(content_module, "ALLOWANCE", 2 * PART)
    monkeypatch.setattr(shelf_module, "ALLOWANCE", 2 * PART)


@asynccontextmanager
async def cramped(bucket: Bucket, directory: Path, **config: object) -> AsyncIterator[Mount]:
    """A mount whose cache holds less than a third of the file."""
    async with planted(bucket, directory, part_size=PART, cache_size=CACHE, **config) as mount:  # type: ignore[arg-type]
        yield mount


async def write(mount: Mount, handle: Handle, data: bytes, at: int = 0) -> int:
    """Write on and on as fast as it goes; answers the most that the cache held meanwhile."""
    most = 0
    for start in range(0, len(data), MIB):
        await mount.write(handle, at + start, data[start : start + MIB])
        most = max(most, mount.cache.held)
    return most


async def written(mount: Mount, name: str, data: bytes = DATA) -> Handle:
    """A file larger than the cache, all written and still open."""
    handle = await mount.create(name)
    await write(mount, handle, data)
    return handle


def visible(bucket: Bucket) -> list[str]:
    """Keys without the hidden parts."""
    return [key for key in bucket.objects if HIDDEN not in key]


async def settled(bucket: Bucket) -> None:
    """Nothing is left behind: neither uploads nor hidden parts."""
    await trio.sleep(100)
    assert not await bucket.list_uploads("")
    assert [key for key in bucket.objects if HIDDEN in key] == []


async def test_a_writer_waits_and_the_disk_stays_bounded(bucket: Bucket, tmp_path: Path) -> None:
    bucket.latency = 1.0
    async with cramped(bucket, tmp_path) as mount:
        began = trio.current_time()
        handle = await mount.create("f")
        most = await write(mount, handle, DATA)
        assert trio.current_time() - began > 1, "it had to wait"
        # the limit, what comes in between two checks, and the part that is not complete yet
        assert most <= CACHE + 8 * MIB + PART
        assert visible(bucket) == []
        assert await mount.names() == {"f"}
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        assert bucket.sent <= SIZE + CACHE, "hardly a byte travels twice"
        await settled(bucket)
    async with planted(bucket, tmp_path / "fresh") as mount:
        assert await mount.names() == {"f"}
        assert await mount.read("f") == DATA


async def test_a_file_that_fits_goes_the_direct_way(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path, part_size=PART, cache_size=200 * MIB) as mount:
        handle = await written(mount, "f")
        await mount.close(handle)
        counts = bucket.requested()
        assert "PutObject" not in counts
        assert "UploadPartCopy" not in counts
        assert bucket.sent == SIZE


async def test_what_left_is_read_again(bucket: Bucket, tmp_path: Path) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        for start in (0, 7 * MIB + 5, 40 * MIB, 62 * MIB - 3, SIZE - 10):
            assert await mount.pread(handle, start, 100_000) == DATA[start : start + 100_000]
        for start in range(0, SIZE, MIB):
            assert await mount.pread(handle, start, MIB) == DATA[start : start + MIB]
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        await settled(bucket)


async def test_what_left_is_overwritten(bucket: Bucket, tmp_path: Path) -> None:
    data = bytearray(DATA)
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        for at in (0, 12 * MIB - 2, 30 * MIB, 50 * MIB):
            await mount.write(handle, at, b"header")
            data[at : at + 6] = b"header"
        assert await mount.pread(handle, 0, 12) == data[:12]
        await write(mount, handle, DATA, SIZE)
        data += DATA
        assert await mount.pread(handle, 12 * MIB - 100, 200) == data[12 * MIB - 100 :][:200]
        await mount.close(handle)
        assert bucket.peek("f") == bytes(data)
        await settled(bucket)


@pytest.mark.parametrize("size", [0, 10, 3 * MIB, 12 * MIB + 7, 70 * MIB])
@pytest.mark.parametrize("grow", [False, True])
async def test_what_left_is_cut_off(bucket: Bucket, tmp_path: Path, size: int, grow: bool) -> None:
    data = DATA[:size]
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        await mount.tree.opener.truncate(handle.inode, size, publish=False)
        if grow:
            await mount.tree.opener.truncate(handle.inode, size + 9 * MIB, publish=False)
            await write(mount, handle, DATA[: 50 * MIB], size + 9 * MIB)
            data += bytes(9 * MIB) + DATA[: 50 * MIB]
        await mount.close(handle)
        assert bucket.peek("f") == data
        await settled(bucket)


async def test_renamed_meanwhile(bucket: Bucket, tmp_path: Path) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f", DATA[: 60 * MIB])
        await mount.rename("f", "g")
        await write(mount, handle, DATA[60 * MIB :], 60 * MIB)
        assert visible(bucket) == []
        sent = bucket.sent
        await mount.close(handle)
        assert bucket.peek("g") == DATA
        assert visible(bucket) == ["g"]
        assert bucket.sent - sent <= 2 * CACHE, "what had left is copied by the store"
        await settled(bucket)


async def test_removed_meanwhile(bucket: Bucket, tmp_path: Path) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        await mount.unlink("f")
        assert await mount.pread(handle, 8 * MIB, 4096) == DATA[8 * MIB : 8 * MIB + 4096]
        await mount.close(handle)
        assert visible(bucket) == []
        await settled(bucket)


async def test_an_overwritten_object_removed_meanwhile(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"old")
    async with cramped(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR | os.O_TRUNC)
        await write(mount, handle, DATA)
        assert bucket.peek("f") == b"old"
        await mount.unlink("f")
        assert mount.cache.held <= CACHE + 16 * MIB
        assert await mount.pread(handle, 8 * MIB, 4096) == DATA[8 * MIB : 8 * MIB + 4096]
        await mount.close(handle)
        assert visible(bucket) == []
        await settled(bucket)


async def test_fsync_makes_durable_what_is_written_and_copies_it_later(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f", DATA[: 51 * MIB])
        await mount.flush(handle)
        assert bucket.peek("f") == DATA[: 51 * MIB]
        sent = bucket.sent
        most = await write(mount, handle, DATA[51 * MIB :] + DATA, 51 * MIB)
        assert most <= CACHE + 8 * MIB + PART
        await mount.close(handle)
        assert bucket.peek("f") == DATA + DATA
        assert bucket.sent - sent <= SIZE + 32 * MIB + CACHE
        await settled(bucket)


async def test_a_conflict_copy_is_whole(bucket: Bucket, tmp_path: Path) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        bucket.poke("f", b"theirs")
        with pytest.raises(FsError, match="ESTALE"):
            await mount.close(handle)
        assert bucket.peek("f") == b"theirs"
        (name,) = (key for key in visible(bucket) if key != "f")
        assert bucket.peek(name) == DATA
        await settled(bucket)


async def test_an_upload_thrown_away_by_others(bucket: Bucket, tmp_path: Path) -> None:
    """As lifecycle rules do with unfinished uploads."""
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        bucket.uploads.clear()
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        await settled(bucket)


async def test_a_hidden_part_removed_by_others_is_an_error(bucket: Bucket, tmp_path: Path) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        bucket.uploads.clear()
        for key in [key for key in bucket.objects if HIDDEN in key]:
            del bucket.objects[key]
        with pytest.raises(FsError, match="EIO"):
            await mount.pread(handle, 20 * MIB, 4096)
        with pytest.raises(FsError, match="EIO"):
            await mount.flush(handle)
        assert visible(bucket) == []


async def test_a_failed_save_is_tried_again(bucket: Bucket, tmp_path: Path) -> None:
    def broken(operation: str, _key: str, _count: int) -> Fault | None:
        down = operation == "CompleteMultipartUpload"
        return Fault(StoreError("InternalError", status=500)) if down else None

    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        bucket.fault = broken
        with pytest.raises(StoreError):
            await mount.flush(handle)
        assert visible(bucket) == []
        assert await mount.pread(handle, 9 * MIB, 4096) == DATA[9 * MIB : 9 * MIB + 4096]
        bucket.fault = None
        await write(mount, handle, DATA, SIZE)
        await mount.close(handle)
        assert bucket.peek("f") == DATA + DATA
        await settled(bucket)


async def test_a_store_that_takes_nothing_is_an_error_of_write(
    bucket: Bucket, tmp_path: Path
) -> None:
    def down(operation: str, _key: str, _count: int) -> Fault | None:
        return Fault(NoAnswer("ConnectTimeout")) if operation != "HeadObject" else None

    async with cramped(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        bucket.fault = down
        with pytest.raises(StoreError):
            await write(mount, handle, DATA)
        done = handle.content.size
        assert CACHE <= done <= CACHE + 16 * MIB
        bucket.fault = None
        await write(mount, handle, DATA[done:], done)
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        await settled(bucket)


@pytest.mark.parametrize("nth", [1, 2, 5])
@pytest.mark.parametrize("operation", ["PutObject", "UploadPartCopy", "UploadPart"])
async def test_one_failure_is_made_up_for(
    bucket: Bucket, tmp_path: Path, operation: str, nth: int
) -> None:
    def once(asked: str, _key: str, count: int) -> Fault | None:
        failed = (asked, count) == (operation, nth)
        return Fault(StoreError("InternalError", status=500)) if failed else None

    bucket.fault = once
    async with cramped(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        for start in range(0, SIZE, MIB):
            try:
                await mount.write(handle, start, DATA[start : start + MIB])
            except StoreError:
                await mount.write(handle, start, DATA[start : start + MIB])
        with contextlib.suppress(StoreError):
            await mount.flush(handle)
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        await settled(bucket)


async def test_a_full_disk_makes_the_writer_wait(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC although the budget says there is room, as with quotas."""
    real = os.pwrite
    async with planted(bucket, tmp_path, part_size=PART) as mount:

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            if mount.cache.held + len(data) > CACHE:
                raise OSError(28, "No space left on device")
            return real(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)
        handle = await written(mount, "f")
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        await settled(bucket)


async def test_two_writers_share_a_small_cache(bucket: Bucket, tmp_path: Path) -> None:
    async with cramped(bucket, tmp_path) as mount:
        first, second = await mount.create("f"), await mount.create("g")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, mount, first, DATA)
            nursery.start_soon(write, mount, second, DATA[::-1])
        assert mount.cache.held <= CACHE + 16 * MIB + 2 * PART
        await mount.close(first)
        await mount.close(second)
        assert bucket.peek("f") == DATA
        assert bucket.peek("g") == DATA[::-1]
        await settled(bucket)


async def test_unmounting_with_a_dead_store_names_what_is_where(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cramped(bucket, tmp_path) as mount:
        await written(mount, "f")
        bucket.fault = lambda operation, _key, _count: Fault(NoAnswer("ConnectTimeout"))
        await mount.tree.saver.drain()
        assert "its bytes are in" in caplog.text
        for key in [key for key in bucket.objects if HIDDEN in key]:
            assert key in caplog.text
