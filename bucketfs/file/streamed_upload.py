"""The upload that runs beside a program that writes a file from its start to its end.

A part is sent as soon as the program has written past it, and again when its bytes have changed
since: a part of the same number takes the place of the one before. When the disk has to be relieved
the pages of a part that has arrived may be dropped; it is `upload_only` then, and the upload is the
only place that has its bytes until it is completed. What such an upload has received cannot be
read, so that nothing may need a byte that is upload-only but completing the upload, and an upload
with such parts is never thrown away unless its bytes are unwanted.

The first part is never dropped, as formats write their headers last.

Invariants: a part is upload-only only while the upload has exactly its bytes; no two requests for
one part number are under way at once, as the later answer need not be that of the later bytes.
"""

from __future__ import annotations

import functools
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import trio

from bucketfs.cache.extents import Extent, Extents
from bucketfs.errors import FsError, NotFound, PreconditionFailed, StoreError, Unsupported
from bucketfs.file import multipart
from bucketfs.file.context import FileContext
from bucketfs.file.plan import TooLarge, part_at
from bucketfs.file.target import Target
from bucketfs.store.base import ObjectInfo
from bucketfs.tasks import Turns

log = logging.getLogger(__name__)

#: A file is streamed once it is this long. Shorter ones leave at once when they are closed, in a
#: few parallel parts, with the attributes they have then.
STREAM_FROM = 64 << 20
#: Seconds without new requests after one has failed for good, unless somebody waits for them.
REST = 5.0

#: Sends a part: upload id, part number, first byte, one past the last; answers its ETag.
Sender = Callable[[str, int, int, int], Awaitable[str]]


@dataclass(slots=True, eq=False)
class SentPart:
    """Part `number` with bytes ``[start, stop)``, which has left at least once or is about to.

    Attributes:
        etag: What the upload answered; "" before that, and when the bytes have changed since.
        changed: It was written to since it began to be sent.
    """

    number: int
    start: int
    stop: int
    etag: str = ""
    changed: bool = False


