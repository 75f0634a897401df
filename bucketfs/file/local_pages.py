"""What of one file is on the local disk, and what has to stay there.

Pages are fetched when somebody needs them. Clean ones go again under pressure, but for those that
readers are near, that a task has asked to keep, or that a promise counts on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from bucketfs.cache.extents import Extent, Extents
from bucketfs.cache.pages import PageFile
from bucketfs.file import window
from bucketfs.file.context import FileContext, Version
from bucketfs.file.fetch import Fetcher
from bucketfs.file.overlay import Overlay
from bucketfs.file.promise import Promise
from bucketfs.file.readers import Reader

log = logging.getLogger(__name__)


class LocalPages:
    """The pages of one file.

    Attributes:
        fetcher: Brings pages of the base version; owns the page file.
        readers: The reading positions of the handles.
        promise: What the journal says of the file, while the bucket lacks something of that.
    """

    def __init__(
        self, context: FileContext, overlay: Overlay, pages: PageFile, base: Version | None
    ) -> None:
        self._context = context
        self._overlay = overlay
        self.fetcher = Fetcher(context, overlay, pages, base, self._damaged)
        self.readers: set[Reader] = set()
        self.promise: Promise | None = None
        #: Ranges that are to stay here until who asked for them has all of them.
        self._kept: list[Extent] = []

    @property
    def pages(self) -> PageFile:
        """The page file."""
        return self.fetcher.pages

    def renew(self, base: Version) -> None:
        """Stand for another version from now on."""
        self.fetcher.cancel()
        self._context.cache.release(self.pages)
        pages = self._context.cache.open(base.key, base.etag, base.size)
        self.fetcher = Fetcher(self._context, self._overlay, pages, base, self._damaged)

    def _damaged(self, start: int, stop: int) -> None:
        """Bytes are not what they were: those that no bucket has are lost."""
        for a, b in self._overlay.damaged(start, stop):
            log.error(
                "bytes %d-%d of %s, which no bucket has, were damaged on the disk and are lost",
                a, b - 1, self.pages.path,
            )  # fmt: skip

    @contextmanager
    def keeping(self, extents: Sequence[Extent]) -> Iterator[None]:
        """Nothing of `extents` leaves the disk during the block."""
        self._kept += extents
        try:
            yield
        finally:
            for extent in extents:
                self._kept.remove(extent)

    async def load(self, start: int, stop: int) -> None:
        """Have ``[start, stop)`` on the disk; raises as `Fetcher.ensure` does."""
        with self.keeping([(start, stop)]):
            await self.fetcher.ensure(start, stop)

    @asynccontextmanager
    async def held(self, start: int, stop: int) -> AsyncIterator[None]:
        """As `load`, and nothing of it leaves the disk during the block; EIO if some is lost."""
        with self.keeping([(start, stop)]):
            await self.fetcher.ensure(start, stop)
            self._overlay.check(start, stop)
            yield

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
