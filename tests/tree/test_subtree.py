"""Prefetched listings of a walk through a tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.store.base import ListPage, ObjectInfo
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.lookup.merge import Listing
from bucketfs.tree.prefetch.subtree import cover
from tests.tree.builder import CONFIG, Bucket, Mount, planted

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


def tree_of(bucket: Bucket, directories: int) -> set[str]:
    keys = {f"d{n:03}/f{m}" for n in range(directories) for m in range(3)}
    for key in keys:
        bucket.poke(key, b"x")
    return keys


async def slow_walk(mount: Mount, pause: float) -> set[str]:
    """Files in the directories of the root, read with a pause at each of them."""
    found = set()
    await mount.tree.subtree.ensure(mount.root)
    for name in sorted(mount.root.children):
        child = mount.root.children[name]
        assert isinstance(child, Directory)
        await mount.tree.subtree.ensure(child)
        age = trio.current_time() - child.listed
        assert age <= CONFIG.open_ttl
        found |= {f"{name}/{file}" for file in child.children}
        await trio.sleep(pause)
    return found


@mock_clock
async def test_a_later_walk_shows_what_others_did_and_costs_no_more(
    bucket: Bucket, tmp_path: Path
) -> None:
    keys = tree_of(bucket, 40)
    async with planted(bucket, tmp_path) as mount:
        await walk(mount, mount.root)
        first = bucket.requested()
        await walk(mount, mount.root)
        assert bucket.requested() == {}, "right after it"
        await trio.sleep(CONFIG.open_ttl + 1)
        bucket.poke("d020/new", b"x")
        del bucket.objects["d030/f1"]
        found = await walk(mount, mount.root)
        assert {path for path in found if "/" in path} == keys - {"d030/f1"} | {"d020/new"}
        assert sum(bucket.requested().values()) <= sum(first.values())


@mock_clock
async def test_what_was_looked_at_while_listing_ahead_is_newer(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have made one file and replaced another; a program has seen both since."""
    tree_of(bucket, 5)
    bucket.page = 4
    async with planted(bucket, tmp_path) as mount:
        await mount.tree.subtree.ensure(mount.root)
        await mount.tree.subtree.ensure(await mount.directory("d000"))
        behind = mount.root.children["d003"]
        assert isinstance(behind, Directory)
        seen: list[tuple[Inode, Handle]] = []
        ask = bucket.list

        async def listed(prefix: str, **question: object) -> ListPage:
            page = await ask(prefix, **question)  # type: ignore[arg-type]
            if not question.get("delimiter") and "d004/f2" in [info.key for info in page.objects]:
                bucket.poke("d003/f1", b"newer")
                bucket.poke("d003/new", b"new")
                made = await mount.tree.finder.find(behind, "new")
                newer = await mount.tree.finder.find(behind, "f1")
                seen.append((made, await mount.tree.opener.open(newer, os.O_RDWR, uid=0, pid=0)))
            return page

        monkeypatch.setattr(bucket, "list", listed)
        await mount.tree.subtree.ensure(await mount.directory("d001"))
        await trio.sleep(0.3)
        [(made, handle)] = seen
        assert behind.children["new"] is made
        assert behind.children["f1"] is handle.inode
        await mount.write(handle, 0, b"ours")
        await mount.close(handle)
        assert bucket.peek("d003/f1") == b"oursr"
        assert not [key for key in mount.stored() if "conflict" in key]


