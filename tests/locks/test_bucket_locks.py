"""Locks over a bucket in memory, in virtual time: several mounts, dead ones, lost answers."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from bucketfs.errors import FsError, NoAnswer, StoreError
from bucketfs.locks.bucket_locks import BucketLocks
from bucketfs.locks.table import Kind, Mode, Row
from bucketfs.store.base import (
    LOCKS,
    Body,
    BytesBody,
    Capabilities,
    Headers,
    ObjectInfo,
    Sink,
    Store,
)
from bucketfs.store.layers.wrapper import StoreWrapper
from tests.harness.memory import Fault, MemoryStore

FILE = "p/file"
LEASE = 15.0
pytestmark = pytest.mark.mock_clock


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


class Host:
    """A mount and what it has lost."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.lost: list[str] = []
        self.locks = BucketLocks(store, "p/", self.lost.append, lease=LEASE, now=trio.current_time)

    def row(self, mode: Mode = Mode.EXCLUSIVE, owner: int = 1, start: int = 0, end: int = 9) -> Row:
        return Row(self.locks.mount, owner, Kind.POSIX, mode, start, end, 42)

    async def lock(self, row: Row | None = None, *, wait: bool = False) -> None:
        await self.locks.lock(FILE, row or self.row(), wait=wait)

    async def is_refused(self, row: Row | None = None) -> bool:
        try:
            await self.lock(row)
        except FsError as error:
            return error.errno == errno.EAGAIN
        return False

    async def unlock(self, row: Row | None = None) -> None:
        await self.locks.unlock(FILE, row or self.row())


@asynccontextmanager
async def kept(*hosts: Host) -> AsyncIterator[None]:
    """The leases of these are renewed."""
    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(host.locks.keep)
        yield
        nursery.cancel_scope.cancel()


async def lock_objects(store: MemoryStore) -> list[str]:
    page = await store.list(f"p/{LOCKS}/", delimiter="")
    return [info.key for info in page.objects]


async def test_one_has_it_and_then_the_other(store: MemoryStore) -> None:
    a, b = Host(store), Host(store)
    await a.lock()
    assert await b.is_refused()
    found = await b.locks.find(FILE, b.row())
    assert found is not None
    assert (found.mount, found.pid) == (a.locks.mount, 42)
    assert len(await lock_objects(store)) == 1
    await a.unlock()
    assert await lock_objects(store) == []
    await b.lock()
    assert await a.is_refused()


async def test_a_lock_that_nobody_wants_is_two_requests(
    store: MemoryStore,
) -> None:
    a = Host(store)
    store.requests.clear()
    for _ in range(2):
        await a.lock()
        await a.unlock()
    await a.unlock()
    # nothing is known of the object at first
    assert dict(store.requests) == {"GetObject": 1, "PutObject": 2, "DeleteObject": 2}


async def test_ranges_and_shared_locks(store: MemoryStore) -> None:
    a, b = Host(store), Host(store)
    await a.lock(a.row(Mode.SHARED))
    await b.lock(b.row(Mode.SHARED))
    assert await b.is_refused(b.row(Mode.EXCLUSIVE, start=9, end=12))
    await b.lock(b.row(Mode.EXCLUSIVE, start=10, end=12))
    assert await a.is_refused(a.row(start=12, end=20))
    assert a.locks.holds(FILE, a.row())
    assert not a.locks.holds(FILE, a.row(owner=2))


async def test_two_programs_of_one_mount(store: MemoryStore) -> None:
    a = Host(store)
    await a.lock()
    store.requests.clear()
    assert await a.is_refused(a.row(owner=2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: a.lock(a.row(owner=2), wait=True))
        await trio.sleep(60)
        assert not store.requests
        await a.unlock()
    assert a.locks.holds(FILE, a.row(owner=2))


async def test_who_waits_gets_it_soon(store: MemoryStore) -> None:
    a, b = Host(store), Host(store)
    await a.lock()
    async with kept(a, b), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: b.lock(wait=True))
        await trio.sleep(10 * LEASE)
        assert not b.locks.is_held(FILE)
        await a.unlock()
        await trio.sleep(1)
        assert b.locks.is_held(FILE)
    assert not a.lost
    assert store.requests["GetObject"] < 10 * LEASE / 0.3