class StreamedUpload:
    """One multipart upload that runs beside its writer.

    Args:
        context: The file's surroundings.
        send: Sends one part.
        target: Key and headers of the upload.

    Attributes:
        target: As given.
        upload_id: The store's name for it, "" until it has answered.
        upload_only: What only the upload has.
        gone: The store does not know the upload any more, or cannot make one like this.
        uncertain: It was asked to complete the upload, and whether it has is not known.
    """

    def __init__(
        self, context: FileContext, send: Sender, target: Target, *, copies: bool = False
    ) -> None:
        self.target = target
        self.upload_id = ""
        self.upload_only = Extents()
        self.gone = False
        self.uncertain = False
        self._context = context
        self._send_part = send
        self._copies = copies
        self._parts: list[SentPart] = []
        #: Parts to be sent once more: those that failed, and those that changed, which may well
        #: change again and wait until they are needed there.
        self._failed: set[SentPart] = set()
        self._changed: set[SentPart] = set()
        #: Parts that have arrived and are not upload-only, by number.
        self._landed: dict[int, SentPart] = {}
        self._busy: set[int] = set()
        self._written = 0
        self._finishing = False
        self._waiting = 0
        self._closed = False
        self._running = 0
        self._error: Exception | None = None
        self._rest_until = 0.0
        self._turns = Turns()
        self._scopes: set[trio.CancelScope] = set()

    def advance(self, written: int) -> None:
        """The file is complete up to `written`: send what is."""
        self._written = written
        self._go_on()

    def _go_on(self) -> None:
        while not self._closed and self._running < self._context.parallel:
            if self.gone or self.uncertain or trio.current_time() < self._rest_until:
                return
            if not self.upload_id:
                if not self._running:
                    self._run("begin a streamed upload", self._begin, self._fail)
                return
            part = self._leaving()
            if part is None:
                return
            part.changed = False
            self._busy.add(part.number)
            self._run(
                "stream a part",
                functools.partial(self._send, part),
                functools.partial(self._not_sent, part),
            )

    def _leaving(self) -> SentPart | None:
        """The next part to be sent."""
        if (part := self._taken(self._failed)) is not None:
            return part
        if (self._waiting or self._finishing) and (part := self._taken(self._changed)) is not None:
            return part
        start, number = self._next, len(self._parts) + 1
        try:
            step = part_at(start, self._context.store.capabilities, self._context.part_size)
        except TooLarge:
            return None  # writing so far was refused, or publishing the file says so
        stop = min(start + step, self._written) if self._finishing else start + step
        if stop > self._written or start >= stop or number in self._busy:
            return None
        self._parts.append(SentPart(number, start, stop))
        return self._parts[-1]

    def _taken(self, parts: set[SentPart]) -> SentPart | None:
        for part in parts:
            if part.number not in self._busy:
                parts.remove(part)
                return part
        return None

    @property
    def _next(self) -> int:
        """Where the first part begins that has not left yet."""
        return self._parts[-1].stop if self._parts else 0

    def _over(self, start: int, stop: int) -> list[SentPart]:
        """Parts with bytes of ``[start, stop)``."""
        if start >= self._next:
            return []
        first = bisect_right(self._parts, start, key=lambda part: part.stop)
        return self._parts[first : bisect_left(self._parts, stop, key=lambda part: part.start)]

    def spans(self, start: int, stop: int) -> list[Extent]:
        """The parts with bytes of ``[start, stop)`` that have left."""
        return [(part.start, part.stop) for part in self._over(start, stop)]

    def spoil(self, start: int, stop: int) -> None:
        """``[start, stop)``, which is not upload-only, is being written again."""
        for part in self._over(start, stop):
            part.etag, part.changed = "", True
            self._failed.discard(part)
            self._changed.add(part)
            self._landed.pop(part.number, None)

    def cut(self, size: int) -> None:
        """The file ends at `size` now; no upload-only part goes on behind that."""
        self._written = min(self._written, size)
        while self._parts and self._parts[-1].stop > size:
            self._drop_last_part()

    def _drop_last_part(self) -> None:
        part = self._parts.pop()
        self._failed.discard(part)
        self._changed.discard(part)
        self._landed.pop(part.number, None)
        self.upload_only.remove(part.start, part.stop)

    def droppable(self, limit: int) -> Iterator[SentPart]:
        """Parts whose pages may be dropped.

        Args:
            limit: Where the part of the file ends that has a base version. All of that must have
                arrived first, or the upload could not be completed without that version.
        """
        if all(part.etag for part in self._over(0, limit)) and self._next >= limit:
            for part in list(self._landed.values()):
                if part.number > 1 and part.start >= limit:
                    yield part

    def pages_dropped(self, part: SentPart) -> None:
        """The pages of a part are being dropped."""
        assert part.etag
        del self._landed[part.number]
        self.upload_only.add(part.start, part.stop)

    def unsent(self) -> list[Extent]:
        """Parts that have to be sent (again) to complete the upload."""
        return [(part.start, part.stop) for part in self._parts if not part.etag]

    def shown(self) -> str:
        """Which parts the upload needs to be completed, for the log."""
        parts = ", ".join(
            f"{part.number}: bytes {part.start}-{part.stop - 1}" for part in self._parts
        )
        return f"parts {parts}"

    async def free_disk(self, wanted: int, drop: Callable[[int], int]) -> int:
        """Wait until parts have arrived and `drop` could free `wanted` bytes of disk.

        Returns:
            Bytes freed: less than `wanted` when nothing is left that could leave.

        Raises:
            StoreError, FsError: Nothing was freed, and a part could not be sent.
        """
        freed = drop(wanted)
        self._error, self._rest_until = None, 0.0
        self._waiting += 1
        try:
            while freed < wanted and not self._closed:
                self._go_on()
                if not self._running:
                    break
                await self._turns.next()
                freed += drop(wanted - freed)
                if self._error is not None and not freed:
                    raise self._error
        finally:
            self._waiting -= 1
        return freed

    async def finish(self, size: int) -> list[tuple[int, str]]:
        """Send what is left of `size` bytes; answers the numbers and ETags of all parts.

        Until `resume` the file does not change.

        Raises:
            StoreError, FsError: A part could not be sent; the others go on.
        """
        self._finishing, self._written = True, size
        self._error, self._rest_until = None, 0.0
        self._go_on()
        while self._next < size or not all(part.etag for part in self._parts):
            if self._error is not None:
                raise self._error
            await self._turns.next()
            self._go_on()
        return [(part.number, part.etag) for part in self._parts]

    async def complete(self, target: Target, parts: list[tuple[int, str]]) -> ObjectInfo:
        """Publish all parts, as `finish` answered them, under the conditions of `target`."""
        self.uncertain = True
        try:
            return await multipart.complete(
                self._context, target.key, self.upload_id, parts, size=self._written,
                if_match=target.if_match, if_none_match=target.if_none_match,
            )  # fmt: skip
        except (NotFound, PreconditionFailed):
            self.uncertain = False
            raise
        except StoreError as error:
            if error.code == "InvalidPart":
                self._send_again()
            raise

    def _send_again(self) -> None:
        """Some part is not what it should be: send those again that can be."""
        for part in list(self._landed.values()):
            self.spoil(part.start, part.stop)

    async def outcome(self, target: Target) -> ObjectInfo | None:
        """Find out whether an earlier `complete` has succeeded after all; its object if so.

        Raises:
            StoreError: The store could not be asked.
        """
        found: ObjectInfo | None = None
        if self.uncertain:
            try:
                found = await self._context.store.head(target.key)
            except NotFound:
                found = None
        self.uncertain = False
        if found is None or found.size != self._written or found.etag == target.if_match:
            return None
        metadata = dict(found.headers.metadata) if found.headers else {}
        # times of a nanosecond are among it
        same = metadata == dict(self.target.headers.metadata)
        return found if same or not self._context.store.capabilities.user_metadata else None

    def resume(self) -> None:
        """The upload was not completed: the file may change again."""
        self._finishing = False
        if self._parts and not self._is_whole(self._parts[-1]):
            self._drop_last_part()
        self._turns.moved()

    def _is_whole(self, part: SentPart) -> bool:
        limits, fixed = self._context.store.capabilities, self._context.part_size
        return part.stop - part.start == part_at(part.start, limits, fixed)

    def close(self) -> None:
        """Send nothing more: the upload has been completed, or is left as it is."""
        self._closed = True
        for scope in self._scopes:
            scope.cancel()
        self._turns.moved()

    def abandon(self) -> None:
        """Stop sending and throw away, in the background, what the upload has."""
        self.close()
        self._context.background.start(self._abort, "abort a streamed upload")

    def _run(
        self, name: str, job: Callable[[], Awaitable[None]], failed: Callable[[FsError], None]
    ) -> None:
        self._running += 1
        self._context.background.start(lambda: self._guard(job), name, failed=failed)

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
        self._go_on()

    async def _begin(self) -> None:
        try:
            self.upload_id = await multipart.begin(
                self._context, self.target.key, self.target.headers, copies=self._copies
            )
        except StoreError as error:
            self._fail(error)

    async def _send(self, part: SentPart) -> None:
        try:
            etag = await self._send_part(self.upload_id, part.number, part.start, part.stop)
        except (StoreError, FsError) as error:
            self._not_sent(part, error)
        else:
            if self._is_current(part) and not part.changed:
                part.etag = etag
                self._landed[part.number] = part
        finally:
            self._busy.discard(part.number)

    def _not_sent(self, part: SentPart, error: StoreError | FsError) -> None:
        if self._is_current(part) and not part.changed:
            self._failed.add(part)
        self._fail(error)

    def _is_current(self, part: SentPart) -> bool:
        return part.number <= len(self._parts) and self._parts[part.number - 1] is part

    def _fail(self, error: StoreError | FsError) -> None:
        log.info("the streamed upload of %r pauses: %s", self.target.key, error)
        self._error = error
        self._rest_until = trio.current_time() + REST
        forgotten = isinstance(error, NotFound) and error.code == "NoSuchUpload"
        if forgotten or (isinstance(error, Unsupported) and not self.upload_only):
            self.gone = True

    async def _abort(self) -> None:
        # shielded: parts left behind cost their owner money
        with trio.CancelScope(shield=True), trio.move_on_after(multipart.ABORT_TIMEOUT):
            while self._running:
                await self._turns.next()
            if self.upload_id:
                await multipart.abort(self._context, self.target.key, self.upload_id)
