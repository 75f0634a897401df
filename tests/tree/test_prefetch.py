"""Prefetch of the files of a directory, and of attributes for who only looks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.tree.core.inode import NEVER
from bucketfs.tree.lookup.first_bytes import WHOLE_FILE
from bucketfs.tree.prefetch.policy import MOST_DEPTH, MOST_LOOKS, Progress
from bucketfs.tree.saving.change import Change
from bucketfs.tree.saving.later import ATTRIBUTE_DELAY
from tests.tree.builder import MIB, Bucket, Mount, noise, planted, said

mock_clock = pytest.mark.mock_clock

FILES = 200


def fill(bucket: Bucket, count: int = FILES, size: int = 10_000) -> list[str]:
    names = [f"{number:04}" for number in range(count)]
    for name in names:
        bucket.poke(name, noise(size) + name.encode(), said(0o100600))
    return names


async def read_all(mount: Mount, names: list[str], body: bytes | None = None) -> float:
    """Read files whole, one after another; how long it took in units of one request's latency."""
    began = trio.current_time()
    for name in names:
        read = await mount.read(name)
        assert read.endswith(name.encode()) if body is None else read == body
    return (trio.current_time() - began) / mount.bucket.latency


def fill_tree(bucket: Bucket, directories: int) -> list[str]:
    """Ten files in each directory below ``d/``."""
    paths = [f"d/{n:02}/{name:02}" for n in range(directories) for name in range(10)]
    for path in paths:
        bucket.poke(path, noise(5000) + path.encode())
    return paths


async def read_long_ago(mount: Mount, names: list[str]) -> None:
    """All is in the cache, and what is known of it is too old to trust."""
    await mount.names()
    await read_all(mount, names)
    await trio.sleep(5)
    mount.bucket.requested()


