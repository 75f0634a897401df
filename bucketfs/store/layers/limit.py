"""How many requests run at once: bulk transfers and small requests do not wait for each other.

A HEAD that stood behind sixteen parts of 64 MiB would hang `ls` for seconds, so that requests which
move little data have places of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from bucketfs.store.base import Store
from bucketfs.store.layers.wrapper import Call, StoreWrapper

T = TypeVar("T")

#: Transfers up to this size are small requests: less than a round trip's worth of bandwidth.
SMALL: Final = 256 * 1024


class _Lane:
    """The places of one key's bulk transfers."""

    __slots__ = ("places", "users")

    def __init__(self, count: int) -> None:
        self.places = trio.Semaphore(count)
        self.users = 0


class LimitStore(StoreWrapper):
    """Lets `bulk` large transfers and `small` other requests run at once; the rest queue in order.

    One key never takes all places of large transfers: where it stalls, others go on. A request that
    waits for its place is cancellable, and holds no place while it is retried.
    """

    def __init__(self, inner: Store, *, bulk: int, small: int) -> None:
        super().__init__(inner)
        self._bulk = trio.Semaphore(bulk)
        self._small = trio.Semaphore(small)
        self._one_key = max(1, bulk - max(1, bulk // 8))
        self._lanes: dict[str, _Lane] = {}

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        if call.size <= SMALL:
            return await _within(self._small, send)
        lane = self._lanes.get(call.key)
        if lane is None:
            lane = self._lanes[call.key] = _Lane(self._one_key)
        lane.users += 1
        try:
            return await _within(lane.places, lambda: _within(self._bulk, send))
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[call.key]


async def _within(places: trio.Semaphore, send: Callable[[], Awaitable[T]]) -> T:
    try:
        places.acquire_nowait()  # acquire() would give way to all other tasks first
    except trio.WouldBlock:
        await places.acquire()
    try:
        return await send()
    finally:
        places.release()
