"""Listings: what LIST says of a directory, merged with what is known.

`sort` is pure: the pages of one LIST become a picture of the directory. `Lister` fetches and
merges.

Invariant: what was changed here after a listing began is not touched by it; what is open or unsaved
never disappears because of one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from bucketfs import clock
from bucketfs.store.base import ListPage, ObjectInfo
from bucketfs.tree.inode import Directory, Inode
from bucketfs.tree.names import FOLDER_SUFFIX, is_visible
from bucketfs.tree.state import TreeState

#: Cold lookups in one directory after which it is listed instead: a LIST page costs as much as
#: twelve HEADs, and whoever looks up four names one after the other will look up more.
MANY_MISSES = 3
#: Pages that such a listing may take before it is given up for single lookups.
LOOKUP_PAGES = 2
#: Cold lookups after which a directory that was too large for that is tried again.
LARGE_MISSES = 200


@dataclass(slots=True)
class Picture:
    """One directory as a LIST shows it.

    Attributes:
        files: By name.
        directories: By name, with the suffixes of their marker objects as far as seen.
        marker: The directory's own marker object.
        hidden: There are keys that cannot be names.
    """

    files: dict[str, ObjectInfo] = field(default_factory=dict)
    directories: dict[str, set[str]] = field(default_factory=dict)
    marker: ObjectInfo | None = None
    hidden: bool = False


def sort(picture: Picture, prefix: str, page: ListPage) -> None:
    """Add a page of the listing of `prefix` with delimiter "/" to a picture.

    A directory shadows a file of its name, whichever of them a page shows first.
    """
    cut = len(prefix)
    for info in page.objects:
        name = info.key[cut:]
        if not name:
            picture.marker = info
        elif (
            name.endswith(FOLDER_SUFFIX)
            and info.size == 0
            and is_visible(name.removesuffix(FOLDER_SUFFIX))
        ):
            name = name.removesuffix(FOLDER_SUFFIX)
            picture.directories.setdefault(name, set()).add(FOLDER_SUFFIX)
            picture.files.pop(name, None)
        elif not is_visible(name):
            picture.hidden = True
        elif name not in picture.directories:
            picture.files[name] = info
    for common in page.prefixes:
        name = common[cut:-1]
        if is_visible(name):
            picture.directories.setdefault(name, set())
            picture.files.pop(name, None)
        else:
            picture.hidden = True


class Lister:
    """Keeps directories listed."""

    def __init__(self, state: TreeState) -> None:
        self._state = state

    async def ensure(self, directory: Directory, *, pages: int | None = None) -> bool:
        """Have the directory's entries fresh; one LIST for all who ask at once.

        Args:
            directory: Which.
            pages: Give up after so many pages.

        Returns:
            Whether it is listed now (always, without `pages`).

        Raises:
            StoreError: The bucket could not be listed.
        """
        asked = clock.monotonic()
        # a listing that began after the question answers it, however short the TTL
        while not (self._state.is_listed(directory) or directory.listed >= asked):
            if directory.loading is not None:
                await directory.loading.wait()
                continue
            directory.loading = trio.Event()
            try:
                if not await self._load(directory, pages):
                    return False
            finally:
                directory.loading.set()
                directory.loading = None
        return True

    async def pages(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        start_after: str = "",
        most: int | None = None,
    ) -> tuple[list[ListPage], bool]:
        """The pages of a prefix and whether they are all."""
        token = None
        found: list[ListPage] = []
        while True:
            page = await self._state.store.list(
                prefix, delimiter=delimiter, token=token, start_after=start_after
            )
            found.append(page)
            token = page.next_token
            if token is None:
                return found, True
            if most is not None and len(found) >= most:
                return found, False

    async def objects_below(self, prefix: str) -> list[ObjectInfo]:
        """Every object whose key begins with `prefix`, hidden ones too, removed ones not."""
        pages, _ = await self.pages(prefix, delimiter="")
        return [
            info for page in pages for info in page.objects if info.key not in self._state.deferred
        ]

    async def is_empty(self, directory: Directory) -> bool:
        """Whether the bucket has no key below the directory but its marker (which it notes).

        Always asks.
        """
        prefix = self._state.prefix(directory)
        gone = {prefix, *self._state.deferred}
        page = await self._state.store.list(prefix, delimiter="", limit=1 + len(gone))
        if any(info.key == prefix for info in page.objects):
            directory.markers = (directory.markers or frozenset()) | {"/"}
        return all(info.key in gone for info in page.objects)

    async def _load(self, directory: Directory, most: int | None) -> bool:
        began = clock.monotonic()
        prefix = self._state.prefix(directory)
        with self._state.asking(directory) as since:
            pages, complete = await self.pages(prefix, most=most)
            if not complete:
                return False
            if self._state.prefix(directory) != prefix:
                return True  # renamed meanwhile: the loop in `ensure` lists the new name
            picture = Picture()
            for page in pages:
                sort(picture, prefix, page)
            self.accept(directory, picture, began, since)
        return True

    def accept(self, directory: Directory, picture: Picture, began: float, since: int) -> None:
        """Take over what a listing showed that began at a time and a change number."""
        self._merge(directory, picture, since)
        directory.listed = began
        directory.misses = 0
        directory.negatives.clear()

    def _merge(self, directory: Directory, picture: Picture, since: int) -> None:
        self._merge_marker(directory, picture.marker)
        directory.hidden = picture.hidden
        for name, markers in picture.directories.items():
            if not self._changed_since(directory, name, since):
                self._merge_directory(directory, name, markers)
        for name, info in picture.files.items():
            if info.key in self._state.deferred:
                continue
            if not self._changed_since(directory, name, since):
                self._merge_file(directory, name, info)
        present = picture.files.keys() | picture.directories.keys()
        for name in directory.children.keys() - present:
            self._vanish(directory.children[name], since)

    def _changed_since(self, directory: Directory, name: str, since: int) -> bool:
        if directory.removed.get(name, 0) > since:
            return True
        child = directory.children.get(name)
        return child is not None and child.changed > since

    def _merge_marker(self, directory: Directory, marker: ObjectInfo | None) -> None:
        known = directory.markers or frozenset()
        if marker is None:
            directory.markers = known - {"/"}
            return
        directory.markers = known | {"/"}
        if directory.modified and directory.modified != marker.last_modified:
            directory.posix = None
        directory.modified = marker.last_modified
        directory.etag = marker.etag
        directory.size = marker.size

    def _merge_directory(self, parent: Directory, name: str, markers: set[str]) -> None:
        child = parent.children.get(name)
        if not isinstance(child, Directory):
            if child is not None and child.live is not None:
                return
            child = self._state.new_directory(parent, name)
        if markers:
            child.markers = (child.markers or frozenset()) | markers

    def _merge_file(self, parent: Directory, name: str, info: ObjectInfo) -> None:
        child = parent.children.get(name)
        if isinstance(child, Directory):
            if child.markers == frozenset({""}) and child.etag == info.etag:
                return  # a directory object without slash, known by its metadata
            if self._state.holds_unsaved(child):
                return
            child = None
        if child is None:
            child = self._state.new_file(parent, name)
        elif (child.live is not None and (child.content is None or child.content.unsaved)) or (
            child.etag == info.etag and child.modified == info.last_modified
        ):
            return
        self._state.adopt(child, etag=info.etag, size=info.size, modified=info.last_modified)

    def _vanish(self, child: Inode, since: int) -> None:
        """The listing does not show a child: it is gone, unless it is ours or changed meanwhile."""
        if child.changed > since or self._state.holds_unsaved(child):
            return
        self._state.unlink(child)


def names_of(children: Iterable[Inode]) -> list[str]:
    """Names in byte order, as a listing has them."""
    return sorted(child.name for child in children)
