"""Names that go, come back or change hands while somebody waits for an answer about them."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, StoreError
from bucketfs.store.base import Headers, ListPage, ObjectInfo
from bucketfs.tree.core.inode import NEVER
from bucketfs.tree.lookup import prune
from bucketfs.tree.lookup.merge import Listing, Merge, sort
from bucketfs.tree.saving.change import Change
from tests.harness.memory import Fault
from tests.tree.builder import MIB, Bucket, planted, said

pytestmark = pytest.mark.mock_clock


def refuse_deletions(bucket: Bucket) -> None:
    error = StoreError("AccessDenied", status=403, operation="DeleteObjects")
    bucket.fault = lambda asked, _key, _n: Fault(error) if asked == "DeleteObjects" else None


async def test_a_failure_that_was_mended_is_not_told(bucket: Bucket, tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(12)]
    for name in names:
        bucket.poke(f"d/{name}", b"x" * 5000)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        refuse_deletions(bucket)
        for name in names:
            await mount.unlink(f"d/{name}")
        await trio.sleep(1)
        bucket.fault = None
        for name in await mount.names("d"):
            await mount.unlink(f"d/{name}")
            await trio.sleep(1)
        await mount.rmdir("d")
        assert mount.stored() == []


async def test_a_listing_under_way_does_not_hide_what_could_not_be_deleted(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = [f"{number:02}" for number in range(12)]
    for name in names:
        bucket.poke(f"d/{name}", b"x" * 5000)
    bucket.page = 2
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        refuse_deletions(bucket)
        directory = await mount.directory("d")
        for name in names[:10]:
            if name == names[8]:
                bucket.latency = 1.5
            await mount.unlink(f"d/{name}")
        await trio.sleep(0.1)
        bucket.latency = 1.0
        directory.listed = NEVER
        await mount.tree.lister.ensure(directory)  # a page before the failure, one behind
        assert not mount.tree.state.leaving
        left = {key.removeprefix("d/") for key in mount.stored()}
        assert await mount.names("d") == left


async def test_a_file_that_was_a_directory_is_taken_over_once(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Its name was looked up between two pages of the listing that shows it."""
    bucket.poke("a/x", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        state = mount.tree.state
        merge = Merge(state, mount.root, trio.current_time(), state.changes)
        listing = Listing()
        sort(listing, "", ListPage([ObjectInfo("a", 4, "e", 1)], [], None))
        with state.asking(mount.root):
            merge.add(listing)
            child = state.new_file(mount.root, "a")
            child.etag, child.size, child.modified = "e", 4, 1
            merge.finish()
        assert mount.root.children["a"] is child
        assert state.entries == len(mount.root.children)


async def test_a_file_replaced_while_its_removal_waits_says_stale(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", b"x" * 5000)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names()
        inode = await mount.find("f")
        async with trio.open_nursery() as nursery, mount.tree.locks.exclusive(inode):
            failures: list[FsError] = []

            async def remove() -> None:
                try:
                    await mount.unlink("f")
                except FsError as error:
                    failures.append(error)

            nursery.start_soon(remove)
            await trio.sleep(0.1)
            mount.tree.state.new_file(mount.root, "f")
        assert [error.errno for error in failures] == [errno.ESTALE]


async def test_what_is_asked_about_is_not_forgotten(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        for name in range(50):
            bucket.poke(f"d{number}/{name:02}", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.names("d0")
        await mount.names("d1")
        found = []

        async def ask() -> None:
            found.append(await mount.find("d0/07"))

        monkeypatch.setattr(prune, "MOST_ENTRIES", 100)
        monkeypatch.setattr(prune, "KEPT_ENTRIES", 60)
        async with trio.open_nursery() as nursery:
            bucket.latency = 5
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.sleep(1)
            bucket.latency = 0.01
            await mount.names("d2")
        first, second = found
        assert first is second
        assert first.parent is not None


async def test_a_file_that_others_removed_is_not_opened(bucket: Bucket, tmp_path: Path) -> None:
    """And nothing is kept for it, as no close of it follows."""
    bucket.poke("f", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        inode = await mount.find("f")
        del bucket.objects["f"]
        mount.expire()
        assert await mount.names() == set()
        for attempt in (
            mount.tree.opener.open(inode, os.O_RDWR, uid=0, pid=0),
            mount.tree.opener.truncate(inode, 0, publish=True),
        ):
            with pytest.raises(FsError) as caught:
                await attempt
            assert caught.value.errno == errno.ESTALE
        assert not mount.tree.state.open_inodes


async def test_a_link_that_others_made_where_a_file_was_to_be_is_not_opened(
    bucket: Bucket, tmp_path: Path
) -> None:
    """As `create` finds it: its bytes are its target, and stay."""
    link = Headers(metadata={"mode": str(stat.S_IFLNK | 0o777)})
    bucket.poke("f", b"target", link)
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        for attempt in (
            mount.tree.opener.open(inode, os.O_WRONLY | os.O_TRUNC, uid=0, pid=0),
            mount.tree.opener.truncate(inode, 0, publish=True),
        ):
            with pytest.raises(FsError) as caught:
                await attempt
            assert caught.value.errno == errno.ESTALE
        assert not mount.tree.state.open_inodes
    assert bucket.peek("f") == b"target"


async def test_the_kernel_keeps_no_answer_about_a_name_that_may_come_back(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = [f"{number:02}" for number in range(12)]
    for name in names:
        bucket.poke(f"d/{name}", b"x" * 5000)
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.names("d")
        directory = await mount.directory("d")
        for name in names:
            await mount.unlink(f"d/{name}")
        finder = mount.tree.finder
        assert mount.tree.state.is_leaving(directory, names[-1])
        assert await finder.find_or_none(directory, names[-1]) is None
        assert finder.negative_timeout(directory, names[-1]) == 0
        await mount.tree.removals.wait_for_all()
        assert finder.negative_timeout(directory, names[-1]) > 0


async def test_a_marker_that_comes_late_does_not_undo_a_chmod(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = [f"{number:02}" for number in range(12)]
    for name in names:
        bucket.poke(f"d/{name}", b"x" * 5000)
    async with planted(bucket, tmp_path) as mount:
        await mount.names("d")
        directory = await mount.directory("d")
        for name in names:
            await mount.unlink(f"d/{name}")
        while mount.tree.state.leaving[directory]:
            bucket.latency = 1
            await trio.sleep(0.001)
        bucket.latency = 0.01  # the marker's request is the only slow one
        mount.tree.changer.change(directory, Change(mode=0o700))
        mount.tree.later.attributes(directory)
        await trio.sleep(3)
        assert bucket.objects["d/"].headers.metadata["mode"] == str(stat.S_IFDIR | 0o700)


async def test_a_listing_does_not_undo_a_chmod(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("d/", b"", said(stat.S_IFDIR | 0o755))
    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        await mount.names("d")
        await trio.sleep(2)
        others = bucket.objects["d/"]
        bucket.objects["d/"] = replace(others, last_modified=others.last_modified + 9)
        directory.listed = NEVER
        mount.tree.changer.change(directory, Change(mode=0o700))
        mount.tree.later.attributes(directory)
        await mount.names("d")
        assert directory.posix is not None
        await trio.sleep(3)
        assert bucket.objects["d/"].headers.metadata["mode"] == str(stat.S_IFDIR | 0o700)


async def test_a_listing_does_not_take_our_own_chmod_for_others_version(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of an object of several parts has another ETag, and its answer is under way."""
    bucket.poke("f", b"x" * 3 * MIB)
    copy = bucket.copy

    async def copy_of_parts(*args: object, **conditions: object) -> ObjectInfo:
        info = await copy(*args, **conditions)  # type: ignore[arg-type]
        bucket.objects["f"] = replace(bucket.objects["f"], etag="of-the-copy-2")
        await trio.sleep(1)
        return replace(info, etag="of-the-copy-2")

    monkeypatch.setattr(bucket, "copy", copy_of_parts)
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        await mount.pread(handle, 0, 10)
        mount.tree.changer.change(handle.inode, Change(mode=0o600))
        mount.tree.later.attributes(handle.inode)
        await trio.sleep(0.5)
        assert bucket.objects["f"].etag == "of-the-copy-2"
        mount.root.listed = NEVER
        await mount.names()
        await trio.sleep(2)
        assert await mount.find("f") is handle.inode
        await mount.write(handle, 0, b"ours")
        await mount.close(handle)
        assert mount.stored() == ["f"]
        assert bucket.peek("f") == b"ours" + b"x" * (3 * MIB - 4)


async def test_a_listing_does_not_undo_what_was_looked_at_while_it_was_on_its_way(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its page has the versions of a moment before others replaced them."""
    bucket.poke("read", b"old")
    bucket.poke("written", b"old")
    ask = bucket.list

    async def slow(prefix: str, **question: object) -> ListPage:
        page = await ask(prefix, **question)  # type: ignore[arg-type]
        await trio.sleep(0.0 if question.get("delimiter") == "" else 0.5)
        return page

    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("read") == b"old"
        writer = await mount.open("written", os.O_RDWR)
        await mount.close(writer)
        await trio.sleep(2)
        monkeypatch.setattr(bucket, "list", slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.names)
            await trio.sleep(0.1)
            bucket.poke("read", b"new")
            bucket.poke("written", b"new")
            assert await mount.read("read") == b"new"
            writer = await mount.open("written", os.O_RDWR)
            assert await mount.pread(writer, 0, 3) == b"new"
        assert await mount.read("read") == b"new"
        await mount.write(writer, 3, b"er")
        await mount.close(writer)
        assert bucket.peek("written") == b"newer"
        assert mount.stored() == ["read", "written"]
