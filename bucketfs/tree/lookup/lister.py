"""Listings: having what LIST says of a directory fresh, and asking for no more than that takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bucketfs import clock
from bucketfs.store.base import ListPage, ObjectInfo
from bucketfs.store.long_listing import Repeats, read_pages
from bucketfs.tasks import Shared
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.merge import Listing, Merge, sort
from bucketfs.tree.lookup.prune import Pruner
from bucketfs.tree.lookup.reading import Reading

#: Cold lookups in one directory after which it is listed instead: a LIST page costs as much as
#: twelve HEADs, and whoever looks up four names one after the other will look up more.
MANY_MISSES = 3
#: Pages that such a listing may take before it is given up for single lookups.
LOOKUP_PAGES = 2
#: Cold lookups after which a directory that was too large for that is tried again.
LARGE_MISSES = 200
#: Keys of one answer to LIST, at most.
FULL_PAGE = 1000


class Lister:
    """Keeps directories listed."""

    def __init__(self, state: TreeState, pruner: Pruner) -> None:
        self._state = state
        self._store = state.files.store
        self._pruner = pruner
        #: Who is told of names while a listing is under way.
        self._readings: dict[Directory, list[Reading]] = {}

    async def ensure(
        self, directory: Directory, *, pages: int | None = None, anew: bool = False
    ) -> bool:
        """Have all of the directory's entries known; one LIST for all who ask at once.

        Args:
            directory: Which.
            pages: Give up after so many pages.
            anew: List it also when that is not due yet.

        Returns:
            Whether it is listed now (always, without `pages`).

        Raises:
            StoreError: The bucket could not be listed.
        """
        asked = clock.monotonic()
        # a listing that began after the question answers it, however short the TTL
        fresh = self._state.freshness
        while directory.listed < asked and (anew or not fresh.is_current(directory)):
            if directory.loading is not None:
                await directory.loading.answered()
                continue
            directory.loading = shared = Shared()
            try:
                with shared.asked():
                    if not await self._load(directory, pages):
                        return False
            finally:
                directory.loading = None
        return True

    @contextmanager
    def telling(self, directory: Directory, reading: Reading) -> Iterator[None]:
        """Have a reading told of what listings of a directory show while the block lasts."""
        readings = self._readings.setdefault(directory, [])
        readings.append(reading)
        try:
            yield
        finally:
            readings.remove(reading)
            if not readings:
                del self._readings[directory]

    async def objects_below(self, prefix: str) -> list[ObjectInfo]:
        """Every object whose key begins with `prefix`, hidden ones too, removed ones not."""
        found: list[ObjectInfo] = []
        await read_pages(self._store, prefix, lambda page: found.extend(page.objects), delimiter="")
        return [info for info in found if not self._state.is_deferred(info)]

    async def is_empty(self, directory: Directory) -> bool:
        """Whether the bucket has no key below the directory but its marker (which it notes).

        Always asks.
        """
        prefix = self._state.prefix(directory)
        leaving = self._state.leaving.get(directory, {}).values()
        gone = {prefix, *(key for keys in leaving for key in keys)}
        most = 1 + len(gone) + len(self._state.deferred)
        token = None
        repeats = Repeats()
        while True:
            page = await self._store.list(
                prefix, delimiter="", token=token, limit=min(most, FULL_PAGE)
            )
            if any(info.key == prefix for info in page.objects):
                directory.markers = (directory.markers or frozenset()) | {"/"}
            left = [info for info in page.objects if info.key not in gone]
            if page.left_out or not all(map(self._state.is_deferred, left)):
                return False
            repeats.check(prefix, page)
            token = page.next_token
            if token is None:
                return True

    async def _load(self, directory: Directory, most: int | None) -> bool:
        prefix = self._state.prefix(directory)
        with self._state.asking(directory) as since:
            gone = await self._gone(directory, prefix)
            merge = Merge(self._state, directory, clock.monotonic(), since)

            def take(page: ListPage) -> None:
                if self._state.is_at(directory, prefix):
                    listing = Listing()
                    sort(listing, prefix, page)
                    listing.forget_directories(gone)
                    merge.add(listing)
                    self._pruner.check()
                    if readings := self._readings.get(directory):
                        merge.confirm(listing)
                        for reading in readings:
                            reading.show({*listing.files, *listing.directories})

            complete = await read_pages(self._store, prefix, take, most=most)
            if not complete:
                return False
            if self._state.prefix(directory) == prefix:
                merge.finish()
            # otherwise renamed meanwhile: the loop in `ensure` lists the new name
        return True

    async def _gone(self, directory: Directory, prefix: str) -> set[str]:
        """Directories that were removed, or renamed, and have nothing but removed files' objects.

        Raises:
            StoreError: The bucket could not be asked.
        """
        limit = min(1 + len(self._state.deferred), FULL_PAGE)
        gone = set()
        for name in self._with_deferred_below(directory, prefix):
            page = await self._store.list(f"{prefix}{name}/", delimiter="", limit=limit)
            if not page.left_out and all(map(self._state.is_deferred, page.objects)):
                gone.add(name)
        return gone

    def _with_deferred_below(self, directory: Directory, prefix: str) -> set[str]:
        """Names of directories that are not known, and below which removed files are open."""
        below = [key[len(prefix) :] for key in self._state.deferred if key.startswith(prefix)]
        names = {key.partition("/")[0] for key in below if "/" in key}
        return names - directory.children.keys()

    def accept(self, directory: Directory, listing: Listing, began: float, since: int) -> None:
        """Take over what a listing has shown that began at a time and a change number."""
        merge = Merge(self._state, directory, began, since, late=True)
        if self._state.deferred:  # who looks for one of these by its name asks for it alone
            prefix = self._state.prefix(directory)
            listing.forget_directories(self._with_deferred_below(directory, prefix))
        merge.add(listing)
        merge.finish()
        self._pruner.check()
