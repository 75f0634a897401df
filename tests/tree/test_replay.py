"""What a mount that was killed left behind is carried out by the next one."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from bucketfs import clock
from bucketfs.cache.journal import Journal
from bucketfs.cache.pages import Tag
from bucketfs.cache.rows import PendingRow
from bucketfs.cli.commands import leftovers as left
from bucketfs.errors import FsError, NoAnswer, StoreError
from bucketfs.store.base import Headers, ObjectInfo
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.saving.change import Change
from bucketfs.tree.saving.replay import Replayed
from tests.harness.memory import Fault, FaultHook
from tests.tree.builder import MIB, Bucket, Mount, in_place, killed, noise, planted
from tests.unit.test_journal import Full

pytestmark = pytest.mark.mock_clock


@asynccontextmanager
async def after_a_crash(
    bucket: Bucket,
    directory: Path,
    before: Callable[[Mount], Awaitable[None]],
    *,
    fault: FaultHook | None = None,
    **config: object,
) -> AsyncIterator[Mount]:
    """A mount of what is left when the one in which `before` has just ended is killed."""
    async with planted(bucket, directory / "cache", **config) as mount:
        await before(mount)
        after = killed(bucket, directory / "cache", directory / "left")
        mount.tree.state.files.background._nursery.cancel_scope.cancel()
    after.fault = fault
    async with planted(after, directory / "left", **config) as mount:
        yield mount


async def until_at_rest(mount: Mount) -> None:
    """All has been uploaded, and the journal is empty."""
    await trio.sleep(100)
    journal = mount.cache.journal
    assert (journal.pending(), journal.removals(), journal.renames()) == ([], [], [])
    assert journal.uploads() == []
    assert not mount.tree.state.open_inodes
    files = {path.name for path in mount.cache.directory.glob("*.pages")}
    assert files == mount.cache.index.files()


@pytest.mark.parametrize("size", [0, 5, 40_000, 17 * MIB, 70 * MIB])
async def test_pending_files_are_uploaded(bucket: Bucket, tmp_path: Path, size: int) -> None:
    async def before(mount: Mount) -> None:
        await mount.mkdir("d")
        bucket.fault = lambda *_: Fault(hang=True)
        await mount.save("d/f", noise(size))

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        assert await mount.names("d") == {"f"}
        assert await mount.read("d/f") == noise(size)
        await until_at_rest(mount)
        assert mount.bucket.peek("d/f") == noise(size)
        metadata = mount.bucket.objects["d/f"].headers.metadata
        assert metadata["mode"] == str(0o100644)


async def test_a_directory_that_only_waiting_files_make_is_shown(
    bucket: Bucket, tmp_path: Path
) -> None:
    async def before(mount: Mount) -> None:
        await mount.mkdir("d")
        bucket.fault = lambda *_: Fault(hang=True)
        await mount.save("d/f", b"bytes")
        del bucket.objects["d/"]

    def refuse(operation: str, key: str, _count: int) -> Fault | None:
        error = StoreError("SlowDown", status=503, operation=operation, key=key)
        return Fault(error) if operation == "PutObject" else None

    async with after_a_crash(bucket, tmp_path, before, fault=refuse, writeback=True) as mount:
        assert await mount.names() == {"d"}
        assert await mount.names("d") == {"f"}
        mount.bucket.fault = None
        await until_at_rest(mount)


async def test_what_was_appended_to_an_object(bucket: Bucket, tmp_path: Path) -> None:
    """The rest of the bytes is in the bucket, and stays there."""
    bucket.poke("f", noise(40 * MIB))

    async def before(mount: Mount) -> None:
        handle = await mount.open("f", os.O_RDWR)
        bucket.fault = lambda *_: Fault(hang=True)
        await mount.write(handle, 40 * MIB, noise(MIB, 2))
        await mount.close(handle)

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        assert mount.bucket.peek("f") == noise(40 * MIB) + noise(MIB, 2)
        assert mount.bucket.received == 0


@pytest.mark.parametrize("size", [5, 100_000])
async def test_what_was_promised_outlives_a_change_that_was_not(
    bucket: Bucket, tmp_path: Path, size: int
) -> None:
    """Truncated and half written again: the crash brings the promised bytes back."""

    async def before(mount: Mount) -> None:
        await mount.root_listed()
        bucket.fault = lambda *_: Fault(hang=True)
        await mount.save("f", noise(size))
        handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
        await mount.write(handle, 0, b"other")
        await mount.save("g", noise(size))
        handle = await mount.open("g", os.O_WRONLY)
        await mount.write(handle, size // 2, b"other")

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        assert mount.bucket.peek("f") == noise(size)
        assert mount.bucket.peek("g") == noise(size)


async def test_an_upload_that_had_arrived_is_no_conflict(bucket: Bucket, tmp_path: Path) -> None:
    async def before(mount: Mount) -> None:
        handle = await mount.open("old", os.O_WRONLY | os.O_TRUNC)
        await mount.root_listed()
        bucket.answer = 50.0
        await mount.save("new", b"bytes")
        await mount.write(handle, 0, b"bytes")
        await mount.close(handle)
        await trio.sleep(3)
        assert bucket.peek("old") == b"bytes"
        assert len(mount.cache.journal.pending()) == 2

    bucket.poke("old", b"before")
    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        assert mount.stored() == ["new", "old"]
        assert await mount.read("old") == b"bytes"


@pytest.mark.parametrize("size", [MIB, 6 * MIB, 20 * MIB])
async def test_a_change_of_some_bytes_that_had_arrived_is_no_conflict(
    bucket: Bucket, tmp_path: Path, size: int
) -> None:
    """What is unchanged was not here when it was promised, and its version is gone."""

    async def before(mount: Mount) -> None:
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 100, b"ours")
        bucket.fault = lose_answers
        await mount.close(handle)
        await trio.sleep(0.5)
        assert bucket.peek("f")[98:106] == noise(size)[98:100] + b"ours" + noise(size)[104:106]
        assert len(mount.cache.journal.pending()) == 1

    def lose_answers(operation: str, key: str, _count: int) -> Fault | None:
        if operation not in {"PutObject", "CompleteMultipartUpload"}:
            return None
        return Fault(NoAnswer("ReadTimeout", operation=operation, key=key), after=True)

    bucket.poke("f", noise(size))
    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        assert mount.stored() == ["f"]
        assert mount.bucket.peek("f") == bucket.peek("f")


@pytest.mark.parametrize("writeback", [True, False])
async def test_an_upload_beside_the_writer_that_had_arrived_is_no_conflict(
    bucket: Bucket, tmp_path: Path, writeback: bool
) -> None:
    """The object has the attributes of the moment in which the upload began."""

    async def before(mount: Mount) -> None:
        await mount.root_listed()
        handle = await mount.create("f")
        await mount.write(handle, 0, noise(72 * MIB))
        await trio.sleep(1)
        await mount.write(handle, 72 * MIB, b"the end")
        bucket.fault = lose_the_answer
        if writeback:
            await mount.close(handle)
            bucket.answer = 50.0
            await trio.sleep(1)
        else:
            with pytest.raises(NoAnswer):
                await mount.close(handle)
        assert bucket.peek("f") == noise(72 * MIB) + b"the end"
        assert len(mount.cache.journal.pending()) == 1

    def lose_the_answer(operation: str, _key: str, _count: int) -> Fault | None:
        if operation == "CreateMultipartUpload":
            return Fault(hang=True)  # no second one
        lost = operation == "CompleteMultipartUpload"
        return Fault(NoAnswer("ReadTimeout"), after=True) if lost and not writeback else None

    async with after_a_crash(bucket, tmp_path, before, writeback=writeback) as mount:
        await until_at_rest(mount)
        assert mount.stored() == ["f"]
        assert mount.bucket.peek("f") == noise(72 * MIB) + b"the end"


async def test_an_fsync_that_had_arrived_is_no_conflict(bucket: Bucket, tmp_path: Path) -> None:
    """The file has changed since its promise, and the crash comes before the store's answer."""

    async def before(mount: Mount) -> None:
        await mount.root_listed()
        await mount.save("f", b"bytes")
        handle = await mount.open("f", os.O_WRONLY)
        await mount.write(handle, 5, b" and more")
        bucket.answer = 50.0
        mount.tree.state.files.background.start(lambda: mount.tree.saver.sync(handle), "fsync")
        await trio.sleep(1)
        assert bucket.peek("f") == b"bytes and more"

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        assert await mount.read("f") == b"bytes and more"
        await until_at_rest(mount)
        assert mount.stored() == ["f"]
        assert await mount.read("f") == b"bytes and more"


