"""Names of a directory whose listing takes long: told before it is complete, each of them once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from bucketfs.errors import FsError, StoreError
from bucketfs.store.base import ListPage
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.lookup.reading import PATIENCE, Reading
from tests.tree.builder import Bucket, Mount, planted

pytestmark = pytest.mark.mock_clock

#: Seconds for a page; the first comes before names are waited for no longer.
PAGE = PATIENCE * 0.6


class Slow(Bucket):
    """A bucket whose pages have 1,000 keys and come one by one."""

    fails_at = 0
    pages = 0

    async def list(self, prefix: str, **question: Any) -> ListPage:
        self.pages += 1
        await trio.sleep(PAGE)
        if self.pages == self.fails_at:
            raise StoreError("InternalError", status=500, operation="ListObjectsV2", key=prefix)
        return await super().list(prefix, **question)


@asynccontextmanager
async def large(
    tmp_path: Path, *, names: int = 4_500, fails_at: int = 0
) -> AsyncIterator[tuple[Mount, Directory]]:
    bucket = Slow()
    for number in range(names):
        bucket.poke(f"d/{number:04}", bytes(5000))
    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        bucket.pages, bucket.fails_at = 0, fails_at
        bucket.requested()
        yield mount, directory


async def all_of(reading: Reading) -> list[str]:
    """What a program gets that reads on."""
    told = 0
    while not reading.complete:
        await reading.behind(told)
        told = len(reading.names)
    return reading.names


async def test_names_come_page_by_page(tmp_path: Path) -> None:
    async with large(tmp_path) as (mount, directory):
        began = trio.current_time()
        reading = await mount.tree.subtree.read(directory)
        assert trio.current_time() - began <= PATIENCE + PAGE
        assert reading.names[0] == "0000"
        assert not reading.complete
        assert await all_of(reading) == [f"{number:04}" for number in range(4_500)]
        assert mount.bucket.requested() == {"ListObjectsV2": 5}


async def test_a_short_listing_is_told_in_one_order(tmp_path: Path) -> None:
    async with large(tmp_path, names=900) as (mount, directory):
        handle = await mount.create("d/0100-new")
        reading = await mount.tree.subtree.read(directory)
        assert reading.complete
        assert reading.names == sorted(directory.children)
        await mount.close(handle)


async def test_a_name_that_was_told_is_known(tmp_path: Path) -> None:
    async with large(tmp_path) as (mount, directory):
        reading = await mount.tree.subtree.read(directory)
        mount.bucket.requested()
        inode = await mount.tree.finder.find(directory, reading.names[0])
        assert mount.tree.state.freshness.timeout(inode) > 0
        assert mount.bucket.requested().get("HeadObject", 0) == 0
        assert not reading.complete
        reading.close()


async def test_what_is_only_here_comes_last(tmp_path: Path) -> None:
    async with large(tmp_path) as (mount, directory):
        handle = await mount.create("d/0000-unsaved")
        reading = await mount.tree.subtree.read(directory)
        assert not reading.complete
        names = await all_of(reading)
        assert names[-1] == "0000-unsaved"
        assert sorted(names) == sorted(directory.children)
        await mount.close(handle)


async def test_a_directory_that_shadows_a_file_of_an_earlier_page(tmp_path: Path) -> None:
    moved: list[tuple[Directory, str]] = []

    class Kernel:
        def replaced(self, _inode: object) -> None:
            pass

        def moved(self, parent: Directory, name: str) -> None:
            moved.append((parent, name))

    bucket = Slow()
    bucket.poke("d/a", bytes(5000))
    bucket.poke("d/a/f", b"x")
    for number in range(3_500):
        bucket.poke(f"d/a!{number:04}", bytes(5000))
    async with planted(bucket, tmp_path, watcher=Kernel()) as mount:
        directory = await mount.directory("d")
        reading = await mount.tree.subtree.read(directory)
        mount.tree.state.table.count(directory.children["a"])
        names = await all_of(reading)
        assert sorted(names) == sorted(directory.children)
        assert isinstance(directory.children["a"], Directory)
        assert (directory, "a") in moved, "the kernel takes it for a file"


@pytest.mark.parametrize("fails_at", [1, 4])
async def test_a_failure_comes_behind_the_names_before_it(tmp_path: Path, fails_at: int) -> None:
    async with large(tmp_path, fails_at=fails_at) as (mount, directory):
        with pytest.raises(StoreError, match="InternalError"):
            await all_of(await mount.tree.subtree.read(directory))
        assert len(directory.children) == (fails_at - 1) * 1_000
        assert len(await all_of(await mount.tree.subtree.read(directory))) == 4_500


async def test_a_listing_for_nobody_ends(tmp_path: Path) -> None:
    async with large(tmp_path) as (mount, directory):
        reading = await mount.tree.subtree.read(directory)
        reading.close()
        await trio.sleep(20 * PAGE)
        assert mount.bucket.requested()["ListObjectsV2"] < 5
        assert directory.loading is None


async def test_two_who_read_share_a_listing(tmp_path: Path) -> None:
    async with large(tmp_path) as (mount, directory):
        first = await mount.tree.subtree.read(directory)
        second = await mount.tree.subtree.read(directory)
        first.close()
        assert sorted(await all_of(second)) == sorted(directory.children)
        assert len(second.names) == 4_500


async def test_a_directory_removed_meanwhile(tmp_path: Path) -> None:
    async with large(tmp_path) as (mount, directory):
        reading = await mount.tree.subtree.read(directory)
        mount.tree.state.unlink(directory)
        with pytest.raises(FsError, match="ESTALE"):
            await all_of(reading)
