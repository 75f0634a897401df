"""What waits for the bucket: told, flushed, drained, and left behind when nobody wants to wait."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, StoreError
from bucketfs.store.base import BytesBody, Headers
from bucketfs.tree.core.stages import Stage
from bucketfs.tree.namespace import entries
from bucketfs.tree.saving.change import Change
from bucketfs.tree.saving.outstanding import Held, LeftBehind, Remaining
from tests.harness.memory import Fault
from tests.tree.builder import Bucket, Mount, planted

pytestmark = pytest.mark.mock_clock


async def unsaved(mount: Mount, path: str, data: bytes = b"bytes") -> None:
    """A closed file whose upload was refused."""
    handle = await mount.create(path)
    await mount.write(handle, 0, data)
    with pytest.raises(StoreError):
        await mount.close(handle)


def hang(bucket: Bucket, key: str) -> None:
    bucket.fault = lambda operation, name, _: (
        Fault(hang=True) if (operation, name) == ("PutObject", key) else None
    )


def content(path: str) -> bytes:
    return Path(path).read_bytes()


def rescued(directory: Path) -> int:
    return len(list(directory.rglob("unsaved/*")))


async def test_states(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path, prefix="p/") as mount:
        outstanding = mount.tree.outstanding
        assert outstanding.waiting() == []
        assert not outstanding.remaining()
        assert outstanding.held() == Held()
        handle = await mount.create("open")
        await mount.write(handle, 0, b"123")
        assert outstanding.held() == Held(Counter({Stage.DIRTY: 1}))
        bucket.refuse("PutObject", "SlowDown")
        await unsaved(mount, "refused")
        refused, opened = outstanding.waiting()
        assert (opened.path, opened.size, opened.state, opened.since) == ("open", 3, Stage.DIRTY, 0)
        assert (refused.path, refused.size, refused.tries) == ("refused", 5, 1)
        assert refused.state in (Stage.PUBLISHING, Stage.RETRYING)
        assert "SlowDown" in refused.error
        assert refused.since > 0
        await trio.sleep(0.5)
        (refused, _) = outstanding.waiting()
        assert (refused.state, refused.tries) == (Stage.RETRYING, 2)
        assert outstanding.remaining() == Remaining(files=1, size=5, removals=0)
        held = outstanding.held()
        assert held.stages == {Stage.DIRTY: 1, Stage.RETRYING: 1}
        assert (held.failing, held.oldest) == (1, refused.since)
        hang(bucket, "p/refused")
        await trio.sleep(100)
        assert outstanding.waiting()[0].state is Stage.PUBLISHING
        bucket.fault = None


async def test_what_was_saved_after_all_is_forgotten(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        bucket.refuse("PutObject")
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        with pytest.raises(StoreError):
            await mount.flush(handle)
        bucket.fault = None
        await mount.flush(handle)
        await mount.write(handle, 5, b"more")
        (item,) = mount.tree.outstanding.waiting()
        assert (item.tries, item.error) == (0, "")
        await mount.close(handle)


async def test_flush(bucket: Bucket, tmp_path: Path) -> None:
    """Everything that waits at that moment, below a path; what is being written is not touched."""
    async with planted(bucket, tmp_path) as mount:
        for name in ("d", "dd"):
            await mount.mkdir(name)
        bucket.refuse("PutObject", "SlowDown")
        for path in ("d/f", "dd/f"):
            await unsaved(mount, path)
        being_written = await mount.create("d/open")
        await mount.write(being_written, 0, b"half")
        failed = await mount.tree.outstanding.flush("d")
        assert [one.path for one in failed] == ["d/f"]
        assert "SlowDown" in failed[0].error
        bucket.refuse("PutObject", key="dd/f")
        assert await mount.tree.outstanding.flush("d") == []
        assert "d/f" in mount.stored()
        assert "d/open" not in mount.stored()
        assert [one.path for one in await mount.tree.outstanding.flush()] == ["dd/f"]
        bucket.fault = None
        assert await mount.tree.outstanding.flush("dd/f") == []
        assert "dd/f" in mount.stored()


async def test_flush_waits_for_attributes_and_removals(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        for number in range(20):
            await mount.write(handle := await mount.create(f"f{number:02}"), 0, b"x")
            await mount.close(handle)
        bucket.answer = 1.0
        for name in sorted(await mount.names())[:19]:
            await mount.unlink(name)
        inode = await mount.find("f19")
        mount.tree.changer.set_xattr(inode, "user.a", b"1")
        mount.tree.later.attributes(inode)
        assert mount.tree.outstanding.remaining().removals
        assert await mount.tree.outstanding.flush() == []
        assert mount.stored() == ["f19"]
        assert "xattr" in bucket.objects["f19"].headers.metadata


async def test_flush_tells_what_could_not_be_removed(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.mkdir("d")
        for number in range(20):
            await mount.write(handle := await mount.create(f"d/f{number:02}"), 0, b"x")
            await mount.close(handle)
        bucket.answer = 1.0
        names = sorted(await mount.names("d"))
        for name in names[:10]:
            await mount.unlink(f"d/{name}")
        bucket.refuse("DeleteObjects")
        for name in names[10:]:
            await mount.unlink(f"d/{name}")
        failed = await mount.tree.outstanding.flush()
        assert {one.path for one in failed} <= {f"d/{name}" for name in names[8:]}
        assert failed
        assert all("AccessDenied" in one.error for one in failed)
        with pytest.raises(StoreError):  # nothing was taken from the one that it concerns
            await mount.tree.saver.save_directory(await mount.directory("d"))
        bucket.fault = None


async def test_who_stops_waiting_stops_nothing(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", "SlowDown")
        await unsaved(mount, "f")
        hang(bucket, "f")
        with trio.move_on_after(5):
            await mount.tree.outstanding.flush()
        assert mount.tree.outstanding.waiting()[0].state is Stage.PUBLISHING
        bucket.fault = None


async def test_drain_tells_how_much_is_left(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", "SlowDown")
        await unsaved(mount, "f")
        bucket.fault = None
        bucket.answer = 3.5
        told: list[Remaining] = []
        assert await mount.tree.drain.run(trio.Event(), told.append) == LeftBehind()
        assert told[0] == Remaining(files=1, size=5, removals=0)
        assert 3 <= len(told) <= 5
        assert bucket.peek("f") == b"bytes"


async def test_a_drain_that_is_cut_short_leaves_the_rest_to_the_next_mount(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", "SlowDown")
        for name in ("hangs", "refused", "saved"):
            await unsaved(mount, name, name.encode())
        bucket.fault = lambda operation, name, _: {
            "hangs": Fault(hang=True),
            "refused": Fault(StoreError("EntityTooLarge", status=400)),
        }.get(name)
        hurry = trio.Event()
        async with trio.open_nursery() as nursery:

            async def lose_patience() -> None:
                await trio.sleep(1000)
                hurry.set()

            nursery.start_soon(lose_patience)
            left = await mount.tree.drain.run(hurry, lambda _: None)
        hangs, refused = sorted(left.files, key=lambda one: one.path)
        assert (hangs.path, hangs.where) == ("hangs", "")
        assert "cut short" in hangs.error
        assert "next mount" in hangs.error
        assert refused.path == "refused"
        assert content(refused.where) == b"refused"
        assert bucket.peek("saved") == b"saved"
        assert rescued(tmp_path) == 1
        bucket.fault = None
    async with planted(bucket, tmp_path) as mount:
        assert await mount.tree.outstanding.flush() == []
        assert bucket.peek("hangs") == b"hangs"


async def emptied(mount: Mount) -> None:
    """A directory from which a program removes one file after the other."""
    for number in range(20):
        await mount.save(f"f{number:02}", b"x")
    mount.bucket.answer = 1.0
    for name in sorted(await mount.names()):
        await mount.unlink(name)


@pytest.mark.parametrize("kept_open", [False, True])
async def test_removals_that_are_not_waited_for_are_left(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_open: bool
) -> None:
    """Removed files that wait for a batch, and one that waits for its last close."""
    monkeypatch.setattr(entries, "UNLINK_FETCH", 0)
    async with planted(bucket, tmp_path) as mount:
        if kept_open:
            bucket.poke("f", b"x")
            await mount.open("f")
            await mount.unlink("f")
        else:
            await emptied(mount)
        bucket.fault = lambda operation, _key, _n: (
            Fault(hang=True) if operation.startswith("Delete") else None
        )
        hurry = trio.Event()
        async with trio.open_nursery() as nursery:

            async def lose_patience() -> None:
                await trio.sleep(100)
                hurry.set()

            nursery.start_soon(lose_patience)
            left = await mount.tree.drain.run(hurry, lambda _: None)
        assert left
        assert left == LeftBehind((), 1 if kept_open else len(mount.stored()))
        bucket.fault = None


@pytest.mark.parametrize("kept_open", [False, True])
async def test_removals_that_are_refused_are_left(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_open: bool
) -> None:
    monkeypatch.setattr(entries, "UNLINK_FETCH", 0)
    async with planted(bucket, tmp_path) as mount:
        if kept_open:
            bucket.poke("f", b"x")
            await mount.open("f")
            await mount.unlink("f")
            bucket.refuse("DeleteObject")
        else:
            bucket.refuse("DeleteObjects")
            await emptied(mount)
        left = await mount.tree.drain.run(trio.Event(), lambda _: None)
        assert left == LeftBehind((), len(mount.stored()))
        assert left.removals


async def test_what_is_promised_is_told_and_left_to_the_next_mount(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path, writeback=True) as mount:
        hang(bucket, "f")
        await mount.save("f", b"bytes")
        (item,) = mount.tree.outstanding.waiting()
        assert (item.path, item.size, item.state) == ("f", 5, Stage.PROMISED)
        await trio.sleep(2)
        (item,) = mount.tree.outstanding.waiting()
        assert (item.path, item.size, item.state) == ("f", 5, Stage.PUBLISHING)
        hurry = trio.Event()
        hurry.set()
        (lost,) = (await mount.tree.drain.run(hurry, lambda _: None)).files
        assert (lost.path, lost.where) == ("f", "")
        bucket.fault = None
    async with planted(bucket, tmp_path) as mount:
        assert await mount.tree.outstanding.flush() == []
        assert bucket.peek("f") == b"bytes"


async def test_a_conflict_is_nothing_given_up(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.save("f", b"old")
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 0, b"ours")
        await bucket.put("f", BytesBody(b"theirs"), Headers())
        with pytest.raises(FsError):
            await mount.close(handle)
        await trio.sleep(100)
        assert not mount.tree.state.given_up
        assert mount.tree.outstanding.waiting() == []
        assert len(mount.stored()) == 2


async def test_what_is_given_up_is_remembered(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", "EntityTooLarge")
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        with pytest.raises(StoreError):
            await mount.close(handle)
        await trio.sleep(10)
        (lost,) = mount.tree.state.given_up
        assert lost.path == "f"
        assert content(lost.where) == b"bytes"
        assert mount.tree.outstanding.waiting() == []


def files_left(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("unsaved/*")]


@pytest.mark.parametrize("cut_short", [False, True])
@pytest.mark.parametrize("writeback", [False, True])
async def test_what_nobody_has_closed_stays_out_of_the_bucket(
    bucket: Bucket, tmp_path: Path, writeback: bool, cut_short: bool
) -> None:
    """Half a file neither replaces an object nor becomes one; what was synced is there."""
    bucket.poke("emptied", b"good")
    bucket.poke("half", b"good")
    bucket.poke("patched", b"good")
    async with planted(bucket, tmp_path, writeback=writeback) as mount:
        await mount.open("emptied", os.O_WRONLY | os.O_TRUNC)
        await mount.write(await mount.open("half", os.O_WRONLY | os.O_TRUNC), 0, b"ha")
        await mount.write(await mount.open("patched", os.O_RDWR), 1, b"00")
        await mount.create("untouched")
        await mount.write(await mount.create("new"), 0, b"begun")
        synced = await mount.create("synced")
        await mount.write(synced, 0, b"synced")
        await mount.tree.saver.sync(synced)
        await mount.write(synced, 0, b"S")
        hurry = trio.Event()
        if cut_short:
            hurry.set()
        left = await mount.tree.drain.run(hurry, lambda _: None)
        assert sorted(one.path for one in left.files) == ["half", "new", "patched", "synced"]
        by_path = {one.path: content(one.where) for one in left.files}
        assert by_path["half"] == b"ha"
        assert by_path["new"] == b"begun"
        assert by_path["synced"] == b"Synced"
        assert by_path["patched"][1:3] == b"00"
        journal = mount.tree.state.files.cache.journal
        assert {row.key for row in journal.failed()} == {"half", "new", "patched", "synced"}
    for _ in range(2):
        assert {key: bucket.peek(key) for key in bucket.objects} == {
            "emptied": b"good", "half": b"good", "patched": b"good", "synced": b"synced",
        }  # fmt: skip
        async with planted(bucket, tmp_path) as mount:
            assert await mount.tree.outstanding.flush() == []


async def test_what_was_closed_before_is_left_to_the_next_mount(
    bucket: Bucket, tmp_path: Path
) -> None:
    """In write-back mode a file waits as it was closed, and is being written again."""
    async with planted(bucket, tmp_path, writeback=True) as mount:
        hang(bucket, "f")
        await mount.save("f", b"closed")
        await mount.write(await mount.open("f", os.O_RDWR), 0, b"C")
        (one,) = (await mount.tree.drain.run(trio.Event(), lambda _: None)).files
        assert content(one.where) == b"Closed"
        bucket.fault = None
    async with planted(bucket, tmp_path) as mount:
        assert await mount.tree.outstanding.flush() == []
        assert bucket.peek("f") == b"closed"


async def test_a_large_file_that_is_not_closed_leaves_no_upload(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("large")
        for offset in range(0, 80 << 20, 8 << 20):
            await mount.write(handle, offset, bytes(8 << 20))
        await trio.sleep(10)
        assert bucket.uploads
        await mount.tree.drain.run(trio.Event(), lambda _: None)
        await trio.sleep(10)
        assert not bucket.uploads
        assert not bucket.objects
        assert rescued(tmp_path) == 1


async def test_a_conflict_that_is_over_is_no_failure_of_what_is_written_next(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"mine")
        bucket.poke("f", b"theirs")
        with pytest.raises(FsError, match="ESTALE"):
            await mount.flush(handle)
        await mount.write(handle, 4, b" and more")
        (item,) = mount.tree.outstanding.waiting()
        assert (item.tries, item.error) == (0, "")
        await mount.close(handle)
    caplog.clear()


async def test_attributes_of_a_removed_file_keep_nothing_alive(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.save("f", b"bytes")
        handle = await mount.open("f")
        await mount.unlink("f")
        mount.tree.changer.change(handle.inode, Change(mode=0o600))
        mount.tree.later.attributes(handle.inode)
        await mount.close(handle)
        await trio.sleep(10)
        assert not mount.tree.state.open_inodes


async def test_a_conflict_shows_while_both_versions_are_being_kept(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"mine")
        bucket.poke("f", b"theirs")
        bucket.latency = 10.0
        async with trio.open_nursery() as nursery:

            async def flush() -> None:
                with pytest.raises(FsError, match="ESTALE"):
                    await mount.flush(handle)

            nursery.start_soon(flush)
            stages = []
            with trio.move_on_after(60):
                while waiting := mount.tree.outstanding.waiting():
                    stages.append(waiting[0].state)
                    await trio.sleep(1)
        assert list(dict.fromkeys(stages)) == [Stage.DIRTY, Stage.PUBLISHING, Stage.CONFLICT]
        await mount.close(handle)
    caplog.clear()


async def test_what_is_given_up_and_open_still_says_so_and_may_be_written_again(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with planted(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", "EntityTooLarge")
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        reader = await mount.open("f")
        with pytest.raises(StoreError):
            await mount.close(handle)
        mount.tree.later.keep_trying(handle.inode)
        await trio.sleep(1)
        (item,) = mount.tree.outstanding.waiting()
        assert (item.state, item.tries) == (Stage.GIVEN_UP, 2)
        assert len(mount.tree.state.given_up) == 1
        bucket.fault = None
        handle = await mount.open("f", os.O_WRONLY)
        await mount.write(handle, 0, b"BYTES")
        assert mount.tree.outstanding.waiting()[0].state is Stage.DIRTY
        await mount.close(handle)
        assert mount.tree.outstanding.waiting() == []
        assert bucket.peek("f") == b"BYTES"
        await mount.close(reader)
    caplog.clear()


@pytest.mark.parametrize("new", [True, False])
async def test_what_is_given_up_is_left_on_the_disk_once(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture, new: bool
) -> None:
    """Whoever still reads it does not have it tried, and left there, again with the last close."""
    if not new:
        bucket.poke("f", b"at first")
    async with planted(bucket, tmp_path) as mount:
        bucket.refuse("PutObject", "EntityTooLarge")
        if new:
            handle = await mount.create("f")
        else:
            handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
        await mount.write(handle, 0, b"bytes")
        reader = await mount.open("f")
        with pytest.raises(StoreError):
            await mount.close(handle)
        await trio.sleep(5)
        assert await mount.pread(reader, 0, 10) == b"bytes"
        await mount.close(reader)
        await trio.sleep(5)
        assert rescued(tmp_path) == 1
        assert len(mount.tree.state.given_up) == 1
        assert not mount.tree.state.open_inodes
        assert await mount.names() == (set() if new else {"f"})
        assert new or await mount.read("f") == b"at first"
    caplog.clear()


async def test_what_the_end_of_a_mount_leaves_while_a_program_has_it_open(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its row goes, with which it was the mount's to save: it is the program's again."""
    async with planted(bucket, tmp_path) as mount:
        bucket.refuse("PutObject")
        await unsaved(mount, "f")
        await trio.sleep(0.1)
        await mount.open("f", os.O_WRONLY)
        assert mount.tree.outstanding.waiting()[0].state is Stage.RETRYING
        await mount.tree.drain.run(trio.Event(), lambda _: None)
        assert rescued(tmp_path) == 1
        assert mount.tree.outstanding.waiting()[0].state is Stage.DIRTY
    caplog.clear()