class Copying(Bucket):
    """A copy has another ETag, as that of an object in parts has."""

    copying: float = 0.0

    async def copy(self, source: str, target: str, **more: object) -> ObjectInfo:
        info = await super().copy(source, target, **more)  # type: ignore[arg-type]
        etag = hashlib.md5(info.etag.encode()).hexdigest()
        self.objects[target] = replace(self.objects[target], etag=etag)
        await trio.sleep(self.copying)
        return replace(info, etag=etag)


async def test_what_was_promised_while_a_chmod_was_under_way(tmp_path: Path) -> None:
    """What is unchanged of a large file comes from the version that the chmod has made."""

    async def before(mount: Mount) -> None:
        bucket.copying = 1.0
        inode = await mount.find("f")
        await mount.tree.attributes.complete(inode)
        assert mount.tree.changer.change(inode, Change(mode=0o600))
        mount.tree.later.attributes(inode)
        await trio.sleep(0.5)
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 100, b"ours")
        await mount.close(handle)
        bucket.fault = hang_uploads
        await trio.sleep(2)
        assert len(mount.cache.journal.pending()) == 1

    def hang_uploads(operation: str, _key: str, _count: int) -> Fault | None:
        return Fault(hang=True) if operation == "CreateMultipartUpload" else None

    bucket = Copying(latency=0.01)
    bucket.poke("f", noise(20 * MIB))
    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        assert mount.stored() == ["f"]
        assert mount.bucket.peek("f") == noise(20 * MIB)[:100] + b"ours" + noise(20 * MIB)[104:]


