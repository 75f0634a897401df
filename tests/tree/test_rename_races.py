"""Renaming while another client writes the same names: nothing of theirs is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, KeyTaken, NoAnswer, PreconditionFailed, StoreError, errno_of
from bucketfs.store.base import Capabilities, Store
from bucketfs.store.layers.fallback import FallbackStore
from bucketfs.tree.core.inode import NEVER
from tests.harness.memory import Fault, FaultHook
from tests.harness.providers import provider_with
from tests.tree.builder import Bucket, Mount, killed, planted

pytestmark = pytest.mark.mock_clock

ABLE = Capabilities()
#: The conditions that a rename can do without.
BLIND = replace(
    ABLE,
    target_if_match=False,
    target_if_none_match=False,
    delete_if_match=False,
    delete_many_if_match=False,
)
THEIRS = b"stored by someone else"
#: More requests than a rename of these few objects makes.
MOST = 20


@dataclass
class Other:
    """Another client, which stores an object as soon as a request is about to arrive.

    Attributes:
        key: Of its object.
        at: Before which request, counted from 0.
        operation: Before which requests only, "" for any.
        wrote: Whether it has.
    """

    bucket: Bucket
    key: str
    at: int = 0
    operation: str = ""
    wrote: bool = False

    def __call__(self, operation: str, _key: str, _count: int) -> None:
        if self.wrote or self.operation not in ("", operation):
            return
        if self.at == 0:
            self.bucket.poke(self.key, THEIRS)
            self.wrote = True
        self.at -= 1


def asked_through(bucket: Bucket) -> Store:
    """What the mount of a bucket asks: what the bucket cannot do is made of what it can."""
    return FallbackStore(bucket, provider_with(bucket.capabilities))


@asynccontextmanager
async def mounted(able: Capabilities, directory: Path, **config: object) -> AsyncIterator[Mount]:
    """A mount that knows d/f, d/g, a and b."""
    bucket = Bucket(latency=0.01, capabilities=able)
    for key in ("d/f", "d/g", "a", "b"):
        bucket.poke(key, key.encode())
    async with planted(bucket, directory, store=asked_through(bucket), **config) as mount:
        await mount.names("d")
        await mount.names()
        for key in list(bucket.objects):
            await mount.find(key)
        bucket.requested()
        yield mount


def contents(bucket: Bucket) -> list[bytes]:
    return [found.data for found in bucket.objects.values()]


def hooked(bucket: Bucket, hook: Other) -> None:
    bucket.fault = hook  # type: ignore[assignment]


@pytest.mark.parametrize(("old", "new"), [("d/f", "d/new"), ("d/f", "b"), ("d", "e")])
@pytest.mark.parametrize("able", [ABLE, BLIND], ids=["able", "blind"])
async def test_what_is_stored_under_the_old_name_stays(
    tmp_path: Path, able: Capabilities, old: str, new: str
) -> None:
    """At whatever moment; where the store does not help, up to the look before the deletion."""
    for at in range(MOST):
        async with mounted(able, tmp_path / str(at)) as mount:
            seen: list[str] = []
            other = Other(mount.bucket, "d/f", at)

            def hook(
                operation: str, key: str, count: int, seen: list[str] = seen, other: Other = other
            ) -> None:
                if not other.wrote:
                    seen.append(operation)
                other(operation, key, count)

            mount.bucket.fault = hook  # type: ignore[assignment]
            try:
                await mount.rename(old, new)
            except (FsError, StoreError) as error:
                code = error.errno if isinstance(error, FsError) else errno_of(error)
                assert code == errno.ESTALE
            mount.bucket.fault = None
            if not other.wrote:
                assert at >= 2
                return
            if able is BLIND and seen[-1].startswith("Delete"):
                continue  # it looked a moment before
            assert THEIRS in contents(mount.bucket), seen
            tops = {key.partition("/")[0] for key in mount.stored()}
            assert await mount.names() == tops, "shown at once"
            mount.expire()
            for key in mount.stored():
                assert await mount.read(key) == mount.bucket.peek(key)
    raise AssertionError("it makes more requests than that")


@pytest.mark.parametrize("target", ["b", "new"])
async def test_what_is_stored_under_the_new_name_is_replaced_knowingly_only(
    tmp_path: Path, target: str
) -> None:
    """The rename fails with ESTALE, upon which the kernel looks and asks again."""
    for at in range(MOST):
        async with mounted(ABLE, tmp_path / str(at)) as mount:
            hooked(mount.bucket, other := Other(mount.bucket, target, at))
            try:
                await mount.rename("d/f", target)
                failed = False
            except FsError as error:
                assert error.errno == errno.ESTALE  # noqa: PT017 - and it may succeed
                failed = True
            mount.bucket.fault = None
            if not other.wrote:
                assert at == 2
                return
            assert mount.bucket.peek(target) == THEIRS
            assert failed == ("d/f" in mount.bucket.objects)
            if failed:
                assert await mount.read(target) == THEIRS
                await mount.rename("d/f", target)
                assert mount.bucket.peek(target) == b"d/f"
                assert "d/f" not in mount.bucket.objects
    raise AssertionError("it makes more requests than that")


@pytest.mark.parametrize(("old", "new", "theirs"), [("d/f", "new", "new"), ("d", "e", "e/g")])
async def test_noreplace_is_the_decision_of_the_store(
    tmp_path: Path, old: str, new: str, theirs: str
) -> None:
    async with mounted(ABLE, tmp_path) as mount:
        before = dict(mount.bucket.objects)
        hooked(mount.bucket, Other(mount.bucket, theirs, operation="CopyObject"))
        with pytest.raises(KeyTaken) as caught:
            await mount.rename(old, new, over=False)
        assert errno_of(caught.value) == errno.EEXIST
        assert mount.bucket.peek(theirs) == THEIRS
        assert {key: mount.bucket.objects[key] for key in before} == before
        assert mount.bucket.objects.keys() - before.keys() == {theirs}
        assert await mount.read(theirs) == THEIRS


@pytest.mark.parametrize("able", [ABLE, BLIND], ids=["able", "blind"])
async def test_only_own_copies_are_taken_back(tmp_path: Path, able: Capabilities) -> None:
    """One copy is refused, another one's answer is lost, and the third others have replaced."""
    async with mounted(able, tmp_path) as mount:
        for number in range(8):
            mount.bucket.poke(f"d/{number}", b"%d" % number)
        before = dict(mount.bucket.objects)

        def hook(operation: str, key: str, _count: int) -> Fault | None:
            if operation == "CopyObject" and key == "d/3":
                return Fault(NoAnswer("ReadTimeout"), after=True)
            if operation == "CopyObject" and key == "d/g":
                return Fault(StoreError("AccessDenied", status=403, key=key))
            if operation == "HeadObject":
                mount.bucket.poke("e/f", THEIRS)
            return None

        mount.bucket.fault = hook
        with pytest.raises(StoreError):
            await mount.rename("d", "e")
        mount.bucket.fault = None
        assert mount.bucket.peek("e/f") == THEIRS
        del mount.bucket.objects["e/f"]
        assert dict(mount.bucket.objects) == before


