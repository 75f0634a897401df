"""Uploads that fail: what close reports, what is tried again, given up, or left behind."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest
import trio

from bucketfs.cache.pages import PageFile
from bucketfs.errors import FsError, NoAnswer, NotFound, StoreError
from tests.harness.memory import Fault
from tests.tree.builder import MIB, Bucket, noise, planted

pytestmark = pytest.mark.mock_clock


def rescued(directory: Path) -> list[bytes]:
    """What was left on the local disk because it could not be saved."""
    return [path.read_bytes() for path in directory.rglob("unsaved/*")]


async def test_a_failed_upload_is_tried_again(bucket: Bucket, tmp_path: Path) -> None:
    """close(2) reports it; the bytes stay, are readable, and reach the bucket later."""
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        bucket.refuse("PutObject", "SlowDown")
        with pytest.raises(StoreError):
            await mount.close(handle)
        assert handle.content.unsaved
        await trio.sleep(100)
        tries = bucket.requested()["PutObject"]
        assert 5 <= tries <= 10
        assert await mount.names() == {"f"}
        reader = await mount.open("f")
        assert await mount.pread(reader, 0, 5) == b"bytes"
        bucket.fault = None
        await mount.close(reader)
        await trio.sleep(100)
        assert bucket.peek("f") == b"bytes"
        assert not mount.tree.state.open_inodes


async def test_a_reader_does_not_keep_it_from_being_tried_again(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        bucket.refuse("PutObject", "SlowDown")
        with pytest.raises(StoreError):
            await mount.close(handle)
        reader = await mount.open("f")
        bucket.fault = None
        await trio.sleep(300)
        assert bucket.peek("f") == b"bytes"
        await mount.close(reader)


async def test_the_retry_alone_saves_it(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        bucket.refuse("PutObject", "SlowDown")
        with pytest.raises(StoreError):
            await mount.close(handle)
        bucket.fault = None
        await trio.sleep(5)
        assert bucket.peek("f") == b"bytes"
        assert not mount.tree.state.open_inodes


async def test_a_permanent_failure_is_given_up(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("g", b"old")
    async with planted(bucket, tmp_path) as mount:
        new, old = await mount.create("f"), await mount.open("g", os.O_WRONLY | os.O_TRUNC)
        bucket.refuse("PutObject", "EntityTooLarge")
        for handle in (new, old):
            await mount.write(handle, 0, b"bytes")
            with pytest.raises(StoreError):
                await mount.close(handle)
        await trio.sleep(100)
        assert bucket.requested()["PutObject"] <= 4
        bucket.fault = None
        assert await mount.names() == {"g"}
        assert await mount.read("g") == b"old"
        assert not mount.tree.state.open_inodes
        assert rescued(tmp_path) == [b"bytes"] * 2, "they stay on the local disk"


@pytest.mark.parametrize("writeback", [False, True])
async def test_what_cannot_be_put_aside_is_not_given_up(
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    writeback: bool,
) -> None:
    """The disk is full, or of a kind that has no links."""

    def refuse(*_paths: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    async with planted(bucket, tmp_path, writeback=writeback) as mount:
        bucket.refuse("PutObject", "EntityTooLarge")
        for name, wait in (("before", 100), ("at unmount", 0)):
            handle = await mount.create(name)
            await mount.write(handle, 0, noise(100_000))
            with contextlib.nullcontext() if writeback else pytest.raises(StoreError):
                await mount.close(handle)
            await trio.sleep(wait)
            assert await mount.read("before") == noise(100_000)
        await mount.tree.drain.save_all()
    bucket.fault = None
    async with planted(bucket, tmp_path, writeback=writeback):
        await trio.sleep(100)
        assert {key: bucket.peek(key) for key in bucket.objects} == dict.fromkeys(
            ["at unmount", "before"], noise(100_000)
        )
    caplog.clear()


@pytest.mark.parametrize("code", ["NoSuchUpload", "NoSuchBucket"])
@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPartCopy", "UploadPart"])
async def test_what_is_not_found_is_not_always_the_object(
    bucket: Bucket, tmp_path: Path, code: str, operation: str
) -> None:
    """The bucket for a moment, or an upload that others threw away: nobody has removed the file."""
    bucket.poke("f", noise(20 * MIB))

    def refuse(asked: str, key: str, count: int) -> Fault | None:
        if asked == operation and count == 1:
            return Fault(NotFound(code, status=404, operation=asked, key=key))
        return Fault(NoAnswer("ReadTimeout")) if asked == "PutObject" else None

    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_WRONLY)
        await mount.write(handle, 20 * MIB, b"more")
        bucket.requested()
        bucket.fault = refuse
        with pytest.raises(StoreError):
            await mount.close(handle)
        await trio.sleep(100)
        assert mount.stored() == ["f"]
        assert bucket.peek("f") == noise(20 * MIB) + b"more"


@pytest.mark.parametrize("size", [4 * MIB, 100 * MIB])
async def test_a_disk_that_cannot_be_read_for_once(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Whoever sends the bytes, beside the writer or after the close, tries it again."""
    read, failed = PageFile.read_into, []

    def fail_once(pages: PageFile, view: memoryview, start: int) -> None:
        if not failed and start >= size // 2:
            failed.append(start)
            raise OSError(errno.EIO, "Input/output error")
        read(pages, view, start)

    monkeypatch.setattr(PageFile, "read_into", fail_once)
    data = noise(MIB) * (size // MIB)
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        for at in range(0, size, MIB // 2):
            await mount.write(handle, at, data[at : at + MIB // 2])
            await trio.sleep(0.1)
        with trio.fail_after(1000), contextlib.suppress(FsError):
            await mount.close(handle)
        await trio.sleep(100)
        assert failed
        assert bucket.peek("f") == data


async def test_a_failed_chmod_does_not_spoil_the_open_file(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"base")
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        bucket.refuse("CopyObject")
        posix = mount.tree.posix(handle.inode)
        mount.tree.changer.replace(handle.inode, posix.changed(0, mode=0o100600))
        mount.tree.later.attributes(handle.inode)
        await trio.sleep(5)
        bucket.fault = None
        await mount.write(handle, 4, b" mine")
        await mount.close(handle)
        assert bucket.peek("f") == b"base mine"


@pytest.mark.parametrize("operation", ["UploadPart", "UploadPartCopy", "CompleteMultipartUpload"])
async def test_a_failed_multipart_upload_leaves_nothing(
    bucket: Bucket, tmp_path: Path, operation: str
) -> None:
    bucket.poke("f", bytes(40 * MIB))
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 0, noise(20 * MIB))
        bucket.refuse(operation, "SlowDown")
        with pytest.raises(StoreError):
            await mount.flush(handle)
        assert not await bucket.list_uploads("")
        assert bucket.peek("f") == bytes(40 * MIB)
        bucket.fault = None
        await mount.close(handle)
        assert bucket.peek("f") == noise(20 * MIB) + bytes(20 * MIB)
        assert not bucket.uploads


async def test_a_cancelled_multipart_upload_leaves_nothing(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, noise(20 * MIB))
        bucket.fault = lambda operation, _key, _n: (
            Fault(hang=True) if operation == "UploadPart" else None
        )
        with trio.move_on_after(5) as scope:
            await mount.flush(handle)
        assert scope.cancelled_caught
        assert not bucket.uploads
        bucket.fault = None
        await mount.close(handle)
        assert bucket.peek("f") == noise(20 * MIB)


async def test_two_lost_answers_are_no_conflict_with_oneself(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Each time the file has been written on: the bucket has what the upload before has made."""
    bucket.poke("f", b"at first")
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        for each in range(2):
            await mount.write(handle, each, b"ours")
            bucket.fault = lambda operation, *_: (
                Fault(NoAnswer("ReadTimeout"), after=True) if operation == "PutObject" else None
            )
            with pytest.raises(StoreError, match="ReadTimeout"):
                await mount.tree.saver.sync(handle)
            bucket.fault = None
        await mount.write(handle, 2, b"ours")
        await mount.close(handle)
        assert mount.stored() == ["f"]
        assert bucket.peek("f") == b"ooours" + b"st"


async def test_a_lost_answer_is_no_conflict_with_oneself(bucket: Bucket, tmp_path: Path) -> None:
    """The store deals with its own repetitions; what it cannot end is retried here without loss."""
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        lost = Fault(NoAnswer("ReadTimeout"), after=True)
        bucket.fault = lambda operation, _key, n: (
            lost if (operation, n) == ("PutObject", 1) else None
        )
        with pytest.raises(NoAnswer):
            await mount.close(handle)
        await trio.sleep(100)
        assert bytes(bucket.peek("f")) == b"bytes"


async def test_unmounting_saves_everything(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        for number in range(20):
            handle = await mount.create(f"{number}")
            await mount.write(handle, 0, b"bytes")
            await mount.tree.opener.release(handle)
        inode = await mount.mkdir("d")
        posix = mount.tree.posix(inode)
        mount.tree.changer.replace(inode, posix.changed(0, mode=0o40700))
        began = trio.current_time()
        await mount.tree.drain.save_all()
        assert len(bucket.objects) == 21
        assert bucket.objects["d/"].headers.metadata["mode"] == str(0o40700)
        assert trio.current_time() - began <= 21 * bucket.latency


async def test_unmounting_leaves_what_it_could_not_save_on_the_disk(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", key="a")
        for name in ("a", "b"):
            handle = await mount.create(name)
            await mount.write(handle, 0, b"bytes")
            await mount.tree.opener.release(handle)
        await mount.tree.drain.save_all()
        assert mount.stored() == ["b"]
    assert rescued(tmp_path) == [b"bytes"]


async def test_what_a_close_could_not_save_is_tried_again_while_others_read_it(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Who only reads saves nothing: the mount does not wait for the end of `tail -f`."""
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        writer = await mount.open("f", os.O_WRONLY)
        await mount.write(writer, 3, b" and new")
        bucket.refuse("PutObject", "SlowDown")
        with pytest.raises(StoreError):
            await mount.close(writer)
        assert len(mount.cache.journal.pending()) == 1
        bucket.fault = None
        await trio.sleep(5)
        assert bucket.peek("f") == b"old and new"
        await mount.close(reader)
        assert not mount.tree.state.open_inodes
