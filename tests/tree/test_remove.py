"""Removing many names: batches, what hides and waits meanwhile, and what a failure brings back."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.errors import FsError, StoreError
from bucketfs.store.base import ObjectInfo
from bucketfs.tree.core.inode import NEVER, Directory
from bucketfs.tree.saving.change import Change
from bucketfs.tree.saving.remove import PATIENCE, PAUSE, Streak
from tests.harness.memory import Fault
from tests.tree.builder import TTL, Bucket, Mount, planted

mock_clock = pytest.mark.mock_clock

FILES = 200


def fill(bucket: Bucket, prefix: str = "d/", count: int = FILES) -> list[str]:
    names = [f"{number:04}" for number in range(count)]
    for name in names:
        bucket.poke(prefix + name, b"x" * 5000)
    return names


async def remove_tree(mount: Mount, path: str) -> None:
    """What `rm -r` does."""
    directory = await mount.directory(path)
    await mount.tree.subtree.ensure(directory)
    for name, child in sorted(directory.children.items()):
        if isinstance(child, Directory):
            await remove_tree(mount, f"{path}/{name}")
        else:
            await mount.unlink(f"{path}/{name}")
    await mount.rmdir(path)


@mock_clock
async def test_many_names_are_few_requests(bucket: Bucket, tmp_path: Path) -> None:
    fill(bucket)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        bucket.requested()
        began = trio.current_time()
        await remove_tree(mount, "d")
        assert mount.stored() == []
        assert trio.current_time() - began <= (PATIENCE + 6) * bucket.latency
        requested = bucket.requested()
        assert requested.pop("DeleteObject") == PATIENCE
        assert requested.pop("DeleteObjects") <= 3
        assert requested == {"ListObjectsV2": 1}, "whether it is empty; no marker for a moment"
        assert not mount.tree.state.open_inodes
        assert not mount.tree.state.leaving


@mock_clock
async def test_directories_of_a_tree_go_in_batches_too(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(40):
        fill(bucket, f"d/{number:02}/", count=10)
    bucket.poke("d/05/", b"")
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        bucket.requested()
        began = trio.current_time()
        await remove_tree(mount, "d")
        assert mount.stored() == [], "all of it when the last rmdir has returned"
        requested = bucket.requested()
        assert requested.pop("DeleteObject") <= 2 * PATIENCE
        assert requested.pop("DeleteObjects") <= 45, "a marker leaves with the files of the next"
        assert requested.pop("ListObjectsV2") <= 41 + 5
        assert requested.pop("PutObject", 0) <= 2
        assert trio.current_time() - began <= 75 * bucket.latency
        assert not requested


@mock_clock
async def test_a_few_names_are_gone_when_unlink_returns(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        for at, name in enumerate(names[:PATIENCE]):
            await mount.unlink(f"d/{name}")
            assert len(mount.stored()) == FILES - 1 - at


@mock_clock
@pytest.mark.parametrize("habit", ["disorder", "pauses"])
async def test_who_is_in_no_hurry_waits(bucket: Bucket, tmp_path: Path, habit: str) -> None:
    names = fill(bucket, count=40)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        for name in reversed(names) if habit == "disorder" else names:
            await mount.unlink(f"d/{name}")
            assert f"d/{name}" not in mount.stored()
            if habit == "pauses":
                await trio.sleep(PAUSE * 1.1)


@mock_clock
async def test_what_is_leaving_is_hidden(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket, count=20)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        directory = await mount.directory("d")
        for name in names[:-1]:
            await mount.unlink(f"d/{name}")
        assert len(mount.stored()) > 2
        for _ in range(4):  # asked while the requests are under way, answered before and after
            mount.expire()
            assert await mount.names("d") == {names[-1]}
            mount.expire()
            assert await mount.tree.finder.find_or_none(directory, names[-2]) is None
        await trio.sleep(1)
        assert await mount.names("d") == {names[-1]}
        assert mount.stored() == [f"d/{names[-1]}"]


@mock_clock
async def test_a_listing_answered_before_the_deletion_brings_nothing_back(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = fill(bucket, count=20)
    bucket.page = 5
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        directory = await mount.directory("d")
        for name in names[:-1]:
            await mount.unlink(f"d/{name}")
        directory.listed = float("-inf")
        await mount.tree.lister.ensure(directory)
        assert set(directory.children) == {names[-1]}


@mock_clock
async def test_an_emptied_directory_stays(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        bucket.requested()
        for name in names:
            await mount.unlink(f"d/{name}")
        mount.expire()
        assert await mount.names() == {"d"}, "also while nothing in the bucket says so"
        await trio.sleep(1)
        assert mount.stored() == ["d/"]
        assert bucket.requested()["PutObject"] == 1
        await trio.sleep(TTL + 1)
        assert await mount.names() == {"d"}


@mock_clock
async def test_a_directory_that_could_not_be_removed_stays(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        for name in names:
            await mount.unlink(f"d/{name}")
        bucket.refuse("ListObjectsV2")
        with pytest.raises(StoreError):
            await mount.rmdir("d")
        bucket.fault = None
        await trio.sleep(1)
        assert mount.stored() == ["d/"]


@mock_clock
async def test_a_new_file_is_not_hit_by_the_deletion_of_the_old(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = fill(bucket, count=20)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        for name in names:
            await mount.unlink(f"d/{name}")
        assert f"d/{names[-1]}" in mount.stored()
        await mount.save(f"d/{names[-1]}", b"new")
        await mount.save("other", b"moved")
        await mount.rename("other", f"d/{names[-2]}")
        await mount.mkdir(f"d/{names[-3]}")
        await trio.sleep(1)
        assert bucket.peek(f"d/{names[-1]}") == b"new"
        assert bucket.peek(f"d/{names[-2]}") == b"moved"
        assert f"d/{names[-3]}/" in mount.stored()


@mock_clock
async def test_renaming_a_directory_waits_for_what_is_leaving_it(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = fill(bucket, count=20)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        for name in names[:-1]:
            await mount.unlink(f"d/{name}")
        await mount.rename("d", "e")
        assert mount.stored() == [f"e/{names[-1]}"]
        assert await mount.names("e") == {names[-1]}


@mock_clock
async def test_the_marker_of_an_emptied_directory_waits_for_the_lock(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = fill(bucket, count=20)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        directory = await mount.directory("d")
        for name in names:
            await mount.unlink(f"d/{name}")
        async with mount.tree.locks.exclusive(directory):
            with trio.fail_after(60):
                await mount.tree.removals.wait_for_deletions()
            await trio.sleep(5)
            assert mount.stored() == []
        await mount.tree.removals.wait_for_all()
        assert mount.stored() == ["d/"]
        assert not mount.tree.state.open_inodes


class Writers(Bucket):
    """Sees whether two requests write one key at the same time."""

    def __init__(self) -> None:
        super().__init__(latency=0.01)
        self.overlapping = False
        self._writing: set[str] = set()

    async def put(self, key: str, *args: object, **conditions: object) -> ObjectInfo:
        self.overlapping |= key in self._writing
        self._writing.add(key)
        try:
            return await super().put(key, *args, **conditions)
        finally:
            self._writing.discard(key)


@mock_clock
async def test_a_marker_is_written_by_one_request_at_a_time(tmp_path: Path) -> None:
    bucket = Writers()
    names = fill(bucket, count=20)
    async with planted(bucket, tmp_path) as mount:
        await mount.names("d")
        directory = await mount.directory("d")
        for name in names:
            await mount.unlink(f"d/{name}")
        while mount.tree.state.leaving[directory]:
            bucket.latency = 5.0  # from the request for the marker on
            await trio.sleep(0.001)
        mount.tree.changer.change(directory, Change(mode=0o700))
        mount.tree.later.attributes(directory)
        await trio.sleep(60)
        assert mount.stored() == ["d/"]
        assert not bucket.overlapping


@mock_clock
async def test_a_tree_in_which_a_directory_was_emptied_is_renamed(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Its names leave while the rename has the locks; the directory is kept by then."""
    bucket.poke("d/f", b"x")
    names = fill(bucket, "d/sub/", count=20)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        await mount.names("d/sub")
        for name in names[:-1]:
            await mount.unlink(f"d/sub/{name}")
        await mount.tree.removals.wait_for_all()
        (await mount.directory("d")).checked = mount.root.listed = NEVER
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mount.rename, "d", "e")  # asks what d is
                await trio.sleep(bucket.latency / 2)
                await mount.unlink(f"d/sub/{names[-1]}")
                assert f"d/sub/{names[-1]}" in mount.stored()
        assert mount.stored() == ["e/f", "e/sub/"]
        await mount.tree.removals.wait_for_all()
        assert not mount.tree.state.open_inodes


