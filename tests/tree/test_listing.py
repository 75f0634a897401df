"""Directories: listings, what they cost, and what they must not undo."""

from __future__ import annotations

import errno
import gc
import os
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from bucketfs.errors import FsError
from bucketfs.store.base import ListPage, ObjectInfo
from bucketfs.tree.core.inode import Directory
from tests.tree.builder import MIB, TTL, Bucket, Mount, planted, said

pytestmark = pytest.mark.mock_clock

ENTRIES = 100_000
#: As many as are traced, which is slow: a power of two fewer, so that dicts are as full.
TRACED = ENTRIES // 4
#: Bytes of memory for one entry that was listed and shown to the kernel, its attributes included.
MOST_PER_ENTRY = 600
#: Seconds of CPU for taking a listing of them over (0.1 s), and of the longest piece (0.015 s).
MOST_SECONDS, MOST_AT_ONCE = 2.0, 0.2


@pytest.fixture
def only_our_garbage() -> Iterator[None]:
    """What other tests of this process left is no garbage collector's work during this one."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Wire(Bucket):
    """A bucket whose answers are made anew each time, as those that come over a network are.

    Attributes:
        seconds: CPU time it took to make them.
    """

    seconds = 0.0

    async def list(self, prefix: str, **how: object) -> ListPage:  # type: ignore[override]
        began = time.thread_time()
        page = await super().list(prefix, **how)  # type: ignore[arg-type]
        objects = [replace(o, etag=(o.etag + " ")[:-1]) for o in page.objects]
        self.seconds += time.thread_time() - began
        return replace(page, objects=objects)


async def test_a_listing_costs_one_list_a_thousand_and_nothing_twice(
    bucket: Bucket, tmp_path: Path
) -> None:
    for number in range(2_500):
        bucket.poke(f"d/{number}", b"")
    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        bucket.requested()
        assert len(await mount.names("d")) == 2_500
        assert bucket.requested() == {"ListObjectsV2": 3}
        await mount.tree.lister.ensure(directory)
        assert bucket.requested() == {}
        await trio.sleep(TTL + 1)
        await mount.tree.lister.ensure(directory)
        assert bucket.requested() == {"ListObjectsV2": 3}


def large_directory(entries: int = ENTRIES) -> Wire:
    bucket = Wire(latency=0.01)
    for number in range(entries):
        bucket.poke(f"d/entry-{number:06}", number.to_bytes(4, "big"))
    return bucket


@pytest.mark.slow("allocations of 25,000 entries are traced: 2 s each")
@pytest.mark.time_limit(300)
@pytest.mark.parametrize("listed_attributes", [True, False])
async def test_memory_of_many_entries(tmp_path: Path, listed_attributes: bool) -> None:
    async with planted(
        large_directory(TRACED), tmp_path, listed_attributes=listed_attributes
    ) as mount:
        directory = await mount.directory("d")
        gc.collect()
        tracemalloc.start()
        try:
            await mount.tree.lister.ensure(directory)
            children = list(directory.children.values())
            for at in range(0, TRACED, 200):
                mount.tree.glances(children[at : at + 200])
            for child in children:
                mount.tree.state.table.count(child)
            del children
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(directory.children) == TRACED
        assert held / TRACED <= MOST_PER_ENTRY, f"{held / TRACED:.0f} bytes an entry"


@pytest.mark.slow("100,000 entries: 2 s")
@pytest.mark.time_limit(300)
@pytest.mark.usefixtures("only_our_garbage")
async def test_a_hundred_thousand_entries_take_little_time_and_never_much_at_once(
    tmp_path: Path,
) -> None:
    bucket = large_directory()
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        last = time.thread_time()
        while True:
            await trio.lowlevel.checkpoint()
            now = time.thread_time()
            longest = max(longest, now - last)
            last = now

    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        bucket.latency = 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            began = time.thread_time() - bucket.seconds
            await mount.tree.lister.ensure(directory)
            nursery.cancel_scope.cancel()
        assert time.thread_time() - bucket.seconds - began <= MOST_SECONDS
        assert longest <= MOST_AT_ONCE


async def test_listings_asked_for_at_once_are_one(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"")
    async with planted(bucket, tmp_path) as mount, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(mount.tree.lister.ensure, mount.root)
        await trio.sleep(1)
        assert bucket.requested() == {"ListObjectsV2": 1}


@pytest.mark.parametrize("ttl", [0.0, 0.005])
async def test_a_listing_slower_than_its_ttl_ends(
    bucket: Bucket, tmp_path: Path, ttl: float
) -> None:
    bucket.poke("f", b"")
    async with planted(bucket, tmp_path, ttl=ttl, listed_attributes=True) as mount:
        with trio.fail_after(1):
            assert await mount.names() == {"f"}
            assert bucket.requested() == {"ListObjectsV2": 1}
            await mount.find("f")


async def test_who_waits_for_a_listing_slower_than_its_ttl_gets_it(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", b"")
    async with planted(bucket, tmp_path, ttl=0) as mount:
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(mount.tree.lister.ensure, mount.root)
        assert mount.root.children.keys() == {"f"}


async def test_keys_that_cannot_be_names_are_hidden_and_left_alone(
    bucket: Bucket, tmp_path: Path
) -> None:
    odd = ["/lead", "d//deep", "d/./f", "d/../f", "d/" + "x" * 256, "d/nul\0", "d/..", "d/."]
    for key in [*odd, "d/good", "d/" + "é" * 127, "d/new\nline", "d/ %+"]:
        bucket.poke(key, b"x")
    async with planted(bucket, tmp_path) as mount:
        assert await mount.names() == {"d"}
        assert mount.root.hidden
        directory = await mount.directory("d")
        assert await mount.names("d") == {"good", "é" * 127, "new\nline", " %+"}
        assert directory.hidden
        for name in list(directory.children):
            assert await mount.read(f"d/{name}") == b"x"
            await mount.unlink(f"d/{name}")
        with pytest.raises(FsError, match="ENOTEMPTY"):
            await mount.rmdir("d")
        assert set(odd) <= set(mount.stored())


async def test_a_listing_revalidates_attributes_for_nothing(bucket: Bucket, tmp_path: Path) -> None:
    """HEADs once; the next listing shows the same versions, so nothing is asked again."""
    for number in range(20):
        bucket.poke(f"{number:02}", b"x", said(0o100600))
    async with planted(bucket, tmp_path) as mount:
        for _ in range(3):
            for name in await mount.names():
                assert mount.tree.posix(await mount.find(name)).mode == 0o100600
            await trio.sleep(TTL + 1)
        requested = bucket.requested()
        assert requested.pop("ListObjectsV2") == 3
        assert sum(requested.values()) == 20, requested


async def test_heads_of_neighbours_are_side_by_side(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(80):
        bucket.poke(f"{number:02}", b"x")
    async with planted(bucket, tmp_path) as mount:
        names = sorted(await mount.names())
        began = trio.current_time()
        for name in names:
            await mount.find(name)
        # eight at a time, after the first
        assert trio.current_time() - began <= (80 / 8 + 2) * bucket.latency
        requested = bucket.requested()
        assert requested["HeadObject"] + requested["GetObject"] == 80


class TestRaces:
    """A change is made here while a listing is under way that does not know of it."""

    async def during_listing(
        self,
        mount: Mount,
        path: str,
        change: Callable[[], Awaitable[object]],
        *,
        listing: float,
        change_first: bool = False,
    ) -> None:
        """Run a change and a LIST of `listing` seconds at once, one begun a moment earlier."""
        directory = await mount.directory(path)
        latency = mount.bucket.latency

        async def listed() -> None:
            await mount.tree.lister.ensure(directory)

        async with trio.open_nursery() as nursery:
            if change_first:
                nursery.start_soon(change)
                await trio.testing.wait_all_tasks_blocked()
            directory.listed = float("-inf")
            mount.bucket.latency = listing
            nursery.start_soon(listed)
            await trio.testing.wait_all_tasks_blocked()
            mount.bucket.latency = latency
            if not change_first:
                nursery.start_soon(change)

    async def test_created(self, bucket: Bucket, tmp_path: Path) -> None:
        bucket.poke("d/x", b"")
        async with planted(bucket, tmp_path) as mount:
            await mount.names("d")
            await self.during_listing(mount, "d", lambda: mount.save("d/new", b"1"), listing=0)
            assert await mount.names("d") == {"x", "new"}
            assert await mount.read("d/new") == b"1"

    async def test_removed(self, bucket: Bucket, tmp_path: Path) -> None:
        """The LIST is answered before the DELETE arrives, and read after."""
        for number in range(4):
            bucket.poke(f"d/{number}", b"")
        bucket.page = 2
        async with planted(bucket, tmp_path, listed_attributes=True) as mount:
            await mount.names("d")
            # page one shows d/0, then the DELETE is done, then page two comes
            await self.during_listing(mount, "d", lambda: mount.unlink("d/0"), listing=0.008)
            assert await mount.names("d") == {"1", "2", "3"}

    async def test_renamed(self, bucket: Bucket, tmp_path: Path) -> None:
        for name in "abcd":
            bucket.poke(f"d/{name}", name.encode())
        bucket.page = 2
        async with planted(bucket, tmp_path) as mount:
            await mount.names("d")
            await mount.find("d/a")
            await self.during_listing(mount, "d", lambda: mount.rename("d/a", "d/z"), listing=0.03)
            assert await mount.names("d") == {"b", "c", "d", "z"}
            assert await mount.read("d/z") == b"a"

    @pytest.mark.parametrize("kind", ["directory", "link"])
    async def test_made_while_the_listing_begins(
        self, bucket: Bucket, tmp_path: Path, kind: str
    ) -> None:
        """The PUT is under way when the listing begins, and lands after it was answered."""
        bucket.poke("d/x", b"")

        async def make() -> None:
            if kind == "directory":
                await mount.mkdir("d/new")
            else:
                await mount.tree.entries.make(directory, "new", 0o120777, 0, 0, body=b"x")

        async with planted(bucket, tmp_path, listed_attributes=True) as mount:
            directory = await mount.directory("d")
            await mount.names("d")
            await self.during_listing(mount, "d", make, listing=0.001, change_first=True)
            assert directory.children.keys() == {"x", "new"}
            if kind == "directory":
                await mount.save("d/new/f", b"1")
                assert bucket.peek("d/new/f") == b"1"

    async def test_a_file_whose_upload_is_under_way(self, bucket: Bucket, tmp_path: Path) -> None:
        bucket.poke("d/x", b"")
        async with planted(bucket, tmp_path, listed_attributes=True) as mount:
            await mount.names("d")
            handle = await mount.create("d/new")
            await mount.write(handle, 0, b"1")
            await self.during_listing(
                mount, "d", lambda: mount.close(handle), listing=0.001, change_first=True
            )
            assert (await mount.directory("d")).children.keys() == {"x", "new"}

    async def test_unlinked_while_a_lookup_is_under_way(
        self, bucket: Bucket, tmp_path: Path
    ) -> None:
        """HEAD is answered, the file is removed, the answer arrives: the file stays away."""
        bucket.poke("f", b"1")
        async with planted(bucket, tmp_path) as mount:
            await mount.find("f")
            mount.expire()
            bucket.answer = 1.0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mount.tree.finder.find_or_none, mount.root, "f")
                await trio.sleep(0.5)
                await mount.names()
                bucket.answer = 0.0
                nursery.start_soon(mount.unlink, "f")
            assert mount.stored() == []
            assert mount.root.children == {}


async def test_unsaved_files_never_vanish(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("d/x", b"old")
    async with planted(bucket, tmp_path) as mount:
        new = await mount.create("d/new")
        changed = await mount.open("d/x", os.O_RDWR)
        await mount.write(changed, 0, b"now")
        del bucket.objects["d/x"]
        bucket.poke("d/other", b"")
        for _ in range(3):
            await trio.sleep(TTL + 1)
            assert await mount.names("d") == {"x", "new", "other"}
        await mount.close(new)
        await mount.close(changed)
        assert bucket.peek("d/x") == b"now"
        assert bucket.peek("d/new") == b""


async def test_others_changes_show_after_the_ttl(bucket: Bucket, tmp_path: Path) -> None:
    for name in ("stays", "goes", "turns"):
        bucket.poke(name, b"1")
    async with planted(bucket, tmp_path) as mount:
        assert await mount.names() == {"stays", "goes", "turns"}
        stays = await mount.find("stays")
        del bucket.objects["goes"]
        del bucket.objects["turns"]
        bucket.poke("turns/into", b"22")
        bucket.poke("stays", b"longer")
        assert await mount.names() == {"stays", "goes", "turns"}
        await trio.sleep(TTL + 1)
        assert await mount.names() == {"stays", "turns"}
        assert isinstance(await mount.find("turns"), Directory)
        assert await mount.find("stays") is stays
        assert stays.size == 6


async def test_a_large_file_listed_needs_no_head_for_its_type(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Only a small object may be a symbolic link; readdir can tell the type of others."""
    bucket.poke("large", bytes(MIB))
    bucket.poke("small", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        known = mount.tree.attributes.kind_known
        assert known(mount.root.children["large"])
        assert not known(mount.root.children["small"])
        assert bucket.requested() == {"ListObjectsV2": 1}


class Lying(Bucket):
    """A bucket of whose listings an entry is left out, and another has a slash in its name."""

    async def list(self, prefix: str, **question: Any) -> ListPage:
        page = await super().list(prefix, **question)
        slash = ObjectInfo(f"{prefix}x/y", 1, "e", 1)
        objects = [*page.objects, slash] if question.get("delimiter", "/") else page.objects
        return replace(page, objects=objects, left_out=1)


async def test_what_is_left_out_of_a_listing_hides_nothing_else(tmp_path: Path) -> None:
    """And is there all the same: a directory that has nothing else is no empty one."""
    bucket = Lying()
    bucket.poke("d/f", b"x")
    async with planted(bucket, tmp_path) as mount:
        assert await mount.names() == {"d"}
        assert await mount.names("d") == {"f"}
        await mount.unlink("d/f")
        with pytest.raises(FsError) as raised:
            await mount.rmdir("d")
    assert raised.value.errno == errno.ENOTEMPTY
