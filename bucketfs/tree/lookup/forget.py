"""Forgetting what is known of a path, so that the next look at it asks the bucket.

Only knowledge goes: what is unsaved is kept, and so are bytes in the cache, which are valid for one
version only. Answers that are under way meanwhile count for nothing (`Freshness.forgotten`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from bucketfs import clock
from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.find import Finder


@dataclass(slots=True)
class Forgotten:
    """What was forgotten, as far as the kernel may remember it.

    Attributes:
        missing: There is nothing of the path, neither here nor in the bucket.
        names: Names that were free, with the numbers of their directories.
        inodes: Numbers of inodes whose attributes were known.
    """

    missing: bool = False
    names: list[tuple[int, str]] = field(default_factory=list)
    inodes: list[int] = field(default_factory=list)


class Refresher:
    """Forgets what is known of files and directories."""

    def __init__(self, state: TreeState, finder: Finder) -> None:
        self._state = state
        self._finder = finder

    async def forget(self, path: str) -> Forgotten:
        """Forget a file, or a directory with everything below it.

        Args:
            path: Below the mount point, without slashes around it; "" for all.

        Raises:
            FsError: ENAMETOOLONG.
            StoreError: A path that is not known here could not be asked for.
        """
        self._state.freshness.forgotten = clock.monotonic()
        forgotten = Forgotten()
        node: Inode = self._state.root
        for name in filter(None, path.split("/")):
            child = await self._child(node, name, forgotten)
            if child is None:
                forgotten.missing = True
                return forgotten
            node = child
        if node.parent is not None:
            self._forget_name(node.parent, node.name, forgotten)
        await self._forget_below(node, forgotten)
        return forgotten

    async def _child(self, node: Inode, name: str, forgotten: Forgotten) -> Inode | None:
        """What has a name; the bucket is asked for one that is not known, and not believed."""
        if not isinstance(node, Directory):
            return None
        child = node.children.get(name)
        if child is None:
            self._forget_name(node, name, forgotten)
            child = await self._finder.find_or_none(node, name)
            self._forget_name(node, name, forgotten)
        return child

    def _forget_name(self, directory: Directory, name: str, forgotten: Forgotten) -> None:
        self._state.freshness.outdate(directory)
        if directory.negatives.pop(name, None) is not None:
            forgotten.names.append((directory.ino, name))

    async def _forget_below(self, inode: Inode, forgotten: Forgotten) -> None:
        waiting = [inode]
        while waiting:
            node = waiting.pop()
            self._forget(node, forgotten)
            if isinstance(node, Directory):
                waiting += node.children.values()
                await trio.lowlevel.checkpoint()

    def _forget(self, inode: Inode, forgotten: Forgotten) -> None:
        inode.checked = NEVER
        if inode.lookups or inode.parent is None:
            forgotten.inodes.append(inode.ino)
        if inode.open_state is None:
            inode.posix = None
        if not isinstance(inode, Directory):
            return
        if inode.open_state is None:
            inode.modified = 0  # an object without bytes is another version without another ETag
        self._state.freshness.outdate(inode)
        forgotten.names += [(inode.ino, name) for name in inode.negatives]
        inode.negatives.clear()
