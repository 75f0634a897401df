"""The bound on what the tree remembers."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from bucketfs.tree.core.inode import Directory
from bucketfs.tree.lookup import prune
from tests.tree.builder import Bucket, Mount, planted

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
