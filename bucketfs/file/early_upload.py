"""What leaves of a file before it is published: the upload beside its writer, and its pages.

Under pressure a writer waits here until parts have arrived in the upload, whose pages may then be
dropped. Where that does not help, because the file is not written from its start to its end, it is
published early (`Outlet.publish`), which makes all of its pages clean.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from bucketfs.cache.extents import Extent, Extents
from bucketfs.cache.pages import PageBody
from bucketfs.errors import FsError, NotFound, Unsupported
from bucketfs.file.context import FileContext, copy_range
from bucketfs.file.local_pages import LocalPages
from bucketfs.file.overlay import Overlay
from bucketfs.file.streamed_upload import STREAM_FROM, StreamedUpload
from bucketfs.file.target import Target
from bucketfs.store.base import is_manifest

log = logging.getLogger(__name__)

#: Bytes a file may always have on disk: enough to keep several small parts under way.
ALLOWANCE = 64 << 20


class Outlet(Protocol):
    """Who can publish a file."""

    def target(self) -> Target:
        """Where it is to be published. Raises FsError when it cannot be now."""
        ...

    async def publish(self) -> None:
        """Publish it as it is, as fsync does. Raises FsError and StoreError."""
        ...


class EarlyUpload:
    """The way out of one file's bytes.

    Attributes:
        outlet: Who may publish the file before it is closed; None until a program has opened it for
            writing.
        stream: The upload that runs beside the writer.
    """

    def __init__(self, context: FileContext, overlay: Overlay, local: LocalPages) -> None:
        self._context = context
        self._overlay = overlay
        self._local = local
        self.outlet: Outlet | None = None
        self.stream: StreamedUpload | None = None
        self._pinned: trio.Event | None = None

    def must_publish_first(self, start: int, stop: int) -> bool:
        """Whether the upload would be incomplete with other bytes than it has for this range.

        While something is upload-only there is no way but completing it, which must not come to
        depend on bytes that are not here: those of the version that it replaces may vanish.
        """
        stream = self.upload()
        if stream is None:
            return False
        valid = self._local.pages.valid
        here = all(valid.covers(a, b) for a, b in stream.spans(start, stop))
        return stream.uncertain or (bool(stream.upload_only) and not here)

    async def publish_early(self) -> None:
        """Publish the file as it is.

        Raises:
            FsError, StoreError: As saving does.
        """
        assert self.outlet is not None, "only what has a writer is streamed"
        await self.outlet.publish()

    async def within_reach(self, start: int, stop: int) -> None:
        """Have nothing of ``[start, stop)`` in the upload only.

        Raises:
            FsError: EIO, when some of it is lost; else as saving does.
            StoreError: The file could not be published.
        """
        while self.is_upload_only(start, stop):
            await self.publish_early()
            await self._local.load(start, stop)
        self._overlay.check(start, stop)

    def is_upload_only(self, start: int, stop: int) -> bool:
        """Whether only the upload has some of ``[start, stop)``."""
        stream = self.upload()
        return stream is not None and stream.upload_only.overlaps(start, stop)

    def spans(self, start: int, stop: int) -> list[Extent]:
        """The parts with bytes of ``[start, stop)`` that have left."""
        return self.stream.spans(start, stop) if self.stream is not None else []

    def written(self, start: int, stop: int) -> None:
        """``[start, stop)`` is here, with new bytes: what has left of it is out of date."""
        if self.stream is not None:
            self.stream.spoil(start, stop)
        if self.stream is not None or stop == self._overlay.size:
            self.feed()

    def cut(self, size: int) -> None:
        """The file ends at `size` now."""
        if self.stream is not None:
            self.stream.cut(size)

    def published(self) -> None:
        """The file has been published: an upload beside the writer was it, or is not needed."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def unsent(self) -> list[Extent]:
        """What must stay here because the upload has to be completed, and lacks it."""
        return self.stream.unsent() if self.stream is not None and self.stream.upload_only else []

    async def free_disk(self, reclaim: Callable[[int], int], wanted: int = 0) -> bool:
        """Wait until some of this file has left the disk; answers whether any has.

        Args:
            reclaim: Drops about so many bytes of what need not stay here; answers how many.
            wanted: Bytes the disk lacks; otherwise what the cache holds too much, without what
                this file may hold in any case.
        """
        if not wanted:
            wanted = min(self._context.cache.short, self._local.pages.held - ALLOWANCE)
        if wanted <= 0:
            return False
        if self._pinned is not None:
            await self._pinned.wait()
            return True
        stream = self.upload()
        if stream is not None:
            try:
                if await stream.free_disk(wanted, reclaim) > 0:
                    return True
            except (NotFound, Unsupported):
                if not stream.gone:
                    raise
                if self.upload() is None and not self._overlay.lost:
                    self.feed()  # nothing has been dropped: it is all sent once more
                    return True
        if reclaim(wanted):
            return True
        if self.outlet is None or self._stuck() <= ALLOWANCE:
            return False
        await self.outlet.publish()
        return reclaim(wanted) > 0

    def _stuck(self) -> int:
        """Bytes, about, that stay here until the file is published."""
        if self.stream is None or self._local.promise is not None:
            return min(self._local.pages.held, self._overlay.dirty.total)
        return self._overlay.overwritten

    def drop_arrived(self, wanted: int) -> int:
        """Drop about `wanted` bytes of parts that have arrived; answers how many."""
        stream = self.upload()
        if stream is None or self._pinned is not None:
            return 0
        freed, keep = 0, self._local.kept()
        for part in stream.droppable(self._overlay.limit):
            if freed >= wanted:
                break
            if not keep.overlaps(part.start, part.stop):
                stream.pages_dropped(part)
                self._context.cache.shrink(self._local.pages, part.start, part.stop)
                freed += part.stop - part.start
        return freed

    def feed(self) -> None:
        """Send what is complete of a file that has been written up to its end."""
        if self.outlet is not None and self.upload() is None and self._streamable():
            try:
                self.stream = StreamedUpload(
                    self._context, self.send_part, self.outlet.target(),
                    copies=self._local.base is not None,
                )  # fmt: skip
            except FsError:
                return  # it has no name now: publishing will deal with that
        if self.stream is not None:
            self.stream.advance(self._overlay.size)

    def _streamable(self) -> bool:
        """Whether it pays to send parts before the file is closed."""
        if self._pinned is not None or self._overlay.lost:
            return False
        if not self._context.can_stream:
            return False
        if self._local.base is None and not self._context.held_back:
            return self._overlay.size >= STREAM_FROM
        # what was appended to an object is sent when it is saved, in few large pieces, unless the
        # disk cannot hold it until then; so is all of a file that is to wait, perhaps for days:
        # stores throw away uploads that do
        dirty, allowed = self._overlay.dirty, max(ALLOWANCE, self._context.cache.capacity // 2)
        appended = dirty.end == self._overlay.size and dirty.total >= STREAM_FROM
        return appended and self._local.pages.held > allowed

    async def send_part(self, upload_id: str, number: int, start: int, stop: int) -> str:
        """Give the upload of `stream` a part: a copy from the base version, or the bytes."""
        assert self.stream is not None
        key, store, base = self.stream.target.key, self._context.store, self._local.base
        able = store.capabilities.copy_part and base is not None and not is_manifest(base.etag)
        if base is not None and able and self._overlay.copyable(start, stop):
            with contextlib.suppress(Unsupported):
                return await copy_range(store, base, key, upload_id, number, start, stop)
        async with self._local.held(start, stop):
            body = PageBody(self._local.pages, start, stop)
            return await store.upload_part(key, upload_id, number, body)

    def upload(self) -> StreamedUpload | None:
        """The upload beside the writer, unless there is none any more."""
        stream = self.stream
        if stream is not None and stream.gone:
            if stream.upload_only:
                log.error(
                    "others have aborted the upload %s of %r; its bytes %s are lost",
                    stream.upload_id, stream.target.key, _shown(stream.upload_only),
                )  # fmt: skip
            self.drop()
        return self.stream

    def take(self, key: str) -> StreamedUpload | None:
        """The upload that has run beside the writer, to be completed; None if there is none.

        Raises:
            FsError: EIO, when bytes are lost, or only in an upload of another key.
        """
        stream = self.upload()
        if self._overlay.lost:
            raise FsError(errno.EIO, f"bytes {_shown(self._overlay.lost)} of {key!r} are lost")
        if stream is None:
            return None
        if stream.upload_only:
            if stream.target.key != key:
                why = f"the upload of {stream.target.key!r} cannot be published as {key!r}"
                raise FsError(errno.EIO, why)
            return stream
        if stream.upload_id and stream.target.key == key and self._overlay.size >= STREAM_FROM:
            return stream
        self.drop()
        return None

    @property
    def has_upload_only(self) -> bool:
        """Whether some bytes are in an unfinished upload only."""
        return self.stream is not None and bool(self.stream.upload_only)

    @contextmanager
    def key_pinned(self) -> Iterator[None]:
        """No page is dropped during the block, in which the file's key changes."""
        outer, self._pinned = self._pinned, trio.Event()
        try:
            yield
        finally:
            self._pinned.set()
            self._pinned = outer

    def drop(self) -> None:
        """Throw away the upload that runs beside the writer; what only that has is lost."""
        if self.stream is not None:
            self._overlay.lose(self.stream.upload_only)
            self.stream.abandon()
            self.stream = None

    def hand_over(self) -> str:
        """Leave the upload for whoever rescues the file; words that say what is in it."""
        if not self.has_upload_only:
            return ""
        stream, self.stream = self.stream, None
        assert stream is not None
        stream.close()
        self._context.cache.journal.end_upload(stream.upload_id)  # the next mount must not abort it
        self._overlay.lose(stream.upload_only)
        return (
            f"; bytes {_shown(stream.upload_only)} are in the unfinished upload {stream.upload_id}"
            f" of {stream.target.key!r} ({stream.shown()})"
        )


def _shown(extents: Extents) -> str:
    return ", ".join(f"{start}-{stop - 1}" for start, stop in extents)
