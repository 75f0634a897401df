"""Any order of operations in writeback mode, killed at any moment: what was answered is there.

After the crash and its replay the tree is exactly that of the operations that had been answered,
with or without the one that was under way; and so is the bucket.
"""

from __future__ import annotations

import functools
import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucketfs.errors import FsError, NoAnswer, StoreError
from bucketfs.file import early_upload as early_upload_module
from bucketfs.file import plan as plan_module
from bucketfs.store.base import NO_CONDITIONS, Capabilities, Headers, ObjectInfo
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.saving import promises as pending_module
from tests.harness.memory import Fault
from tests.tree.builder import Bucket, Mount, killed, planted

KIB = 1 << 10
PART = 16 * KIB
FILES = ["a", "b", "d/a", "d/b", "e/a", "d/s/a"]
DIRECTORIES = ["d", "e", "d/s"]
SIZES = [0, 10, 3 * KIB, 20 * KIB, 70 * KIB]

#: A file's bytes, or None for a directory, by path.
Picture = Mapping[str, bytes | None]

names = st.sampled_from(FILES)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), names, st.sampled_from(SIZES)),
        st.tuples(st.just("write"), names, st.sampled_from(SIZES)),
        st.tuples(st.just("append"), names, st.sampled_from(SIZES)),
        st.tuples(st.just("patch"), names, st.sampled_from(SIZES)),
        st.tuples(st.just("cut"), names, st.sampled_from(SIZES)),
        st.tuples(st.just("unlink"), names, st.none()),
        st.tuples(st.just("rename"), names, names),
        st.tuples(st.just("rename"), st.sampled_from(DIRECTORIES), st.sampled_from(DIRECTORIES)),
        st.tuples(st.just("mkdir"), st.sampled_from(DIRECTORIES), st.none()),
        st.tuples(st.just("rmdir"), st.sampled_from(DIRECTORIES), st.none()),
        st.tuples(st.just("wait"), st.none(), st.sampled_from([1, 10, 300])),
    ),
    min_size=3,
    max_size=25,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit a few kilobytes, so that each way of saving a file is met."""
    monkeypatch.setattr(pending_module, "INLINE", 4 * KIB)
    monkeypatch.setattr(early_upload_module, "STREAM_FROM", 2 * PART)
    monkeypatch.setattr(plan_module, "FIRST_PART", PART)
    monkeypatch.setattr(plan_module, "SINGLE_PUT", PART)


class Slow(Bucket):
    """Requests take time before and after they are carried out, each another one; some fail."""

    def __init__(self, seed: int, *, faults: bool) -> None:
        super().__init__(capabilities=Capabilities(min_part=4 * KIB, max_object=1 << 30))
        self.dice = random.Random(seed)
        self.faults = faults
        self.fault = self.roll

    def roll(self, operation: str, key: str, _count: int) -> Fault | None:
        self.latency, self.answer = self.dice.random() * 0.02, self.dice.random() * 0.02
        beside = operation in ("UploadPart", "CompleteMultipartUpload", "CreateMultipartUpload")
        beside |= operation == "PutObject" and not key.endswith("/")
        if not (self.faults and beside and self.dice.random() < 0.2):
            return None
        # without an answer nobody knows
        lost = operation == "PutObject" and self.dice.random() < 0.5
        error = NoAnswer("ReadTimeout") if lost else StoreError("InternalError", status=500)
        return Fault(error, after=lost)

    async def copy(self, *args: str, **more: object) -> ObjectInfo:
        info = await super().copy(*args, **more)  # type: ignore[arg-type]
        await trio.sleep(self.answer)
        return info

    async def complete(self, *args: object, **more: object) -> ObjectInfo:
        info = await super().complete(*args, **more)  # type: ignore[arg-type]
        await trio.sleep(self.answer)
        return info

    async def create_upload(self, key: str, headers: Headers, *, copies: bool = False) -> str:
        upload_id = await super().create_upload(key, headers, copies=copies)
        await trio.sleep(self.answer)
        return upload_id

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        stayed = await super().delete_many(keys, if_match=if_match)
        await trio.sleep(self.answer)
        return stayed


@dataclass
class Program:
    """Runs operations on the mount and on a picture of it.

    Attributes:
        before: All that has been answered.
        after: The same with the operation under way.
    """

    mount: Mount
    random: random.Random
    before: dict[str, bytes | None] = field(default_factory=dict)
    after: dict[str, bytes | None] = field(default_factory=dict)

    async def run(self, steps: Sequence[tuple[str, str, object]]) -> None:
        for what, path, argument in steps:
            self.after = dict(self.before)
            try:
                await getattr(self, what)(path, argument)
            except FsError:
                self.after = self.before
            self.before = dict(self.after)

    async def write(self, path: str, size: int) -> None:
        await self.change(path, os.O_WRONLY | os.O_TRUNC, 0, size)

    async def append(self, path: str, size: int) -> None:
        await self.change(path, os.O_WRONLY, len(self.before.get(path) or b""), size)

    async def patch(self, path: str, size: int) -> None:
        await self.change(path, os.O_RDWR, len(self.before.get(path) or b"") // 3, size)

    async def change(self, path: str, flags: int, at: int, size: int) -> None:
        data = self.random.randbytes(size)
        if path in self.before:
            handle = await self.mount.open(path, flags)
            old = b"" if flags & os.O_TRUNC else self.before[path] or b""
        else:
            handle, old, at = await self.mount.create(path), b"", 0
        self.after[path] = old[:at] + data + old[at + size :]
        for begin in range(0, size, 9 * KIB):
            await self.mount.write(handle, at + begin, data[begin : begin + 9 * KIB])
        await self.mount.close(handle)

    async def cut(self, path: str, size: int) -> None:
        old = self.before.get(path)
        if old is None:
            return
        handle = await self.mount.open(path, os.O_WRONLY)
        self.after[path] = old[:size] + bytes(max(0, size - len(old)))
        await self.mount.tree.opener.truncate(handle.inode, size, publish=False)
        await self.mount.close(handle)

    async def unlink(self, path: str, _argument: object) -> None:
        if path in self.after:
            del self.after[path]
            await self.mount.unlink(path)

    async def rename(self, old: str, new: str) -> None:
        if old == new or old not in self.before:
            return
        if new.rpartition("/")[0] not in (*self.before, ""):
            return
        moved = {
            new + path[len(old) :]: data
            for path, data in self.before.items()
            if path == old or path.startswith(old + "/")
        }
        gone = [path for path in self.before if path == old or path.startswith(old + "/")]
        self.after = {path: d for path, d in self.before.items() if path not in gone} | moved
        await self.mount.rename(old, new)

    async def mkdir(self, path: str, _argument: object) -> None:
        if path not in self.before:
            self.after[path] = None
            await self.mount.mkdir(path)

    async def rmdir(self, path: str, _argument: object) -> None:
        if path in self.after:
            del self.after[path]
            await self.mount.rmdir(path)

    async def wait(self, _path: None, hundredths: int) -> None:
        await trio.sleep(hundredths / 100)


async def shown(mount: Mount, path: str = "") -> dict[str, bytes | None]:
    """The whole tree as programs see it."""
    found: dict[str, bytes | None] = {}
    for name in await mount.names(path):
        below = f"{path}/{name}" if path else name
        if isinstance(await mount.find(below), Directory):
            found[below] = None
            found |= await shown(mount, below)
        else:
            found[below] = await mount.read(below)
    return found


def stored(bucket: Bucket) -> dict[str, bytes | None]:
    """The whole tree as the bucket has it."""
    found: dict[str, bytes | None] = {}
    for key in bucket.objects:
        for at, letter in enumerate(key):
            if letter == "/":
                found[key[:at]] = None
        if not key.endswith("/"):
            found[key] = bucket.peek(key)
    return found


def brief(picture: Picture) -> dict[str, object]:
    return {
        path: data if data is None else (len(data), hash(data)) for path, data in picture.items()
    }


async def run(steps: list[tuple[str, str, object]], seed: int, when: int, faults: bool) -> None:
    bucket = Slow(seed, faults=faults)
    with tempfile.TemporaryDirectory() as directory:
        cache, left = Path(directory) / "cache", Path(directory) / "left"
        async with planted(bucket, cache, part_size=PART, writeback=True) as mount:
            program = Program(mount, random.Random(seed))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(program.run, steps)
                await trio.sleep(when / 1000)
                # at this very moment, without the cleaning up that a cancellation does
                after = killed(bucket, cache, left)
                wanted = [brief(program.before), brief(program.after)]
                nursery.cancel_scope.cancel()
            mount.tree.state.files.background._nursery.cancel_scope.cancel()
        async with planted(after, left, part_size=PART, writeback=True) as mount:
            assert brief(await shown(mount)) in wanted
            await trio.sleep(1000)
            assert brief(stored(after)) in wanted
            assert brief(await shown(mount)) in wanted
            journal = mount.cache.journal
            assert (journal.pending(), journal.removals(), journal.renames()) == ([], [], [])
            assert not after.uploads


@pytest.mark.slow("100 random programs: 2 s")
@pytest.mark.time_limit(600)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operations, st.integers(0, 1000), st.integers(0, 1500), st.booleans())
def test_what_was_answered_outlives_a_crash(
    steps: list[tuple[str, str, object]], seed: int, when: int, faults: bool
) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(functools.partial(run, steps, seed, when, faults), clock=clock)