async def test_a_conflict_met_by_a_replay(bucket: Bucket, tmp_path: Path) -> None:
    async def before(mount: Mount) -> None:
        await mount.root_listed()
        bucket.fault = lambda *_: Fault(hang=True)
        await mount.save("f", b"ours")
        bucket.poke("f", b"theirs")

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        assert mount.bucket.peek("f") == b"theirs"
        [copy] = [key for key in mount.bucket.objects if ".conflict-" in key]
        assert mount.bucket.peek(copy) == b"ours"


async def test_a_failed_save_in_the_default_mode(bucket: Bucket, tmp_path: Path) -> None:
    """Close has reported it; the bytes are kept all the same."""

    async def before(mount: Mount) -> None:
        bucket.refuse("PutObject", "SlowDown")
        with pytest.raises(StoreError, match="SlowDown"):
            await mount.save("f", b"bytes")

    async with after_a_crash(bucket, tmp_path, before) as mount:
        await until_at_rest(mount)
        assert mount.bucket.peek("f") == b"bytes"


async def test_the_default_mode_uploads_what_writeback_left(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path, writeback=True) as mount:
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("f", b"bytes")
        await mount.tree.drain.save_all()
        assert mount.cache.journal.failed() == []
    bucket.fault = None
    async with planted(bucket, tmp_path) as mount:
        await until_at_rest(mount)
        assert bucket.peek("f") == b"bytes"


async def test_damaged_files_are_reported_and_kept(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with planted(bucket, tmp_path, writeback=True) as mount:
        bucket.refuse("PutObject", "SlowDown")
        for name in ("gone", "short", "whole"):
            await mount.save(name, noise(100_000))
        files = {row.key: mount.cache.directory / row.file for row in mount.cache.journal.pending()}
    files["gone"].unlink()
    os.truncate(files["short"], 99_999)
    bucket.fault = None
    async with planted(bucket, tmp_path, writeback=True) as mount:
        await trio.sleep(10)
        assert mount.stored() == ["whole"]
        damaged = mount.cache.journal.pending()
        assert {row.key for row in damaged} == {"gone", "short"}
        assert all(row.error for row in damaged)
        assert "'short' is damaged and cannot be uploaded" in caplog.text
    assert files["short"].exists()
    caplog.clear()


def _uploads_fail(operation: str, _key: str, _count: int) -> Fault | None:
    if operation not in {"PutObject", "CreateMultipartUpload", "UploadPart"}:
        return None
    return Fault(StoreError("SlowDown", status=503, operation=operation))


async def test_a_flipped_bit_is_reported_and_never_uploaded(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"inline": 1000, "paged": 3 * MIB + 5, "large": 17 * MIB, "row": 50_000, "whole": 9}
    async with planted(bucket, tmp_path, writeback=True) as mount:
        bucket.fault = _uploads_fail
        for name, size in sizes.items():
            await mount.save(name, noise(size))
        directory = mount.cache.directory
        files = {row.key: directory / row.file for row in mount.cache.journal.pending()}
    for name, at in (("paged", 2 * MIB + 1), ("large", 17 * MIB - 1)):
        with files[name].open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 4]))
    with closing(sqlite3.connect(directory / "journal.sqlite")) as db:
        change = "UPDATE saved SET data = CAST('X' || substr(data, 2) AS BLOB) WHERE file = ?"
        db.execute(change, (files["inline"].name,))
        db.execute("UPDATE pending SET key = 'other' WHERE key = 'row'")
        db.commit()
    bucket.fault = None
    for _ in range(2):
        async with planted(bucket, tmp_path, writeback=True) as mount:
            await trio.sleep(10)
            assert set(mount.stored()) == {"whole", "inline"}
            damaged = mount.cache.journal.pending()
            assert {row.key for row in damaged} == {"paged", "large"}
            assert all(row.error for row in damaged)
            assert [row.key for row in mount.cache.journal.failed()] == ["row"]
        assert "'paged' is damaged and cannot be uploaded: bytes 2097152-3145727 of" in caplog.text
        # the page file knows its key: its row does not count
        (kept,) = (directory / "unsaved").iterdir()
        assert kept.read_bytes() == noise(sizes["row"])
        caplog.clear()
    assert bucket.peek("inline") == noise(sizes["inline"])