async def test_who_is_interrupted_has_nothing(
    store: MemoryStore,
) -> None:
    a, b = Host(store), Host(store)
    await a.lock()
    with trio.move_on_after(3):
        await b.lock(wait=True)
    await a.unlock()
    await trio.sleep(3)
    assert not b.locks.is_held(FILE)
    assert await lock_objects(store) == []


async def test_a_dead_mount_loses_it(store: MemoryStore) -> None:
    dead, b = Host(store), Host(store)
    await dead.lock()
    async with kept(b):
        began = trio.current_time()
        await b.lock(wait=True)
        assert LEASE <= trio.current_time() - began <= LEASE + 2
    # it had believed in it for less
    assert not dead.locks.holds(FILE, dead.row())
    assert dead.lost == [FILE]


async def test_without_waiting_a_dead_mount_loses_it_too(
    store: MemoryStore,
) -> None:
    dead, b = Host(store), Host(store)
    await dead.lock()
    assert await b.is_refused()
    await trio.sleep(LEASE / 2)
    assert await b.is_refused()
    await trio.sleep(LEASE / 2)
    assert not await b.is_refused()


async def test_a_mount_that_was_cut_off_knows_that_first(
    store: MemoryStore,
) -> None:
    a, b = Host(store), Host(store)
    lost_at = 0.0

    def lose(name: str) -> None:
        nonlocal lost_at
        lost_at = trio.current_time()

    cut = _Cut(store)
    a.locks = BucketLocks(cut, "p/", lose, lease=LEASE, now=trio.current_time)
    await a.lock()
    async with kept(a, b):
        await trio.sleep(LEASE)
        cut.off = True
        await b.lock(wait=True)
        granted_at = trio.current_time()
    assert 0 < lost_at < granted_at
    cut.off = False
    await a.unlock()  # of a lock that is lost: nothing changes for the other
    assert await a.is_refused()


async def test_who_was_taken_for_dead_finds_out_with_the_next_beat(
    store: MemoryStore,
) -> None:
    """Even with a clock that stands still, as that of a stopped machine may."""
    a, b = Host(store), Host(store)
    a.locks = BucketLocks(store, "p/", a.lost.append, lease=LEASE, now=lambda: 0.0)
    await a.lock()
    await b.lock(wait=True)
    async with kept(a, b):
        await trio.sleep(LEASE)
    assert a.lost == [FILE]
    assert await a.is_refused()
    assert b.locks.holds(FILE, b.row())


@pytest.mark.parametrize("after", [True, False])
async def test_a_lost_answer_leaves_no_lock_for_good(store: MemoryStore, after: bool) -> None:
    a, b = Host(store), Host(store)
    failing = Fault(NoAnswer("Timeout"), after=after)
    store.fault = lambda operation, key, count: failing if operation == "PutObject" else None
    with pytest.raises(StoreError):
        await a.lock()
    store.fault = None
    assert not a.locks.is_held(FILE)
    async with kept(a):
        await trio.sleep(LEASE)
        await b.lock()
    assert not a.lost


async def test_a_release_that_was_not_heard_is_told_again(
    store: MemoryStore,
) -> None:
    a, b = Host(store), Host(store)
    await a.lock()
    failing = Fault(NoAnswer("Timeout"))
    store.fault = lambda operation, key, count: failing if operation == "DeleteObject" else None
    with pytest.raises(StoreError):
        await a.unlock()
    store.fault = None
    assert await b.is_refused()
    async with kept(a):
        await trio.sleep(LEASE / 2)
    assert not await b.is_refused()


async def test_who_stops_waiting_has_given_up(store: MemoryStore) -> None:
    """A slow bucket: another lock is on its way for longer than the end of a program may take."""
    a, b = Host(store), Host(store)
    await a.lock()
    async with kept(a), trio.open_nursery() as nursery:
        await trio.sleep(LEASE / 3 + 0.1)  # the lease was renewed a moment ago
        store.latency = 10.5
        other = a.row(owner=2, start=20, end=29)
        nursery.start_soon(lambda: a.lock(other))
        await trio.sleep(0.1)
        with trio.move_on_after(10):
            await a.unlock()
        assert not a.locks.holds(FILE, a.row())
        store.latency = 0.01
        await trio.sleep(LEASE)
        assert not await b.is_refused()
        assert a.locks.holds(FILE, other)
    assert not a.lost


