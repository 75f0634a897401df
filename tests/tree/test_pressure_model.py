"""Any order of operations on files that outgrow the cache, against plain bytes."""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucketfs.cache import cache as cache_module
from bucketfs.errors import StoreError
from bucketfs.file import early_upload as early_upload_module
from bucketfs.file import plan as plan_module
from bucketfs.store.base import Capabilities
from tests.harness.memory import Fault
from tests.tree.builder import Bucket, Mount, planted

T = TypeVar("T")

KIB = 1 << 10
PART = 16 * KIB
CACHE = 64 * KIB
STEP = 12 * KIB

#: An operation and how far along the file it is, in hundredths.
KINDS = [
    "append", "append", "append", "header", "overwrite", "read", "cut", "grow", "fsync", "rename",
]  # fmt: skip
operations = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 120)), max_size=25)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit a few kilobytes, so that many programs run in a second."""
    monkeypatch.setattr(early_upload_module, "STREAM_FROM", 2 * PART)
    monkeypatch.setattr(early_upload_module, "ALLOWANCE", PART)
    monkeypatch.setattr(cache_module, "_CHECK_EVERY", 4 * KIB)
    monkeypatch.setattr(plan_module, "FIRST_PART", PART)
    monkeypatch.setattr(plan_module, "SINGLE_PUT", PART)


@dataclass
class Program:
    """Runs operations on a file of the mount and on bytes."""

    mount: Mount
    random: random.Random

    async def run(self, steps: list[tuple[str, int]]) -> None:
        self.name = "f"
        self.data = bytearray()
        self.handle = await self.mount.create("f")
        await self.append(10 * STEP)
        for what, where in steps:
            await getattr(self, what)(len(self.data) * where // 100)
        whole = len(self.data) + 1
        self.check(await persist(lambda: self.mount.pread(self.handle, 0, whole)), 0)
        await persist(lambda: self.mount.flush(self.handle))
        await self.mount.close(self.handle)
        await trio.sleep(100)
        bucket = self.mount.bucket
        assert list(bucket.objects) == [self.name], "nothing hidden is left"
        self.check(bucket.peek(self.name), 0)
        assert not bucket.uploads

    def check(self, found: bytes, start: int, stop: int | None = None) -> None:
        """Bytes of the file from `start`; pytest would explain a difference for a minute."""
        wanted = bytes(self.data[start:stop])
        if found != wanted:
            pairs = enumerate(zip(found, wanted, strict=False))
            at = next((at for at, (a, b) in pairs if a != b), min(len(found), len(wanted)))
            raise AssertionError(f"{len(found)} of {len(wanted)} bytes, wrong at {start + at}")

    async def append(self, amount: int) -> None:
        for _ in range(amount // STEP % 16):
            await self.store(len(self.data), self.random.randbytes(STEP))

    async def overwrite(self, at: int) -> None:
        await self.store(at, self.random.randbytes(self.random.choice([1, 100, STEP, 3 * PART])))

    async def store(self, at: int, data: bytes) -> None:
        await persist(lambda: self.mount.write(self.handle, at, data))
        self.data.extend(bytes(max(0, at - len(self.data))))
        self.data[at : at + len(data)] = data

    async def read(self, at: int) -> None:
        found = await persist(lambda: self.mount.pread(self.handle, at, STEP))
        self.check(found, at, at + STEP)

    async def header(self, _at: int) -> None:
        await self.store(100, self.random.randbytes(200))

    async def cut(self, at: int) -> None:
        await self.resize(min(at, len(self.data)))

    async def grow(self, at: int) -> None:
        await self.resize(len(self.data) + at % (3 * PART))

    async def resize(self, size: int) -> None:
        opener, inode = self.mount.tree.opener, self.handle.inode
        await persist(lambda: opener.truncate(inode, size, publish=False))
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    async def fsync(self, _at: int) -> None:
        await persist(lambda: self.mount.flush(self.handle))
        self.check(self.mount.bucket.peek(self.name), 0)

    async def rename(self, _at: int) -> None:
        new = {"f": "g", "g": "f"}[self.name]
        await persist(lambda: self.mount.rename(self.name, new))
        self.name = new


async def persist(action: Callable[[], Awaitable[T]]) -> T:
    """As a stubborn program: try again what failed."""
    for _ in range(100):
        try:
            return await action()
        except StoreError:
            continue
    raise AssertionError("it fails on and on")


def failing(seed: int) -> Callable[[str, str, int], Fault | None]:
    """Some of the requests that run beside the writer fail."""
    dice = random.Random(seed)

    def hook(operation: str, _key: str, _count: int) -> Fault | None:
        beside = operation in (
            "CreateMultipartUpload", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload"
        )  # fmt: skip
        failed = beside and dice.random() < 0.03
        # what became of a completion is found out above this store
        lost = operation == "UploadPart" and dice.random() < 0.5
        return Fault(StoreError("InternalError", status=500), after=lost) if failed else None

    return hook


async def run(steps: list[tuple[str, int]], seed: int, *, faults: bool, copies: bool) -> None:
    can = Capabilities(min_part=4 * KIB, max_object=1 << 30, copy_part=copies)
    bucket = Bucket(latency=0.01, capabilities=can)
    if faults:
        bucket.fault = failing(seed)
    with tempfile.TemporaryDirectory() as directory:
        async with planted(bucket, Path(directory), part_size=PART, cache_size=CACHE) as mount:
            await Program(mount, random.Random(seed)).run(steps)


@pytest.mark.slow("100 random programs: 3 s")
@pytest.mark.time_limit(300)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operations, st.integers(0, 1000), st.booleans(), st.booleans())
def test_every_byte_is_where_it_belongs(
    steps: list[tuple[str, int]], seed: int, faults: bool, copies: bool
) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(functools.partial(run, steps, seed, faults=faults, copies=copies), clock=clock)
