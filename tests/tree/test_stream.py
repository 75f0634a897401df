"""Large new files: parts leave while the program writes on, and nothing depends on it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, NoAnswer, StoreError
from bucketfs.file import early_upload as early_upload_module
from bucketfs.file.plan import FIRST_PART
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.saving.change import Change
from tests.harness.memory import Fault
from tests.tree.builder import MIB, Bucket, Mount, noise, planted

pytestmark = pytest.mark.mock_clock

SIZE = 40 * MIB


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream from 16 MiB on, so that the tests need not move much."""
    monkeypatch.setattr(early_upload_module, "STREAM_FROM", 2 * FIRST_PART)


async def write_all(mount: Mount, name: str, data: bytes) -> Handle:
    """Write a new file from its start to its end, as `cp` does, and leave it open."""
    handle = await mount.create(name)
    for at in range(0, len(data), MIB):
        await mount.write(handle, at, data[at : at + MIB])
        await trio.sleep(0.1)
    return handle


async def test_parts_leave_before_the_file_is_closed(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(SIZE)
    async with planted(bucket, tmp_path) as mount:
        handle = await write_all(mount, "f", data)
        assert bucket.requests["UploadPart"] >= 3
        assert mount.stored() == [], "nothing half-written is visible"
        await mount.close(handle)
        assert bucket.peek("f") == data
        assert bucket.requests["CreateMultipartUpload"] == 1
        assert bucket.requests["UploadPart"] == 5, "no part travels twice"
        assert await mount.read("f") == data


async def test_bytes_changed_after_they_left_travel_again(bucket: Bucket, tmp_path: Path) -> None:
    data = bytearray(noise(SIZE))
    async with planted(bucket, tmp_path) as mount:
        handle = await write_all(mount, "f", bytes(data))
        await mount.write(handle, 100, b"header")
        data[100:106] = b"header"
        await mount.close(handle)
        assert bucket.peek("f") == bytes(data)
        assert bucket.requests["UploadPart"] == 6
        assert not await bucket.list_uploads("")


async def test_cut_short_and_written_on(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(SIZE)
    async with planted(bucket, tmp_path) as mount:
        handle = await write_all(mount, "f", data)
        await mount.tree.opener.truncate(handle.inode, 17 * MIB, publish=False)
        await mount.write(handle, 30 * MIB, b"end")
        await mount.close(handle)
        assert bucket.peek("f") == data[: 17 * MIB] + bytes(13 * MIB) + b"end"
        assert not await bucket.list_uploads("")


async def test_cut_to_a_small_file(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(SIZE)
    async with planted(bucket, tmp_path) as mount:
        handle = await write_all(mount, "f", data)
        await mount.tree.opener.truncate(handle.inode, 10, publish=False)
        await mount.close(handle)
        await trio.sleep(60)
        assert bucket.peek("f") == data[:10]
        assert not await bucket.list_uploads("")


async def test_renamed_while_it_is_written(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(SIZE)
    async with planted(bucket, tmp_path) as mount:
        handle = await write_all(mount, "f", data)
        await mount.rename("f", "g")
        await mount.close(handle)
        await trio.sleep(60)
        assert mount.stored() == ["g"]
        assert bucket.peek("g") == data
        assert not await bucket.list_uploads("")


async def test_removed_while_it_is_written(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await write_all(mount, "f", noise(SIZE))
        await mount.unlink("f")
        await mount.close(handle)
        await trio.sleep(60)
        assert mount.stored() == []
        assert not await bucket.list_uploads("")


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart"])
async def test_a_stream_that_fails_is_made_up_for(
    bucket: Bucket, tmp_path: Path, operation: str
) -> None:
    data = noise(SIZE)

    def once(asked: str, _key: str, count: int) -> Fault | None:
        return (
            Fault(StoreError("InternalError", status=500))
            if (asked, count) == (operation, 1)
            else None
        )

    bucket.fault = once
    async with planted(bucket, tmp_path) as mount:
        handle = await write_all(mount, "f", data)
        await mount.close(handle)
        await trio.sleep(60)
        assert bucket.peek("f") == data
        assert not await bucket.list_uploads("")


async def test_attributes_changed_meanwhile_reach_the_object(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await write_all(mount, "f", noise(SIZE))
        mount.tree.changer.change(handle.inode, Change(mode=0o600, mtime_ns=5))
        await mount.close(handle)
        await trio.sleep(60)
        headers = (await bucket.head("f")).headers
        assert headers is not None
        assert headers.metadata["mode"] == str(stat.S_IFREG | 0o600)
        assert headers.metadata["mtime"] == "0.000000005"


async def test_times_shown_are_the_times_stored(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await write_all(mount, "f", noise(SIZE))
        await mount.close(handle)
        shown = mount.tree.posix(handle.inode).mtime_ns
        bucket.requested()
    async with planted(bucket, tmp_path / "fresh") as mount:
        assert mount.tree.posix(await mount.find("f")).mtime_ns == shown


async def test_a_bug_in_a_streamed_part_ends_the_close(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that nobody expected must reach who waits: close(2) has no other bound."""
    for operation in ("CreateMultipartUpload", "UploadPart"):
        async with planted(bucket, tmp_path / operation) as mount:
            bucket.fault = lambda asked, *_, op=operation: (
                Fault(RuntimeError("made up")) if asked == op else None
            )
            handle = await mount.create(operation)
            for offset in range(0, 80 << 20, 8 << 20):
                await mount.write(handle, offset, bytes(8 << 20))
                await trio.sleep(0.1)
            with trio.fail_after(60), pytest.raises((FsError, RuntimeError), match="made up"):
                await mount.flush(handle)
            bucket.fault = None
            await mount.close(handle)
            assert bucket.peek(operation) == bytes(80 << 20)
    assert "made up" in caplog.text
    caplog.clear()


@pytest.mark.parametrize("more", [b"", b" and more"])
async def test_a_lost_answer_to_its_end_is_no_conflict_with_oneself(
    bucket: Bucket, tmp_path: Path, more: bytes
) -> None:
    """The object has the attributes of the moment in which the upload began."""
    async with planted(bucket, tmp_path) as mount:
        handle = await write_all(mount, "f", noise(SIZE))
        await mount.write(handle, SIZE, b"the end")
        assert bucket.requests["UploadPart"] > 0
        bucket.fault = lambda operation, *_: (
            Fault(NoAnswer("ReadTimeout"), after=True)
            if operation == "CompleteMultipartUpload"
            else None
        )
        with pytest.raises(NoAnswer):
            await mount.tree.saver.sync(handle)
        bucket.fault = None
        if more:
            await mount.write(handle, SIZE + 7, more)
        await mount.close(handle)
        assert mount.stored() == ["f"]
        assert bucket.peek("f") == noise(SIZE) + b"the end" + more
        assert not bucket.uploads
