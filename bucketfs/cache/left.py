"""Page files that earlier mounts left, as far as this one has not used them.

They may be a million: a mount does not look at each when it begins. What the index says of one is
believed when somebody asks for it, and then its file is looked at, and used like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator
from pathlib import Path

from bucketfs import clock
from bucketfs.cache.extents import Seals
from bucketfs.cache.index import Index, PageRow
from bucketfs.cache.pages import PageFile

log = logging.getLogger(__name__)


class Left:
    """Finds the page files that the index has from earlier mounts; each is handed out once.

    Args:
        directory: Where they are.
        index: What is known of them.
        used: Those that were handed out, or made since, by key and ETag.

    Attributes:
        any: Whether there were some when this mount began.
        count: How many are left to be handed out.
    """

    def __init__(self, directory: Path, index: Index, used: Container[tuple[str, str]]) -> None:
        self._directory = directory
        self._index = index
        self._used = used
        self._began = clock.monotonic(), clock.wall_ns() / 1e9
        self.count, self._held = index.total
        self.any = self.count > 0

    @property
    def held(self) -> int:
        """Bytes of disk they take."""
        # an index that cannot be used any more has deleted itself: nobody finds them
        return 0 if self._index.lost else self._held

    def had(self, key: str) -> bool:
        """Whether there are bytes of some version of an object."""
        return self._index.has_pages(key)

    def find(self, key: str, etag: str) -> PageFile | None:
        """The page file of a version that is not used yet."""
        row = self._index.page(key, etag)
        return None if row is None else self._hand_out(row)

    def oldest(self, wanted: int) -> Iterator[PageFile]:
        """Those used longest ago, until they hold so many bytes."""
        return self._first(wanted, lambda _: True)

    def of(self, wanted: Callable[[str], bool]) -> Iterator[PageFile]:
        """Those of keys that are chosen."""
        return self._first(self._held + 1, wanted)

    def _first(self, wanted: int, chosen: Callable[[str], bool]) -> Iterator[PageFile]:
        versions = self._index.versions() if self.count and wanted > 0 else iter(())
        for key, etag in versions:
            if (key, etag) in self._used or not chosen(key):
                continue
            file = self.find(key, etag)
            if file is not None:
                yield file
                wanted -= file.held
            if wanted <= 0 or not self.count:
                return

    def _hand_out(self, row: PageRow) -> PageFile | None:
        self.count -= 1
        self._held -= row.held
        path, left = self._directory / row.file, _loaded(row)
        if not left or not path.exists():
            self._index.drop_pages(row.file, row.key, row.etag)
            path.unlink(missing_ok=True)
            return None
        file = PageFile(path, size=row.size, identity=(row.key, row.etag), left=left)
        # ages before this mount began: negative, in the order of their last use
        now, wall = self._began
        file.used = now - max(0.0, wall - row.used)
        return file


def _loaded(row: PageRow) -> Seals:
    """The seals of a row; none, if they are none."""
    try:
        return Seals.load(row.seals)
    except ValueError as error:
        log.warning(
            "the cached copy of %r is dropped, its checksums cannot be read: %s", row.key, error
        )
        return Seals()