async def test_a_cancelled_rename_takes_its_copies_back(tmp_path: Path) -> None:
    async with mounted(ABLE, tmp_path) as mount:
        before = dict(mount.bucket.objects)
        mount.bucket.fault = lambda operation, key, _count: (
            Fault(hang=True) if (operation, key) == ("CopyObject", "d/g") else None
        )
        with trio.move_on_after(5):
            await mount.rename("d", "e")
        mount.bucket.fault = None
        assert dict(mount.bucket.objects) == before


async def test_an_unsaved_target_is_replaced_whatever_its_object_is_by_now(tmp_path: Path) -> None:
    """What is known of it is old, and stays so: its own bytes are what would be saved."""
    async with mounted(ABLE, tmp_path) as mount:
        handle = await mount.open("b", os.O_WRONLY)
        await mount.write(handle, 0, b"dirty")
        mount.bucket.poke("b", THEIRS)
        await mount.rename("a", "b")
        await mount.close(handle)
        assert mount.stored() == ["b", "d/f", "d/g"]
        assert mount.bucket.peek("b") == b"a"


@pytest.mark.parametrize("able", [ABLE, BLIND], ids=["able", "blind"])
async def test_an_unsaved_file_leaves_what_others_stored_under_its_old_name(
    tmp_path: Path, able: Capabilities
) -> None:
    async with mounted(able, tmp_path) as mount:
        handle = await mount.create("new")
        await mount.write(handle, 0, b"bytes")
        await mount.rename("new", "b")
        mount.bucket.poke("b", THEIRS)
        await mount.rename("b", "c")
        await mount.close(handle)
        assert (mount.bucket.peek("b"), mount.bucket.peek("c")) == (THEIRS, b"bytes")
        assert await mount.read("b") == THEIRS


async def test_a_directory_over_an_empty_one_with_a_removed_file_that_is_open(
    tmp_path: Path,
) -> None:
    """What the open file needs is no file any more: a copy takes its key, and stays."""
    bucket = Bucket(latency=0.01)
    for key in ("d/f", "e/"):
        bucket.poke(key, b"")
    bucket.poke("e/f", bytes(65 << 20))
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("e/f")
        await mount.unlink("e/f")
        assert "e/f" in mount.tree.state.deferred
        await mount.rename("d", "e")
        assert await mount.names("e") == {"f"}
        await mount.close(handle)
        assert mount.stored() == ["e/", "e/f"]
        assert bucket.peek("e/f") == b""


