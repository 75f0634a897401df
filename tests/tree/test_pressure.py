"""Files larger than the cache: parts leave the disk, the writer waits, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, NoAnswer, PreconditionFailed, StoreError
from bucketfs.file import early_upload as early_upload_module
from bucketfs.store.base import Capabilities, ObjectInfo
from bucketfs.tree.core.handle import Handle
from tests.harness.memory import Fault
from tests.tree.builder import MIB, Bucket, Mount, noise, planted

pytestmark = [
    pytest.mark.mock_clock,
    pytest.mark.slow("83 MiB go through a small cache in each: half a second of CPU, 28 s for all"),
]

PART = 5 * MIB
CACHE = 24 * MIB
SIZE = 83 * MIB
DATA = noise(SIZE)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything at a fraction of its size, so that the tests need not move much."""
    monkeypatch.setattr(early_upload_module, "STREAM_FROM", 2 * PART)
    monkeypatch.setattr(early_upload_module, "ALLOWANCE", 2 * PART)


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


class Checked(Bucket):
    """A store whose completions know no conditions, and which looks before."""

    async def complete(self, key: str, *args: object, **conditions: object) -> ObjectInfo:
        found = self.objects.get(key)
        etag = found.etag if found else ""
        if (found and conditions["if_none_match"]) or conditions["if_match"] not in ("", etag):
            raise PreconditionFailed("PreconditionFailed", status=412, key=key)
        return await super().complete(key, *args, **conditions)  # type: ignore[arg-type]


async def until_at_rest(bucket: Bucket) -> None:
    """No upload is left behind."""
    await trio.sleep(100)
    assert not await bucket.list_uploads("")


async def test_a_writer_waits_and_the_disk_stays_bounded(bucket: Bucket, tmp_path: Path) -> None:
    bucket.latency = 1.0
    async with cramped(bucket, tmp_path) as mount:
        began = trio.current_time()
        handle = await mount.create("f")
        most = await write(mount, handle, DATA)
        assert trio.current_time() - began > 1, "it had to wait"
        # the limit, what comes in between two checks, and the part that is not complete yet
        assert most <= CACHE + 8 * MIB + PART
        assert list(bucket.objects) == []
        assert await mount.names() == {"f"}
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        assert bucket.sent <= SIZE + CACHE, "hardly a byte travels twice"
        await until_at_rest(bucket)
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
        await until_at_rest(bucket)


async def test_a_header_written_last(bucket: Bucket, tmp_path: Path) -> None:
    """The first part is always here: nothing is visible before the file is closed."""
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        await mount.write(handle, 3, b"header")
        assert await mount.pread(handle, 0, 12) == DATA[:3] + b"header" + DATA[9:12]
        assert list(bucket.objects) == []
        await mount.close(handle)
        assert bucket.peek("f") == DATA[:3] + b"header" + DATA[9:]
        assert bucket.requests["CompleteMultipartUpload"] == 1
        assert bucket.sent <= SIZE + PART
        await until_at_rest(bucket)


@pytest.mark.parametrize("copies", [True, False])
async def test_what_left_is_overwritten(tmp_path: Path, copies: bool) -> None:
    bucket = Bucket(latency=0.01, capabilities=Capabilities(copy_part=copies))
    data = bytearray(DATA)
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        for at in (0, 12 * MIB - 2, 30 * MIB, 50 * MIB):
            await mount.write(handle, at, b"header")
            data[at : at + 6] = b"header"
        assert list(bucket.objects) == ["f"], "it has been published as it was"
        assert await mount.pread(handle, 0, 12) == data[:12]
        most = await write(mount, handle, DATA, SIZE)
        assert most <= CACHE + 8 * MIB + 9 * PART, "and the parts under way"
        data += DATA
        assert await mount.pread(handle, 12 * MIB - 100, 200) == data[12 * MIB - 100 :][:200]
        await mount.close(handle)
        assert bucket.peek("f") == bytes(data)
        await until_at_rest(bucket)