@mock_clock
async def test_what_is_renamed_while_listing_ahead_is_not_listed_by_it(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing comes by when only one of the copies is there."""
    tree_of(bucket, 5)
    for name in ("f1", "f2"):
        bucket.poke(f"source/sub/{name}", b"x")
    bucket.page = 4
    passed = trio.Event()
    copy, ask = bucket.copy, bucket.list

    async def copied(source: str, *args: object, **conditions: object) -> ObjectInfo:
        if source == "source/sub/f2":
            await passed.wait()
        return await copy(source, *args, **conditions)  # type: ignore[arg-type]

    async def listed(prefix: str, **question: object) -> ListPage:
        page = await ask(prefix, **question)  # type: ignore[arg-type]
        if not prefix and "d003x/sub/f1" in [info.key for info in page.objects]:
            passed.set()
            await trio.sleep(0.3)
        return page

    async with planted(bucket, tmp_path) as mount:
        await mount.tree.subtree.ensure(mount.root)
        await mount.tree.subtree.ensure(await mount.directory("d000"))
        monkeypatch.setattr(bucket, "copy", copied)
        monkeypatch.setattr(bucket, "list", listed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.rename, "source", "d003x")
            await trio.sleep(0.1)
            await mount.tree.subtree.ensure(mount.root.children["d001"])  # type: ignore[arg-type]
        await trio.sleep(0.3)
        assert passed.is_set()
        assert await mount.read("d003x/sub/f2") == b"x"


@mock_clock
async def test_a_walk_slower_than_a_listing_is_trusted(bucket: Bucket, tmp_path: Path) -> None:
    """Twenty seconds long: two LISTs a second at most, and nobody waits for those ahead."""
    keys = tree_of(bucket, 200)
    async with planted(bucket, tmp_path) as mount:
        began = trio.current_time()
        assert await slow_walk(mount, 0.1) == keys
        assert sum(bucket.requested().values()) <= 40
        assert trio.current_time() - began <= 200 * 0.1 + 5 * bucket.latency


@mock_clock
@pytest.mark.parametrize("open_ttl", [0.0, 0.015])
async def test_nothing_is_listed_ahead_that_would_be_too_old_when_it_comes(
    bucket: Bucket, tmp_path: Path, open_ttl: float
) -> None:
    """A LIST takes 0.01 s here, and may take half of `open_ttl`."""
    tree_of(bucket, 30)
    async with planted(bucket, tmp_path, open_ttl=open_ttl) as mount:
        for _ in range(2):
            await walk(mount, mount.root)
            assert bucket.requested()["ListObjectsV2"] <= 1 + 30 + 1


@mock_clock
async def test_reading_one_directory_again_and_again_lists_nothing_else(
    bucket: Bucket, tmp_path: Path
) -> None:
    tree_of(bucket, 30)
    async with planted(bucket, tmp_path) as mount:
        await mount.tree.subtree.ensure(mount.root)
        directory = await mount.directory("d003")
        await mount.tree.subtree.ensure(directory)
        bucket.requested()
        for _ in range(10):
            await trio.sleep(CONFIG.open_ttl + 0.1)
            await mount.tree.subtree.ensure(directory)
        assert bucket.requested() == {"ListObjectsV2": 10}


@mock_clock
async def test_a_search_in_one_directory_after_another_is_listed_ahead(
    bucket: Bucket, tmp_path: Path
) -> None:
    """As `git status` does: it looks for a file in each directory before it reads it."""
    tree_of(bucket, 40)
    async with planted(bucket, tmp_path) as mount:
        await walk(mount, mount.root)
        await trio.sleep(CONFIG.open_ttl + 1)
        bucket.requested()
        await mount.tree.subtree.ensure(mount.root)
        for name in sorted(mount.root.children):
            directory = await mount.directory(name)
            assert await mount.tree.finder.find_or_none(directory, ".gitignore") is None
            await mount.tree.subtree.ensure(directory)
        assert sum(bucket.requested().values()) <= 5


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


def told(listing: Listing) -> tuple[set[str], set[str], bool]:
    return set(listing.files), set(listing.directories), listing.marker is not None


names = st.text("ab0.", min_size=1, max_size=2).filter(lambda name: name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
keys_below = st.sets(
    st.one_of(paths, paths.map(lambda path: path + "/")), min_size=1, max_size=25
).map(lambda found: sorted("p/" + path for path in found))


@given(keys_below, st.data())
def test_what_is_covered_is_covered_completely(keys: list[str], data: st.DataObject) -> None:
    """Every listing of a cut listing equals the one of the whole."""
    cut = data.draw(st.integers(0, len(keys)))
    infos = [ObjectInfo(key, 1, "e", 1) for key in keys]
    whole = model("p/", keys)
    for listing in whole.values():
        listing[0].difference_update(listing[1])  # a directory shadows a file
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
