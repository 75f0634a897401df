"""What of one file is on the local disk, how it comes there, and what has to stay.

Pages are fetched when somebody needs them, by ranged GETs of the base version. Clean ones go again
under pressure, but for those that readers are near, that a task has asked to keep, or that a
promise counts on.

Invariants: no byte is asked for twice at once, but by a random read that overtakes the fetching of
the whole file; a fetch writes only where no valid byte stands, so it never overwrites what a
program wrote meanwhile; nothing at or after `Overlay.limit` is fetched; what arrives is sealed as
it came; all bytes come from the version that was the file's base when they were asked for
(``If-Match``).
"""

from __future__ import annotations

import errno
import functools
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from bucketfs.cache.extents import Extent, Extents
from bucketfs.cache.pages import PageFile
from bucketfs.errors import FsError, NoAnswer, NotFound, PreconditionFailed, StoreError
from bucketfs.file import window
from bucketfs.file.context import FileContext, Version
from bucketfs.file.overlay import Overlay
from bucketfs.file.promise import Promise
from bucketfs.file.readers import Reader
from bucketfs.file.whole import Whole
from bucketfs.tasks import Turns

log = logging.getLogger(__name__)

#: Seconds for which a fetch goes on with nobody waiting for it: no less than any other request may
#: take, and no longer, however slowly its bytes trickle in. What has come by then stays.
ALONE: Final = 300.0


@dataclass(slots=True, eq=False)
class _Flight:
    """One GET of ``[start, stop)``.

    Attributes:
        position: How far its bytes have come.
        behind: It belongs to the fetching of the whole file, which random reads overtake.
        waiting: How many readers wait for some of them.
    """

    start: int
    stop: int
    position: int
    behind: bool = False
    waiting: int = 0
    error: Exception | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def fail(self, error: Exception) -> None:
        """The rest of its bytes will not come."""
        self.error = error

    def leave_alone(self) -> None:
        """Nobody waits for its bytes: it may go on for a while."""
        self.scope.deadline = trio.current_time() + ALONE


