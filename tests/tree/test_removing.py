"""Removing names: open files go on, directories that lose their last file stay."""

from __future__ import annotations

import contextlib
import errno
import stat
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, KeyTaken, PreconditionFailed, StoreError
from bucketfs.store.base import Capabilities
from bucketfs.store.layers.fallback import FallbackStore
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.namespace import entries
from tests.harness.providers import provider_with
from tests.tree.builder import MIB, TTL, Bucket, noise, planted

pytestmark = pytest.mark.mock_clock


async def test_one_delete(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"x")
    bucket.poke("g", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        await mount.find("f")
        bucket.requested()
        await mount.unlink("f")
        assert bucket.requested() == {"DeleteObject": 1}
        assert mount.stored() == ["g"]
        assert await mount.names() == {"g"}
        assert not mount.tree.state.open_inodes


async def test_an_implicit_directory_gets_its_marker_before_its_last_file_goes(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("d/f", b"x")
    order = []
    bucket.fault = lambda operation, key, _n: order.append((operation, key))  # type: ignore[func-returns-value]
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        order.clear()
        await mount.unlink("d/f")
        assert [o for o in order if o[0] != "HeadObject"] == [
            ("PutObject", "d/"),
            ("DeleteObject", "d/f"),
        ]
        await trio.sleep(TTL + 1)
        assert await mount.names("d") == set()
        await mount.rmdir("d")
        assert mount.stored() == []


async def test_an_implicit_directory_stays_also_without_a_listing(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("d/f", b"x")
    bucket.poke("d/g", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.unlink("d/f")
        assert mount.stored() == ["d/g"]
        await mount.unlink("d/g")
        assert mount.stored() == ["d/"]
        await trio.sleep(TTL + 1)
        assert isinstance(await mount.find("d"), Directory)


async def test_a_failed_delete_leaves_the_file(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"x")
    async with planted(bucket, tmp_path) as mount:
        bucket.refuse("DeleteObject")
        with pytest.raises(StoreError):
            await mount.unlink("f")
        bucket.fault = None
        assert await mount.read("f") == b"x"


async def test_an_open_small_file_is_fetched_and_deleted_at_once(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", b"x" * 3 * MIB)
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        await mount.unlink("f")
        assert mount.stored() == []
        assert await mount.pread(reader, 2 * MIB, 4) == b"xxxx"
        await mount.close(reader)
        assert mount.stored() == []
        assert not mount.tree.state.open_inodes


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, bucket: Bucket) -> bytes:
    """An object that unlink does not fetch."""
    monkeypatch.setattr(entries, "UNLINK_FETCH", MIB)
    data = b"x" * 8 * MIB
    bucket.poke("f", data)
    return data


async def test_an_open_large_file_is_deleted_at_the_last_close(
    bucket: Bucket, tmp_path: Path, large: bytes
) -> None:
    async with planted(bucket, tmp_path) as mount:
        readers = [await mount.open("f"), await mount.open("f")]
        await mount.unlink("f")
        assert mount.stored() == ["f"]
        await mount.close(readers[0])
        assert await mount.pread(readers[1], 7 * MIB, 4) == b"xxxx"
        await mount.close(readers[1])
        assert mount.stored() == []


async def test_an_unlinked_file_is_in_no_listing(
    bucket: Bucket, tmp_path: Path, large: bytes
) -> None:
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        await mount.unlink("f")
        assert await mount.names() == set()
        await trio.sleep(TTL + 1)
        assert await mount.tree.finder.find_or_none(mount.root, "f") is None
        assert await mount.names() == set()
        await mount.close(reader)
        assert await mount.names() == set()


async def test_the_name_of_an_unlinked_open_file_can_be_taken(
    bucket: Bucket, tmp_path: Path, large: bytes
) -> None:
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        await mount.unlink("f")
        await mount.save("f", b"new")
        await mount.close(reader)
        assert mount.stored() == ["f"]
        assert bucket.peek("f") == b"new"
        await trio.sleep(TTL + 1)
        assert await mount.read("f") == b"new"


async def test_the_name_of_an_unlinked_open_file_can_be_taken_by_others(
    bucket: Bucket, tmp_path: Path, large: bytes
) -> None:
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        await mount.unlink("f")
        bucket.poke("f", b"theirs")
        with contextlib.suppress(PreconditionFailed):
            await mount.close(reader)
        assert bucket.peek("f") == b"theirs"
        await trio.sleep(TTL + 1)
        assert await mount.read("f") == b"theirs"


@pytest.mark.parametrize("theirs", [False, True])
async def test_unmounting_deletes_an_unlinked_open_file_and_no_other(
    bucket: Bucket, tmp_path: Path, large: bytes, theirs: bool
) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.open("f")
        await mount.unlink("f")
        if theirs:
            bucket.poke("f", b"theirs")
        await mount.tree.drain.save_all()
        assert mount.stored() == ["f"] * theirs
        assert mount.cache.journal.removals() == []


async def test_a_directory_with_an_unlinked_open_file_can_be_removed(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As rm -r does it."""
    monkeypatch.setattr(entries, "UNLINK_FETCH", MIB)
    bucket.poke("d/f", b"x" * 8 * MIB)
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("d/f")
        await mount.names("d")
        await mount.unlink("d/f")
        await mount.rmdir("d")
        await mount.close(reader)
        assert mount.stored() == []
        await trio.sleep(TTL + 1)
        assert await mount.names() == set()


@pytest.mark.parametrize("listed", [True, False])
async def test_an_implicit_directory_outlives_its_last_file_that_is_open(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    monkeypatch.setattr(entries, "UNLINK_FETCH", MIB)
    bucket.poke("d/f", b"x" * 8 * MIB)
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("d/f")
        if listed:
            await mount.names("d")
        await mount.unlink("d/f")
        await mount.close(reader)
        assert mount.stored() == ["d/"]


@pytest.mark.parametrize("pause", [0.005, 0.015])
@pytest.mark.parametrize("listed", [True, False])
async def test_the_last_close_while_the_marker_is_seen_to(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool, pause: float
) -> None:
    monkeypatch.setattr(entries, "UNLINK_FETCH", MIB)
    bucket.poke("d/f", b"x" * 8 * MIB)
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("d/f")
        if listed:
            await mount.names("d")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.unlink, "d/f")
            await trio.sleep(pause)
            await mount.close(reader)
        assert mount.stored() == ["d/"]
        assert not mount.tree.state.open_inodes


async def test_an_unlinked_file_is_in_no_listing_while_its_last_close_deletes_it(
    bucket: Bucket, tmp_path: Path, large: bytes
) -> None:
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        await mount.unlink("f")
        await trio.sleep(2)
        bucket.latency = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.close, reader)
            await trio.sleep(0.5)
            bucket.latency = 0.01
            assert await mount.names() == set()
        assert mount.stored() == []


async def test_a_name_that_was_made_again_is_not_deleted_by_the_next_mount(
    bucket: Bucket, tmp_path: Path, large: bytes
) -> None:
    """The deletion at the last close had failed; the same bytes have the same ETag."""
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        await mount.unlink("f")
        bucket.refuse("DeleteObject")
        await mount.close(reader)
        bucket.fault = None
        assert await mount.names() == set()
        await mount.save("f", large)
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == large


@pytest.mark.parametrize("renamed", [True, False])
async def test_a_directory_with_an_unlinked_open_file_does_not_come_back(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    monkeypatch.setattr(entries, "UNLINK_FETCH", MIB)
    bucket.poke("a/d/f", b"x" * 8 * MIB)
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("a/d/f")
        await mount.unlink("a/d/f")
        if renamed:
            await mount.rename("a/d", "a/e")
        else:
            await mount.rmdir("a/d")
        left = {"e"} if renamed else set()
        parent = await mount.directory("a")
        for _ in range(2):
            await trio.sleep(TTL + 1)
            assert await mount.tree.finder.find_or_none(parent, "d") is None
            assert await mount.names("a") == left
        await mount.mkdir("a/d")
        assert await mount.names("a/d") == set()
        bucket.poke("a/d/new", b"theirs")
        await trio.sleep(TTL + 1)
        assert await mount.names("a") == {*left, "d"}
        assert await mount.names("a/d") == {"new"}
        await mount.close(reader)
        assert bucket.peek("a/d/new") == b"theirs"


async def test_what_others_store_in_the_place_of_an_unlinked_open_file_shows(
    bucket: Bucket, tmp_path: Path, large: bytes
) -> None:
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        await mount.unlink("f")
        bucket.poke("f", b"theirs")
        await trio.sleep(TTL + 1)
        assert await mount.read("f") == b"theirs"
        mount.expire()
        assert await mount.names() == {"f"}
        await mount.close(reader)
        assert await mount.read("f") == b"theirs"


async def test_both_are_removed_and_open(bucket: Bucket, tmp_path: Path, large: bytes) -> None:
    async with planted(bucket, tmp_path) as mount:
        first = await mount.open("f")
        await mount.unlink("f")
        bucket.poke("f", large + b"theirs")
        await trio.sleep(TTL + 1)
        second = await mount.open("f")
        await mount.unlink("f")
        await mount.close(first)
        assert await mount.pread(second, 7 * MIB, 4) == b"xxxx"
        assert await mount.names() == set()
        await mount.close(second)
        assert mount.stored() == []
        assert mount.cache.journal.removals() == []
        assert not mount.tree.state.open_inodes


@pytest.mark.parametrize("renamed", [True, False])
async def test_nothing_of_others_is_replaced_in_the_place_of_an_unlinked_open_file(
    bucket: Bucket, tmp_path: Path, large: bytes, renamed: bool
) -> None:
    """Also while the name is known to be free."""
    bucket.poke("g", b"g")
    async with planted(bucket, tmp_path) as mount:
        await mount.find("g")
        await mount.open("f")
        await mount.unlink("f")
        bucket.poke("f", b"theirs")
        if renamed:
            with pytest.raises(FsError) as caught:
                await mount.rename("g", "f")
            assert caught.value.errno == errno.ESTALE
        else:
            with pytest.raises(KeyTaken):
                await mount.tree.entries.make(mount.root, "f", stat.S_IFLNK, 0, 0, body=b"g")
        assert bucket.peek("f") == b"theirs"
        assert await mount.read("f") == b"theirs"


@pytest.mark.parametrize("removed", [True, False])
async def test_a_link_takes_the_place_of_an_unlinked_open_file(
    bucket: Bucket, tmp_path: Path, large: bytes, removed: bool
) -> None:
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        await mount.unlink("f")
        if removed:
            del bucket.objects["f"]
        await mount.tree.entries.make(mount.root, "f", stat.S_IFLNK, 0, 0, body=b"g")
        await mount.close(reader)
        assert bucket.peek("f") == b"g"


@pytest.mark.parametrize("replaced", [True, False])
@pytest.mark.parametrize("renamed", [True, False])
async def test_a_file_goes_whose_open_version_is_gone(
    bucket: Bucket, tmp_path: Path, replaced: bool, renamed: bool
) -> None:
    """Others have replaced or removed it, and not all of it was read here."""
    bucket.poke("f", b"x" * 3 * MIB)
    bucket.poke("g", b"g")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        await mount.find("g")
        reader = await mount.open("f")
        begin = await mount.pread(reader, 0, 10)
        reader.content.local.stop_fetching()
        del bucket.objects["f"]
        if replaced:
            bucket.poke("f", b"theirs")
        if renamed:
            # of the file that replaces it the kernel asks once more after ESTALE
            with contextlib.suppress(FsError):
                await mount.rename("g", "f")
            if "g" in bucket.objects:
                await mount.rename("g", "f")
            assert mount.stored() == ["f"]
            assert await mount.read("f") == b"g"
        else:
            await mount.unlink("f")
            assert mount.stored() == ["g"]
        assert await mount.pread(reader, 0, 10) == begin
        with pytest.raises(FsError) as caught:
            await mount.pread(reader, 2 * MIB, 10)
        assert caught.value.errno == errno.ESTALE
        await mount.close(reader)


async def test_an_unsaved_file_costs_nothing(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        handle = await mount.create("f")
        await mount.write(handle, 0, b"x")
        bucket.requested()
        await mount.unlink("f")
        assert await mount.pread(handle, 0, 1) == b"x"
        await mount.write(handle, 1, b"y")
        await mount.close(handle)
        await trio.sleep(5)
        assert bucket.requested() == {}
        assert mount.cache.held == 0


async def test_removing_directories(bucket: Bucket, tmp_path: Path) -> None:
    for key in ("empty/", "full/f", "odd/", "odd//hidden", "hadoop_$folder$"):
        bucket.poke(key, b"")
    async with planted(bucket, tmp_path) as mount:
        for name in ("full", "odd"):
            with pytest.raises(FsError) as caught:
                await mount.rmdir(name)
            assert caught.value.errno == errno.ENOTEMPTY
        await mount.rmdir("empty")
        await mount.rmdir("hadoop")
        assert mount.stored() == ["full/f", "odd/", "odd//hidden"]
        with pytest.raises(FsError) as caught:
            await mount.unlink("full")
        assert caught.value.errno == errno.EISDIR


async def test_a_directory_with_unsaved_files_below_is_not_empty(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Also where the bucket has lost everything in it, and where the file is an older one."""
    bucket.poke("d/f", b"x")
    bucket.poke("e/sub/f", b"x")
    async with planted(bucket, tmp_path) as mount:
        handles = [await mount.open("d/f", 2), await mount.open("e/sub/f", 2)]
        for handle in handles:
            await mount.write(handle, 0, b"y")
        bucket.objects.clear()
        await trio.sleep(TTL + 1)
        for name in ("d", "e"):
            with pytest.raises(FsError) as caught:
                await mount.rmdir(name)
            assert caught.value.errno == errno.ENOTEMPTY
        for handle in handles:
            await mount.close(handle)
        assert [k for k in mount.stored() if not k.endswith("/")] == ["d/f", "e/sub/f"]


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("how", ["made before", "made", "renamed", "linked"])
async def test_a_name_is_taken_while_the_file_that_had_it_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, conditional: bool
) -> None:
    """It was open when it was removed, and too large to be fetched: its last close deletes it."""
    monkeypatch.setattr(entries, "UNLINK_FETCH", 0)
    able = Capabilities(delete_if_match=conditional, delete_many_if_match=conditional)
    bucket = Bucket(capabilities=able, latency=0.01)
    bucket.poke("f", noise(MIB))
    bucket.poke("g", b"new")
    async with planted(bucket, tmp_path, store=FallbackStore(bucket, provider_with(able))) as mount:
        await mount.root_listed()
        await mount.find("g")
        removed = await mount.open("f")
        await mount.unlink("f")
        if how == "made before":
            made = await mount.create("f")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.close, removed)
            await trio.sleep(0.005)
            if how == "renamed":
                await mount.rename("g", "f")
            elif how == "linked":
                await mount.tree.entries.make(mount.root, "f", stat.S_IFLNK, 0, 0, body=b"new")
            else:
                if how == "made":
                    made = await mount.create("f")
                await mount.write(made, 0, b"new")
                await mount.close(made)
        await trio.sleep(10)
        assert set(mount.stored()) == ({"f"} if how == "renamed" else {"f", "g"})
        assert bucket.peek("f") == b"new"
        assert mount.cache.journal.removals() == []
        assert not mount.tree.state.open_inodes


@pytest.mark.parametrize("again", [True, False])
async def test_a_removed_file_that_cannot_be_deleted_at_its_last_close(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """It stays removed here, until the end of the mount or a new file of its name."""
    monkeypatch.setattr(entries, "UNLINK_FETCH", 0)
    bucket.poke("f", noise(MIB))
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f")
        await mount.unlink("f")
        bucket.refuse("DeleteObject", "SlowDown")
        await mount.close(handle)
        bucket.fault = None
        mount.expire()
        assert await mount.names() == set()
        if again:
            await mount.save("f", b"new")
        await mount.tree.drain.save_all()
        assert mount.stored() == (["f"] if again else [])
        assert mount.cache.journal.removals() == []
        assert not mount.tree.state.open_inodes
