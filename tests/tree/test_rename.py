"""Renaming: what it costs, what it carries along, and that a failure changes nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, NoAnswer, StoreError
from bucketfs.store.base import ObjectInfo
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.stages import Stage
from bucketfs.tree.saving.change import Change
from bucketfs.tree.saving.later import ATTRIBUTE_DELAY
from tests.harness.memory import Fault
from tests.tree.builder import MIB, TTL, Bucket, noise, planted, said

pytestmark = pytest.mark.mock_clock


async def test_a_file_is_a_copy_and_a_delete(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("old", b"bytes", said(0o100600, color="red"))
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        inode = await mount.find("old")
        bucket.requested()
        await mount.rename("old", "new")
        assert bucket.requested() == {"CopyObject": 1, "DeleteObject": 1}
        assert mount.stored() == ["new"]
        assert bucket.objects["new"].headers.metadata["color"] == "red"
        assert await mount.find("new") is inode
        assert await mount.names() == {"new"}
        assert await mount.read("new") == b"bytes"
        assert not mount.tree.state.open_inodes


async def test_waiting_attributes_go_with_the_copy(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("old.txt", b"bytes", said(0o100600, color="red"))
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        inode = await mount.find("old.txt")
        bucket.requested()
        mount.tree.changer.change(inode, Change(mode=0o640, mtime_ns=5))
        mount.tree.later.attributes(inode)
        await mount.rename("old.txt", "new.txt")
        await trio.sleep(5)
        assert bucket.requested() == {"CopyObject": 1, "DeleteObject": 1}
        metadata = bucket.objects["new.txt"].headers.metadata
        assert (metadata["mode"], metadata["color"]) == (str(0o100640), "red")
        assert not mount.tree.state.open_inodes


async def test_an_unsaved_file_costs_nothing(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        handle = await mount.create("old")
        await mount.write(handle, 0, b"bytes")
        bucket.requested()
        await mount.rename("old", "new")
        assert bucket.requested() == {}
        await mount.close(handle)
        assert bucket.requested() == {"PutObject": 1}
        assert mount.stored() == ["new"]


async def test_write_new_and_rename_over(bucket: Bucket, tmp_path: Path) -> None:
    """How editors save; the name is never missing."""
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        await mount.find("f")
        await mount.save("f.tmp", b"new")
        bucket.requested()
        await mount.rename("f.tmp", "f")
        assert bucket.requested() == {"CopyObject": 1, "DeleteObject": 1}
        assert mount.stored() == ["f"]
        assert await mount.read("f") == b"new"


async def test_an_unsaved_file_over_an_existing_one(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        handle = await mount.create("f.tmp")
        await mount.write(handle, 0, b"new")
        await mount.rename("f.tmp", "f")
        await mount.close(handle)
        assert mount.stored() == ["f"]
        assert bucket.peek("f") == b"new"
        assert await mount.names() == {"f"}


async def test_readers_of_both_files_go_on(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("a", b"a" * 3 * MIB)
    bucket.poke("b", b"b" * 3 * MIB)
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        readers = [await mount.open("a"), await mount.open("b")]
        await mount.rename("a", "b")
        for reader, letter in zip(readers, b"ab", strict=True):
            assert await mount.pread(reader, 2 * MIB, 10) == bytes([letter] * 10)
            await mount.close(reader)


async def test_a_read_under_way_survives(bucket: Bucket, tmp_path: Path) -> None:
    """The answer to DELETE takes its time; a read that begins meanwhile needs the new key."""
    bucket.poke("d/a", b"a" * 3 * MIB)
    bucket.poke("c", b"c" * 3 * MIB)
    async with planted(bucket, tmp_path) as mount:
        await mount.names("d")
        await mount.names()
        readers = [await mount.open("d/a"), await mount.open("c")]
        bucket.answer = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.rename, "c", "c2")
            nursery.start_soon(mount.rename, "d", "e")
            for _ in range(200):
                await trio.sleep(0.01)
                for reader, letter in zip(readers, b"ac", strict=True):
                    reader.content.local.pages.drop(0, 3 * MIB)
                    assert await mount.pread(reader, MIB, 2) == bytes([letter] * 2)
        for reader in readers:
            await mount.close(reader)


@pytest.mark.parametrize("over", [True, False])
async def test_a_failed_copy_changes_nothing(bucket: Bucket, tmp_path: Path, over: bool) -> None:
    bucket.poke("a", b"a")
    if over:
        bucket.poke("b", b"b")
    async with planted(bucket, tmp_path) as mount:
        before = await mount.names()
        bucket.refuse("CopyObject")
        with pytest.raises(StoreError):
            await mount.rename("a", "b")
        bucket.fault = None
        assert await mount.names() == before
        assert await mount.read("a") == b"a"
        assert mount.stored() == sorted(before)
        await mount.rename("a", "b")
        assert await mount.read("b") == b"a"


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("uploading", [False, True])
async def test_a_directory_and_a_file_in_it_at_the_same_time(
    bucket: Bucket, tmp_path: Path, turns: int, uploading: bool
) -> None:
    """A file that is older than its directory."""
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        await mount.flush(handle)
        await mount.mkdir("d")
        await mount.rename("f", "d/f")
        assert handle.inode.ino < (await mount.find("d")).ino
        assert (await mount.names(), await mount.names("d")) == ({"d"}, {"f"})
        bucket.latency = 0.1
        async with trio.open_nursery() as nursery:
            if uploading:
                await mount.write(handle, 5, b" more")
                nursery.start_soon(mount.flush, handle)
                await trio.sleep(0.05)
                nursery.start_soon(mount.rename, "d/f", "d/g")
                await trio.sleep(0.01)
            else:
                nursery.start_soon(mount.rename, "d", "x")
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            with trio.fail_after(100):
                if uploading:
                    await mount.rename("d", "x")
                else:
                    await mount.rename("d/f", "d/g")
        assert mount.stored() == ["x/", "x/g"]


async def test_attributes_of_a_replaced_directory_do_not_come_late(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.mkdir("source")
        replaced = await mount.mkdir("target")
        mount.tree.changer.change(replaced, Change(mode=0o700))
        mount.tree.later.attributes(replaced)
        await trio.sleep(ATTRIBUTE_DELAY - 0.01)
        bucket.latency = 5.0
        await trio.sleep(0.02)
        assert replaced.open_state is not None
        assert replaced.open_state.stage is Stage.PUBLISHING, "they are on their way"
        bucket.latency = 0.01
        await mount.rename("source", "target")
        await trio.sleep(60)
        assert mount.stored() == ["target/"]
        assert bucket.objects["target/"].headers.metadata["mode"] == str(stat.S_IFDIR | 0o755)


async def test_refusals(bucket: Bucket, tmp_path: Path) -> None:
    for key in ("f", "g", "d/f", "e/f"):
        bucket.poke(key, b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        for old, new, over, code in (
            ("f", "g", False, errno.EEXIST),
            ("f", "d", True, errno.EISDIR),
            ("d", "f", True, errno.ENOTDIR),
            ("d", "e", True, errno.ENOTEMPTY),
            ("d", "d/sub", True, errno.EINVAL),
            ("missing", "x", True, errno.ENOENT),
            ("f", "d/" + "y" * 1023, True, errno.ENAMETOOLONG),
        ):
            with pytest.raises(FsError) as caught:
                await mount.rename(old, new, over=over)
            assert caught.value.errno == code, (old, new)
        assert mount.stored() == ["d/f", "e/f", "f", "g"]


class TestDirectories:
    async def test_all_objects_below_move(self, bucket: Bucket, tmp_path: Path) -> None:
        for key in ("d/", "d/a", "d/b/c", "d/b/", "d//odd", "d2"):
            bucket.poke(key, key.encode())
        async with planted(bucket, tmp_path) as mount:
            await mount.names()
            inode = await mount.find("d/b/c")
            bucket.requested()
            await mount.rename("d", "e")
            assert bucket.requested() == {"ListObjectsV2": 1, "CopyObject": 5, "DeleteObjects": 1}
            assert mount.stored() == ["d2", "e/", "e//odd", "e/a", "e/b/", "e/b/c"]
            assert await mount.find("e/b/c") is inode
            assert await mount.read("e/b/c") == b"d/b/c"
            assert await mount.names() == {"d2", "e"}

    async def test_thousands_are_copied_side_by_side_before_any_is_deleted(
        self, bucket: Bucket, tmp_path: Path
    ) -> None:
        for number in range(2_500):
            bucket.poke(f"d/{number // 100}/{number}", b"x")
        order: list[str] = []
        bucket.fault = lambda operation, _key, _n: order.append(operation)  # type: ignore[func-returns-value]
        async with planted(bucket, tmp_path) as mount:
            await mount.names()
            order.clear()
            began = trio.current_time()
            await mount.rename("d", "e")
            counts = bucket.requested()
            assert (counts["CopyObject"], counts["DeleteObjects"]) == (2_500, 3)
            assert counts["ListObjectsV2"] <= 4
            assert set(order[order.index("DeleteObjects") :]) == {"DeleteObjects"}
            assert trio.current_time() - began <= (2_500 / 8 + 20) * bucket.latency
            assert len(mount.stored()) == 2_500
            assert mount.stored()[0].startswith("e/")

    async def test_a_failed_copy_is_rolled_back(self, bucket: Bucket, tmp_path: Path) -> None:
        keys = [f"d/{number}" for number in range(20)]
        for key in keys:
            bucket.poke(key, b"x")
        async with planted(bucket, tmp_path) as mount:
            await mount.names()
            bucket.refuse("CopyObject", key="d/13")
            with pytest.raises(StoreError):
                await mount.rename("d", "e")
            bucket.fault = None
            assert mount.stored() == sorted(keys)
            assert len(await mount.names("d")) == 20

    async def test_a_failed_copy_leaves_the_empty_directory_it_was_to_replace(
        self, bucket: Bucket, tmp_path: Path
    ) -> None:
        for key in ("d/", "d/1", "d/2", "e/"):
            bucket.poke(key, b"")
        async with planted(bucket, tmp_path) as mount:
            await mount.names()
            bucket.refuse("CopyObject", key="d/2")
            with pytest.raises(StoreError):
                await mount.rename("d", "e")
            bucket.fault = None
            assert mount.stored() == ["d/", "d/1", "d/2", "e/"]

    async def test_unsaved_files_below_are_saved_under_the_new_key_only(
        self, bucket: Bucket, tmp_path: Path
    ) -> None:
        bucket.poke("d/sub/old", b"1")
        async with planted(bucket, tmp_path) as mount:
            await mount.names("d")
            new = await mount.create("d/sub/new")
            old = await mount.open("d/sub/old", os.O_RDWR)
            await mount.write(new, 0, b"new")
            await mount.write(old, 1, b"2")
            await mount.rename("d", "e")
            await mount.close(new)
            await mount.close(old)
            assert mount.stored() == ["e/sub/new", "e/sub/old"]
            assert bucket.peek("e/sub/old") == b"12"

    @pytest.mark.parametrize("writeback", [True, False])
    async def test_into_a_place_too_deep_for_an_unsaved_file(
        self, bucket: Bucket, tmp_path: Path, writeback: bool
    ) -> None:
        """It would never be stored there: the rename fails, as for one that is in the bucket."""
        deep = "/".join(["p" * 200] * 4)
        bucket.poke("d/", b"")
        bucket.poke(f"{deep}/", b"")
        async with planted(bucket, tmp_path, writeback=writeback) as mount:
            path = "d/" + "n" * 250
            handle = await mount.create(path)
            await mount.write(handle, 0, b"new")
            if writeback:
                await mount.close(handle)
            with pytest.raises(FsError) as caught:
                await mount.rename("d", f"{deep}/d")
            assert caught.value.errno == errno.ENAMETOOLONG
            if not writeback:
                await mount.close(handle)
            await trio.sleep(60)
            assert bucket.peek(path) == b"new"

    @pytest.mark.parametrize("gone", ["d_$folder$", "d/2"])
    async def test_what_others_have_removed_does_not_hinder_it(
        self, bucket: Bucket, tmp_path: Path, gone: str
    ) -> None:
        """A marker of Hadoop, which it removes by itself, or an object that was listed just now."""
        for key in ("d_$folder$", "d/1", "d/2", "d/3"):
            bucket.poke(key, b"" if key.endswith("$") else b"x")
        async with planted(bucket, tmp_path) as mount:
            await mount.names()
            await mount.names("d")

            def hook(operation: str, _key: str, _count: int) -> None:
                if operation == "CopyObject":
                    bucket.objects.pop(gone, None)

            bucket.fault = hook  # type: ignore[assignment]
            await mount.rename("d", "e")
            bucket.fault = None
            left = {"e_$folder$", "e/1", "e/2", "e/3"} - {gone.replace("d", "e", 1)}
            assert set(mount.stored()) == left
            mount.expire()
            assert await mount.names() == {"e"}
            assert await mount.names("e") == {key[2:] for key in left if "/" in key}

    @pytest.mark.parametrize("late", [True, False])
    @pytest.mark.parametrize("known", [True, False])
    async def test_a_lookup_below_that_is_under_way(
        self,
        bucket: Bucket,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        late: bool,
        known: bool,
    ) -> None:
        """Its question arrives after the rename, or was answered before: the copy has the name."""
        bucket.poke("d/f", b"x" * 5000)
        copy, head, get = bucket.copy, bucket.head, bucket.get

        async def copy_of_parts(*args: object, **conditions: object) -> ObjectInfo:
            info = await copy(*args, **conditions)  # type: ignore[arg-type]
            bucket.objects[info.key] = replace(bucket.objects[info.key], etag="of-the-copy-2")
            return replace(info, etag="of-the-copy-2")

        async def slow(ask: Callable[..., Awaitable[ObjectInfo]], key: str) -> ObjectInfo:
            if late and key == "d/f":
                await trio.sleep(5)
            try:
                return await ask()
            finally:
                if not late and key == "d/f":
                    await trio.sleep(5)

        async def slow_head(key: str) -> ObjectInfo:
            return await slow(partial(head, key), key)

        async def slow_get(key: str, *args: object, **question: object) -> ObjectInfo:
            return await slow(partial(get, key, *args, **question), key)  # type: ignore[arg-type]

        monkeypatch.setattr(bucket, "copy", copy_of_parts)
        async with planted(bucket, tmp_path) as mount:
            directory = await mount.directory("d")
            if known:
                await mount.names("d")
                await trio.sleep(2)
            monkeypatch.setattr(bucket, "head", slow_head)
            monkeypatch.setattr(bucket, "get", slow_get)
            found: list[Inode] = []

            async def look() -> None:
                found.append(await mount.tree.finder.find(directory, "f"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(look)
                await trio.sleep(0.5)
                await mount.rename("d", "e")
            assert await mount.find("e/f") is found[0]
            assert found[0].etag == "of-the-copy-2"
            writer = await mount.open("e/f", os.O_WRONLY)
            await mount.write(writer, 0, b"y")
            await mount.close(writer)
            assert mount.stored() == ["e/f"]

    async def test_an_open_file_keeps_its_name_while_its_version_is_asked_for(
        self, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bucket.poke("d/f", b"x" * 5000)
        head = bucket.head

        async def late(key: str) -> ObjectInfo:
            await trio.sleep(5 if key == "d/f" else 0)
            return await head(key)

        async with planted(bucket, tmp_path) as mount:
            writer = await mount.open("d/f", os.O_RDWR)
            await mount.pread(writer, 0, 10)
            await trio.sleep(2)
            monkeypatch.setattr(bucket, "head", late)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mount.open, "d/f")
                await trio.sleep(0.5)
                await mount.rename("d", "e")
            await mount.write(writer, 0, b"y")
            await mount.close(writer)
            assert mount.stored() == ["e/f"]
            assert bucket.peek("e/f") == b"y" + b"x" * 4999

    async def test_uploads_below_wait_or_are_waited_for(
        self, bucket: Bucket, tmp_path: Path
    ) -> None:
        bucket.poke("d/x", b"1")
        bucket.latency = 1.0
        async with planted(bucket, tmp_path) as mount:
            await mount.names("d")
            handles = []
            for number in range(5):
                handle = await mount.create(f"d/{number}")
                await mount.write(handle, 0, b"bytes")
                handles.append(handle)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mount.close, handles[0])
                await trio.sleep(0.1)
                nursery.start_soon(mount.rename, "d", "e")
                for handle in handles[1:]:
                    nursery.start_soon(mount.close, handle)
                    await trio.sleep(0.9)
            assert mount.stored() == ["e/0", "e/1", "e/2", "e/3", "e/4", "e/x"]
            await trio.sleep(TTL + 1)
            assert await mount.names("e") == {"0", "1", "2", "3", "4", "x"}

    async def test_an_open_file_that_someone_replaced_is_not_mixed(
        self, bucket: Bucket, tmp_path: Path
    ) -> None:
        """The copy holds another version than the program has open: it must not read from it."""
        bucket.poke("d/f", b"a" * 4 * MIB)
        async with planted(bucket, tmp_path) as mount:
            reader = await mount.open("d/f")
            assert await mount.pread(reader, 2 * MIB, 4096) == b"a" * 4096
            bucket.poke("d/f", b"b" * 4 * MIB)
            await mount.rename("d", "e")
            with pytest.raises(FsError) as caught:
                await mount.pread(reader, 3 * MIB, 4096)
            assert caught.value.errno == errno.ESTALE
            await mount.close(reader)
            await trio.sleep(TTL + 1)
            assert await mount.read("e/f") == b"b" * 4 * MIB

    async def test_over_an_empty_directory(self, bucket: Bucket, tmp_path: Path) -> None:
        for key in ("d/", "d/f", "e/"):
            bucket.poke(key, b"")
        async with planted(bucket, tmp_path) as mount:
            await mount.rename("d", "e")
            assert mount.stored() == ["e/", "e/f"]
            assert isinstance(await mount.find("e"), Directory)

    async def test_the_parent_of_the_last_directory_stays(
        self, bucket: Bucket, tmp_path: Path
    ) -> None:
        bucket.poke("p/d/f", b"")
        async with planted(bucket, tmp_path) as mount:
            await mount.names("p")
            await mount.rename("p/d", "d")
            assert mount.stored() == ["d/f", "p/"]
            assert await mount.names() == {"d", "p"}


@pytest.mark.parametrize("lost", [False, True])
async def test_what_waits_is_whole_after_a_deletion_that_failed(
    bucket: Bucket, tmp_path: Path, lost: bool
) -> None:
    """Its old bytes are in the original, or in the copy if only the answer was lost."""
    old = noise(20 * MIB)
    bucket.poke("f", old)

    def refuse(operation: str, key: str, _count: int) -> Fault | None:
        error = StoreError("AccessDenied", status=403, operation=operation, key=key)
        if operation == "DeleteObject" and lost:
            return Fault(NoAnswer("ReadTimeout"), after=True)
        return Fault(error) if operation in ("DeleteObject", "CreateMultipartUpload") else None

    async with planted(bucket, tmp_path, writeback=True) as mount:
        handle = await mount.open("f", os.O_WRONLY)
        await mount.write(handle, 20 * MIB, b"more")
        bucket.fault = refuse
        await mount.close(handle)
        await trio.sleep(0.1)
        with contextlib.nullcontext() if lost else pytest.raises(StoreError):
            await mount.rename("f", "g")
        bucket.objects.pop("f" if lost else "g", None)
        bucket.fault = None
        await trio.sleep(100)
        assert mount.stored() == ["g" if lost else "f"]
        assert bucket.peek("g" if lost else "f") == old + b"more"


async def test_a_lost_answer_to_delete_is_reported(bucket: Bucket, tmp_path: Path) -> None:
    """The original could not be removed: an error, and the tree shows what is there."""
    bucket.poke("a", b"bytes")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        bucket.fault = lambda operation, _key, _n: (
            Fault(StoreError("AccessDenied", status=403)) if operation == "DeleteObject" else None
        )
        with pytest.raises(StoreError):
            await mount.rename("a", "b")
        bucket.fault = None
        await trio.sleep(TTL + 1)
        assert await mount.names() == set(mount.stored())
        for name in mount.stored():
            assert await mount.read(name) == b"bytes"


async def test_what_is_written_to_a_replaced_file_goes_nowhere(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.save("target", b"old")
        await mount.save("source", b"new")
        handle = await mount.open("target", os.O_RDWR)
        await mount.rename("source", "target")
        assert handle.inode.unlinked
        await mount.write(handle, 0, b"OLD")
        assert mount.tree.outstanding.waiting() == []
        assert await mount.pread(handle, 0, 3) == b"OLD"
        await mount.close(handle)
        assert mount.stored() == ["target"]
        assert bucket.peek("target") == b"new"
        assert not mount.tree.state.open_inodes