async def test_bytes_outlive_a_flipped_bit_in_the_name_of_their_file(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with planted(bucket, tmp_path, writeback=True) as mount:
        bucket.fault = _uploads_fail
        await mount.save("f", noise(100_000))
        directory = mount.cache.directory
    with closing(sqlite3.connect(directory / "journal.sqlite")) as db:
        db.execute("UPDATE pending SET file = 'X' || substr(file, 2)")
        db.commit()
    for _ in range(2):
        async with planted(bucket, tmp_path, writeback=True) as mount:
            (kept,) = (directory / "unsaved").iterdir()
            assert kept.read_bytes() == noise(100_000)
            assert mount.cache.journal.failed()[0].key == "f"
    caplog.clear()


async def test_a_large_file_may_change_after_its_promise(bucket: Bucket, tmp_path: Path) -> None:
    wanted = bytearray(noise(17 * MIB))

    async def before(mount: Mount) -> None:
        bucket.fault = _uploads_fail
        await mount.save("f", noise(17 * MIB))
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 5 * MIB, b"changed")

    wanted[5 * MIB : 5 * MIB + 7] = b"changed"
    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        assert mount.bucket.peek("f") == wanted


async def test_a_large_file_does_not_change_when_the_journal_cannot_say_so(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its disk is full: after a crash the file would count as damaged, and stay unsaved."""

    async def before(mount: Mount) -> None:
        bucket.fault = _uploads_fail
        await mount.save("f", noise(17 * MIB))
        handle = await mount.open("f", os.O_RDWR)
        journal = mount.cache.journal
        full = journal._db = Full(journal._db, "UPDATE pending")  # type: ignore[assignment]
        for _ in range(2):
            with pytest.raises(FsError, match="cannot be written"):
                await mount.write(handle, 5 * MIB, b"changed")
        full.refused = ()

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        assert mount.bucket.peek("f") == noise(17 * MIB)
    caplog.clear()


def _power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "boot_id", lambda: "another run of the machine")


async def _fail_to_close(mount: Mount, *, sync: float) -> Handle:
    """Change all of a large file; it is taken to the disk in so many seconds."""

    async def disk(job: Callable[[], None]) -> None:
        await trio.sleep(sync)
        await in_place(job)

    mount.bucket.poke("f", b"old")
    mount.bucket.fault = _uploads_fail
    mount.cache.journal.in_thread = disk
    handle = await mount.open("f", os.O_RDWR)
    await mount.write(handle, 0, noise(17 * MIB))
    with pytest.raises(StoreError):
        await mount.close(handle)
    await trio.sleep(1)
    return handle


async def test_a_power_cut_before_a_large_file_was_on_the_disk(
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its close had failed. It has no checksums that tell what is gone, and is not uploaded."""

    async def before(mount: Mount) -> None:
        handle = await _fail_to_close(mount, sync=1000)
        # what had not reached the disk reads as zeros
        os.pwrite(handle.content.local.pages.fd, bytes(MIB), 5 * MIB)
        _power_cut(monkeypatch)

    async with after_a_crash(bucket, tmp_path, before) as mount:
        await trio.sleep(100)
        assert mount.bucket.peek("f") == b"old"
        assert "'f' is damaged and cannot be uploaded: the machine went down" in caplog.text
        (row,) = mount.cache.journal.pending()
        assert row.size == 17 * MIB
    caplog.clear()


async def test_a_power_cut_after_a_large_file_had_arrived(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it had was not on the disk yet: nobody needs the page file, which keeps no room."""
    live, dead = tmp_path / "live", tmp_path / "dead"
    async with planted(bucket, live) as mount:
        handle = await _fail_to_close(mount, sync=1000)
        killed(bucket, live, dead)
        bucket.fault = None
        await trio.sleep(100)
        assert bucket.peek("f") == noise(17 * MIB)
        assert not handle.content.unsaved
        _power_cut(monkeypatch)
    async with planted(bucket, dead) as mount:
        assert mount.cache.held == 0
        await until_at_rest(mount)


async def test_a_power_cut_after_a_large_file_was_on_the_disk(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def before(mount: Mount) -> None:
        await _fail_to_close(mount, sync=0)
        _power_cut(monkeypatch)

    async with after_a_crash(bucket, tmp_path, before) as mount:
        await until_at_rest(mount)
        assert mount.bucket.peek("f") == noise(17 * MIB)


async def test_the_next_mount_takes_a_large_file_to_the_disk(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The one whose close had failed was killed before it had done so."""

    async def before(mount: Mount) -> None:
        await _fail_to_close(mount, sync=1000)
        assert [bool(row.boot) for row in mount.cache.journal.pending()] == [True]

    async with after_a_crash(bucket, tmp_path, before, fault=_uploads_fail) as mount:
        await trio.sleep(1)
        assert [row.boot for row in mount.cache.journal.pending()] == [""]
        mount.bucket.fault = None
        await until_at_rest(mount)
        assert mount.bucket.peek("f") == noise(17 * MIB)


async def test_page_files_outlive_a_damaged_journal(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with planted(bucket, tmp_path, writeback=True) as mount:
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("f", noise(100_000))
        directory = mount.cache.directory
    (directory / "journal.sqlite").write_bytes(b"no database" * 1000)
    async with planted(bucket, tmp_path, writeback=True) as mount:
        assert await mount.names("") == set()
        assert "'f' is not in the bucket yet" in caplog.text
    caplog.clear()
    (kept,) = (directory / "unsaved").iterdir()
    assert kept.read_bytes() == noise(100_000)


async def test_page_files_outlive_a_look_at_a_damaged_journal(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Listing what is left sets the journal aside; the mount after it must still know of that."""
    async with planted(bucket, tmp_path, writeback=True) as mount:
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("f", noise(100_000))
        directory = mount.cache.directory
    (directory / "journal.sqlite").write_bytes(b"no database" * 1000)
    with left.opened(directory):
        pass
    for _ in range(2):
        async with planted(bucket, tmp_path, writeback=True):
            (kept,) = (directory / "unsaved").iterdir()
            assert kept.read_bytes() == noise(100_000)
    caplog.clear()


async def test_multipart_uploads_are_aborted(bucket: Bucket, tmp_path: Path) -> None:
    async def before(mount: Mount) -> None:
        bucket.fault = lambda operation, _key, _n: (
            Fault(hang=True) if operation == "UploadPart" else None
        )
        handle = await mount.create("f")
        for at in range(0, 70 * MIB, MIB):
            await mount.write(handle, at, bytes(MIB))
        await trio.sleep(1)
        assert len(bucket.uploads) == 1
        # and one whose answer was not seen, beside one of others
        await bucket.create_upload("g", Headers())
        await bucket.create_upload("gg", Headers())
        mount.cache.journal.begin("g", time.time())

    async with after_a_crash(bucket, tmp_path, before) as mount:
        await until_at_rest(mount)
        assert [upload.key for upload in mount.bucket.uploads.values()] == ["gg"]


async def test_an_upload_that_others_began_days_later_is_none_of_ours(
    bucket: Bucket, tmp_path: Path
) -> None:
    """A beginning that was not answered may have begun nothing."""

    async def before(mount: Mount) -> None:
        mount.cache.journal.begin("g", time.time() - 3 * 24 * 3600)
        await bucket.create_upload("g", Headers())

    async with after_a_crash(bucket, tmp_path, before) as mount:
        await until_at_rest(mount)
        assert [upload.key for upload in mount.bucket.uploads.values()] == ["g"]


async def test_the_upload_of_this_mount_is_not_taken_for_one_that_was_left(
    bucket: Bucket, tmp_path: Path
) -> None:
    async def before(mount: Mount) -> None:
        bucket.fault = lambda operation, _key, _n: (
            Fault(hang=True) if operation == "CreateMultipartUpload" else None
        )
        bucket.latency = 0.1  # of the next mount, too
        await mount.save("f", noise(70 * MIB))
        await trio.sleep(1)
        assert {upload.upload_id for upload in mount.cache.journal.uploads()} == {""}

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        requested = mount.bucket.requested()
        assert requested["CreateMultipartUpload"] == requested["CompleteMultipartUpload"] == 1
        assert "AbortMultipartUpload" not in requested
        assert mount.bucket.peek("f") == noise(70 * MIB)


async def test_removals_are_carried_out(bucket: Bucket, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        bucket.poke(name, name.encode())

    async def before(mount: Mount) -> None:
        await mount.names()
        bucket.fault = lambda operation, _key, _n: (
            Fault(hang=True) if operation == "DeleteObjects" else None
        )
        for name in ("a", "b"):
            await mount.unlink(name)
        bucket.poke("b", b"another one")

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        assert mount.stored() == ["b", "c"]
        await until_at_rest(mount)


async def test_a_removed_file_that_was_open_is_deleted(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", bytes(80 * MIB))

    async def before(mount: Mount) -> None:
        await mount.open("f")
        await mount.unlink("f")
        assert "f" in bucket.objects

    async with after_a_crash(bucket, tmp_path, before) as mount:
        assert mount.stored() == []
        await until_at_rest(mount)


@pytest.mark.parametrize("operation", ["CopyObject", "DeleteObject"])
async def test_a_file_has_one_of_its_names(bucket: Bucket, tmp_path: Path, operation: str) -> None:
    bucket.poke("a", b"bytes")
    bucket.poke("b", b"other")

    async def before(mount: Mount) -> None:
        bucket.fault = lambda asked, _key, _n: Fault(hang=True) if asked == operation else None
        mount.tree.state.files.background.start(lambda: mount.rename("a", "b"), "rename")
        await trio.sleep(10)

    async with after_a_crash(bucket, tmp_path, before) as mount:
        if operation == "CopyObject":
            assert [mount.bucket.peek(key) for key in mount.stored()] == [b"bytes", b"other"]
        else:
            assert [(key, mount.bucket.peek(key)) for key in mount.stored()] == [("b", b"bytes")]
        await until_at_rest(mount)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("operation", ["CopyObject", "DeleteObject"])
async def test_a_file_that_waited_is_replaced(
    bucket: Bucket, tmp_path: Path, operation: str, overwrite: bool
) -> None:
    """What was renamed over it is not replaced by it in turn."""

    async def before(mount: Mount) -> None:
        await mount.save("new", b"new bytes")
        await mount.tree.drain.save_all()
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("f", b"old")
        await trio.sleep(0.5)
        bucket.fault = lambda asked, _key, _n: (
            Fault(hang=True) if asked in (operation, "PutObject") else None
        )
        mount.tree.state.files.background.start(lambda: mount.rename("new", "f"), "rename")
        await trio.sleep(0.5)

    async with after_a_crash(
        bucket, tmp_path, before, writeback=True, overwrite=overwrite
    ) as mount:
        await until_at_rest(mount)
        found = {key: mount.bucket.peek(key) for key in mount.stored()}
        if operation == "DeleteObject":
            assert found == {"f": b"new bytes"}
        else:
            assert found == {"f": b"old", "new": b"new bytes"}


@pytest.mark.parametrize("operation", ["CopyObject", "DeleteObjects"])
@pytest.mark.parametrize("done", [0, 1, 3])
async def test_a_directory_has_one_of_its_names(
    bucket: Bucket, tmp_path: Path, operation: str, done: int
) -> None:
    keys = ["d/", "d/a", "d/b", "d/e/f"]
    for key in keys:
        bucket.poke(key, key.encode())

    async def before(mount: Mount) -> None:
        handle = await mount.create("d/new")
        await mount.write(handle, 0, b"new")
        bucket.refuse("PutObject", "SlowDown")
        await mount.close(handle)
        await trio.sleep(0.1)
        bucket.fault = lambda asked, _key, count: (
            Fault(hang=True)
            if asked == "PutObject" or (asked == operation and count > done)
            else None
        )
        bucket.requested()
        mount.tree.state.files.background.start(lambda: mount.rename("d", "x"), "rename")
        await trio.sleep(0.5)

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        assert {key for key in mount.stored() if key != "x/new"} == {"x" + k[1:] for k in keys}
        await until_at_rest(mount)
        assert mount.bucket.peek("x/new") == b"new"
        assert await mount.names("x") == {"a", "b", "e", "new"}


async def test_a_renaming_of_much_does_not_read_the_journal_for_each_object(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 10,000 files that wait it would take 0.2 s each, before anything is served."""
    for number in range(100):
        bucket.poke(f"d/{number}", b"old")
    reads: list[str] = []
    pending = Journal.pending

    def counted(journal: Journal) -> list[PendingRow]:
        reads.append("pending")
        return pending(journal)

    async def before(mount: Mount) -> None:
        bucket.refuse("PutObject", "SlowDown")
        for number in range(10):
            handle = await mount.open(f"d/{number}", os.O_WRONLY)
            await mount.write(handle, 0, b"new")
            await mount.close(handle)
        await trio.sleep(0.1)
        bucket.fault = lambda asked, _key, _n: (
            Fault(hang=True) if asked in ("PutObject", "CopyObject") else None
        )
        mount.tree.state.files.background.start(lambda: mount.rename("d", "x"), "rename")
        await trio.sleep(0.5)
        monkeypatch.setattr(Journal, "pending", counted)

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        assert len(reads) < 10
        await until_at_rest(mount)
        bodies = [mount.bucket.peek(f"x/{number}") for number in range(100)]
        assert bodies == [b"new"] * 10 + [b"old"] * 90
        assert len(mount.stored()) == 100


@pytest.mark.parametrize("changed", ["x/a", "d/a"])
@pytest.mark.parametrize("data", [b"longer than before", b"changed"])
async def test_what_was_written_since_a_renaming_was_begun_stays(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: str, data: bytes
) -> None:
    """The mount after the crash can copy, and not delete; the next one can do both."""
    bucket.poke("d/a", b"as once")

    async def before(mount: Mount) -> None:
        bucket.fault = lambda asked, _key, _n: (
            Fault(hang=True) if asked == "DeleteObjects" else None
        )
        mount.tree.state.files.background.start(lambda: mount.rename("d", "x"), "rename")
        await trio.sleep(0.5)

    def refuse(operation: str, key: str, _count: int) -> Fault | None:
        error = StoreError("AccessDenied", status=403, operation=operation, key=key)
        return Fault(error) if operation == "DeleteObjects" else None

    async with after_a_crash(bucket, tmp_path, before, fault=refuse) as mount:
        handle = await mount.open(changed, os.O_WRONLY | os.O_TRUNC)
        await mount.write(handle, 0, data)
        await mount.close(handle)
        again = mount.bucket
        again.fault = None
    async with planted(again, tmp_path / "left") as mount:
        assert again.peek(changed) == data
        await until_at_rest(mount)
    caplog.clear()


async def test_a_changed_file_is_renamed(bucket: Bucket, tmp_path: Path) -> None:
    """The crash comes between copy and deletion: what waits goes over the copy."""
    bucket.poke("a", noise(20 * MIB))

    async def before(mount: Mount) -> None:
        handle = await mount.open("a", os.O_RDWR)
        await mount.write(handle, 20 * MIB, b"more")
        bucket.refuse("CreateMultipartUpload", "SlowDown")
        await mount.close(handle)
        await trio.sleep(0.1)
        bucket.fault = lambda asked, _key, _n: (
            Fault(hang=True) if asked in ("CreateMultipartUpload", "DeleteObject") else None
        )
        mount.tree.state.files.background.start(lambda: mount.rename("a", "b"), "rename")
        await trio.sleep(0.5)
        assert set(bucket.objects) == {"a", "b"}

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        assert mount.stored() == ["b"]
        assert mount.bucket.peek("b") == noise(20 * MIB) + b"more"


async def test_rows_of_another_prefix_are_left(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.poke("p/", b"")
    async with planted(bucket, tmp_path, writeback=True) as mount:
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("f", noise(100_000))
        await mount.save("p/g", b"g")
    bucket.fault = None
    async with planted(bucket, tmp_path, writeback=True, prefix="p/") as mount:
        await trio.sleep(10)
        assert mount.stored() == ["p/", "p/g"]
    assert "1 entry left for mounts of other prefixes" in caplog.text
    async with planted(bucket, tmp_path) as mount:
        await until_at_rest(mount)
        assert bucket.peek("f") == noise(100_000)


async def test_each_prefix_gets_the_cache_in_which_it_waits(bucket: Bucket, tmp_path: Path) -> None:
    """Two mounts that are mounted again in the other order, and stay."""
    async with (
        planted(bucket, tmp_path, writeback=True, prefix="p/") as first,
        planted(bucket, tmp_path, writeback=True, prefix="q/") as second,
    ):
        bucket.refuse("PutObject", "SlowDown")
        await first.save("f", b"first")
        await second.save("f", b"second")
    bucket.fault = None
    async with (
        planted(bucket, tmp_path, prefix="r/"),
        planted(bucket, tmp_path, prefix="q/") as second,
        planted(bucket, tmp_path, prefix="p/") as first,
    ):
        await until_at_rest(first)
        await until_at_rest(second)
        assert (bucket.peek("p/f"), bucket.peek("q/f")) == (b"first", b"second")


def test_the_log_tells_what_was_done_and_nothing_else() -> None:
    assert str(Replayed(pending=1)) == "1 file to be uploaded again"
    assert str(Replayed(pending=2, removed=1, damaged=3)) == (
        "2 files to be uploaded again; 1 object removed; 3 damaged files, see bucketfs recover"
    )


async def test_a_mount_that_may_not_write_leaves_everything(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with planted(bucket, tmp_path, writeback=True) as mount:
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("f", b"bytes")
    bucket.fault = None
    async with planted(bucket, tmp_path, replay=False) as mount:
        mount.tree.replay.postpone()
        await trio.sleep(10)
        assert mount.stored() == []
    assert "has left 1 entry in the journal: mount without ro" in caplog.text
    async with planted(bucket, tmp_path) as mount:
        await until_at_rest(mount)
        assert bucket.peek("f") == b"bytes"


async def test_a_clean_unmount_leaves_nothing_to_do(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with planted(bucket, tmp_path, writeback=True) as mount:
            await mount.save("f", b"bytes")
            await mount.rename("f", "g")
            await mount.tree.drain.save_all()
        async with planted(bucket, tmp_path, writeback=True) as mount:
            await until_at_rest(mount)
    assert "was not unmounted" not in caplog.text


async def test_a_cache_in_which_something_waits_is_taken_first(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Two mounts of the bucket at a time, of which one is mounted again."""
    async with (
        planted(bucket, tmp_path, writeback=True),
        planted(bucket, tmp_path, writeback=True) as second,
    ):
        bucket.refuse("PutObject", "SlowDown")
        await second.save("f", b"bytes")
    bucket.fault = None
    async with planted(bucket, tmp_path) as mount:
        await until_at_rest(mount)
        assert bucket.peek("f") == b"bytes"


async def test_what_waits_counts_as_held_from_the_beginning(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path, writeback=True) as mount:
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("f", noise(200_000))
        held = mount.cache.held
    bucket.fault = None
    async with planted(bucket, tmp_path, replay=False) as mount:
        assert mount.cache.held >= held >= 200_000


@pytest.mark.parametrize("size", [5, 100_000])
async def test_a_power_cut_that_takes_the_last_change_of_a_row_takes_no_bytes(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    """A change of headers is not synced, and the tag of the page file may outlive it."""

    async def before(mount: Mount) -> None:
        bucket.fault = _uploads_fail
        await mount.save("f", noise(size))
        await trio.sleep(0.01)
        (row,) = mount.cache.journal.pending()
        path = mount.cache.directory / row.file
        tag = Tag(row.key, row.size, whole=True, written=row.written + 1, since=row.written)
        tag.put(path)
        if size == 5:
            os.truncate(path, 0)  # its bytes are in the journal, and were never synced

    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        assert mount.bucket.peek("f") == noise(size)
    caplog.clear()


@pytest.mark.parametrize("clean_pages", ["leave", "come"])
async def test_clean_pages_that_move_while_a_file_is_taken_to_the_disk(
    bucket: Bucket, tmp_path: Path, clean_pages: str
) -> None:
    """The journal counts on those that were there when it began, and were there when it ended."""

    async def before(mount: Mount) -> None:
        bucket.fault = _uploads_fail
        handle = await mount.open("f", os.O_RDWR)
        if clean_pages == "leave":
            await mount.pread(handle, 0, 8 * MIB)
        await mount.write(handle, 100, b"ours")
        content = handle.content

        async def meanwhile(job: Callable[[], object]) -> object:
            result = await in_place(job)
            if clean_pages == "leave":
                content.remove_reader(handle.reader)
                content.reclaim(4 * MIB)
            else:
                await content.local.load(0, 4 * MIB)
            return result

        mount.cache.journal.in_thread = meanwhile
        await mount.flush(handle)
        mount.cache.journal.in_thread = in_place
        (row,) = mount.cache.journal.pending()
        if clean_pages == "come":  # a power cut: they have not reached the disk
            with (mount.cache.directory / row.file).open("r+b") as file:
                file.write(bytes(100) + b"ours" + bytes(4 * MIB - 104))

    data = noise(8 * MIB)
    bucket.poke("f", data)
    async with after_a_crash(bucket, tmp_path, before, writeback=True) as mount:
        await until_at_rest(mount)
        assert mount.bucket.peek("f") == data[:100] + b"ours" + data[104:]
