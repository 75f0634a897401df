"""`-o writeback`: close is content with the local disk, the bucket gets the bytes later."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, NoAnswer, StoreError
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.core.state import Nobody, Watcher
from bucketfs.tree.saving import promises as pending_module
from bucketfs.tree.saving.change import Change
from bucketfs.tree.saving.later import LULL, LULL_MOST
from tests.harness.memory import Fault
from tests.tree.builder import MIB, Bucket, Mount, in_place, noise, planted

pytestmark = pytest.mark.mock_clock


@asynccontextmanager
async def writing(
    bucket: Bucket, directory: Path, watcher: Watcher | None = None
) -> AsyncIterator[Mount]:
    """A mount whose root is listed, so that its names cost no request."""
    async with planted(bucket, directory, writeback=True, watcher=watcher) as mount:
        await mount.names()
        bucket.requested()
        yield mount
        check(mount)


def check(mount: Mount) -> None:
    """The journal and the contents agree."""
    promised = {
        inode.content.promise.row.file
        for inode in mount.tree.state.open_inodes
        if inode.content is not None and inode.content.promise is not None
    }
    journal = mount.cache.journal
    assert {row.file for row in journal.pending()} == promised
    assert mount.tree.promises.count == len(promised)
    if not promised:
        assert mount.tree.promises.bytes == 0
        assert not list(mount.cache.directory.glob("*.sqlite.damaged"))


async def test_close_does_not_wait_for_the_bucket(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        began = trio.current_time()
        for number in range(5):
            await mount.save(f"{number}", b"bytes")
        assert trio.current_time() == began
        assert len(mount.tree.outstanding.waiting()) == 5
        await trio.sleep(3)
        assert mount.stored() == ["0", "1", "2", "3", "4"]
        assert bucket.requested() == {"PutObject": 5}
        assert mount.tree.outstanding.waiting() == []
        assert (mount.tree.saver.uploaded.files, mount.tree.saver.uploaded.bytes) == (5, 25)
        assert not mount.tree.state.open_inodes


@pytest.mark.parametrize("size", [0, 5, 40 << 10, 17 * MIB, 70 * MIB])
async def test_sizes(bucket: Bucket, tmp_path: Path, size: int) -> None:
    async with writing(bucket, tmp_path) as mount:
        await mount.save("f", noise(size))
        assert "f" not in bucket.objects
        await trio.sleep(5)
        assert bucket.peek("f") == noise(size)
        assert not bucket.uploads
        assert mount.cache.journal.uploads() == []


async def test_fsync_waits(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        await mount.tree.saver.sync(handle)
        assert bucket.peek("f") == b"bytes"
        await mount.close(handle)
        assert bucket.requested() == {"PutObject": 1}


async def test_rename_and_unlink_of_what_waits_cost_nothing(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("a", b"bytes")
        await trio.sleep(0.5)
        assert bucket.requested() == {"PutObject": 1}
        await mount.rename("a", "b")
        [row] = mount.cache.journal.pending()
        assert row.key == "b"
        await mount.unlink("b")
        assert mount.cache.journal.pending() == []
        await trio.sleep(3)
        assert bucket.requested() == {}
        assert mount.stored() == []


async def test_what_does_not_last_costs_nothing(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        await mount.save("new", noise(100))
        for number in range(3):
            handle = await mount.open("new", os.O_WRONLY | os.O_TRUNC)
            await mount.write(handle, 0, noise(100, number))
            await mount.close(handle)
            await trio.sleep(0.03)
        await mount.rename("new", "kept")
        await mount.save("temporary", b"bytes")
        await mount.unlink("temporary")
        await trio.sleep(5)
        assert bucket.requested() == {"PutObject": 1}
        assert mount.stored() == ["kept"]
        assert bucket.peek("kept") == noise(100, 2)


async def test_uploads_begin_within_a_second_of_a_program_that_goes_on(
    bucket: Bucket, tmp_path: Path
) -> None:
    """What it has closed just now waits for the next time, as it may be renamed at once."""
    async with writing(bucket, tmp_path) as mount:
        closed: dict[str, float] = {}
        waited: dict[str, float] = {}
        for number in range(150):
            await mount.save(f"{number}", b"bytes")
            closed[f"{number}"] = trio.current_time()
            await trio.sleep(0.02)
            for name in mount.stored():
                waited.setdefault(name, trio.current_time() - closed[name])
        assert len(waited) >= 90, "it does not wait for the end of the program"
        assert max(waited.values()) <= LULL_MOST + 0.1, "seen a file and an upload later"
        assert min(waited.values()) >= LULL


async def test_what_is_changed_while_it_waits(bucket: Bucket, tmp_path: Path) -> None:
    """chmod, an append and a truncation all end in the one object."""
    async with writing(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("f", b"12345")
        await trio.sleep(0.5)
        handle = await mount.open("f", os.O_WRONLY)
        await mount.write(handle, 5, b"678")
        posix = mount.tree.posix(handle.inode)
        mount.tree.changer.replace(handle.inode, posix.changed(0, mode=0o100600))
        await mount.close(handle)
        [row] = mount.cache.journal.pending()
        assert row.headers.metadata["mode"] == str(0o100600)
        assert (row.size, mount.cache.journal.data(row.file)) == (8, b"12345678")
        bucket.fault = None
        await trio.sleep(5)
        assert bucket.peek("f") == b"12345678"
        assert bucket.objects["f"].headers.metadata["mode"] == str(0o100600)


async def test_chmod_changes_the_row(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("f", b"12345")
        inode = await mount.find("f")
        mount.tree.changer.replace(inode, mount.tree.posix(inode).changed(0, mode=0o100600))
        [row] = mount.cache.journal.pending()
        assert row.headers.metadata["mode"] == str(0o100600)
        assert mount.cache.journal.data(row.file) == b"12345"
        bucket.fault = None


async def test_a_conflict_is_told_of_once(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for the upload; what is in the conflict copy is saved."""
    async with writing(bucket, tmp_path) as mount:
        await mount.save("f", b"ours")
        bucket.poke("f", b"theirs")
        await trio.sleep(5)
        assert sorted(bucket.peek(key) for key in mount.stored()) == [b"ours", b"theirs"]
        assert not mount.tree.state.open_inodes
        assert await mount.read("f") == b"theirs"
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("'f' was changed by someone else; what was written here is in")


