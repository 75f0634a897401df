"""Parts that leave while a program is still writing a new file from its start to its end.

A part is sent as soon as the program has written past it. What is written into a part that has left
makes that part worthless; it is sent again with the rest when the file is published. Nothing
depends on the upload: its parts' pages stay in the page file, or have an object of their own on the
`Shelf`, and whatever goes wrong with it, the file is published another way.

When the cache is full, a writer waits in `shed` until parts have left and their pages are dropped:
on disk there is never much more than the cache may hold, plus the part that is being written. A
part that goes by the shelf is stored there and copied from there into the upload by the store, at
once, so that little is left to do when the file is closed.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import trio

from bucketfs.cache.pages import PageBody, PageFile
from bucketfs.errors import FsError, StoreError
from bucketfs.file.context import FileContext
from bucketfs.file.plan import Part, TooLarge, part_at
from bucketfs.file.shelf import Shelf
from bucketfs.file.target import Target
from bucketfs.tasks import Turns

log = logging.getLogger(__name__)

#: A file is streamed once it is this long. Shorter ones leave at once when they are closed, in a
#: few parallel parts, with the attributes they have then.
STREAM_FROM = 64 << 20
#: Seconds the abort of a given-up upload may take before it is left to `list_uploads`.
ABORT_TIMEOUT = 30


@dataclass(slots=True, eq=False)
class _Part:
    """Part `number` with bytes ``[start, stop)``.

    Attributes:
        etag: What the upload answered; "" before that, and when the bytes have changed since.
        sending: It is under way.
        spoiled: It was written to since it was sent, or began to be.
    """

    number: int
    start: int
    stop: int
    etag: str = ""
    sending: bool = False
    spoiled: bool = False


class Stream:
    """One multipart upload that runs beside its writer.

    Args:
        context: The file's surroundings.
        pages: Where the bytes are.
        shelf: Where parts go whose pages may have to be dropped.
        held: Has a range of the file in `pages`, and keeps it there during a block.
        target: Key and headers of the upload.
        first: Where the bytes begin that are to be sent; what is before is in the base version.

    Attributes:
        target: As given.
        upload_id: The store's name for it, "" until it has answered.
        failed: Whether the upload is of no use any more.
    """

    def __init__(
        self,
        context: FileContext,
        pages: PageFile,
        shelf: Shelf,
        held: Callable[[int, int], AbstractAsyncContextManager[None]],
        target: Target,
        first: int = 0,
    ) -> None:
        self.target = target
        self.upload_id = ""
        self.failed = False
        self._closed = False
        self._context = context
        self._pages = pages
        self._shelf = shelf
        self._held = held
        self._parts: dict[int, _Part] = {}
        #: Parts that can only leave once more under pressure: what they hold changed, or is needed.
        self._again: set[_Part] = set()
        self._number, self._next = _boundary(context, first)
        self._written = 0
        self._running = 0
        self._error: Exception | None = None
        self._turns = Turns()
        self._scopes: set[trio.CancelScope] = set()
        self._run("begin a streamed upload", self._begin)

    def advance(self, written: int) -> None:
        """The program has written everything before `written`: send what is complete."""
        self._written = written
        while not self._closed and self._running < self._context.parallel:
            part = self._leaving()
            if part is None:
                return
            part.sending, part.spoiled = True, False
            self._run("stream a part", functools.partial(self._send, part))

    def _leaving(self) -> _Part | None:
        """The next part that can be sent."""
        shelving = self._shelf.wanted()
        if self._error is not None or not (shelving or (self.upload_id and not self.failed)):
            return None
        try:
            stop = self._next + part_at(
                self._next, self._context.store.capabilities, self._context.part_size
            )
        except TooLarge:
            return None  # publishing the file says so
        if stop <= self._written:
            self._number += 1
            part = self._parts[self._number] = _Part(self._number, self._next, stop)
            self._next = stop
            return part
        for part in self._again if shelving else ():
            if not part.sending and part.stop <= self._written:
                self._again.remove(part)
                return part
        return None

    def spoil(self, start: int, stop: int) -> None:
        """``[start, stop)`` is being written again: parts that have left with it are worthless."""
        if start >= self._next:
            return
        for part in self._parts.values():
            if part.start < stop and start < part.stop:
                part.etag, part.spoiled = "", True
                self._again.add(part)

    def cut(self, size: int) -> None:
        """The file ends at `size` now."""
        self.spoil(size, self._next)
        for number in [n for n, part in self._parts.items() if part.start >= size]:
            part = self._parts.pop(number)
            self._again.discard(part)
            self._number, self._next = min(self._number, number - 1), min(self._next, part.start)
        self._written = min(self._written, size)

    async def shed(self, wanted: int, drop: Callable[[int], int]) -> int:
        """Wait until parts have left and `drop` could free `wanted` bytes of disk.

        Returns:
            Bytes freed: less than `wanted` when nothing is left that could leave.

        Raises:
            StoreError, FsError: Nothing was freed, and a part could not be sent.
        """
        self._error = None
        freed = drop(wanted)
        while freed < wanted and not self._closed:
            self._shelf.urgent = True
            self.advance(self._written)
            if not self._running and not self._send_again():
                break
            await self._turns.next()
            freed += drop(wanted - freed)
            if self._error is not None and not freed:
                raise self._error
        return freed

    def _send_again(self) -> bool:
        """Set going parts that the upload has and the shelf has not, in the order of the file.

        Answers whether there were any.
        """
        homeless = (p for p in self._parts.values() if not self._shelf.home(p.start, p.stop))
        for part, _ in zip(homeless, range(self._context.parallel), strict=False):
            self._again.add(part)
        self.advance(self._written)
        return self._running > 0

    async def settled(self) -> None:
        """Send nothing more, and wait until nothing is under way."""
        self._closed = True
        while self._running and not self.failed:
            await self._turns.next()

    def etag(self, number: int, part: Part) -> str:
        """ETag of a part that has left as it is now, "" for any other."""
        sent = self._parts.get(number)
        same = sent is not None and (sent.start, sent.stop) == (part.start, part.stop)
        return sent.etag if sent is not None and same else ""

    def abandon(self) -> None:
        """Stop sending and throw away, in the background, what the upload has."""
        self.failed = self._closed = True
        for scope in self._scopes:
            scope.cancel()
        self._turns.moved()
        self._context.background.start(self._abort, "abort a streamed upload")

    def _run(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        self._running += 1
        self._context.background.start(lambda: self._guard(job), name)

    async def _guard(self, job: Callable[[], Awaitable[None]]) -> None:
        scope = trio.CancelScope()
        self._scopes.add(scope)
        try:
            with scope:
                if not self._closed:
                    await job()
        finally:
            self._scopes.discard(scope)
            self._running -= 1
            self._turns.moved()
            if not self._closed:
                self.advance(self._written)

    async def _begin(self) -> None:
        try:
            self.upload_id = await self._context.store.create_upload(
                self.target.key, self.target.headers
            )
        except StoreError as error:
            self._give_up(error)

    def _give_up(self, error: StoreError) -> None:
        log.info("a streamed upload is given up, the file will be sent when closed: %s", error)
        self.failed = True

    async def _send(self, part: _Part) -> None:
        try:
            if not self._shelf.home(part.start, part.stop):
                async with self._held(part.start, part.stop):
                    if self._shelf.wanted():
                        await self._shelf.put(part.start, part.stop)
                    else:
                        await self._upload(part)
            if self._shelf.home(part.start, part.stop):
                await self._upload(part)
        except (StoreError, FsError) as error:
            self._error = error
            self._again.add(part)
        finally:
            part.sending = False

    async def _upload(self, part: _Part) -> None:
        """Give the upload a part that is on the shelf, or is held here."""
        if not self.upload_id or self.failed or part.etag or part.spoiled:
            return
        store, key = self._context.store, self.target.key
        home = self._shelf.home(part.start, part.stop)
        try:
            if home:
                etag = await store.copy_part(
                    key, self.upload_id, part.number,
                    source=home, start=0, stop=part.stop - part.start,
                )  # fmt: skip
            else:
                body = PageBody(self._pages, part.start, part.stop)
                etag = await store.upload_part(key, self.upload_id, part.number, body)
        except StoreError as error:
            self._give_up(error)
            return
        if not part.spoiled:
            part.etag = etag

    async def _abort(self) -> None:
        # shielded: parts left behind cost their owner money
        with trio.CancelScope(shield=True), trio.move_on_after(ABORT_TIMEOUT):
            while self._running:
                await self._turns.next()
            if not self.upload_id:
                return
            try:
                await self._context.store.abort(self.target.key, self.upload_id)
            except StoreError as error:
                log.warning("the parts of a given-up upload stay behind: %s", error)


def _boundary(context: FileContext, first: int) -> tuple[int, int]:
    """Parts of the schedule that end at or before `first`, and where the last of them ends."""
    number = position = 0
    while position < first:
        step = part_at(position, context.store.capabilities, context.part_size)
        if position + step > first:
            break
        number, position = number + 1, position + step
    return number, position
