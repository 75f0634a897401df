"""Who may write an inode's object: one at a time, and nobody while its directory is being renamed.

Lock order: no lock is held while waiting for a renaming directory; several inode locks are taken
from the root downwards, as who renames a directory takes those of all below it after its own, and
in the order of inode numbers. The locks are held across network I/O on purpose: two requests that
write one key must not overtake each other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from bucketfs.tree.inode import Directory, Inode, Live
from bucketfs.tree.state import TreeState


class Locks:
    """Hands out the right to write inodes' objects."""

    def __init__(self, state: TreeState) -> None:
        self._state = state

    @asynccontextmanager
    async def exclusive(self, *inodes: Inode) -> AsyncIterator[Live]:
        """Nobody else writes the objects of these inodes meanwhile.

        Yields the first one's state.
        """
        order = sorted(set(inodes), key=lambda inode: (_depth(inode), inode.ino))
        for inode in order:
            self._state.enliven(inode).users += 1
        lives = {inode: self._state.enliven(inode) for inode in order}
        try:
            async with AsyncExitStack() as held:
                while True:
                    for inode in order:
                        await self.settled(inode)
                    for live in lives.values():
                        await held.enter_async_context(live.lock)
                    if all(_renaming_above(inode) is None for inode in order):
                        break
                    await held.aclose()
                yield lives[inodes[0]]
        finally:
            for inode, live in lives.items():
                live.users -= 1
                self._state.settle(inode)

    async def settled(self, inode: Inode) -> None:
        """Wait until no directory above the inode (or itself) is being renamed."""
        while (renaming := _renaming_above(inode)) is not None:
            await renaming.wait()


def is_renaming(inode: Inode) -> bool:
    """Whether a directory above the inode (or itself) is being renamed: its key will change."""
    return _renaming_above(inode) is not None


def _depth(inode: Inode) -> int:
    """How many directories are above the inode."""
    depth, node = 0, inode.parent
    while node is not None:
        depth, node = depth + 1, node.parent
    return depth


def _renaming_above(inode: Inode) -> trio.Event | None:
    node: Inode | None = inode
    while node is not None:
        if isinstance(node, Directory) and node.renaming is not None:
            return node.renaming
        node = node.parent
    return None
