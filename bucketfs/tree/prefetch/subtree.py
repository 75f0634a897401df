"""Prefetch of listings: `find`, `ls -R`, `du` and `rm -r` list one directory after another.

From the second directory of a parent on, the keys that follow are listed without a delimiter: one
LIST of a thousand keys then stands for as many directories as it covers, and it runs while the
program is still busy with the directory before. When that gets old, the next one is asked for in
time.

`cover` is pure: it cuts such a flat listing into those of the directories it covers completely.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import trio
from cachetools import LRUCache

from bucketfs import clock
from bucketfs.errors import FsError, StoreError
from bucketfs.store.base import ListPage, ObjectInfo
from bucketfs.store.long_listing import read_pages
from bucketfs.tree.core.inode import NEVER, Directory
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.lister import LOOKUP_PAGES, Lister
from bucketfs.tree.lookup.merge import Listing, sort
from bucketfs.tree.lookup.reading import Reading

log = logging.getLogger(__name__)

#: Pages listed ahead at a time: four thousand keys are worth a dozen directories or more, and a
#: second's wait at most when one directory has them all. For who only looks names up, one page.
PAGES, SEARCH_PAGES = 4, 1
#: Parts of the time in which a listing is trusted: so long listing ahead may take, and so old a
#: listing gets before one ahead replaces it for who is about to come there.
PART_TAKEN, PART_USED = 0.5, 0.7
#: Seconds after which a slow endpoint may have become faster.
REMEASURE = 60.0
#: Sorts right after "/": no key of a directory ``d/`` lies behind ``d0``.
_BEHIND = "0"


def cover(prefix: str, objects: Iterable[ObjectInfo], *, complete: bool) -> dict[str, Listing]:
    """Listings of the directories below `prefix` that a flat listing shows completely, by prefix.

    Args:
        prefix: What was listed; not covered itself.
        objects: As listed, beginning at the boundary of a directory. In another order than that of
            their keys (SeaweedFS, directory buckets of Amazon) they show nothing completely.
        complete: Whether nothing follows them; otherwise the directories on the path of the last
            key may go on.
    """
    direct: dict[str, list[ObjectInfo]] = {}
    below: dict[str, set[str]] = {}
    last = ""
    for info in objects:
        if info.key < last:
            return {}
        last = info.key
        parts = info.key[len(prefix) :].split("/")
        path = prefix
        for name in parts[:-1]:
            below.setdefault(path, set()).add(path + name + "/")
            path += name + "/"
        direct.setdefault(path, []).append(info)
    listings = {}
    for path in direct.keys() | below.keys():
        if path == prefix or (not complete and last.startswith(path)):
            continue
        listing = listings[path] = Listing()
        sort(listing, path, ListPage(direct.get(path, []), sorted(below.get(path, ())), None))
    return listings


@dataclass(slots=True)
class _Walk:
    """How somebody gets on who reads one directory of a parent after another.

    Attributes:
        last: Name of the directory read last.
        under_way: The end of the flat listing under way below the parent.
    """

    last: str = ""
    under_way: trio.Event | None = None


class Subtree:
    """Keeps directories listed, and lists ahead of who walks through them."""

    def __init__(self, state: TreeState, lister: Lister) -> None:
        self._state = state
        self._store = state.files.store
        self._background = state.files.background
        self._lister = lister
        #: By parents in which a directory was listed.
        self._walks: LRUCache[Directory, _Walk] = LRUCache(256)
        #: Parents whose next directory may be listed before it is entered.
        self._foresight: LRUCache[Directory, bool] = LRUCache(256)
        #: Seconds that a page took when it was listed ahead the last time, and when that was.
        self._pace, self._measured = 0.0, NEVER

    async def ensure(self, directory: Directory) -> None:
        """Have all entries of a directory known that a program reads; raises as `Lister.ensure`."""
        if directory.parent is not None:
            self._foresight[directory.parent] = True
        await self._ensure(directory, ahead=PAGES)

    async def read(self, directory: Directory) -> Reading:
        """As `ensure`, for who hands its names on: those that it has shown, if it takes long.

        Raises:
            StoreError: The directory could not be listed.
            FsError: ESTALE, it was removed meanwhile.
        """
        reading = Reading()
        if self._state.freshness.is_current(directory):
            await self.ensure(directory)
            reading.finish(directory.children)
            return reading
        self._background.start(
            partial(self._list_for, directory, reading), "list a directory", failed=reading.fail
        )
        try:
            await reading.first()
        except BaseException:
            reading.close()
            raise
        return reading

    async def _list_for(self, directory: Directory, reading: Reading) -> None:
        with reading.scope, self._lister.telling(directory, reading):
            try:
                await self.ensure(directory)
            except (StoreError, FsError) as error:
                reading.fail(error)
            else:
                reading.finish(directory.children)

    async def looked_at(self, directory: Directory) -> None:
        """Somebody looks at a directory right after reading one beside it: it is read next.

        Its listing tells whether it has a marker, so that nobody need ask for one.
        """
        if directory.parent is not None and self._foresight.pop(directory.parent, False):
            try:
                await self._ensure(directory, ahead=PAGES, pages=PAGES)
            except (StoreError, FsError) as error:
                log.debug("cannot prefetch a listing: %s", error)

    async def searched(self, directory: Directory) -> bool:
        """Names are looked up in a directory: list it if that takes few pages; whether it is.

        Raises:
            StoreError: The bucket could not be listed.
        """
        return await self._ensure(directory, ahead=SEARCH_PAGES, pages=LOOKUP_PAGES)

    async def _ensure(self, directory: Directory, *, ahead: int, pages: int | None = None) -> bool:
        parent = directory.parent
        if parent is None or not self._state.freshness.is_listed(parent):
            return await self._lister.ensure(directory, pages=pages)
        walk = self._walks.setdefault(parent, _Walk())
        goes_on = walk.last not in ("", directory.name)
        walk.last = directory.name
        if walk.under_way is not None and not self._state.freshness.is_current(directory):
            await walk.under_way.wait()
        if goes_on and walk.under_way is None and self._is_used_up(directory):
            most = min(ahead, self._affordable())
            if most:
                walk.under_way = done = trio.Event()
                self._background.start(
                    lambda: self._list_behind(parent, directory, walk, done, most), "list ahead"
                )
        return await self._lister.ensure(directory, pages=pages)

    def _is_used_up(self, directory: Directory) -> bool:
        """Whether what is known of the directories that follow is too old when it is needed."""
        return not self._state.freshness.trusts(
            directory.listed, PART_USED * self._state.config.absence_ttl
        )

    def _affordable(self) -> int:
        """Pages that can be listed ahead while the first of them is trusted."""
        now = clock.monotonic()
        room = PART_TAKEN * self._state.config.absence_ttl
        if not room or not self._pace or now - self._measured > REMEASURE:
            return PAGES if room else 0
        return int(min(room / self._pace, PAGES))

    async def _list_behind(
        self, parent: Directory, directory: Directory, walk: _Walk, done: trio.Event, most: int
    ) -> None:
        """List what follows a directory in its parent, as far as `most` pages go."""
        began = clock.monotonic()
        taken = 0
        try:
            with self._state.asking_everywhere() as since:
                prefix = self._state.prefix(parent)
                objects: list[ObjectInfo] = []

                def take(page: ListPage) -> None:
                    nonlocal taken
                    taken += 1
                    objects.extend(page.objects)

                complete = await read_pages(
                    self._store,
                    prefix,
                    take,
                    delimiter="",
                    start_after=self._state.path(directory) + _BEHIND,
                    most=most,
                )
                if self._state.prefix(parent) == prefix:
                    listings = cover(prefix, objects, complete=complete)
                    self._accept(parent, prefix, listings, began, since)
        except (StoreError, FsError) as error:
            # nobody asked for these yet; who does will meet the error again
            log.debug("cannot prefetch a listing: %s", error)
        finally:
            self._measured = clock.monotonic()
            self._pace = (self._measured - began) / max(taken, 1)
            walk.under_way = None
            done.set()

    def _accept(
        self,
        directory: Directory,
        prefix: str,
        listings: Mapping[str, Listing],
        began: float,
        since: int,
    ) -> None:
        for child in list(directory.children.values()):
            if not isinstance(child, Directory):
                continue
            path = f"{prefix}{child.name}/"
            listing = listings.get(path)
            if child.changed > since:
                continue  # made or renamed meanwhile: not all of it was there
            if listing is not None and child.listed < began and child.loading is None:
                self._lister.accept(child, listing, began, since)
                self._accept(child, path, listings, began, since)
