"""The bytes of one open (or unsaved) file, as every program on this machine sees them.

A `Content` is the union of three things: pages of the base version in the bucket, fetched when
needed; what programs wrote since (`dirty`); and zeros where the file was made longer. It hangs on
the inode, not on a path or a handle, so all handles of a file share it, and renaming changes
nothing.

When the disk has to be relieved, parts of the file may be `upload_only`: only the upload that runs
beside the writer has them (`StreamedUpload`). Whatever needs such a byte again first publishes the
file: it is published as it is, and the object is its base version from then on.

Invariants:
- positions at and after ``fetcher.limit`` are valid locally (written, or zeros), upload-only, or
  lost;
- ``dirty`` lies within ``[0, size)``, and its positions are valid, upload-only, or lost;
- while the content is being published nobody changes it: writers wait in `_writable`;
- nothing leaves the page file that a `promise` counts on.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from bucketfs.cache.extents import Extent, Extents
from bucketfs.cache.pages import PageFile
from bucketfs.cache.rows import PendingRow
from bucketfs.errors import FsError
from bucketfs.file import window
from bucketfs.file.context import FileContext, Version
from bucketfs.file.early_upload import ALLOWANCE, EarlyUpload, Outlet
from bucketfs.file.fetch import Fetcher
from bucketfs.file.promise import Promise
from bucketfs.file.readers import Reader

log = logging.getLogger(__name__)


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
        readers: The reading positions of the handles.
        cut: It was made shorter (or emptied) since it was published.
        revision: Counts changes, to see whether one came between two moments.
        conflicts: How often others' version won over what was written here.
        early_upload: What leaves of the file before it is published.
        served: Some program (or the kernel's page cache) has bytes of the base version.
        promise: What the journal says of it, while the bucket lacks something of that.
        attempts: Size and user metadata of uploads that failed, and yet may have arrived.
        may_have_arrived: One of them may stand under the key that the file has now.
    """

    def __init__(
        self,
        context: FileContext,
        base: Version | None,
        pages: PageFile | None = None,
        *,
        outlet: Outlet | None = None,
    ) -> None:
        self._context = context
        if pages is None:
            pages = (
                context.cache.open(base.key, base.etag, base.size)
                if base
                else context.cache.create()
            )
        self.fetcher = Fetcher(context, pages, base, self._damaged)
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
        self.early_upload = EarlyUpload(context, self, outlet)
        #: Cancelled when someone needs the file more urgently than its upload goes on.
        self.upload: trio.CancelScope | None = None
        self._publishing: trio.Event | None = None
        self._holds = 0
        self.promise: Promise | None = None
        self.attempts: list[tuple[int, Mapping[str, str]]] = []
        self.may_have_arrived = False

    @classmethod
    def promised(
        cls, context: FileContext, row: PendingRow, pages: PageFile, *, outlet: Outlet | None = None
    ) -> Content:
        """What an earlier mount promised; the caller's pin on `pages` passes over to it."""
        base = Version(*row.base) if row.base else None
        content = cls(context, base, pages, outlet=outlet)
        content.size, content.dirty = row.size, Extents(row.dirty)
        content.new, content.cut, content.touched = row.new, row.cut, True
        content.fetcher.limit = row.limit
        content.promise = Promise(pages, row, inline=False, revision=0)
        content.attempts = [*row.attempts, *row.ahead, (row.size, row.headers.metadata)]
        content.may_have_arrived = True
        return content

    @property
    def base(self) -> Version | None:
        """The version in the bucket that clean bytes come from."""
        return self.fetcher.base

    @property
    def unsaved(self) -> bool:
        """Whether the bucket lacks something: bytes, the new length, or the file itself."""
        return self.new or bool(self.dirty) or self.cut

    @property
    def promised_as_it_is(self) -> bool:
        """Whether the journal knows these very bytes, none older ones."""
        return self.promise is not None and self.promise.revision == self.revision

    def rebase(self, base: Version) -> None:
        """The base version was copied to another key by us: its bytes come from there now."""
        self.fetcher.base = base
        if not self.unsaved:
            self._context.cache.label(self.fetcher.pages, base.key, base.etag, base.size)

    def drop_base(self) -> None:
        """The base version is gone: what is not here reads as zeros from now on.

        Nothing is fetched; the content has been proven (`prove`).
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
        self.fetcher = Fetcher(self._context, pages, base, self._damaged)
        self.size = base.size

    def remove_reader(self, reader: Reader) -> None:
        """A handle that reads is closed."""
        self.readers.discard(reader)
        self._context.readers.remove(reader)

    async def read(self, reader: Reader, start: int, length: int) -> bytes:
        """Bytes from `start`, fewer than `length` only at the end of the file.

        Raises:
            FsError: ESTALE, when missing bytes belong to a version that is gone.
            StoreError: The bucket could not be read.
        """
        stop = min(start + length, self.size)
        if start >= stop:
            return b""
        if self.fetcher.pages.unproven is not None:
            await self.fetcher.prove(start, stop)
        await self.early_upload.within_reach(start, stop)
        wanted = bool(self.fetcher.missing(start, stop))
        cursor = self._context.readers.advance(
            reader, start, stop, waited=wanted, capacity=self._context.cache.capacity
        )
        if self.fetcher.limit:
            ahead = window.ahead(cursor, start, stop, self.size)
            try:
                await self.fetcher.ensure(start, stop, ahead)
            except FsError as error:
                if error.errno == errno.ESTALE:
                    raise
                log.info("reading past the cache's disk: %s", error)
                return await self._read_past_the_disk(start, stop)
            await self.early_upload.within_reach(start, stop)
        self.served = True
        stop = min(stop, self.size)  # it may have been cut while this waited
        return self.fetcher.pages.read(start, stop) if start < stop else b""

    async def _read_past_the_disk(self, start: int, stop: int) -> bytes:
        self._loading.append((start, stop))
        try:
            while self.early_upload.is_upload_only(start, stop):
                await self.early_upload.publish_early()
            data = await self.fetcher.past_the_disk(start, stop)
        finally:
            self._loading.remove((start, stop))
        self.served = True
        self.early_upload.check(start, stop)
        return data[: max(0, self.size - start)]

    async def prove(self) -> None:
        """Find out which of the pages that an earlier process left are what they were."""
        await self.fetcher.prove(0, self.size)

    def _damaged(self, start: int, stop: int) -> None:
        """Bytes are not what they were: those that no bucket has are lost."""
        ours = self.dirty.within(start, stop)
        if self.fetcher.limit < min(stop, self.size):
            ours.append((max(start, self.fetcher.limit), min(stop, self.size)))
        for a, b in ours:
            self.early_upload.lost.add(a, b)
            log.error(
                "bytes %d-%d of %s, which no bucket has, were damaged on the disk and are lost",
                a, b - 1, self.fetcher.pages.path,
            )  # fmt: skip

    async def load(self, start: int, stop: int) -> None:
        """Have ``[start, stop)`` in the cache; raises as `read` does."""
        self._loading.append((start, stop))
        try:
            await self.fetcher.ensure(start, stop)
        finally:
            self._loading.remove((start, stop))

    @asynccontextmanager
    async def held(self, start: int, stop: int) -> AsyncIterator[None]:
        """As `load`, and nothing of it leaves the disk during the block; EIO if some is lost."""
        self._loading.append((start, stop))
        try:
            await self.fetcher.ensure(start, stop)
            self.early_upload.check(start, stop)
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
        await self._ready(offset, stop)
        while self._context.cache.short:
            freed = await self.early_upload.free_disk()
            await self._ready(offset, stop)
            if not freed:
                break
        done = await self._store(offset, data)
        if offset > self.size:
            self._extend(offset)
        self.dirty.add(offset, offset + done)
        self.size = max(self.size, offset + done)
        self.touched = True
        self.revision += 1
        self.early_upload.written(offset, offset + done)
        return done

    async def _store(self, offset: int, data: bytes) -> int:
        while True:
            # making room must not drop the rest of the parts that are being changed
            stop = offset + len(data)
            spans = [(offset, stop), *self.early_upload.spans(offset, stop)]
            self._loading += spans
            try:
                return self._context.cache.write(self.fetcher.pages, offset, data)
            except FsError as error:
                full = error.errno == errno.ENOSPC
                failure = error
            finally:
                for span in spans:
                    self._loading.remove(span)
            if not full or not await self.early_upload.free_disk(ALLOWANCE):
                raise failure
            await self._ready(offset, stop)

    async def _ready(self, start: int, stop: int, *, cut: bool = False) -> None:
        """Wait until ``[start, stop)`` may be written, or the file be cut at `start`."""
        await self._writable()
        if self.fetcher.pages.unproven is not None:
            # what stays of a changed piece has to be known; a cut touches the byte before it
            await self.fetcher.prove(max(0, start - 1), stop + 1)
            await self._writable()  # publishing may have begun meanwhile
        while True:
            pages, promise = self.fetcher.pages, self.promise
            if self.early_upload.must_publish_first(start, stop):
                await self.early_upload.publish_early()
            elif promise is not None and promise.is_sealed(pages, start, cut=cut):
                journal = self._context.cache.journal
                journal.change(promise.unseal())
                await journal.synced()  # or else a power cut would make it look damaged
            else:
                break
            await self._writable()
        if promise is not None and promise.counts_on(pages, start, cut=cut):
            self.early_upload.drop()
            self.fetcher.pages = self._context.cache.fork(pages, start if cut else self.size)

    async def truncate(self, size: int) -> None:
        """Cut or lengthen the file to `size` bytes; raises as `write` does."""
        self._check_size(size)
        cut = size < self.size
        await self._ready(size, size, cut=cut)  # a part that is cut in two has to be here
        if size > self.size:
            self._extend(size)
        elif size < self.size:
            self.fetcher.pages.truncate(size)
            self.dirty.remove(size, self.size)
            self.fetcher.limit = min(self.fetcher.limit, size)
            self.cut = True
            self.early_upload.cut(size)
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

    @property
    def publishing(self) -> bool:
        """Whether the file is being published right now."""
        return self._publishing is not None

    def hold(self) -> None:
        """Keep writers away from now on, until the last `unhold`."""
        self._holds += 1
        if self._publishing is None:
            self._publishing = trio.Event()

    def interrupt(self) -> None:
        """Stop an upload under way, if it can be stopped without leaving its outcome open."""
        if self.upload is not None:
            self.upload.cancel()
        if self._publishing is None and not self.early_upload.has_upload_only:
            self.early_upload.drop()

    def unhold(self) -> None:
        """Let writers go on, if nobody else holds them."""
        self._holds -= 1
        if not self._holds and self._publishing is not None:
            self._publishing.set()
            self._publishing = None

    def published(self, version: Version) -> None:
        """The bucket holds exactly these bytes now, as `version`."""
        self.early_upload.published()
        self.fetcher.cancel()  # what is still under way belongs to the version before
        self.fetcher.base = version
        self.fetcher.limit = version.size
        self.dirty.clear()
        self.attempts.clear()
        self.may_have_arrived = False
        self.new = self.cut = self.touched = False
        self._context.cache.label(self.fetcher.pages, version.key, version.etag, version.size)

    def reclaim(self, wanted: int) -> int:
        """Drop up to about `wanted` bytes of clean pages that no reader is near.

        Answers how many went.
        """
        if self.promise is not None:
            return 0
        freed = self.early_upload.drop_arrived(wanted)
        if self.base is None:
            return freed
        keep = self.kept()
        for start, stop in (*self.dirty, *self.early_upload.unsent()):
            keep.add(start, stop)
        for start, stop in self._droppable(keep):
            end = min(stop, start + wanted - freed)
            self._context.cache.shrink(self.fetcher.pages, start, end)
            freed += end - start
            if freed >= wanted:
                break
        return freed

    def kept(self) -> Extents:
        """What readers are near, or wait for."""
        keep = Extents(self._loading)
        for reader in self.readers:
            for cursor in reader.cursors:
                near = max(0, cursor.position - window.NEAR)
                keep.add(near, cursor.position + cursor.window + window.FETCH)
        return keep

    def _droppable(self, keep: Extents) -> list[Extent]:
        valid = self.fetcher.pages.valid.within(0, self.fetcher.limit)
        return [gap for start, stop in valid for gap in keep.missing(start, stop)]

    def close(self) -> None:
        """Let go of the page file.

        Only when no handle is left and nothing is unsaved (or it is unwanted).
        """
        self.early_upload.drop()
        self.fetcher.cancel()
        self._context.cache.release(self.fetcher.pages)
