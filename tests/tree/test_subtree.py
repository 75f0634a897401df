"""Listings ahead of a walk through a tree."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.store.base import ObjectInfo
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.lookup.merge import Picture
from bucketfs.tree.prefetch.subtree import cover
from tests.tree.builder import Bucket, Mount, planted

mock_clock = pytest.mark.mock_clock


async def walk(mount: Mount, directory: Directory) -> set[str]:
    """All paths below a directory, found as `find` finds them."""
    await mount.tree.subtree.ensure(directory)
    found = set()
    for _, child in sorted(directory.children.items()):
        found.add(mount.tree.state.path(child))
        if isinstance(child, Directory):
            found |= await walk(mount, child)
    return found


@mock_clock
async def test_a_walk_takes_few_lists(bucket: Bucket, tmp_path: Path) -> None:
    keys = {f"d{n:02}/s{m}/f" for n in range(40) for m in range(3)}
    for key in keys:
        bucket.poke(key, b"x")
    async with planted(bucket, tmp_path) as mount:
        began = trio.current_time()
        found = await walk(mount, mount.root)
        assert {path for path in found if path.endswith("/f")} == keys
        assert bucket.requested()["ListObjectsV2"] <= 12, "160 directories"
        assert trio.current_time() - began <= 12 * bucket.latency


@mock_clock
async def test_what_changes_meanwhile_is_not_undone(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(5):
        bucket.poke(f"d{number}/f", b"x")
        bucket.poke(f"d{number}/g", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        await mount.names("d0")
        await mount.find("d4/f")
        await mount.tree.subtree.ensure(await mount.directory("d0"))
        bucket.answer = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.tree.subtree.ensure, await mount.directory("d1"))
            nursery.start_soon(mount.tree.subtree.ensure, await mount.directory("d2"))
            await trio.sleep(0.5)
            bucket.answer = 0.0
            await mount.unlink("d4/f")
            await mount.save("d3/new", b"new")
        await trio.sleep(5)
        assert await mount.names("d4") == {"g"}
        assert await mount.names("d3") == {"f", "g", "new"}


def model(prefix: str, keys: list[str]) -> dict[str, tuple[set[str], set[str], bool]]:
    """Files, directories and marker of every directory below a prefix, one key at a time."""
    seen: dict[str, tuple[set[str], set[str], bool]] = {}
    for key in keys:
        parts = key[len(prefix) :].split("/")
        path = prefix
        for name in parts[:-1]:
            files, directories, marker = seen.get(path, (set(), set(), False))
            seen[path] = files, directories | {name}, marker
            path += name + "/"
        files, directories, marker = seen.get(path, (set(), set(), False))
        name = parts[-1]
        seen[path] = (files | {name} if name else files), directories, marker or not name
    return seen


def told(picture: Picture) -> tuple[set[str], set[str], bool]:
    return set(picture.files), set(picture.directories), picture.marker is not None


names = st.text("ab0.", min_size=1, max_size=2).filter(lambda name: name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
keys_below = st.sets(
    st.one_of(paths, paths.map(lambda path: path + "/")), min_size=1, max_size=25
).map(lambda found: sorted("p/" + path for path in found))


@given(keys_below, st.data())
def test_what_is_covered_is_covered_completely(keys: list[str], data: st.DataObject) -> None:
    """Every picture of a cut listing equals the one of the whole."""
    cut = data.draw(st.integers(0, len(keys)))
    infos = [ObjectInfo(key, 1, "e", 1) for key in keys]
    whole = model("p/", keys)
    for picture in whole.values():
        picture[0].difference_update(picture[1])  # a directory shadows a file
    everything = cover("p/", infos, complete=True)
    assert {path: told(found) for path, found in everything.items()} == {
        path: found for path, found in whole.items() if path != "p/"
    }
    for path, found in cover("p/", infos[:cut], complete=False).items():
        assert told(found) == whole[path]


def test_a_listing_in_another_order_covers_nothing() -> None:
    """What it left out at its start or end may belong to any directory."""
    infos = [ObjectInfo(f"p/{key}", 1, "e", 1) for key in ("a/1", "a/2", "a-/1", "b/1", "c/1")]
    assert cover("p/", infos, complete=True) == {}
    assert cover("p/", infos, complete=False) == {}
