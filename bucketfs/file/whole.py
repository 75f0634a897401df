"""Fetches the rest of a file behind its random reads, when these have cost enough (`rent`).

The requests are few at first and become more as long as the rest is worth its price by what is
seen of the link: a slow one is not filled with what nobody may want. A random read does not wait
for them: it asks for its own bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from bucketfs import clock
from bucketfs.cache.extents import Extent
from bucketfs.errors import FsError, StoreError
from bucketfs.file.context import FileContext
from bucketfs.file.rent import FIRST_WIDTH, REST_PIECE, Rent, is_due

log = logging.getLogger(__name__)


class Whole:
    """The whole of one file.

    Args:
        context: As all files have it.
        missing: Tells about how many bytes only the bucket has.
        gaps: Tells which ones from a position on.
        fetch: Has a range fetched; raises as `LocalPages.ensure` does.
    """

    def __init__(
        self,
        context: FileContext,
        *,
        missing: Callable[[], int],
        gaps: Callable[[int], list[Extent]],
        fetch: Callable[[int, int], Awaitable[None]],
    ) -> None:
        self._context = context
        self._missing, self._gaps, self._fetch = missing, gaps, fetch
        self._rent = Rent()
        self._scope: trio.CancelScope | None = None
        self._failed = False
        #: Where the next piece begins, and how many are being fetched.
        self._position = 0
        self._width = 0

    @contextmanager
    def random_read(self) -> Iterator[None]:
        """A read that continues no other one waits in this block."""
        self._rent.begin(clock.monotonic())
        try:
            yield
        finally:
            self._rent.end(clock.monotonic())
            if self._scope is None and not self._failed and self._is_due(clock.monotonic()):
                self._scope = trio.CancelScope()
                self._context.background.start(self._run, "whole file")

    def stop(self) -> None:
        """Nothing more of this version is wanted."""
        if self._scope is not None:
            self._scope.cancel()

    def _is_due(self, now: float, elapsed: float = 0.0) -> bool:
        cache = self._context.cache
        room = 0 if cache.short else cache.capacity // 2
        missing = self._missing()
        return is_due(self._rent, now, missing, self._context.link, elapsed=elapsed, room=room)

    async def _run(self) -> None:
        scope = self._scope
        assert scope is not None
        began = clock.monotonic()
        self._position = self._width = 0
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    self._widen(nursery, min(FIRST_WIDTH, self._context.parallel), began)
        finally:
            self._scope = None
            self._rent.paid += clock.monotonic() - began

    def _widen(self, nursery: trio.Nursery, count: int, began: float) -> None:
        self._width += count
        for _ in range(count):
            nursery.start_soon(self._work, nursery, began)

    async def _work(self, nursery: trio.Nursery, began: float) -> None:
        """Fetch one piece after the other while the rest is worth it, and have others help."""
        try:
            while (piece := self._next()) is not None:
                width, sent = self._width, clock.monotonic()
                await self._fetch(*piece)
                now, most = clock.monotonic(), self._context.parallel
                count = piece[1] - piece[0]
                self._context.link.seen(count, now - sent, width=width, most=most)
                if not self._is_due(now, now - began):
                    return
                if self._width < most:
                    self._widen(nursery, 1, began)
        except (StoreError, FsError) as error:
            # nobody asked for it; who reads on meets the error again
            log.debug("fetched behind random reads: %s", error)
            self._failed = True
            nursery.cancel_scope.cancel()
        finally:
            self._width -= 1

    def _next(self) -> Extent | None:
        """The next piece; what is here already inside of it is fetched again."""
        gaps = self._gaps(self._position)
        if not gaps:
            return None
        start = gaps[0][0]
        stop = max(min(b, start + REST_PIECE) for a, b in gaps if a < start + REST_PIECE)
        self._position = stop
        return start, stop