@mock_clock
async def test_files_read_in_order_are_prefetched(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        assert await read_all(mount, names) < FILES / 4
        assert bucket.requested() == {"ListObjectsV2": 1, "GetObject": FILES}, "each once, whole"


@mock_clock
@pytest.mark.parametrize("pause", [0.3, 2.0])
async def test_slow_readers_do_not_get_files_before_they_can_be_trusted(
    bucket: Bucket, tmp_path: Path, pause: float
) -> None:
    """What waits longer than `open_ttl` would cost a HEAD more."""
    names = fill(bucket, count=30)
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        for name in names:
            await mount.read(name)
            await trio.sleep(pause)
        requested = bucket.requested()
        assert requested["GetObject"] == 30
        assert requested.get("HeadObject", 0) <= 6, "of the first few, fetched before it was slow"


@mock_clock
async def test_files_of_one_directory_after_the_other_are_prefetched(
    bucket: Bucket, tmp_path: Path
) -> None:
    paths = fill_tree(bucket, 20)
    async with planted(bucket, tmp_path) as mount:
        await mount.tree.subtree.ensure(await mount.directory("d"))
        bucket.requested()
        began = trio.current_time()
        for number in range(20):
            await mount.tree.subtree.ensure(await mount.directory(f"d/{number:02}"))
            for path in paths[number * 10 : number * 10 + 10]:
                assert (await mount.read(path)).endswith(path.encode())
        assert (trio.current_time() - began) / bucket.latency <= 60
        requested = bucket.requested()
        assert requested["GetObject"] == 200
        assert requested.get("HeadObject", 0) <= 2, "of directory markers"


@mock_clock
@pytest.mark.parametrize("latency", [0.005, 0.02])
async def test_cached_files_read_in_order_are_validated_by_prefetch(
    bucket: Bucket, tmp_path: Path, latency: float
) -> None:
    """The second reading of a directory, when what is known of its files is too old to trust."""
    names = fill(bucket, count=600)
    async with planted(bucket, tmp_path) as mount:
        await read_long_ago(mount, names)
        bucket.latency = latency
        assert await read_all(mount, names) <= 8
        requested = bucket.requested()
        assert requested.pop("ListObjectsV2") == 1
        assert requested.pop("HeadObject") <= 24, "before it was clear that there will be many"
        assert not requested


@mock_clock
async def test_cached_files_of_many_directories_are_validated_by_prefetch(
    bucket: Bucket, tmp_path: Path
) -> None:
    paths = fill_tree(bucket, 50)
    async with planted(bucket, tmp_path) as mount:
        await mount.tree.subtree.ensure(await mount.directory("d"))
        for number in range(50):
            await mount.tree.subtree.ensure(await mount.directory(f"d/{number:02}"))
        await read_long_ago(mount, paths)
        assert await read_all(mount, paths) <= 500 / 8 + 10
        assert bucket.requested() == {"HeadObject": 500}, "each once, side by side"


@mock_clock
async def test_cached_files_read_in_disorder_are_validated_by_a_listing(
    bucket: Bucket, tmp_path: Path
) -> None:
    """As a program's imports are, or shuffled data."""
    names = fill(bucket)
    async with planted(bucket, tmp_path) as mount:
        await read_long_ago(mount, names)
        random.Random(1).shuffle(names)
        assert await read_all(mount, names) <= 8
        requested = bucket.requested()
        assert requested.pop("ListObjectsV2") == 1
        assert requested.pop("HeadObject") <= 6
        assert not requested


@mock_clock
async def test_empty_files_are_no_exception(bucket: Bucket, tmp_path: Path) -> None:
    """The `__init__.py` of packages: there is nothing to fetch but attributes."""
    names = [f"{number:04}" for number in range(FILES)]
    for name in names:
        bucket.poke(name, b"", said(0o100600))
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        bucket.requested()
        assert await read_all(mount, names, b"") <= FILES / 8 + 10
        assert bucket.requested() == {"HeadObject": FILES}, "each once, side by side"
        await trio.sleep(5)
        assert await read_all(mount, names, b"") <= 8
        assert sum(bucket.requested().values()) <= 30


@mock_clock
async def test_a_few_files_read_again_and_again_are_not_listed(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = fill(bucket)[:3]
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        for _ in range(20):
            await read_all(mount, names)
            await trio.sleep(0.6)
        assert bucket.requested().get("ListObjectsV2") == 1


@mock_clock
async def test_what_was_replaced_shows_although_versions_were_prefetched(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path) as mount:
        await read_long_ago(mount, names)
        for name in names[100:]:
            bucket.poke(name, b"new " + name.encode())
        for name in names:
            old = await mount.read(name)
            assert old.startswith(b"new ") == (name >= "0100")


@mock_clock
async def test_links_read_in_order_are_prefetched(bucket: Bucket, tmp_path: Path) -> None:
    """As `ls -l` does: attributes and target of one after the other, with files in between."""
    for number in range(FILES):
        if number % 3:
            bucket.poke(f"{number:04}", noise(5000), said(0o100644))
        else:
            bucket.poke(f"{number:04}", b"to/%d" % number, said(0o120777))
    links = len(range(0, FILES, 3))
    async with planted(bucket, tmp_path) as mount:
        names = sorted(await mount.names())
        bucket.requested()
        began = trio.current_time()
        for number, name in enumerate(names):
            inode = await mount.find(name)
            if number % 3 == 0:
                assert await mount.tree.read_link(inode) == b"to/%d" % number
        assert (trio.current_time() - began) / bucket.latency <= (FILES + links) / 8 + 8
        requested = bucket.requested()
        assert requested.pop("GetObject") <= links + 2, "each once; two of the first might be read"
        assert requested.pop("HeadObject") <= FILES
        assert not requested


@mock_clock
async def test_links_known_from_an_earlier_mount_are_prefetched(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Their attributes come from the index: the kernel gets them without a question."""
    for number in range(60):
        bucket.poke(f"{number:02}", b"to", said(0o120777))
    async with planted(bucket, tmp_path) as mount:
        for name in sorted(await mount.names()):
            await mount.find(name)
    async with planted(bucket, tmp_path) as mount:
        names = sorted(await mount.names())
        began = trio.current_time()
        for name in names:
            assert await mount.tree.read_link(mount.root.children[name]) == b"to"
        assert (trio.current_time() - began) / bucket.latency <= 60 / 8 + 4


@mock_clock
async def test_links_read_here_and_there_fetch_no_others(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(500):
        bucket.poke(f"{number:03}", b"to", said(0o120777))
    async with planted(bucket, tmp_path) as mount:
        names = sorted(await mount.names())
        for name in names:
            await mount.find(name)
        await trio.sleep(1)
        bucket.requested()
        for name in names[10::20]:
            assert await mount.tree.read_link(await mount.find(name)) == b"to"
        assert bucket.requested() == {"GetObject": len(names[10::20])}


@mock_clock
async def test_a_link_read_alone_fetches_no_others(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(20):
        bucket.poke(f"{number:02}", b"to", said(0o120777))
    async with planted(bucket, tmp_path) as mount:
        inodes = [await mount.find(name) for name in sorted(await mount.names())]
        await trio.sleep(1)
        bucket.requested()
        for inode in reversed(inodes[10:12]):
            assert await mount.tree.read_link(inode) == b"to"
        assert bucket.requested() == {"GetObject": 2}


@mock_clock
async def test_who_only_looks_goes_on_so_in_other_directories(
    bucket: Bucket, tmp_path: Path
) -> None:
    """As `find -size` does."""
    for number in range(40):
        for name in range(10):
            bucket.poke(f"{number:02}/{name}", b"x" * 5000)
    async with planted(bucket, tmp_path) as mount:
        await mount.tree.subtree.ensure(mount.root)
        bucket.requested()
        began = trio.current_time()
        for number in range(40):
            directory = await mount.directory(f"{number:02}")
            await mount.tree.subtree.ensure(directory)
            names = sorted(directory.children)
            await mount.tree.prefetcher.reads(directory, names, 0, NEVER)
            for name in names:
                mount.tree.prefetcher.asked_for(0)
                await mount.find(f"{number:02}/{name}")
        assert (trio.current_time() - began) / bucket.latency <= 400 / 8 + 12
        requested = bucket.requested()
        assert requested.pop("ListObjectsV2") <= 4
        assert requested.pop("GetObject") <= 4, "the first ones, which might have been opened next"
        assert sum(requested.values()) <= 401, "each once, and one marker"


@mock_clock
async def test_files_read_in_disorder_are_not(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        shuffled = [names[at * 37 % FILES] for at in range(40)]
        await read_all(mount, shuffled)
        await trio.sleep(10)
        assert bucket.requested()["GetObject"] == 40


@mock_clock
async def test_large_files_are_not_fetched_whole(bucket: Bucket, tmp_path: Path) -> None:
    fill(bucket, count=12, size=2 * MIB)
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        for number in range(6):
            handle = await mount.open(f"{number:04}")
            await mount.pread(handle, 0, 10)
            await mount.close(handle)
        await trio.sleep(10)
        rest = [(f"{n:04}", bucket.objects[f"{n:04}"].etag) for n in range(6, 12)]
        assert not any(mount.cache.holds(name, etag, 2 * MIB + 4) for name, etag in rest)


@mock_clock
async def test_who_only_looks_gets_heads(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        began = trio.current_time()
        for name in names:
            assert mount.tree.posix(await mount.find(name)).mode == 0o100600
        assert (trio.current_time() - began) / bucket.latency < FILES / 4
        requested = bucket.requested()
        assert requested["HeadObject"] + requested["GetObject"] == FILES
        assert requested["GetObject"] <= 3


@mock_clock
async def test_one_look_costs_one_request(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        bucket.requested()
        await mount.find(names[50])
        await trio.sleep(10)
        assert bucket.requested() == {"GetObject": 1}


@given(st.lists(st.integers(0, 500), max_size=60))
def test_no_walk_asks_for_an_entry_twice_in_a_row_of_order(positions: list[int]) -> None:
    """What is prefetched comes next, in bounds, and is asked for once in a streak."""
    walk = Progress()
    asked: set[int] = set()
    for position in positions:
        streak = walk.streak
        wanted = walk.opened(position, 0.0, 1.0)
        if not walk.streak or walk.streak <= streak:
            asked.clear()
        assert not asked & set(wanted)
        asked |= set(wanted)
        assert not wanted or position < wanted.start
        assert wanted.stop <= position + 1 + MOST_DEPTH


@given(st.lists(st.integers(0, 500), max_size=60))
def test_looking_is_bounded_and_never_backwards(positions: list[int]) -> None:
    walk = Progress()
    for position in positions:
        window = walk.window
        wanted = walk.looked_at(position)
        assert len(wanted) <= window <= MOST_LOOKS
        assert not wanted or position < wanted.start
        assert wanted.stop - position <= window + window // 2 + 1


@mock_clock
async def test_a_file_changed_meanwhile_is_not_prefetched(bucket: Bucket, tmp_path: Path) -> None:
    """It was put on the list before; its attributes here are newer than those in the bucket."""
    names = fill(bucket, count=80, size=WHOLE_FILE + 1)
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        inodes = [await mount.find(name) for name in names]
        await read_all(mount, names[:6])
        tree = mount.tree
        waiting = [i for i in inodes if not (tree.attributes.is_here(i) or i.open_state)]
        for inode in waiting:
            tree.changer.change(inode, Change(mode=0o640))
            tree.later.attributes(inode)
            bucket.poke(inode.name, b"by others", said(0o100600))
        await trio.sleep(ATTRIBUTE_DELAY / 2)
        assert {inode.posix and inode.posix.mode for inode in waiting} == {0o100640}
