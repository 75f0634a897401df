"""The own objects of directories, ``dir/``: what makes one exist that has no entry.

A directory whose last entry goes stays: if only its entries made it one, it gets a marker. Each
marker is written under its directory's lock, or that of a renamed tree it is in.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator

from bucketfs.errors import StoreError
from bucketfs.store.base import BytesBody
from bucketfs.tasks import gather
from bucketfs.tree.core.inode import Directory, Inode, is_below
from bucketfs.tree.core.locks import Locks
from bucketfs.tree.core.posix import Posix
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.attributes import Attributes
from bucketfs.tree.lookup.lister import Lister
from bucketfs.tree.saving.remove import Removals

log = logging.getLogger(__name__)


class Markers:
    """Writes markers where directories need them."""

    def __init__(
        self,
        state: TreeState,
        lister: Lister,
        attributes: Attributes,
        locks: Locks,
        removals: Removals,
    ) -> None:
        self._state = state
        self._store = state.files.store
        self._index = state.files.cache.index
        self._lister = lister
        self._attributes = attributes
        self._locks = locks
        self._removals = removals

    async def put(self, directory: Directory, *, new: bool = False) -> None:
        """Store the directory's own object; `new`: unless others have made it.

        The caller holds its lock, or that of the tree it is in.
        """
        posix: Posix | None = None
        # once more for attributes that changed, and were perhaps saved, while it was under way
        while posix is None or directory.posix != posix:
            await self._attributes.ensure(directory)
            posix = directory.posix
            headers = directory.headers()
            info = await self._store.put(
                self._state.prefix(directory), BytesBody(b""), headers, if_none_match=new
            )
            new = False
        self._state.note_change(directory)
        if not self._state.files.store.capabilities.markers:
            directory.only_here = True
            directory.markers = directory.markers or frozenset()
            return
        directory.etag, directory.modified = info.etag, info.last_modified
        self._index.put_headers(info.key, info.etag, info.last_modified, headers)
        directory.markers = (directory.markers or frozenset()) | {"/"}

    async def keep(self, parent: Directory, last: Inode) -> None:
        """Give a directory its marker when `last` is the only thing that makes it exist.

        The caller holds the directory's lock.
        """
        if self._is_kept(parent) or not self._state.freshness.is_listed(parent):
            return
        if all(child is last for child in _in_bucket(parent)):
            await self.put(parent)

    async def keep_left(self, parent: Directory) -> None:
        """As `keep`, once a name has left the directory, which nothing takes back.

        The caller holds the directory's lock. Where that cannot be done now it is tried again in
        the background, and the directory's next rmdir or fsync says if it failed for good.
        """
        try:
            await self._keep_if_empty(parent)
        except StoreError as error:
            log.warning(
                "cannot look whether %r is empty now, it is tried again: %s",
                self._state.shown(parent), error,
            )  # fmt: skip
            self._removals.add(parent, "", ())
        except Exception:
            # a bug: the name is gone all the same, and its directory must not go with it
            log.exception(
                "cannot look whether %r is empty now, it is tried again", self._state.shown(parent)
            )
            self._removals.add(parent, "", ())

    async def _keep_if_empty(self, parent: Directory) -> None:
        """As `keep`, after the fact, when no fresh listing could tell beforehand."""
        if not self._state.freshness.is_listed(parent):
            await self._keep_bare(parent)

    async def keep_emptied(self, directory: Directory) -> None:
        """As `keep`, after a batch of removals; the caller has no locks."""
        # asked without the lock, which removals that go on need: a marker too many does no harm
        if not await self._is_bare(directory):
            return
        async with self._locks.exclusive(directory):
            if directory.parent is not None and not self._is_kept(directory):
                await self.put(directory)

    async def keep_emptied_below(self, tree: Directory) -> None:
        """As `keep_emptied`, for what was removed in a tree of which the caller has the locks."""
        emptied = [each for each in self._state.leaving if is_below(each, tree)]
        if emptied:
            await gather(
                [functools.partial(self._keep_bare, each) for each in emptied],
                limit=self._state.files.parallel,
            )

    async def _keep_bare(self, directory: Directory) -> None:
        if await self._is_bare(directory):
            await self.put(directory)

    async def _is_bare(self, directory: Directory) -> bool:
        """Whether nothing in the bucket makes a directory exist."""
        if self._is_kept(directory):
            return False
        if self._state.freshness.is_listed(directory):
            return not any(_in_bucket(directory))
        return await self._lister.is_empty(directory) and not self._is_kept(directory)

    def _is_kept(self, directory: Directory) -> bool:
        is_root = directory is self._state.root
        return is_root or directory.only_here or "/" in (directory.markers or ())


def _in_bucket(directory: Directory) -> Iterator[Inode]:
    """The entries that make a directory exist."""
    return (c for c in directory.children.values() if isinstance(c, Directory) or c.etag)
