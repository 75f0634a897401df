"""Reading a directory: a snapshot of its names, handed to the kernel piece by piece."""

from __future__ import annotations

import pyfuse3

from bucketfs import clock
from bucketfs.fuse.encode import Encoder
from bucketfs.tree.core.inode import NEVER, Directory
from bucketfs.tree.tree import Tree

#: Entries looked up together; Linux 6.18 takes 800 at a time, older kernels 25.
PIECE = 200
#: Entries of unknown attributes that a directory begins with. The kernel asks for the attributes of
#: each if the program wants them; of the next ones it is told along with the names then.
FIRST = 32


class OpenDirectory:
    """One open directory.

    Positions are stable while it is read: 0 and 1 are "." and "..", then the names as they were
    when reading began at the start. A name removed meanwhile is left out, its position stays.
    """

    def __init__(self, tree: Tree, encoder: Encoder, directory: Directory, asker: int) -> None:
        self.directory = directory
        self.asker = asker
        self._tree = tree
        self._encode = encoder
        self._names: list[str] | None = None
        #: An earlier daemon knew what is in the directory; this one has yet to ask.
        self._restored = False
        #: Entries looked up together: as many as the kernel took the last time, and one more.
        self._piece = FIRST
        #: Monotonic time at which the names before the next ones left.
        self._replied = NEVER
        directory.readers += 1

    @property
    def names(self) -> list[str] | None:
        """The names as they were when reading began, None before."""
        return self._names

    def restore(self, names: list[str] | None) -> None:
        """Go on with what an earlier daemon has begun to read."""
        self._names = names
        self._restored = True

    def close(self) -> None:
        """Nobody reads it any more."""
        self.directory.readers -= 1

    async def read(self, start: int, token: pyfuse3.ReaddirToken) -> None:
        """Reply with entries from position `start` on, as many as fit.

        Raises:
            StoreError: The directory could not be listed.
        """
        if start == 0 or self._names is None or self._restored:
            await self._tree.subtree.ensure(self.directory)
            self._restored = False
        if start == 0 or self._names is None:
            self._names = sorted(self.directory.children)
            self._replied, self._piece = NEVER, FIRST
        for position in range(start, 2):
            if not self._dot(position, token):
                return
        position = begin = max(start, 2)
        since = self._replied
        while position < len(self._names) + 2:
            looks = await self._tree.prefetcher.reads(
                self.directory, self._next(position), self.asker, since
            )
            taken, complete = self._reply(position, token, asks=looks)
            self._replied = clock.monotonic()
            position += taken
            if taken < self._piece:
                self._piece = min(PIECE, position - begin + 1)
                return
            self._piece = PIECE
            if since == NEVER and not (looks or complete):
                return

    def _next(self, start: int) -> list[str]:
        assert self._names is not None
        return self._names[start - 2 : start - 2 + self._piece]

    def _reply(self, start: int, token: pyfuse3.ReaddirToken, *, asks: bool) -> tuple[int, bool]:
        """Reply with some entries from a position on.

        Returns how many positions the kernel took, and whether all attributes are known.

        Args:
            start: The position.
            token: As pyfuse3 has it.
            asks: Of the first one tell the name alone: whether the kernel then asks for it says
                whether the program still looks.
        """
        children = self.directory.children
        names = self._next(start)
        there = [child for name in names if (child := children.get(name)) is not None]
        posix = dict(zip(there, self._tree.glances(there), strict=True))
        for taken, name in enumerate(names):
            child = children.get(name)
            if child is None:
                continue
            known = None if asks and not taken else posix[child]
            entry = self._encode.glanced(child, known)
            if not pyfuse3.readdir_reply(token, name.encode(), entry, start + taken + 1):
                return taken, True
            self._tree.state.table.count(child)
        return len(names), None not in posix.values()

    def _dot(self, position: int, token: pyfuse3.ReaddirToken) -> bool:
        directory = self.directory
        name, inode = (b".", directory) if position == 0 else (b"..", directory.parent or directory)
        return pyfuse3.readdir_reply(token, name, self._encode.listed(inode), position + 1)