def refuse_deletions(bucket: Bucket) -> None:
    error = StoreError("AccessDenied", status=403, operation="DeleteObjects")
    bucket.fault = lambda asked, _key, _n: Fault(error) if asked == "DeleteObjects" else None


@mock_clock
async def test_names_that_could_not_be_deleted_are_back(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = fill(bucket, count=20)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        refuse_deletions(bucket)
        for name in names:
            await mount.unlink(f"d/{name}")
        with pytest.raises(StoreError, match="AccessDenied"):
            await mount.rmdir("d")
        bucket.fault = None
        assert await mount.names("d") == set(names[PATIENCE:])
        lines = [record for record in caplog.records if record.levelname == "ERROR"]
        assert 1 <= len(lines) <= 2, "one a request"
        with pytest.raises(FsError) as caught:
            await mount.rmdir("d")
        assert caught.value.errno == errno.ENOTEMPTY


@mock_clock
async def test_rmdirs_refused_while_names_are_leaving(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After each the directory is looked after, which an earlier batch may have done by then."""
    names = fill(bucket)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        for name in names[:-1]:
            await mount.unlink(f"d/{name}")
            for _ in range(5):
                with pytest.raises(FsError) as caught:
                    await mount.rmdir("d")
                assert caught.value.errno == errno.ENOTEMPTY
                await trio.sleep(bucket.latency / 3)
        await mount.tree.removals.wait_for_all()
        assert not mount.tree.state.leaving
        assert mount.stored() == [f"d/{names[-1]}"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@mock_clock
async def test_fsync_of_a_directory_waits_and_tells(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        directory = await mount.directory("d")
        for name in names[:100]:
            await mount.unlink(f"d/{name}")
        await mount.tree.saver.save_directory(directory)
        assert len(mount.stored()) == 100
        refuse_deletions(bucket)
        for name in names[100:]:
            await mount.unlink(f"d/{name}")
        with pytest.raises(StoreError):
            await mount.tree.saver.save_directory(directory)
        await mount.tree.saver.save_directory(directory)  # told once


@mock_clock
async def test_unmounting_waits_for_what_is_leaving(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        for name in names:
            await mount.unlink(f"d/{name}")
        await mount.tree.drain.save_all()
        assert mount.stored() == ["d/"]


@mock_clock
async def test_thousands_leave_side_by_side(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket, count=2500)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        directory = await mount.directory("d")
        await mount.names("d")
        bucket.requested()
        for name in names:
            mount.tree.removals.add(directory, name, [f"d/{name}"])
            mount.tree.state.unlink(directory.children[name])
        began = trio.current_time()
        await mount.tree.removals.wait_for_all()
        assert trio.current_time() - began == pytest.approx(2 * bucket.latency), "and the marker"
        assert bucket.requested() == {"DeleteObjects": 3, "PutObject": 1}


@given(
    st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=2), st.floats(0, 2 * PAUSE)), max_size=40
    )
)
def test_a_burst_is_an_unbroken_row(steps: list[tuple[str, float]]) -> None:
    """A removal waits unless the `PATIENCE` before it came in order, none after a pause."""
    streak = Streak()
    now = 0.0
    row: list[str] = []
    for name, pause in steps:
        before, now = now, now + pause
        if now - before > PAUSE or (row and name <= row[-1]):
            row = []
        assert streak.is_burst(name, now) == (len(row) >= PATIENCE)
        streak.removed(name, now, now)
        row.append(name)
        assert streak.count == len(row)