class LocalPages:
    """The pages of one file.

    Attributes:
        pages: The page file.
        base: Version that pages are fetched from; replaced when the object was moved by us.
        readers: The reading positions of the handles.
        promise: What the journal says of the file, while the bucket lacks something of that.
    """

    def __init__(
        self, context: FileContext, overlay: Overlay, pages: PageFile, base: Version | None
    ) -> None:
        self._context = context
        self._overlay = overlay
        self.pages = pages
        self.base = base
        self.readers: set[Reader] = set()
        self.promise: Promise | None = None
        #: Ranges that are to stay here until who asked for them has all of them.
        self._kept: list[Extent] = []
        self._flights: list[_Flight] = []
        self._turns = Turns()
        #: Ends of the ranges that readers wait for.
        self._awaited: list[int] = []
        self._renewals = 0
        self._whole: Whole | None = None

    def renew(self, base: Version) -> None:
        """Stand for another version from now on; who waits for bytes gets those of that one."""
        self._renewals += 1
        self.stop_fetching()
        self._context.cache.release(self.pages)
        self.pages = self._context.cache.open(base.key, base.etag, base.size)
        self.base = base

    def missing(self, start: int, stop: int) -> list[Extent]:
        """Ranges of ``[start, stop)`` that only the bucket has."""
        return self.pages.valid.missing(start, min(stop, self._overlay.limit))

    def _missing_of_all(self) -> int:
        """About how many bytes of the file only the bucket has."""
        return max(0, self._overlay.limit - self.pages.valid.total)

    async def prove(self, start: int, stop: int) -> None:
        """Compare the checksums of ``[start, stop)`` if an earlier process left its pages.

        What differs is missing afterwards. A turn for others comes with each seal.
        """
        while self.pages.unproven is not None:
            left = self.pages.unproven.overlapping(start, stop)
            if not left:
                break
            for a, b in self.pages.prove(left[0].start, left[0].stop):
                self._damaged(a, b)
            await trio.lowlevel.checkpoint()

    def _damaged(self, start: int, stop: int) -> None:
        """Bytes are not what they were: those that no bucket has are lost."""
        for a, b in self._overlay.damaged(start, stop):
            log.error(
                "bytes %d-%d of %s, which no bucket has, were damaged on the disk and are lost",
                a, b - 1, self.pages.path,
            )  # fmt: skip

    async def ensure_random(self, start: int, stop: int, ahead: Extent) -> None:
        """As `ensure`, for a read that continues no other one and has to wait."""
        if self._whole is None:
            self._whole = Whole(
                self._context,
                missing=self._missing_of_all,
                gaps=lambda position: self.missing(position, self._overlay.limit),
                fetch=self._fetch_behind,
            )
        with self._whole.random_read():
            await self.ensure(start, stop, ahead, overtakes=True)

    async def ensure(
        self, start: int, stop: int, ahead: Extent | None = None, *, overtakes: bool = False
    ) -> bool:
        """Wait until ``[start, stop)`` is here, and set the fetching of `ahead` going.

        Args:
            start: First byte.
            stop: One past the last byte.
            ahead: What else to fetch, the read itself included.
            overtakes: Do not wait for what is fetched behind.

        Returns:
            Whether there was anything to wait for.

        Raises:
            FsError: ESTALE, when the object is no longer the version this file was opened on.
            StoreError: The bucket could not be read.
        """
        if self.pages.unproven is not None:
            await self.prove(start, stop)
        self._launch(*(ahead or (start, stop)), overtakes=overtakes)
        waited = False
        mine: list[_Flight] = []
        while wanted := self.missing(start, stop):
            for flight in mine:
                if flight.error is not None and _touches(flight, wanted):
                    raise flight.error
            self._launch(start, stop, overtakes=overtakes)
            mine = [f for f in self._under_way(overtakes) if _touches(f, wanted)]
            waited = True
            with _awaited(mine):
                await self._arrival(wanted[0][1])
        return waited

    async def load(self, start: int, stop: int) -> None:
        """Have ``[start, stop)`` on the disk; raises as `ensure` does."""
        with self.keeping([(start, stop)]):
            await self.ensure(start, stop)

    @asynccontextmanager
    async def held(self, start: int, stop: int) -> AsyncIterator[None]:
        """As `load`, and nothing of it leaves the disk during the block; EIO if some is lost."""
        with self.keeping([(start, stop)]):
            await self.ensure(start, stop)
            self._overlay.check(start, stop)
            yield

    async def past_the_disk(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``, those that are not here straight from the bucket.

        For when the disk has no room for them. Raises as `ensure`.
        """
        data = bytearray(stop - start)
        fetched = Extents()
        renewals = self._renewals
        while True:
            gaps = [hole for gap in self.missing(start, stop) for hole in fetched.missing(*gap)]
            if not gaps:
                break
            for a, b in gaps:
                piece = bytearray()
                await self._ask(a, b, piece.extend)
                if renewals != self._renewals:  # these are bytes of a version before
                    return await self.past_the_disk(start, stop)
                data[a - start : a - start + len(piece)] = piece
                fetched.add(a, a + len(piece))
        for a, b in self.pages.valid.within(start, stop):
            data[a - start : b - start] = self.pages.read(a, b)
        return bytes(data)

    def stop_fetching(self) -> None:
        """Give up every fetch: what is under way is of no use any more."""
        if self._whole is not None:
            self._whole.stop()
        for flight in self._flights:
            flight.scope.cancel()

    @contextmanager
    def keeping(self, extents: Sequence[Extent]) -> Iterator[None]:
        """Nothing of `extents` leaves the disk during the block."""
        self._kept += extents
        try:
            yield
        finally:
            for extent in extents:
                self._kept.remove(extent)

    def kept(self) -> Extents:
        """What readers are near, or wait for."""
        kept = Extents(self._kept)
        for reader in self.readers:
            for cursor in reader.cursors:
                near = max(0, cursor.position - window.NEAR)
                kept.add(near, cursor.position + cursor.window + window.FETCH)
        return kept

    def drop_clean(self, wanted: int, unsent: Sequence[Extent]) -> int:
        """Drop up to `wanted` bytes, if that is any, of clean pages that nobody needs here.

        Args:
            wanted: Bytes.
            unsent: What an upload has to be given yet.

        Returns:
            How many went.
        """
        if wanted <= 0:
            return 0
        kept, freed = self.kept(), 0
        for start, stop in unsent:
            kept.add(start, stop)
        for start, stop in self._overlay.droppable(self.pages.valid, kept):
            end = min(stop, start + wanted - freed)
            self._context.cache.shrink(self.pages, start, end)
            freed += end - start
            if freed >= wanted:
                break
        return freed

    async def _arrival(self, position: int) -> None:
        """Wait until a fetch has passed `position`, or has ended."""
        self._awaited.append(position)
        try:
            await self._turns.next()
        finally:
            self._awaited.remove(position)

    def _launch(self, start: int, stop: int, *, overtakes: bool = False) -> None:
        for gap_start, gap_stop in self.missing(start, stop):
            for a, b in self._not_under_way(gap_start, gap_stop, overtakes=overtakes):
                for at in range(a, b, window.FETCH):
                    self._begin(_Flight(at, min(at + window.FETCH, b), at))

    async def _fetch_behind(self, start: int, stop: int) -> None:
        """Fetch ``[start, stop)`` by one request, whatever of it is here; raises as `ensure`."""
        flight = _Flight(start, stop, start, behind=True)
        self._begin(flight)
        while flight in self._flights:
            await self._turns.next()
        if flight.error is not None:
            raise flight.error

    def _begin(self, flight: _Flight) -> None:
        flight.leave_alone()
        self._context.background.start(
            functools.partial(self._fly, flight), "fetch", failed=flight.fail
        )
        self._flights.append(flight)  # nothing begins any more once the mount has ended

    def _under_way(self, overtakes: bool) -> list[_Flight]:
        """The fetches that were not given up; for who overtakes, those of reads alone."""
        return [
            flight
            for flight in self._flights
            if not (flight.scope.cancel_called or (overtakes and flight.behind))
        ]

    def _not_under_way(self, start: int, stop: int, *, overtakes: bool) -> list[Extent]:
        gaps = [(start, stop)]
        for flight in self._under_way(overtakes):
            left: list[Extent] = []
            for a, b in gaps:
                # what the flight has already delivered may have been dropped again: only its rest
                # counts
                left += [(a, min(b, flight.position)), (max(a, flight.stop), b)]
            gaps = [(a, b) for a, b in left if a < b]
        return gaps

    async def _fly(self, flight: _Flight) -> None:
        try:
            with flight.scope:
                await self._get(flight)
        except (StoreError, FsError) as error:
            flight.fail(error)
        finally:
            self._flights.remove(flight)
            self._turns.moved()

    async def _get(self, flight: _Flight) -> None:
        def sink(chunk: bytes | memoryview) -> None:
            self._accept(flight, chunk)

        while flight.position < min(flight.stop, self._overlay.limit):
            await self._ask(flight.position, min(flight.stop, self._overlay.limit), sink)

    async def _ask(self, start: int, stop: int, sink: Callable[[bytes | memoryview], None]) -> None:
        """One GET of the base version.

        It brings less, perhaps nothing, when that was renamed by us meanwhile. Then alone may the
        rest be asked for at once: what the store could not bring, it has tried for already.
        """
        base = self.base
        assert base is not None, "pages are missing only of a file that is in the bucket"
        left = stop - start

        def count(piece: bytes | memoryview) -> None:
            nonlocal left
            left -= len(piece)
            sink(piece)

        try:
            await self._context.store.get(
                base.key, count, start=start, stop=stop, if_match=base.etag, size=base.size
            )
        except (NotFound, PreconditionFailed) as error:
            if base is not self.base:
                return  # it is asked for again, under its new name
            raise FsError(
                errno.ESTALE, f"{base.key!r} was replaced or removed by someone else"
            ) from error
        if left > 0 and base is self.base:
            why = f"{left} of bytes {start}-{stop - 1} did not come"
            raise NoAnswer("IncompleteBody", operation="GetObject", key=base.key, message=why)

    def _accept(self, flight: _Flight, chunk: bytes | memoryview) -> None:
        if flight.scope.cancel_called:
            return
        view = memoryview(chunk)
        start = flight.position
        stop = min(start + len(view), self._overlay.limit)
        for a, b in self.pages.valid.missing(start, stop):
            done = self._context.cache.write(self.pages, a, view[a - start : b - start])
            self.pages.seal(a, view[a - start : a - start + done])
        flight.position += len(view)
        # who waits is woken when its bytes are here, not for each of the many chunks before
        if any(start < position <= flight.position for position in self._awaited):
            self._turns.moved()


@contextmanager
def _awaited(flights: Sequence[_Flight]) -> Iterator[None]:
    """Somebody waits for these."""
    for flight in flights:
        flight.waiting += 1
        flight.scope.deadline = math.inf
    try:
        yield
    finally:
        for flight in flights:
            flight.waiting -= 1
            if not flight.waiting:
                flight.leave_alone()


def _touches(flight: _Flight, extents: Sequence[Extent]) -> bool:
    return any(flight.start < b and a < flight.stop for a, b in extents)
