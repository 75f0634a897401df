"""Prefetch of listings: `find`, `ls -R`, `du` and `rm -r` list one directory after another.

From the second directory of a parent on, the keys that follow are listed without a delimiter: one
LIST of a thousand keys then stands for as many directories as it covers, and it runs while the
program is still busy with the directory before.

`cover` is pure: it cuts such a flat listing into pictures of the directories it covers completely.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import trio
from cachetools import LRUCache

from bucketfs import clock
from bucketfs.errors import FsError, StoreError
from bucketfs.store.base import ListPage, ObjectInfo
from bucketfs.store.long_listing import read_pages
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.lister import Lister
from bucketfs.tree.lookup.merge import Picture, sort

log = logging.getLogger(__name__)

#: Pages listed ahead at a time: four thousand keys are worth a dozen directories or more, and a
#: second's wait at most when one directory has them all.
PAGES = 4
#: Sorts right after "/": no key of a directory ``d/`` lies behind ``d0``.
_BEHIND = "0"


def cover(prefix: str, objects: Iterable[ObjectInfo], *, complete: bool) -> dict[str, Picture]:
    """Pictures of the directories below `prefix` that a flat listing shows completely, by prefix.

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
    pictures = {}
    for path in direct.keys() | below.keys():
        if path == prefix or (not complete and last.startswith(path)):
            continue
        picture = pictures[path] = Picture()
        sort(picture, path, ListPage(direct.get(path, []), sorted(below.get(path, ())), None))
    return pictures


class Subtree:
    """Keeps directories listed, and lists ahead of who walks through them."""

    def __init__(self, state: TreeState, lister: Lister) -> None:
        self._state = state
        self._lister = lister
        #: Parents in which a directory was listed, and the flat listing under way below them.
        self._walked: LRUCache[Directory, trio.Event | None] = LRUCache(256)
        #: Parents whose next directory may be listed before it is entered.
        self._foresight: LRUCache[Directory, bool] = LRUCache(256)

    async def ensure(self, directory: Directory) -> None:
        """Have the entries of a directory fresh that a program reads; raises as `Lister.ensure`."""
        if directory.parent is not None:
            self._foresight[directory.parent] = True
        await self._ensure(directory)

    async def looked_at(self, directory: Directory) -> None:
        """Somebody looks at a directory right after reading one beside it: it is read next.

        Its listing tells whether it has a marker, so that nobody need ask for one.
        """
        if directory.parent is not None and self._foresight.pop(directory.parent, False):
            try:
                await self._ensure(directory, pages=PAGES)
            except (StoreError, FsError) as error:
                log.debug("listed ahead: %s", error)

    async def _ensure(self, directory: Directory, *, pages: int | None = None) -> None:
        if self._state.is_listed(directory):
            return
        parent = directory.parent
        if parent is None or not self._state.is_listed(parent):
            await self._lister.ensure(directory, pages=pages)
            return
        second = parent in self._walked
        under_way = self._walked.setdefault(parent, None)
        if under_way is not None:
            await under_way.wait()
        if second and not self._state.is_listed(directory) and self._walked.get(parent) is None:
            done = self._walked[parent] = trio.Event()
            self._state.background.start(
                lambda: self._list_behind(parent, directory, done), "list ahead"
            )
        await self._lister.ensure(directory, pages=pages)

    async def _list_behind(self, parent: Directory, directory: Directory, done: trio.Event) -> None:
        """List what follows a directory in its parent, as far as a few pages go."""
        began = clock.monotonic()
        try:
            with self._state.asking_everywhere() as since:
                prefix = self._state.prefix(parent)
                objects: list[ObjectInfo] = []
                complete = await read_pages(
                    self._state.store,
                    prefix,
                    lambda page: objects.extend(page.objects),
                    delimiter="",
                    start_after=self._state.path(directory) + _BEHIND,
                    most=PAGES,
                )
                if self._state.prefix(parent) == prefix:
                    pictures = cover(prefix, objects, complete=complete)
                    self._accept(parent, prefix, pictures, began, since)
        except (StoreError, FsError) as error:
            # nobody asked for these yet; who does will meet the error again
            log.debug("listed ahead: %s", error)
        finally:
            self._walked[parent] = None
            done.set()

    def _accept(
        self,
        directory: Directory,
        prefix: str,
        pictures: Mapping[str, Picture],
        began: float,
        since: int,
    ) -> None:
        for child in list(directory.children.values()):
            if not isinstance(child, Directory):
                continue
            path = f"{prefix}{child.name}/"
            picture = pictures.get(path)
            if picture is not None and not self._state.is_listed(child) and child.loading is None:
                self._lister.accept(child, picture, began, since)
                self._accept(child, path, pictures, began, since)
