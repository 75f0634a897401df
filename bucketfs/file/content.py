"""The bytes of one open (or unsaved) file, as every program on this machine sees them.

A `Content` is the union of three things: pages of the base version in the bucket, fetched when
needed; what programs wrote since (`dirty`); and zeros where the file was made longer. It hangs on
the inode, not on a path or a handle, so all handles of a file share it, and renaming changes
nothing.

Invariants:
- positions at and after ``fetcher.limit`` are valid locally (written, or zeros) or on the shelf;
- ``dirty`` lies within ``[0, size)``, and its positions are valid or on the shelf;
- while the content is being published nobody changes it: writers wait in `_writable`.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from bucketfs.cache.extents import Extent, Extents
from bucketfs.errors import FsError
from bucketfs.file import window
from bucketfs.file.context import FileContext, Version
from bucketfs.file.fetch import Fetcher
from bucketfs.file.plan import Part
from bucketfs.file.shelf import ALLOWANCE, Shelf
from bucketfs.file.stream import STREAM_FROM, Stream
from bucketfs.file.target import Target


class Reader:
    """The reading positions of one handle."""

    __slots__ = ("cursors",)

    def __init__(self) -> None:
        self.cursors: tuple[window.Cursor, ...] = ()


class Content:
    """Bytes of one file.

    Attributes:
        size: Current length in bytes.
        dirty: What differs from the base version.
        fetcher: Brings pages of the base version; owns the page file.
        new: Not in the bucket under any name yet.
        touched: Whether a program has written since the file was created or truncated by open.
        handles: Open handles.
        writers: Those of them that may write.
        revision: Counts changes, to see whether one came between two moments.
        conflicts: How often others' version won over what was written here.
        shelf: Parts of an unsaved file that rest in the bucket under hidden keys.
        served: Some program (or the kernel's page cache) has bytes of the base version.
    """

    def __init__(self, context: FileContext, base: Version | None) -> None:
        self._context = context
        pages = (
            context.cache.open(base.key, base.etag, base.size) if base else context.cache.create()
        )
        self.fetcher = Fetcher(context, pages, base)
        self.size = base.size if base else 0
        self.dirty = Extents()
        self.new = base is None
        self.touched = False
        self.handles = 0
        self.writers = 0
        #: Ranges that are to stay here until who asked for them has all of them.
        self._loading: list[Extent] = []
        self.readers: set[Reader] = set()
        self.revision = 0
        self.cut = False
        self.served = False
        self.conflicts = 0
        #: Where the file is to be published; asked when a part of it can leave early.
        self.target: Callable[[], Target] | None = None
        self.shelf = Shelf(context, lambda: self.fetcher.pages)
        self._stream: Stream | None = None
        #: Cancelled when someone needs the file more urgently than its upload goes on.
        self.upload: trio.CancelScope | None = None
        self._publishing: trio.Event | None = None

    @property
    def base(self) -> Version | None:
        """The version in the bucket that clean bytes come from."""
        return self.fetcher.base

    @property
    def unsaved(self) -> bool:
        """Whether the bucket lacks something: bytes, the new length, or the file itself."""
        return self.new or bool(self.dirty) or self.cut

    def rebase(self, base: Version) -> None:
        """The base version was copied to another key by us: its bytes come from there now."""
        self.fetcher.base = base
        if not self.unsaved:
            self._context.cache.label(self.fetcher.pages, base.key, base.etag, base.size)

    def forget_base(self) -> None:
        """The base version is gone: what is not here reads as zeros from now on.

        Nothing is fetched.
        """
        for start, stop in self.fetcher.missing(0, self.size):
            self.fetcher.pages.zero(start, stop)
        self.fetcher.base = None
        self.fetcher.limit = 0

    def renew(self, base: Version) -> None:
        """Stand for another version; only while nothing of the old one was served or changed."""
        assert not self.served
        assert not self.unsaved
        self.fetcher.cancel()
        self._context.cache.release(self.fetcher.pages)
        pages = self._context.cache.open(base.key, base.etag, base.size)
        self.fetcher = Fetcher(self._context, pages, base)
        self.size = base.size

    async def read(self, reader: Reader, start: int, length: int) -> bytes:
        """Bytes from `start`, fewer than `length` only at the end of the file.

        Raises:
            FsError: ESTALE, when missing bytes belong to a version that is gone.
            StoreError: The bucket could not be read.
        """
        stop = min(start + length, self.size)
        if start >= stop:
            return b""
        wanted = bool(self.fetcher.missing(start, stop))
        reader.cursors = window.advance(reader.cursors, start, stop, waited=wanted)
        if self.fetcher.limit:
            ahead = window.ahead(reader.cursors[0], start, stop, self.size)
            await self.fetcher.ensure(start, stop, ahead)
        if self.shelf:
            await self.bring(start, stop)
        self.served = True
        stop = min(stop, self.size)  # it may have been cut while this waited
        return self.fetcher.pages.read(start, stop) if start < stop else b""

    async def load(self, start: int, stop: int) -> None:
        """Have ``[start, stop)`` in the cache; raises as `read` does."""
        self._loading.append((start, stop))
        try:
            await self.fetcher.ensure(start, stop)
        finally:
            self._loading.remove((start, stop))

    async def bring(self, start: int, stop: int) -> None:
        """As `load`, and what is on the shelf; with the last byte all of them are here."""
        async with self.held(start, stop):
            pass

    @asynccontextmanager
    async def held(self, start: int, stop: int) -> AsyncIterator[None]:
        """As `bring`, and nothing of it leaves the disk during the block."""
        self._loading.append((start, stop))
        try:
            await self.fetcher.ensure(start, stop)
            while await self.shelf.bring(start, stop):
                # the file may have been published meanwhile: then its new version has the rest
                await self.fetcher.ensure(start, stop)
            yield
        finally:
            self._loading.remove((start, stop))

    async def write(self, offset: int, data: bytes) -> int:
        """Store `data` at `offset`; a gap before it becomes zeros.

        Waits while the cache is full and parts of the file are leaving.

        Returns:
            How many bytes were stored: fewer than given when the disk filled up meanwhile.

        Raises:
            FsError: EFBIG beyond the largest object, ENOSPC when the cache's disk is full and
                nothing can leave it.
            StoreError: The cache is full, and the bucket takes nothing.
        """
        stop = offset + len(data)
        self._check_size(stop)
        await self._writable()
        while self._context.cache.short:
            shed = await self._shed()
            await self._writable()
            if not shed:
                break
        done = await self._store(offset, data)
        if offset > self.size:
            self._extend(offset)
        self.dirty.add(offset, offset + done)
        self.size = max(self.size, offset + done)
        self.touched = True
        self.revision += 1
        self._spoil(offset, offset + done)
        self._feed_stream(offset + done)
        return done

    async def _store(self, offset: int, data: bytes) -> int:
        while True:
            try:
                return self._context.cache.write(self.fetcher.pages, offset, data)
            except FsError as error:
                if error.errno != errno.ENOSPC or not await self._shed(ALLOWANCE):
                    raise
            await self._writable()

    async def _shed(self, wanted: int = 0) -> bool:
        """Wait until parts of this file have left the disk; answers whether any have.

        Args:
            wanted: Bytes the disk lacks; otherwise what the cache holds too much, without what
                this file may hold in any case.
        """
        if self._stream is None:
            return False
        if not wanted:
            wanted = min(self._context.cache.short, self.fetcher.pages.held - ALLOWANCE)
        return wanted > 0 and await self._stream.shed(wanted, self._drop_shelved) > 0

    def _drop_shelved(self, wanted: int) -> int:
        if self._publishing is not None:
            return 0
        return self.shelf.drop(wanted, self._kept(), self.fetcher.limit)

    def _spoil(self, start: int, stop: int) -> None:
        """``[start, stop)`` has been written: what has left with it is out of date."""
        self.shelf.spoil(start, stop)
        if self._stream is not None:
            self._stream.spoil(start, stop)

    def _feed_stream(self, stop: int) -> None:
        """Send what is complete of a file that is written from its start to its end."""
        if self._stream is None and stop == self.size and self._streamable():
            assert self.target is not None
            try:
                target = self.target()
            except FsError:
                return  # it has no name any more: publishing will deal with that
            first = next(iter(self.dirty))[0] if self.base is not None else 0
            self._stream = Stream(
                self._context, self.fetcher.pages, self.shelf, self.held, target, first
            )
        if self._stream is not None:
            self._stream.advance(self.size)

    def _streamable(self) -> bool:
        """Whether it pays to send parts before the file is closed."""
        if self.target is None or not self._context.can_stream:
            return False
        if self.base is None:
            return self.size >= STREAM_FROM
        # what was appended to an object is sent when it is saved, in few large pieces, unless the
        # disk cannot hold it until then
        appended = self.dirty.count == 1 and self.dirty.end == self.size
        return appended and self.dirty.total >= STREAM_FROM and self.shelf.wanted()

    async def take_stream(self, key: str) -> Stream | None:
        """The upload that has run beside the writer, ready to be completed.

        None if there is none.
        """
        stream = self._stream
        if stream is None:
            return None
        if stream.target.key == key and self.size >= STREAM_FROM:
            await stream.settled()
        self._stream = None
        usable = stream.upload_id and not stream.failed
        if usable and stream.target.key == key and self.size >= STREAM_FROM:
            return stream
        stream.abandon()
        return None

    async def truncate(self, size: int) -> None:
        """Cut or lengthen the file to `size` bytes; raises as `write` does."""
        self._check_size(size)
        await self._writable()
        if size > self.size:
            self._extend(size)
        elif size < self.size:
            self.fetcher.pages.truncate(size)
            self.dirty.remove(size, self.size)
            self.fetcher.limit = min(self.fetcher.limit, size)
            self.cut = True
            self.shelf.cut(size)
            if self._stream is not None:
                self._stream.cut(size)
            self.size = size
        self.touched = True
        self.revision += 1

    def _check_size(self, size: int) -> None:
        if size > self.size and size > self._context.largest:
            why = "raise multipart_size, or leave it out" if self._context.part_size else ""
            raise FsError(
                errno.EFBIG,
                f"no upload here can hold more than {self._context.largest} bytes; {why}",
            )

    def _extend(self, size: int) -> None:
        self.fetcher.pages.zero(self.size, size)
        self.dirty.add(self.size, size)
        self.size = size

    async def _writable(self) -> None:
        """Wait while the content is being published.

        Make the page file ours before the first change.
        """
        while self._publishing is not None:
            await self._publishing.wait()
        if self.fetcher.pages.identity is not None:
            self.fetcher.pages = self._context.cache.own(self.fetcher.pages)

    def hold(self) -> None:
        """Keep writers away from now on, until `published` or `unhold`."""
        assert self._publishing is None, "one upload of a file at a time"
        self._publishing = trio.Event()

    def interrupt(self) -> None:
        """Stop an upload under way, if it can be stopped without leaving its outcome open."""
        if self.upload is not None:
            self.upload.cancel()
        self._drop_stream()

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.abandon()
            self._stream = None

    def unhold(self) -> None:
        """Let writers go on."""
        if self._publishing is not None:
            self._publishing.set()
            self._publishing = None

    def published(self, version: Version) -> None:
        """The bucket holds exactly these bytes now, as `version`."""
        self.fetcher.cancel()  # what is still under way belongs to the version before
        self.fetcher.base = version
        self.fetcher.limit = version.size
        self.dirty.clear()
        self.new = self.cut = self.touched = False
        self._context.cache.label(self.fetcher.pages, version.key, version.etag, version.size)

    def reclaim(self, wanted: int) -> int:
        """Drop up to about `wanted` bytes of clean pages that no reader is near.

        Answers how many went.
        """
        if self._publishing is not None:
            return 0
        freed = self._drop_shelved(wanted)
        if self.base is None:
            return freed
        keep = self._kept()
        for start, stop in self.dirty:
            keep.add(start, stop)
        for start, stop in self._droppable(keep):
            end = min(stop, start + wanted - freed)
            self._context.cache.shrink(self.fetcher.pages, start, end)
            freed += end - start
            if freed >= wanted:
                break
        return freed

    def _kept(self) -> Extents:
        """What readers are near, or wait for."""
        keep = Extents(self._loading)
        for reader in self.readers:
            for cursor in reader.cursors:
                keep.add(
                    max(0, cursor.position - window.NEAR), cursor.position + window.MOST_WINDOW
                )
        return keep

    def copyable(self, part: Part) -> bool:
        """Whether the base version has exactly the bytes of a part."""
        here = self.base is not None and part.stop <= self.fetcher.limit
        clean = here and not self.dirty.overlaps(part.start, part.stop)
        return clean and self._context.store.capabilities.copy_part

    def _droppable(self, keep: Extents) -> list[Extent]:
        valid = self.fetcher.pages.valid.within(0, self.fetcher.limit)
        return [gap for start, stop in valid for gap in keep.missing(start, stop)]

    def close(self) -> None:
        """Let go of the page file.

        Only when no handle is left and nothing is unsaved (or it is unwanted).
        """
        self._drop_stream()
        self.shelf.discard()
        self.fetcher.cancel()
        self._context.cache.release(self.fetcher.pages)
