"""Parts that leave while a program is still writing a new file from its start to its end.

A part is sent as soon as the program has written past it. What is written into a part that has left
makes that part worthless; it is sent again with the rest when the file is published. All bytes stay
in the page file until then, so nothing ever depends on the stream: whatever goes wrong with it, the
file is published the ordinary way.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from bucketfs.cache.pages import PageBody, PageFile
from bucketfs.errors import StoreError
from bucketfs.file.context import FileContext
from bucketfs.file.plan import Part, TooLarge, part_at
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
    """Part `number` with bytes ``[start, stop)``; `etag` when it has arrived."""

    number: int
    start: int
    stop: int
    etag: str = ""


class Stream:
    """One multipart upload that runs beside its writer.

    Attributes:
        target: Key and headers the upload was begun with.
        upload_id: The store's name for it, "" until it has answered.
        failed: Whether it is of no use any more.
    """

    def __init__(self, context: FileContext, pages: PageFile, target: Target) -> None:
        self.target = target
        self.upload_id = ""
        self.failed = False
        self._closed = False
        self._context = context
        self._pages = pages
        self._parts: dict[int, _Part] = {}
        self._next = 0
        self._written = 0
        self._number = 0
        self._running = 0
        self._turns = Turns()
        self._scopes: set[trio.CancelScope] = set()
        self._run("begin a streamed upload", self._begin)

    def advance(self, written: int) -> None:
        """The program has written everything before `written`: send what is complete."""
        self._written = written
        limits, fixed = self._context.store.capabilities, self._context.part_size
        while self.upload_id and not self.failed and self._running < self._context.parallel:
            try:
                stop = self._next + part_at(self._next, limits, fixed)
            except TooLarge:
                return  # publishing the file says so
            if stop > written:
                return
            self._number += 1
            part = _Part(self._number, self._next, stop)
            self._parts[part.number] = part
            self._next = stop
            self._run("stream a part", lambda part=part: self._send(part))  # type: ignore[misc]

    def spoil(self, start: int, stop: int) -> None:
        """``[start, stop)`` is being written again: parts that have left with it are worthless."""
        if start >= self._next:
            return
        for part in list(self._parts.values()):
            if part.start < stop and start < part.stop:
                del self._parts[part.number]

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
        """Stop sending and throw away, in the background, what has been sent."""
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
                if not self.failed:
                    await job()
        except StoreError as error:
            log.info("a streamed upload is given up, the file will be sent when closed: %s", error)
            self.failed = True
        finally:
            self._scopes.discard(scope)
            self._running -= 1
            self._turns.moved()
            if not self._closed:
                self.advance(self._written)

    async def _begin(self) -> None:
        self.upload_id = await self._context.store.create_upload(
            self.target.key, self.target.headers
        )

    async def _send(self, part: _Part) -> None:
        part.etag = await self._context.store.upload_part(
            self.target.key,
            self.upload_id,
            part.number,
            PageBody(self._pages, part.start, part.stop),
        )

    async def _abort(self) -> None:
        while self._running:
            await self._turns.next()
        if not self.upload_id:
            return
        with trio.move_on_after(ABORT_TIMEOUT):
            try:
                await self._context.store.abort(self.target.key, self.upload_id)
            except StoreError as error:
                log.warning("the parts of a given-up upload stay behind: %s", error)