@pytest.mark.parametrize("able", [ABLE, BLIND], ids=["able", "blind"])
async def test_what_a_rename_costs(tmp_path: Path, able: Capabilities) -> None:
    """Where the store honours no condition on deletions, one request more."""
    async with mounted(able, tmp_path) as mount:
        bucket = mount.bucket
        look = {"HeadObject": 1} if able is BLIND else {}
        for old, new, over in (("d/f", "b", True), ("a", "c", True), ("c", "a", False)):
            await mount.rename(old, new, over=over)
            assert bucket.requested() == {"CopyObject": 1, "DeleteObject": 1} | look, new
        for number in range(9):
            bucket.poke(f"d/{number}", b"x")
        await mount.rename("d", "e")
        lists = 2 if able is BLIND else 1
        assert bucket.requested() == {"ListObjectsV2": lists, "CopyObject": 10, "DeleteObjects": 1}


@pytest.mark.parametrize("able", [ABLE, BLIND], ids=["able", "blind"])
@pytest.mark.parametrize(("old", "new"), [("d/f", "new"), ("d", "e")])
async def test_the_next_mount_leaves_what_others_stored_since(
    tmp_path: Path, able: Capabilities, old: str, new: str
) -> None:
    """Killed between the copies and the deletion; theirs comes while the rest is done."""
    left: list[Bucket] = []
    async with mounted(able, tmp_path / "one") as mount:
        bucket = mount.bucket

        def kill(operation: str, _key: str, _count: int) -> Fault | None:
            if operation.startswith("Delete") and not left:
                left.append(killed(bucket, tmp_path / "one", tmp_path / "two"))
            return None

        bucket.fault = kill
        await mount.rename(old, new)
    (bucket,) = left
    bucket._capabilities = able
    # the last look before the deletion, which is that itself where the store honours conditions
    last = {
        "d/f": {ABLE: "DeleteObject", BLIND: "HeadObject"},
        "d": {ABLE: "DeleteObjects", BLIND: "HeadObject"},
    }[old][able]
    at = 2 if (old, able) == ("d/f", BLIND) else 0
    hook: FaultHook = Other(bucket, "d/f", at, last)  # type: ignore[assignment]
    bucket.fault = hook
    async with planted(bucket, tmp_path / "two", store=asked_through(bucket)) as mount:
        bucket.fault = None
        assert bucket.peek("d/f") == THEIRS
        assert bucket.peek(new if old == "d/f" else "e/f") == b"d/f"
        assert not mount.tree.state.files.cache.journal.renames()
        assert await mount.read("d/f") == THEIRS


async def test_a_copy_that_is_not_the_version_of_the_condition_says_which(tmp_path: Path) -> None:
    """A 412 does not say which of two conditions was false."""
    bucket = Bucket()
    store = asked_through(bucket)
    bucket.poke("a", b"a")
    old = bucket.poke("b", b"b")
    changed = PreconditionFailed("PreconditionFailed", status=412)
    bucket.fault = lambda operation, *_: Fault(changed) if operation == "CopyObject" else None
    for target, kind in (("b", KeyTaken), ("c", PreconditionFailed)):
        with pytest.raises(kind) as caught:
            await store.copy(
                "a", target, size=1, source_if_match=old.etag, target_if_none_match=True
            )
        assert type(caught.value) is kind


async def test_a_conflict_copy_is_not_what_a_rename_has_named(tmp_path: Path) -> None:
    """What was written becomes a conflict copy while its file is about to be renamed."""

    async def refused(call: Awaitable[object]) -> None:
        with pytest.raises(FsError) as caught:
            await call
        assert caught.value.errno == errno.ESTALE

    bucket = Bucket(latency=0.01)
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 0, b"ours")
        bucket.poke("f", THEIRS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused, mount.flush(handle))
            await trio.sleep(0.005)  # its upload is under way
            nursery.start_soon(refused, mount.rename("f", "g"))
        (copy,) = (key for key in mount.stored() if key.startswith("f.conflict-"))
        assert (bucket.peek(copy), bucket.peek("f")) == (b"ours", THEIRS)
        await mount.close(handle)
        await mount.rename("f", "g")
        assert bucket.peek("g") == THEIRS


@pytest.mark.parametrize(
    ("old", "new", "theirs"), [("a", "b", "b"), ("a", "new", "new"), ("d", "new", "new/theirs")]
)
async def test_what_takes_the_new_name_while_a_rename_waits_is_looked_at(
    tmp_path: Path, old: str, new: str, theirs: str
) -> None:
    """Others have replaced a file that is open, or made something, and a listing shows it."""
    async with mounted(BLIND, tmp_path) as mount:
        reader = await mount.open("b")
        failures: list[FsError] = []

        async def rename() -> None:
            try:
                await mount.rename(old, new)
            except FsError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery, mount.tree.locks.exclusive(mount.root):
            nursery.start_soon(rename)
            await trio.sleep(1)
            mount.bucket.poke(theirs, THEIRS)
            mount.root.listed = NEVER
            await mount.tree.lister.ensure(mount.root)
        assert [error.errno for error in failures] == [errno.ESTALE]
        assert mount.bucket.peek(theirs) == THEIRS
        assert {"a", "d/f", "d/g"} <= set(mount.stored())
        await mount.close(reader)