async def test_a_store_without_conditional_deletions_keeps_an_empty_table() -> None:
    store = MemoryStore(capabilities=Capabilities(delete_if_match=False))
    a, b = Host(store), Host(store)
    await a.lock()
    await a.unlock()
    (key,) = await lock_objects(store)
    data = bytearray()
    await store.get(key, data.extend)
    assert json.loads(data)["locks"] == []
    assert json.loads(data)["file"] == FILE
    await b.lock()
    assert await a.is_refused()


async def test_the_end_of_a_mount_gives_all_back(
    store: MemoryStore,
) -> None:
    a = Host(store)
    await a.lock()
    await a.locks.close()
    assert await lock_objects(store) == []


async def test_what_is_no_table_is_not_replaced(
    store: MemoryStore,
) -> None:
    a = Host(store)
    await a.lock()
    (key,) = await lock_objects(store)
    await store.put(key, BytesBody(b"{}"), Headers())
    with pytest.raises(StoreError, match="InvalidObject"):
        await a.lock(a.row(start=20, end=30))


@pytest.mark.parametrize("seed", range(20))
async def test_never_two_at_once(store: MemoryStore, seed: int) -> None:
    """Three mounts of three programs each, with lost answers and mounts that are cut off."""
    chance = random.Random(seed)
    store.latency = 0.02
    cuts = [_Cut(store, chance) for _ in range(3)]
    inside: list[tuple[int, int]] = []
    hosts = [Host(store) for _ in range(3)]
    for host, cut in zip(hosts, cuts, strict=True):
        host.locks = BucketLocks(cut, "p/", host.lost.append, lease=LEASE, now=trio.current_time)
    done = 0

    async def program(number: int, owner: int) -> None:
        nonlocal done
        host = hosts[number]
        row = host.row(owner=owner)
        for _ in range(8):
            try:
                await host.lock(row, wait=True)
            except StoreError:
                continue
            inside.append((number, owner))
            await trio.sleep(chance.random())
            # who has lost it knows that before anybody else has it
            valid = host.locks.holds(FILE, row)
            others = [one for one in inside if one != (number, owner) and holding(*one)]
            assert not (valid and others)
            inside.remove((number, owner))
            try:
                await host.unlock(row)
            except StoreError:
                continue
            done += 1

    def holding(number: int, owner: int) -> bool:
        return hosts[number].locks.holds(FILE, hosts[number].row(owner=owner))

    async def partition() -> None:
        while True:
            await trio.sleep(chance.uniform(5, 20))
            cut = chance.choice(cuts)
            cut.off = True
            await trio.sleep(chance.uniform(1, 2 * LEASE))
            cut.off = False

    async with kept(*hosts), trio.open_nursery() as outer:
        outer.start_soon(partition)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                for owner in range(3):
                    nursery.start_soon(program, number, owner)
        outer.cancel_scope.cancel()
    assert done > 10


class _Cut(StoreWrapper):
    """A bucket whose mount may be cut off, and which loses some answers where there is a chance."""

    def __init__(self, store: Store, chance: random.Random | None = None) -> None:
        super().__init__(store)
        self.off = False
        self._chance = chance

    async def get(self, key: str, sink: Sink, **conditions: Any) -> ObjectInfo:
        await self._before()
        return await super().get(key, sink, **conditions)

    async def put(self, key: str, body: Body, headers: Headers, **conditions: Any) -> ObjectInfo:
        await self._before()
        info = await super().put(key, body, headers, **conditions)
        self._after()
        return info

    async def delete(self, key: str, *, if_match: str = "") -> None:
        await self._before()
        await super().delete(key, if_match=if_match)
        self._after()

    async def _before(self) -> None:
        if self.off:
            await trio.sleep(1)
            raise NoAnswer("Timeout")

    def _after(self) -> None:
        if self._chance is not None and self._chance.random() < 0.05:
            raise NoAnswer("Timeout")