async def test_the_ordinary_writer_needs_neither_copies_nor_a_second_request(
    tmp_path: Path,
) -> None:
    bucket = Bucket(latency=0.01, capabilities=Capabilities(copy_part=False))
    data = DATA * 3
    async with cramped(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        bucket.requested()
        most = await write(mount, handle, data)
        assert most <= CACHE + 8 * MIB + PART
        assert list(bucket.objects) == []
        await mount.close(handle)
        assert bucket.peek("f") == data
        assert bucket.sent == len(data), "no byte travels twice"
        assert set(bucket.requested()) == {
            "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"
        }  # fmt: skip
        await until_at_rest(bucket)


@pytest.mark.parametrize("copies", [True, False])
async def test_written_in_any_order(tmp_path: Path, copies: bool) -> None:
    """No upload runs beside such a writer: the file is published early, and its pages are clean."""
    bucket = Bucket(latency=0.01, capabilities=Capabilities(copy_part=copies))
    places = list(range(0, SIZE, MIB))
    random.Random(2).shuffle(places)
    async with cramped(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        for place in places:
            await mount.write(handle, place, DATA[place : place + MIB])
            assert mount.cache.held <= CACHE + 8 * MIB + 4 * PART
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        await until_at_rest(bucket)


async def test_an_object_rewritten_in_place(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", DATA)
    async with cramped(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        assert await write(mount, handle, DATA[::-1]) <= CACHE + 8 * MIB + 4 * PART
        await mount.close(handle)
        assert bucket.peek("f") == DATA[::-1]
        await until_at_rest(bucket)


@pytest.mark.parametrize("copies", [True, False])
async def test_appended_to_an_object(tmp_path: Path, copies: bool) -> None:
    bucket = Bucket(latency=0.01, capabilities=Capabilities(copy_part=copies))
    bucket.poke("f", DATA)
    async with cramped(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        assert await write(mount, handle, DATA, SIZE) <= CACHE + 8 * MIB + 4 * PART
        assert bucket.peek("f") == DATA, "the object stands until the file is closed"
        bucket.poke("f", b"theirs")
        await mount.close(handle)
        assert bucket.peek("f") == DATA + DATA, "the upload has the old version, too"
        assert len(bucket.objects) == 2
        await until_at_rest(bucket)


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
        await until_at_rest(bucket)


async def test_renamed_meanwhile(bucket: Bucket, tmp_path: Path) -> None:
    """What had left appears under the old name, is copied by the store, and writing goes on."""
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f", DATA[: 60 * MIB])
        await mount.rename("f", "g")
        assert list(bucket.objects) == ["g"]
        assert bucket.peek("g") == DATA[: 60 * MIB]
        sent = bucket.sent
        await write(mount, handle, DATA[60 * MIB :], 60 * MIB)
        await mount.close(handle)
        assert bucket.peek("g") == DATA
        assert list(bucket.objects) == ["g"]
        assert bucket.sent - sent <= 2 * CACHE
        await until_at_rest(bucket)


async def test_a_writer_goes_on_while_its_file_is_renamed(bucket: Bucket, tmp_path: Path) -> None:
    bucket.latency = 1.0
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f", DATA[: 40 * MIB])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, mount, handle, DATA[40 * MIB :], 40 * MIB)
            await mount.rename("f", "g")
            await mount.rename("g", "h")
        await mount.close(handle)
        assert list(bucket.objects) == ["h"]
        assert bucket.peek("h") == DATA
        await until_at_rest(bucket)


async def test_its_directory_renamed_meanwhile(bucket: Bucket, tmp_path: Path) -> None:
    bucket.latency = 1.0
    async with cramped(bucket, tmp_path) as mount:
        await mount.mkdir("a")
        await mount.mkdir("a/b")
        handle = await written(mount, "a/b/f", DATA[: 40 * MIB])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, mount, handle, DATA[40 * MIB :], 40 * MIB)
            await mount.rename("a", "c")
        await mount.close(handle)
        assert set(bucket.objects) == {"c/", "c/b/", "c/b/f"}
        assert bucket.peek("c/b/f") == DATA
        await until_at_rest(bucket)


async def test_a_rename_that_cannot_publish_changes_nothing(bucket: Bucket, tmp_path: Path) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        bucket.refuse("CompleteMultipartUpload")
        with pytest.raises(StoreError):
            await mount.rename("f", "g")
        bucket.fault = None
        await mount.close(handle)
        assert list(bucket.objects) == ["f"]
        assert bucket.peek("f") == DATA
        await until_at_rest(bucket)


async def test_replaced_by_a_rename(bucket: Bucket, tmp_path: Path) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        await mount.save("g", b"new")
        await mount.rename("g", "f")
        with pytest.raises(FsError, match="EIO"):
            await mount.pread(handle, 8 * MIB, 4096)
        await mount.close(handle)
        assert list(bucket.objects) == ["f"]
        assert bucket.peek("f") == b"new"
        await until_at_rest(bucket)


async def test_removed_meanwhile(bucket: Bucket, tmp_path: Path) -> None:
    """What had left is gone with the name; what is here stays readable."""
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        await mount.unlink("f")
        with pytest.raises(FsError, match="EIO"):
            await mount.pread(handle, 8 * MIB, 4096)
        assert await mount.pread(handle, 100, 4096) == DATA[100:4196]
        await mount.write(handle, 8 * MIB, b"again")
        assert await mount.pread(handle, 8 * MIB, 5) == b"again"
        await mount.close(handle)
        assert list(bucket.objects) == []
        await until_at_rest(bucket)


async def test_an_overwritten_object_removed_meanwhile(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"old")
    async with cramped(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR | os.O_TRUNC)
        await write(mount, handle, DATA)
        assert bucket.peek("f") == b"old"
        await mount.unlink("f")
        assert mount.cache.held <= CACHE + 16 * MIB
        await mount.close(handle)
        assert list(bucket.objects) == []
        await until_at_rest(bucket)


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
        await until_at_rest(bucket)


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("old", [None, b"old"])
async def test_others_version_is_kept_beside(
    tmp_path: Path, old: bytes | None, conditions: bool
) -> None:
    """The upload cannot be completed under another name than its own."""
    bucket = (
        Bucket(latency=0.01)
        if conditions
        else Checked(
            latency=0.01,
            capabilities=Capabilities(complete_if_match=False, complete_if_none_match=False),
        )
    )
    if old:
        bucket.poke("f", old)
    async with cramped(bucket, tmp_path) as mount:
        flags = os.O_RDWR | os.O_TRUNC
        handle = await mount.open("f", flags) if old else await mount.create("f")
        await write(mount, handle, DATA)
        bucket.poke("f", b"theirs")
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        (name,) = (key for key in bucket.objects if key != "f")
        assert name.startswith("f.conflict-")
        assert bucket.peek(name) == b"theirs"
        assert await mount.names() == {"f", name}
        await until_at_rest(bucket)


async def test_where_mounts_share_locks_others_version_keeps_the_name(
    bucket: Bucket, tmp_path: Path
) -> None:
    """It was stored under a lock: ours was too late, and what has left cannot go elsewhere."""
    async with cramped(bucket, tmp_path, shared_locks=True) as mount:
        handle = await written(mount, "f")
        bucket.poke("f", b"theirs")
        with pytest.raises(FsError, match="EIO"):
            await mount.flush(handle)
        assert {key: bucket.peek(key) for key in bucket.objects} == {"f": b"theirs"}
        with contextlib.suppress(FsError):
            await mount.close(handle)


async def test_others_go_on_replacing_it(bucket: Bucket, tmp_path: Path) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")

        def replace(operation: str, _key: str, count: int) -> Fault | None:
            if operation == "CompleteMultipartUpload" and count <= 3:
                bucket.poke("f", b"theirs %d" % count)
            return None

        bucket.fault = replace
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        kept = {bucket.peek(key) for key in bucket.objects if key != "f"}
        assert kept == {b"theirs 1", b"theirs 2", b"theirs 3"}
        await until_at_rest(bucket)


async def test_others_removed_the_object(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"old")
    async with cramped(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR | os.O_TRUNC)
        await write(mount, handle, DATA)
        del bucket.objects["f"]
        await mount.close(handle)
        assert list(bucket.objects) == ["f"]
        assert bucket.peek("f") == DATA
        await until_at_rest(bucket)


@pytest.mark.parametrize("when", ["read", "write on", "close"])
async def test_an_upload_thrown_away_by_others(
    bucket: Bucket, tmp_path: Path, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As lifecycle rules do with unfinished uploads: an error, and never zeros."""
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        bucket.uploads.clear()
        if when == "write on":
            with pytest.raises(FsError, match="EIO"):
                await write(mount, handle, DATA, SIZE)
        if when == "read":
            with pytest.raises(FsError, match="EIO"):
                await mount.pread(handle, 20 * MIB, 4096)
        with pytest.raises(FsError, match="EIO"):
            await mount.flush(handle)
        with pytest.raises(FsError, match="EIO"):
            await mount.pread(handle, 20 * MIB, 4096)
        assert await mount.pread(handle, 5, 4096) == DATA[5:4101]
        assert "of 'f'; its bytes" in caplog.text
        assert list(bucket.objects) == []
        with pytest.raises(FsError, match="EIO"):
            await mount.close(handle)
        await until_at_rest(bucket)
        assert "its bytes are in" in caplog.text
        assert list(bucket.objects) == []


async def test_written_anew_after_its_upload_is_gone(bucket: Bucket, tmp_path: Path) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        bucket.uploads.clear()
        with pytest.raises(FsError, match="EIO"):
            await mount.flush(handle)
        await mount.tree.opener.truncate(handle.inode, 0, publish=False)
        await write(mount, handle, DATA)
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        await until_at_rest(bucket)


async def test_nothing_upload_only_and_the_upload_gone(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path, part_size=PART) as mount:
        handle = await written(mount, "f", DATA[: 40 * MIB])
        bucket.uploads.clear()
        await write(mount, handle, DATA[40 * MIB :], 40 * MIB)
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        await until_at_rest(bucket)


@pytest.mark.parametrize(
    "error",
    [
        StoreError("InternalError", status=500),
        StoreError("AccessDenied", status=403),
        NoAnswer("ReadTimeout"),
    ],
    ids=str,
)
@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer lost"])
async def test_a_failed_save_is_tried_again(
    bucket: Bucket, tmp_path: Path, error: StoreError, after: bool
) -> None:
    def broken(operation: str, _key: str, _count: int) -> Fault | None:
        down = operation == "CompleteMultipartUpload"
        return Fault(error, after=after) if down else None

    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        bucket.fault = broken
        with pytest.raises(StoreError):
            await mount.flush(handle)
        assert list(bucket.objects) == (["f"] if after else [])
        sent = bucket.sent
        bucket.fault = None
        await write(mount, handle, DATA, SIZE)
        assert await mount.pread(handle, 9 * MIB, 4096) == DATA[9 * MIB : 9 * MIB + 4096]
        await mount.close(handle)
        assert bucket.peek("f") == DATA + DATA
        assert bucket.sent - sent <= SIZE + 2 * CACHE
        await until_at_rest(bucket)


async def test_a_save_that_failed_at_the_last_close_is_tried_again(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        bucket.refuse("CompleteMultipartUpload")
        with pytest.raises(StoreError):
            await mount.close(handle)
        await trio.sleep(100)
        sent = bucket.sent
        bucket.fault = None
        await trio.sleep(100)
        assert bucket.peek("f") == DATA
        assert bucket.sent - sent <= PART, "nothing but the last part travels again"
        assert bucket.requests["CreateMultipartUpload"] == 1
        await until_at_rest(bucket)


async def test_a_save_cancelled_while_it_completes(bucket: Bucket, tmp_path: Path) -> None:
    async with cramped(bucket, tmp_path) as mount:
        handle = await written(mount, "f")
        bucket.latency = 10.0
        with trio.move_on_after(15):
            await mount.flush(handle)
        await mount.close(handle)
        assert bucket.peek("f") == DATA
        await until_at_rest(bucket)


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
        await until_at_rest(bucket)


@pytest.mark.parametrize("nth", [1, 2, 5])
@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart"])
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
        await until_at_rest(bucket)


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
        await until_at_rest(bucket)


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
        await until_at_rest(bucket)


async def test_unmounting_with_a_dead_store_names_what_is_where(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cramped(bucket, tmp_path) as mount:
        await written(mount, "f")
        bucket.fault = lambda operation, _key, _count: Fault(NoAnswer("ConnectTimeout"))
        await mount.tree.drain.save_all()
        assert "its bytes are in" in caplog.text
        (upload_id,) = bucket.uploads
        assert f"are in the unfinished upload {upload_id} of 'f'" in caplog.text
        assert "2: bytes 5242880-10485759" in caplog.text
    assert list(bucket.uploads) == [upload_id]


async def test_nothing_is_dropped_when_enough_has_gone(bucket: Bucket, tmp_path: Path) -> None:
    """Parts that had arrived may have brought more than was wanted."""
    bucket.poke("f", noise(MIB))
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f")
        await mount.pread(handle, 0, MIB)
        held, short = handle.content.local.pages.held, mount.cache.short
        handle.content.local.readers.clear()
        assert handle.content.local.drop_clean(-5, []) == 0
        assert (handle.content.local.pages.held, mount.cache.short) == (held, short)
        await mount.close(handle)
