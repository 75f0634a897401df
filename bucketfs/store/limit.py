"""How many requests run at once: bulk transfers and small requests do not wait for each other.

A HEAD that stood behind sixteen parts of 64 MiB would hang `ls` for seconds, so that requests which
move little data have places of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from bucketfs.store.base import Store
from bucketfs.store.wrapper import Call, StoreWrapper

T = TypeVar("T")

#: Transfers up to this size are small requests: less than a round trip's worth of bandwidth.
_SMALL: Final = 256 * 1024


class LimitStore(StoreWrapper):
    """Lets `bulk` large transfers and `small` other requests run at once; the rest queue in order.

    A request that waits for its place is cancellable, and holds no place while it is retried.
    """

    def __init__(self, inner: Store, *, bulk: int, small: int) -> None:
        super().__init__(inner)
        self._bulk = trio.Semaphore(bulk)
        self._small = trio.Semaphore(small)

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        places = self._bulk if call.size > _SMALL else self._small
        try:
            places.acquire_nowait()  # acquire() would give way to all other tasks first
        except trio.WouldBlock:
            await places.acquire()
        try:
            return await send()
        finally:
            places.release()
