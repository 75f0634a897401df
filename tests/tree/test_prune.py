"""The bound on what the tree remembers."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest
import trio

from bucketfs import clock
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.lookup import prune
from tests.tree.builder import TTL, Bucket, Mount, planted

pytestmark = pytest.mark.mock_clock


def counted(directory: Directory) -> int:
    return sum(1 + (counted(c) if isinstance(c, Directory) else 0)
               for c in directory.children.values())  # fmt: skip


async def list_all(mount: Mount) -> None:
    for number in range(20):
        assert len(await mount.names(f"d{number:02}")) == 50
        await trio.sleep(0.1)


async def test_entries_of_directories_read_longest_ago_go(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "MOST_ENTRIES", 500)
    monkeypatch.setattr(prune, "KEPT_ENTRIES", 300)
    for number in range(20):
        for name in range(50):
            bucket.poke(f"d{number:02}/{name:02}", b"x" * 5000)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        state = mount.tree.state
        first = await mount.directory("d00")
        first.readers += 1
        await mount.names("d01")
        known = await mount.find("d01/07")
        state.table.count(known)
        written = await mount.open("d02/07", 2)
        await mount.write(written, 0, b"new")
        await list_all(mount)
        assert state.entries == counted(mount.root) <= 600
        assert len(first.children) == 50, "somebody reads it"
        assert await mount.find("d01/07") is known
        assert await mount.find("d02/07") is written.inode
        await list_all(mount)
        await mount.close(written)
        assert bucket.peek("d02/07")[:3] == b"new"


async def test_the_count_is_right_after_all_sorts_of_changes(
    bucket: Bucket, tmp_path: Path
) -> None:
    for name in range(9):
        bucket.poke(f"d/{name}", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.names("d")
        await mount.rename("d/1", "d/2")
        await mount.rename("d/3", "three")
        await mount.unlink("d/4")
        await mount.save("d/new", b"1")
        await mount.mkdir("e")
        await mount.rename("e", "d/e")
        await mount.rmdir("d/e")
        bucket.poke("other", b"x")
        mount.expire()
        await mount.names()
        assert mount.tree.state.entries == counted(mount.root)


async def test_what_the_kernel_gives_back_goes_when_it_is_trusted_no_more(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "MANY_GIVEN_BACK", 400)
    for number in range(500):
        bucket.poke(f"d/{number:03}", bytes(5000))
    async with planted(bucket, tmp_path) as mount:
        await mount.names("d")
        directory = await mount.directory("d")
        table, pruner = mount.tree.state.table, mount.tree.pruner
        held = list(directory.children.values())[:10]
        for child in directory.children.values():
            table.count(child)
        await trio.sleep(TTL / 2)
        for child in [c for c in directory.children.values() if c not in held]:
            table.forget(child.ino, 1)
            pruner.given_back()
        await trio.sleep(TTL / 3)
        assert len(directory.children) == 500, "a listing is trusted so long"
        looked_up = await mount.find("d/400")
        looked_up.checked = clock.monotonic()
        await trio.sleep(TTL * 2 / 3 + 1)
        assert list(directory.children.values()) == [*held, looked_up]
        assert mount.tree.state.entries == counted(mount.root)
        assert len(await mount.names("d")) == 500
        assert directory.children["005"] is held[5]


async def test_entries_that_went_leave_no_memory_behind(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "MANY_GIVEN_BACK", 5_000)
    for number in range(5_000):
        bucket.poke(f"d/{number:04}", b"")
    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        gc.collect()
        tracemalloc.start()
        try:
            await mount.names("d")
            for child in directory.children.values():
                mount.tree.state.table.count(child)
            held, _ = tracemalloc.get_traced_memory()
            for child in list(directory.children.values()):
                mount.tree.state.table.forget(child.ino, 1)
            del child
            mount.tree.pruner.given_back()
            await trio.sleep(2 * TTL)
            gc.collect()
            left, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert not directory.children
        assert left < held / 20
