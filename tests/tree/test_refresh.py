"""Forgetting: the next look asks, whatever was under way, and nothing of ours goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from bucketfs import clock
from bucketfs.tree.core.freshness import Freshness
from bucketfs.tree.core.inode import NEVER, Directory
from tests.tree.builder import Bucket, Mount, planted

pytestmark = pytest.mark.mock_clock

DAY = 86400.0


async def refreshed_amid(mount: Mount, path: str) -> None:
    """Begin to look at all there is, and refresh while the answers are on their way."""
    mount.bucket.answer = 1.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mount.names)
        nursery.start_soon(mount.tree.finder.find_or_none, mount.root, "f")
        nursery.start_soon(mount.tree.finder.find_or_none, mount.root, "new")
        await trio.sleep(0.5)
        mount.bucket.poke("f", b"longer")
        mount.bucket.poke("new", b"x")
        await mount.tree.refresher.forget(path)
    mount.bucket.answer = 0.0


@pytest.mark.parametrize("path", ["", "f"])
async def test_answers_that_were_under_way_count_for_nothing(
    bucket: Bucket, tmp_path: Path, path: str
) -> None:
    bucket.poke("f", b"1")
    async with planted(bucket, tmp_path, ttl=DAY, open_ttl=DAY) as mount:
        await mount.find("f")
        mount.expire()
        await refreshed_amid(mount, path)
        assert (await mount.find("f")).size == 6
        if not path:
            assert (await mount.find("new")).size == 1
        assert await mount.names() == {"f", "new"}


async def test_what_the_kernel_may_remember_is_told(bucket: Bucket, tmp_path: Path) -> None:
    for key in ("d/known", "d/unknown", "f"):
        bucket.poke(key, b"1")
    async with planted(bucket, tmp_path, ttl=DAY, open_ttl=DAY) as mount:
        state, finder = mount.tree.state, mount.tree.finder
        await mount.names()
        await mount.names("d")
        directory, known, other = [await mount.find(path) for path in ("d", "d/known", "f")]
        assert isinstance(directory, Directory)
        for inode in (directory, known, other):
            state.table.count(inode)
        for parent in (mount.root, directory):
            assert await finder.find_or_none(parent, "no") is None
            assert finder.negative_timeout(parent, "no") > 0
        told = await mount.tree.refresher.forget("d")
        assert sorted(told.inodes) == sorted([directory.ino, known.ino])
        assert told.names == [(directory.ino, "no")]
        told = await mount.tree.refresher.forget("")
        assert told.names == [(mount.root.ino, "no")]
        assert (await mount.tree.refresher.forget("no")).missing
        assert (await mount.tree.refresher.forget("f/deeper")).missing


async def test_forgetting_costs_no_request_and_looking_again_few(
    bucket: Bucket, tmp_path: Path
) -> None:
    for number in range(100):
        bucket.poke(f"d/{number}", b"1")
    async with planted(bucket, tmp_path) as mount:
        for name in await mount.names("d"):
            await mount.find(f"d/{name}")
        directory = await mount.directory("d")
        bucket.requested()
        assert not (await mount.tree.refresher.forget("d")).missing
        assert bucket.requested() == {}
        await mount.names("d")
        for number in range(300):
            assert await mount.tree.finder.find_or_none(directory, f"no{number}") is None
        for name in directory.children:
            await mount.find(f"d/{name}")
        requested = bucket.requested()
        assert requested.pop("HeadObject", 0) <= 2, "of the directory and its marker"
        assert sum(requested.values()) <= 3


async def test_an_open_that_would_trust_for_longer_than_entries_hold(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The kernel knows the name still, and opens it without looking it up."""
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path, ttl=60.0, open_ttl=DAY) as mount:
        await mount.names()
        inode = await mount.find("f")
        bucket.poke("f", b"newer")
        await mount.tree.refresher.forget("")
        handle = await mount.tree.opener.open(inode, os.O_RDONLY, uid=0, pid=0)
        assert handle.inode.size == len(b"newer")
        await mount.close(handle)


@pytest.mark.parametrize("ttl", [0.0, 60.0, 1e9])
async def test_a_directory_out_of_date_is_listed_anew_whatever_the_times(ttl: float) -> None:
    fresh, directory = Freshness(ttl=ttl, absence_ttl=ttl), Directory(2, None, "d")
    fresh.outdate(directory)
    assert directory.listed == NEVER
    directory.listed = clock.monotonic()
    fresh.followed = directory.listed - 1
    assert fresh.is_listed(directory)
    fresh.outdate(directory)
    assert not fresh.is_listed(directory)
    assert directory.listed != NEVER
    before = directory.listed
    fresh.outdate(directory)
    assert directory.listed != before, "a page that was asked for meanwhile would count"
