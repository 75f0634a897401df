"""Reading a directory: a snapshot of its names, handed to the kernel piece by piece."""

from __future__ import annotations

import pyfuse3

from bucketfs.fuse.encode import Encoder
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.tree import Tree

#: Entries looked up together at first; Linux 6.18 takes 187 at a time, older kernels 25.
PIECE = 200


class OpenDirectory:
    """One open directory.

    Positions are stable while it is read: 0 and 1 are "." and "..", then the names as they were
    when reading began at the start. A name removed meanwhile is left out, its position stays.
    """

    def __init__(self, tree: Tree, encoder: Encoder, directory: Directory) -> None:
        self.directory = directory
        self._tree = tree
        self._encode = encoder
        self._names: list[str] | None = None
        #: Entries looked up together: as many as the kernel took the last time, and one more.
        self._piece = PIECE
        directory.readers += 1

    def close(self) -> None:
        """Nobody reads it any more."""
        self.directory.readers -= 1

    async def read(self, start: int, token: pyfuse3.ReaddirToken) -> None:
        """Reply with entries from position `start` on, as many as fit.

        Raises:
            StoreError: The directory could not be listed.
        """
        if start == 0 or self._names is None:
            await self._tree.subtree.ensure(self.directory)
            self._names = sorted(self.directory.children)
            self._tree.prefetcher.entered(self.directory)
        for position in range(start, 2):
            if not self._dot(position, token):
                return
        position = begin = max(start, 2)
        while position < len(self._names) + 2:
            taken = self._reply(position, token)
            position += taken
            if taken < self._piece:
                self._piece = min(PIECE, position - begin + 1)
                return

    def _reply(self, start: int, token: pyfuse3.ReaddirToken) -> int:
        """Reply with some entries from a position on; how many positions the kernel took."""
        assert self._names is not None
        children = self.directory.children
        names = self._names[start - 2 : start - 2 + self._piece]
        there = [child for name in names if (child := children.get(name)) is not None]
        posix = dict(zip(there, self._tree.glances(there), strict=True))
        for taken, name in enumerate(names):
            child = children.get(name)
            if child is None:
                continue
            entry = self._encode.glanced(child, posix[child])
            if not pyfuse3.readdir_reply(token, name.encode(), entry, start + taken + 1):
                return taken
            self._tree.state.table.count(child)
        return len(names)

    def _dot(self, position: int, token: pyfuse3.ReaddirToken) -> bool:
        directory = self.directory
        name, inode = (b".", directory) if position == 0 else (b"..", directory.parent or directory)
        return pyfuse3.readdir_reply(token, name, self._encode.listed(inode), position + 1)