@pytest.mark.parametrize("writeback", [True, False])
async def test_written_while_a_chmod_met_others_version(
    bucket: Bucket, tmp_path: Path, writeback: bool
) -> None:
    """What the chmod fails of says nothing of the bytes: they get their conflict copy."""
    bucket.poke("f", b"at first")
    bucket.latency = 0.5
    async with planted(bucket, tmp_path, writeback=writeback) as mount:
        inode = await mount.find("f")
        await mount.tree.attributes.complete(inode)
        bucket.poke("f", b"theirs")
        assert mount.tree.changer.change(inode, Change(mode=0o600))
        mount.tree.later.attributes(inode)
        await trio.sleep(0.2)
        assert bucket.requested()["CopyObject"] == 1
        handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
        await mount.write(handle, 0, b"ours")
        if writeback:
            await mount.close(handle)
        await trio.sleep(30)
        assert not list(mount.cache.directory.glob("unsaved/*"))
        if not writeback:
            with pytest.raises(FsError, match="ESTALE"):
                await mount.close(handle)
        assert sorted(bucket.peek(key) for key in mount.stored()) == [b"ours", b"theirs"]


async def test_a_directory_with_waiting_files_is_renamed(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        await mount.mkdir("d")
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("d/a", b"a")
        await mount.save("d/b", b"b")
        await mount.rename("d", "e")
        assert {row.key for row in mount.cache.journal.pending()} == {"e/a", "e/b"}
        assert mount.cache.journal.renames() == []
        bucket.fault = None
        await trio.sleep(20)
        assert mount.stored() == ["e/", "e/a", "e/b"]


@pytest.mark.parametrize("code", ["SlowDown", "XMinioStorageFull"])
async def test_a_failed_upload_is_tried_until_it_works(
    bucket: Bucket, tmp_path: Path, code: str
) -> None:
    async with writing(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", code)
        await mount.save("f", b"bytes")
        await trio.sleep(100)
        [waiting] = mount.tree.outstanding.waiting()
        assert (waiting.path, waiting.size, waiting.state) == ("f", 5, "retrying")
        assert waiting.tries >= 5
        assert code in waiting.error
        bucket.fault = None
        await trio.sleep(100)
        assert bucket.peek("f") == b"bytes"


async def test_flush_waits_for_all_of_a_directory(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        await mount.mkdir("d")
        for name in ("d/a", "d/b", "e"):
            await mount.save(name, b"bytes")
        assert await mount.tree.outstanding.flush("d") == []
        assert {"d/a", "d/b"} <= set(bucket.objects)
        bucket.refuse("PutObject", key="f")
        await mount.save("f", b"bytes")
        [failed] = await mount.tree.outstanding.flush()
        assert failed.path == "f"
        assert "AccessDenied" in failed.error
        assert "e" in bucket.objects
        bucket.fault = None


@pytest.mark.parametrize("code", ["EntityTooLarge", "MetadataTooLarge"])
async def test_what_is_given_up_is_kept_and_named(
    bucket: Bucket, tmp_path: Path, code: str
) -> None:
    async with writing(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", code)
        await mount.save("f", b"bytes")
        await trio.sleep(5)
        [failed] = mount.cache.journal.failed()
        assert failed.key == "f"
        assert (mount.cache.directory / failed.path).read_bytes() == b"bytes"
        assert mount.tree.outstanding.waiting() == []
        bucket.fault = None


async def test_what_is_given_up_is_whole_and_on_the_disk(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the journal forgets it."""
    async with writing(bucket, tmp_path) as mount:
        journal, synced = mount.cache.journal, []
        fsync = os.fsync

        def watch(fd: int) -> None:
            synced.append((os.fstat(fd).st_size, len(journal.pending())))
            fsync(fd)

        monkeypatch.setattr(os, "fsync", watch)
        bucket.refuse("PutObject", "EntityTooLarge")
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        await mount.tree.opener.truncate(handle.inode, 20_000, publish=False)
        await mount.close(handle)
        await trio.sleep(5)
        [failed] = journal.failed()
        path = mount.cache.directory / failed.path
        assert path.read_bytes() == b"bytes" + bytes(19_995)
        assert (20_000, 1) in synced
        bucket.fault = None


@pytest.mark.parametrize("full", ["store", "disk"])
async def test_what_is_full_now_is_waited_for(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    """The store's disk, or this one, which has to take the rest of a small file."""
    bucket.poke("f", noise(MIB))

    def refuse(*_args: object) -> int:
        raise FsError(errno.ENOSPC, "no space left")

    async with writing(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_WRONLY)
        await mount.write(handle, MIB, b"more")
        with monkeypatch.context() as patch:
            if full == "disk":
                patch.setattr(mount.cache, "write", refuse)
            else:
                bucket.refuse("PutObject", "XMinioStorageFull")
            await mount.close(handle)
            await trio.sleep(100)
        bucket.fault = None
        await trio.sleep(100)
        assert bucket.peek("f") == noise(MIB) + b"more"
        assert mount.cache.journal.failed() == []


async def test_a_conflict_is_kept_beside(bucket: Bucket, tmp_path: Path) -> None:
    """Nobody waits for the upload that meets it, but no byte is lost."""
    async with writing(bucket, tmp_path) as mount:
        await mount.save("f", b"ours")
        bucket.poke("f", b"theirs")
        await trio.sleep(3)
        assert bucket.peek("f") == b"theirs"
        [copy] = [key for key in bucket.objects if key.startswith("f.conflict-")]
        assert bucket.peek(copy) == b"ours"
        assert mount.cache.journal.pending() == []


async def test_the_kernel_hears_of_a_conflict_in_the_background(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Or else the next open of the name would go on in the conflict copy."""
    told: list[str] = []

    class Kernel(Nobody):
        def moved(self, parent: Directory, name: str) -> None:
            told.append(name)

    async with writing(bucket, tmp_path, watcher=Kernel()) as mount:
        await mount.save("f", b"ours")
        bucket.poke("f", b"theirs")
        await trio.sleep(5)
        assert told == ["f"]


async def test_a_lost_answer_is_no_conflict(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        lost = Fault(NoAnswer("ReadTimeout"), after=True)
        bucket.fault = lambda operation, _key, n: (
            lost if (operation, n) == ("PutObject", 1) else None
        )
        await mount.save("f", b"ours")
        await trio.sleep(100)
        assert mount.stored() == ["f"]


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("theirs", [False, True])
async def test_what_had_arrived_does_not_keep_the_old_name(
    bucket: Bucket, tmp_path: Path, crash: bool, theirs: bool
) -> None:
    """The answer was lost, and then the file is renamed or removed."""
    lost = Fault(NoAnswer("ReadTimeout"), after=True)
    async with writing(bucket, tmp_path) as mount:
        bucket.fault = lambda asked, _key, _n: lost if asked == "PutObject" else None
        await mount.save("a", b"a")
        await mount.save("b", b"b")
        await trio.sleep(0.5)
        assert mount.stored() == ["a", "b"]
        if not crash:
            await _leave_both_names(mount, theirs=theirs)
    bucket.refuse("PutObject", "SlowDown")
    async with planted(bucket, tmp_path, writeback=True) as mount:
        if crash:
            await _leave_both_names(mount, theirs=theirs)
        bucket.fault = None
        await trio.sleep(100)
        assert mount.stored() == (["a", "b", "c"] if theirs else ["c"])
        assert bucket.peek("c") == b"b"
        check(mount)


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("crash", [False, True])
async def test_what_had_arrived_is_replaced_by_what_is_renamed_over_it(
    bucket: Bucket, tmp_path: Path, existing: bool, crash: bool
) -> None:
    lost = Fault(NoAnswer("ReadTimeout"), after=True)
    if existing:
        bucket.poke("f", b"as once")
    async with writing(bucket, tmp_path) as mount:
        bucket.fault = lambda asked, _key, _n: lost if asked == "PutObject" else None
        if existing:
            handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
            await mount.write(handle, 0, b"old")
            await mount.close(handle)
        else:
            await mount.save("f", b"old")
        await trio.sleep(0.5)
        assert bucket.peek("f") == b"old"
        bucket.refuse("PutObject", "SlowDown")
        await mount.save("new", b"new")
        await mount.rename("new", "f")
        if not crash:
            bucket.fault = None
            await trio.sleep(100)
    bucket.fault = None
    async with planted(bucket, tmp_path, writeback=True) as mount:
        await trio.sleep(100)
        assert {key: bucket.peek(key) for key in mount.stored()} == {"f": b"new"}


async def _leave_both_names(mount: Mount, *, theirs: bool) -> None:
    if theirs:
        mount.bucket.poke("a", b"theirs")
        mount.bucket.poke("b", b"theirs")
    await mount.unlink("a")
    await mount.rename("b", "c")


async def test_old_bytes_stay_until_the_new_ones_are_safe(bucket: Bucket, tmp_path: Path) -> None:
    """A power cut while the journal is taken to the disk finds the row of either, and its bytes."""
    there: list[bool] = []
    async with writing(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", "SlowDown")
        journal = mount.cache.journal
        await mount.save("f", noise(100_000))
        await trio.sleep(0.5)
        old = mount.cache.directory / journal.pending()[0].file

        async def watch(job: Callable[[], None]) -> None:
            if job == journal._sync:
                there.append(old.exists())
            await in_place(job)

        journal.in_thread = watch
        handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
        await mount.write(handle, 0, noise(100_000, 2))
        await mount.close(handle)
        assert there == [True]
        assert not old.exists()
        bucket.fault = None


async def test_back_pressure_by_count(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with writing(bucket, tmp_path) as mount:
        monkeypatch.setattr(pending_module, "MOST", 3)
        bucket.refuse("PutObject", "SlowDown")
        for number in range(3):
            await mount.save(f"{number}", b"bytes")
        with pytest.raises(StoreError):
            await mount.save("4", b"bytes")
        bucket.fault = None
        await trio.sleep(100)
        assert len(bucket.objects) == 4


async def test_back_pressure_by_size(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path, writeback=True, cache_size=64 * MIB) as mount:
        bucket.fault = lambda operation, key, _n: (
            Fault(hang=True) if operation == "PutObject" and key < "2" else None
        )
        for number in range(2):
            await mount.save(f"{number}", noise(15 * MIB))
        await mount.save("2", noise(15 * MIB))
        assert "2" in bucket.objects, "more than half of the cache does not wait"
        check(mount)


@pytest.mark.slow("writes more than the cache holds: 3 s")
async def test_a_file_larger_than_the_cache(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path, writeback=True, cache_size=64 * MIB) as mount:
        handle = await mount.create("f")
        for at in range(0, 200 * MIB, MIB):
            await mount.write(handle, at, noise(MIB, at))
            if at == 30 * MIB:
                await mount.flush(handle)
        await mount.close(handle)
        await trio.sleep(10)
        assert bucket.peek("f") == b"".join(noise(MIB, at) for at in range(0, 200 * MIB, MIB))
        check(mount)


async def test_a_disk_that_refuses_lets_close_wait(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:

        async def refuse(_job: object) -> None:
            raise OSError(28, "No space left on device")

        mount.cache.journal.in_thread = refuse
        await mount.save("small", b"bytes")
        await mount.save("large", noise(100_000))
        assert mount.stored() == ["large", "small"]


async def test_a_removal_does_not_wait(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        for number in range(3):
            await mount.save(f"{number}", b"bytes")
        await trio.sleep(3)
        await mount.names()
        began = trio.current_time()
        for number in range(3):
            await mount.unlink(f"{number}")
        assert trio.current_time() == began
        assert {removal.key for removal in mount.cache.journal.removals()} == {"0", "1", "2"}
        await trio.sleep(3)
        assert mount.stored() == []
        assert mount.cache.journal.removals() == []


async def test_what_is_done_is_soon_known_to_be_after_a_power_cut(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Nothing is uploaded or removed again that others, or programs here, have changed since."""
    async with writing(bucket, tmp_path) as mount:
        journal = mount.cache.journal
        on_disk: list[int] = []

        async def watch(job: Callable[[], None]) -> None:
            await in_place(job)
            if job == journal._sync:
                on_disk.append(len(journal.pending()) + len(journal.removals()))

        journal.in_thread = watch
        await mount.save("f", b"bytes")
        assert on_disk == [1]
        await trio.sleep(3)
        assert on_disk == [1, 0]
        await mount.unlink("f")
        await mount.save("f", b"bytes")
        assert on_disk == [1, 0, 0, 1], "the removal is forgotten before the name is free"


async def test_a_removal_that_fails_is_undone(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        await mount.save("f", b"bytes")
        await trio.sleep(3)
        bucket.refuse("DeleteObjects")
        await mount.unlink("f")
        with pytest.raises(StoreError):
            await mount.tree.saver.save_directory(mount.root)
        assert await mount.names() == {"f"}
        assert mount.cache.journal.removals() == []
        bucket.fault = None


async def test_exclusive_creation_is_decided_here(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        await mount.save("f", b"bytes")
        with pytest.raises(FsError, match="EEXIST"):
            await mount.create("f")
        assert await mount.names() == {"f"}


async def test_draining_waits(bucket: Bucket, tmp_path: Path) -> None:
    async with writing(bucket, tmp_path) as mount:
        for number in range(20):
            await mount.save(f"{number}", b"bytes")
        await mount.tree.drain.save_all()
        assert len(bucket.objects) == 20


async def test_a_try_that_is_late_does_not_publish_what_is_being_written(
    bucket: Bucket, tmp_path: Path
) -> None:
    """A close with nothing to save, then another open within the lull."""
    bucket.poke("f", b"whole")
    async with writing(bucket, tmp_path) as mount:
        await mount.close(await mount.open("f", os.O_WRONLY))
        handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
        await mount.write(handle, 0, b"half")
        await trio.sleep(5)
        assert bucket.peek("f") == b"whole"
        await mount.write(handle, 4, b" and half")
        await mount.close(handle)
        await trio.sleep(5)
        assert bucket.peek("f") == b"half and half"
        assert not mount.tree.state.open_inodes


async def test_fsync_tells_of_a_conflict_that_another_upload_meets(
    bucket: Bucket, tmp_path: Path
) -> None:
    """It waits for an upload in the background, which finds others' version."""
    bucket.latency = 0.1
    async with writing(bucket, tmp_path) as mount:
        await mount.save("f", b"mine")
        handle = await mount.open("f", os.O_WRONLY)
        bucket.poke("f", b"theirs")
        await trio.sleep(0.1)  # the upload is on its way
        with pytest.raises(FsError) as caught:
            await mount.tree.saver.sync(handle)
        assert caught.value.errno == errno.ESTALE
        await mount.tree.saver.sync(handle)
        await mount.close(handle)


async def test_what_was_synced_is_soon_known_to_be_after_a_power_cut(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with writing(bucket, tmp_path) as mount:
        journal = mount.cache.journal
        on_disk: list[int] = []

        async def watch(job: Callable[[], None]) -> None:
            await in_place(job)
            on_disk.append(len(journal.pending()))

        journal.in_thread = watch
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        await mount.flush(handle)
        await mount.tree.saver.sync(handle)
        await trio.sleep(3)
        assert on_disk == [1, 0]
        await mount.close(handle)


async def test_a_conflict_is_kept_as_it_was_closed(bucket: Bucket, tmp_path: Path) -> None:
    """Who writes on while it is being stored waits: there is no half of it anywhere."""
    bucket.latency = 0.1
    async with writing(bucket, tmp_path) as mount:
        await mount.save("f", b"ours")
        inode = await mount.find("f")
        bucket.poke("f", b"theirs")
        await trio.sleep(0.2)  # it has been refused, others' version is being looked at
        handle = await mount.tree.opener.open(inode, os.O_WRONLY, uid=0, pid=0)
        await mount.write(handle, 4, b" and half")
        (copy,) = (key for key in mount.stored() if key.startswith("f.conflict-"))
        assert bucket.peek(copy) == b"ours"
        with pytest.raises(FsError):
            await mount.close(handle)
        await trio.sleep(5)
        assert bucket.peek(copy) == b"ours and half"


async def test_a_try_that_waited_for_a_lock_leaves_alone_what_is_being_written(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with writing(bucket, tmp_path) as mount:
        await mount.save("f", b"whole")
        inode = await mount.find("f")
        async with mount.tree.locks.exclusive(inode):
            await trio.sleep(1)  # the try begins, and waits
            handle = await mount.open("f", os.O_WRONLY)
            await mount.write(handle, 0, b"half ")
        await trio.sleep(5)
        assert "f" not in bucket.objects
        await mount.close(handle)
        await trio.sleep(5)
        assert bucket.peek("f") == b"half "


async def test_an_open_that_waited_for_a_conflict_tells_of_it(
    bucket: Bucket, tmp_path: Path
) -> None:
    """It emptied the conflict copy, and its program means the name that it opened."""
    bucket.latency = 0.1
    async with writing(bucket, tmp_path) as mount:
        await mount.save("f", b"ours")
        inode = await mount.find("f")
        bucket.poke("f", b"theirs")
        await trio.sleep(0.2)  # it has been refused, and is about to be kept beside
        handle = await mount.tree.opener.open(inode, os.O_WRONLY | os.O_TRUNC, uid=0, pid=0)
        assert inode.name != "f"
        await mount.write(handle, 0, b"new")
        with pytest.raises(FsError) as caught:
            await mount.tree.saver.sync(handle)
        assert caught.value.errno == errno.ESTALE
        await mount.close(handle)


async def test_what_is_closed_while_attributes_are_being_saved_is_uploaded(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Who saves these does not go before the bytes are saved, too."""
    async with writing(bucket, tmp_path) as mount:
        await mount.save("f", b"old")
        await trio.sleep(5)
        handle = await mount.open("f", os.O_WRONLY)
        mount.tree.changer.change(handle.inode, Change(mode=0o600))
        mount.tree.later.attributes(handle.inode)
        bucket.latency = 1.0
        await trio.sleep(0.1)  # the copy with the new attributes is on its way
        await mount.write(handle, 0, b"new")
        await mount.close(handle)
        await trio.sleep(5)
        assert bucket.peek("f") == b"new"
        assert not mount.tree.state.open_inodes
