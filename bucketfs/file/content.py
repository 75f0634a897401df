"""The bytes of one open (or unsaved) file, as every program on this machine sees them.

A `Content` is the union of three things: pages of the base version in the bucket, fetched when
needed; what programs wrote since; and zeros where the file was made longer. It hangs on the inode,
not on a path or a handle, so all handles of a file share it, and renaming changes nothing.

When the disk has to be relieved, parts of the file may be `upload_only`: only the upload that runs
beside the writer has them (`StreamedUpload`). Whatever needs such a byte again first publishes the
file: it is published as it is, and the object is its base version from then on.

It puts three things together: the `Overlay` says which bytes no bucket has, the `LocalPages` have
what is on the disk and fetch what is not, and the `EarlyUpload` takes bytes away before the file
is published.

Invariants:
- what is ours (`Overlay.ours`) is valid locally (written, or zeros), upload-only, or lost;
- while the content is being published nobody changes it: writers wait in `_writable`;
- nothing leaves the page file that a `promise` counts on.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from dataclasses import replace

import trio

from bucketfs.cache.budget import FULL
from bucketfs.cache.pages import PageFile
from bucketfs.cache.rows import PendingRow
from bucketfs.errors import FsError
from bucketfs.file import window
from bucketfs.file.context import FileContext, Version
from bucketfs.file.early_upload import ALLOWANCE, EarlyUpload
from bucketfs.file.local_pages import LocalPages
from bucketfs.file.overlay import Overlay
from bucketfs.file.promise import Promise
from bucketfs.file.readers import Reader

log = logging.getLogger(__name__)


class Content:
    """Bytes of one file.

    Attributes:
        overlay: What the file is on top of its base version.
        local: What of it is on the disk.
        early_upload: What leaves of it before it is published.
        handles: Open handles.
        writers: Those of them that may write.
        conflicts: How often others' version won over what was written here.
        served: Some program (or the kernel's page cache) has bytes of the base version.
        attempts: Size and user metadata of uploads that failed, and yet may have arrived.
        may_have_arrived: One of them may stand under the key that the file has now.
    """

    def __init__(
        self,
        context: FileContext,
        base: Version | None,
        pages: PageFile | None = None,
        *,
        overlay: Overlay | None = None,
    ) -> None:
        self._context = context
        if pages is None:
            pages = (
                context.cache.open(base.key, base.etag, base.size)
                if base
                else context.cache.create()
            )
        self.overlay = overlay or Overlay(base.size if base else None)
        self.local = LocalPages(context, self.overlay, pages, base)
        self.early_upload = EarlyUpload(context, self.overlay, self.local)
        self.handles = 0
        self.writers = 0
        self.served = False
        self.conflicts = 0
        #: Cancelled when someone needs the file more urgently than its upload goes on.
        self.upload: trio.CancelScope | None = None
        self._publishing: trio.Event | None = None
        self._holds = 0
        self.attempts: list[tuple[int, Mapping[str, str]]] = []
        self.may_have_arrived = False

    @classmethod
    def promised(cls, context: FileContext, row: PendingRow, pages: PageFile) -> Content:
        """What an earlier mount promised; the caller's pin on `pages` passes over to it."""
        base = Version(*row.base) if row.base else None
        overlay = Overlay.promised(row)
        content = cls(context, base, pages, overlay=overlay)
        content.promise = Promise(
            pages, row, inline=False, revision=overlay.revision, on_disk=False, answered=True
        )
        content.attempts = [*row.attempts, *row.ahead, (row.size, row.headers.metadata)]
        content.may_have_arrived = True
        return content

    @classmethod
    def unfinished(cls, context: FileContext, row: PendingRow, pages: PageFile) -> Content:
        """As `promised`, of a file that a program is still writing: nothing is promised of it."""
        base = Version(*row.base) if row.base else None
        content = cls(context, base, pages, overlay=Overlay.promised(row))
        content.attempts = [*row.attempts]
        content.may_have_arrived = bool(row.attempts)
        return content

    @property
    def size(self) -> int:
        """Current length in bytes."""
        return self.overlay.size

    @property
    def promise(self) -> Promise | None:
        """What the journal says of the file, while the bucket lacks something of that."""
        return self.local.promise

    @promise.setter
    def promise(self, promise: Promise | None) -> None:
        self.local.promise = promise

    @property
    def base(self) -> Version | None:
        """The version in the bucket that clean bytes come from."""
        return self.local.base

    @property
    def unsaved(self) -> bool:
        """Whether the bucket lacks something: bytes, the new length, or the file itself."""
        return self.overlay.unsaved

    @property
    def promised_as_it_is(self) -> bool:
        """Whether the journal knows these very bytes, none older ones."""
        return self.promise is not None and self.promise.revision == self.overlay.revision

    def known_by(self, metadata: Mapping[str, str]) -> list[tuple[int, Mapping[str, str]]]:
        """As `attempts` has it, what an upload makes that begins now with this user metadata.

        If one has run beside the writer, that may be it, with its own.
        """
        stream = self.early_upload.stream
        sent = [metadata] if stream is None else [metadata, stream.target.headers.metadata]
        return [(self.size, each) for each in sent]

    def rebase(self, base: Version) -> None:
        """The base version was copied to another key by us: its bytes come from there now."""
        self.local.base = base
        if not self.unsaved:
            self._context.cache.label(self.local.pages, base.key, base.etag, base.size)

    def drop_base(self) -> None:
        """The base version is gone: what is not here reads as zeros from now on.

        Nothing is fetched; the content has been proven (`prove`).
        """
        for start, stop in self.local.missing(0, self.size):
            self.local.pages.zero(start, stop)
        self.local.base = None
        self.overlay.base_dropped()

    def renew(self, base: Version) -> None:
        """Stand for another version; only while nothing of the old one was served or changed."""
        assert not self.served
        assert not self.unsaved
        self.local.renew(base)
        self.overlay.renewed(base.size)

    def move_on(self, base: Version) -> None:
        """Stand for another version, whatever programs have read; only while nothing was written.

        A file that is new, and empty, becomes that version.
        """
        assert not self.unsaved or (self.overlay.new and not self.overlay.touched)
        self.local.renew(base)
        self.overlay.renewed(base.size)
        self.served = False

    def add_reader(self, reader: Reader) -> None:
        """A handle is opened."""
        self.local.readers.add(reader)

    def remove_reader(self, reader: Reader) -> None:
        """A handle that reads is closed."""
        self.local.readers.discard(reader)
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
        if self.local.pages.unproven is not None:
            await self.local.prove(start, stop)
        await self.early_upload.within_reach(start, stop)
        wanted = sum(b - a for a, b in self.local.missing(start, stop))
        self._context.served.fetched += wanted
        self._context.served.here += stop - start - wanted
        cursor = self._context.readers.advance(
            reader, start, stop, waited=wanted > 0, capacity=self._context.cache.capacity
        )
        if self.overlay.limit:
            ahead = window.ahead(cursor, start, stop, self.size)
            try:
                if wanted and not cursor.window:
                    await self.local.ensure_random(start, stop, ahead)
                else:
                    await self.local.ensure(start, stop, ahead)
            except FsError as error:
                return await self._read_past_the_disk(start, stop, error)
            await self.early_upload.within_reach(start, stop)
        self.served = True
        stop = min(stop, self.size)  # it may have been cut while this waited
        return self.local.pages.read(start, stop) if start < stop else b""

    async def whole(self) -> bytes:
        """All bytes of a file that is small, as a symbolic link is; raises as `read`."""
        try:
            await self.local.load(0, self.size)
        except FsError as error:
            return await self._read_past_the_disk(0, self.size, error)
        return self.local.pages.read(0, self.size)

    async def _read_past_the_disk(self, start: int, stop: int, error: FsError) -> bytes:
        """The bytes all the same, if the disk has no room for them; otherwise the error."""
        if error.errno == errno.ESTALE:
            raise error
        log.info("%s; reading past the disk", error)
        with self.local.keeping([(start, stop)]):
            while self.early_upload.is_upload_only(start, stop):
                await self.early_upload.publish_early()
            data = await self.local.past_the_disk(start, stop)
        self.served = True
        self.overlay.check(start, stop)
        return data[: max(0, self.size - start)]

    async def prove(self) -> None:
        """Find out which of the pages that an earlier process left are what they were."""
        await self.local.prove(0, self.size)

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
            freed = await self.early_upload.free_disk(self.reclaim)
            await self._ready(offset, stop)
            if not freed:
                break
        done = await self._store(offset, data)
        if offset > self.size:
            self.local.pages.zero(self.size, offset)
        self.overlay.written(offset, offset + done)
        self.early_upload.written(offset, offset + done)
        return done

    async def _store(self, offset: int, data: bytes) -> int:
        while True:
            # making room must not drop the rest of the parts that are being changed
            stop = offset + len(data)
            spans = [(offset, stop), *self.early_upload.spans(offset, stop)]
            try:
                with self.local.keeping(spans):
                    return self._context.cache.write(self.local.pages, offset, data)
            except FsError as error:
                full = error.errno in FULL
                failure = error
            if not full or not await self.early_upload.free_disk(self.reclaim, ALLOWANCE):
                raise failure
            await self._ready(offset, stop)

    async def _ready(self, start: int, stop: int, *, cut: bool = False) -> None:
        """Wait until ``[start, stop)`` may be written, or the file be cut at `start`."""
        await self._writable()
        if self.local.pages.unproven is not None:
            # what stays of a changed piece has to be known; a cut touches the byte before it
            await self.local.prove(max(0, start - 1), stop + 1)
            await self._writable()  # publishing may have begun meanwhile
        while True:
            pages, promise = self.local.pages, self.promise
            if self.early_upload.must_publish_first(start, stop):
                await self.early_upload.publish_early()
            elif promise is not None and promise.is_sealed(pages, start, cut=cut):
                await self._unseal(promise)
            else:
                break
            await self._writable()
        if promise is not None and promise.counts_on(pages, start, cut=cut):
            self.early_upload.drop()
            self.local.pages = self._context.cache.fork(pages, start if cut else self.size)

    async def _unseal(self, promise: Promise) -> None:
        """Have the journal know that bytes may change, or else a crash makes them look damaged.

        Raises:
            FsError: It cannot be written; the bytes must not change.
        """
        journal, seals, known = self._context.cache.journal, promise.row.seals, False
        journal.change(promise.unseal())
        try:
            await journal.synced()
            known = True
        finally:
            if not known:
                promise.row = replace(promise.row, seals=seals)

    async def truncate(self, size: int) -> None:
        """Cut or lengthen the file to `size` bytes; raises as `write` does."""
        self._check_size(size)
        cut = size < self.size
        await self._ready(size, size, cut=cut)  # a part that is cut in two has to be here
        if size < self.size:
            self.local.pages.truncate(size)
            self.overlay.truncated(size)
            self.early_upload.cut(size)
        else:
            self.local.pages.zero(self.size, size)
            self.overlay.extended(size)

    def _check_size(self, size: int) -> None:
        if size > self.size and size > self._context.largest:
            hint = "; raise multipart_size, or leave it out" if self._context.part_size else ""
            raise FsError(
                errno.EFBIG,
                f"no upload here can hold more than {self._context.largest} bytes{hint}",
            )

    async def _writable(self) -> None:
        """Wait while the content is being published.

        Make the page file ours before the first change.
        """
        while self._publishing is not None:
            await self._publishing.wait()
        self.own_pages()

    def own_pages(self) -> None:
        """Have the page file be that of no version in the bucket, which others may open.

        Raises:
            FsError: ENOSPC (or what else the disk says).
        """
        if self.local.pages.identity is not None:
            self.local.pages = self._context.cache.own(self.local.pages)

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
        self.local.stop_fetching()  # what is still under way belongs to the version before
        self.local.base = version
        self.overlay.published()
        self.attempts.clear()
        self.may_have_arrived = False
        self._context.cache.label(self.local.pages, version.key, version.etag, version.size)

    def reclaim(self, wanted: int) -> int:
        """Drop up to about `wanted` bytes of clean pages that no reader is near.

        Answers how many went.
        """
        if self.promise is not None:
            return 0  # it counts on the pages, and an upload that is not completed does not keep it
        freed = 0 if self.publishing else self.early_upload.drop_arrived(wanted)
        if self.base is None:
            return freed
        return freed + self.local.drop_clean(wanted - freed, self.early_upload.unsent())

    def close(self) -> None:
        """Let go of the page file.

        Only when no handle is left and nothing is unsaved (or it is unwanted).
        """
        self.early_upload.drop()
        self.local.stop_fetching()
        self._context.cache.release(self.local.pages)
