"""Reading a directory: its names, handed to the kernel piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyfuse3

from bucketfs import clock
from bucketfs.fuse.encode import Encoder
from bucketfs.tree.core.inode import NEVER, Directory
from bucketfs.tree.lookup.reading import Reading
from bucketfs.tree.tree import Tree

#: Entries looked up together; Linux 6.18 takes 800 at a time, older kernels 25.
PIECE = 200
#: Entries of unknown attributes that a directory begins with. The kernel asks for the attributes of
#: each if the program wants them; of the next ones it is told along with the names then.
FIRST = 32


class _Answer(NamedTuple):
    """A piece of the answer to one request.

    Attributes:
        taken: How many positions the kernel took.
        told: It was told of an entry.
        complete: All attributes are known.
    """

    taken: int
    told: bool
    complete: bool


class OpenDirectory:
    """One open directory.

    Positions are stable while it is read: 0 and 1 are "." and "..", then the names as they were
    when reading began at the start, or, of a long listing, as its pages come. A name removed
    meanwhile is left out, its position stays.
    """

    def __init__(self, tree: Tree, encoder: Encoder, directory: Directory, asker: int) -> None:
        self.directory = directory
        self.asker = asker
        self._tree = tree
        self._encode = encoder
        self._reading: Reading | None = None
        #: What an earlier daemon has told, if this one has yet to ask what is in the directory.
        self._told_before: list[str] | None = None
        #: Entries looked up together: as many as the kernel took the last time, and one more.
        self._piece = FIRST
        #: Monotonic time at which the names before the next ones left.
        self._replied = NEVER
        directory.readers += 1

    @property
    def names(self) -> list[str] | None:
        """Those that may be told by now, in the order of positions; None before reading began."""
        return None if self._reading is None else self._reading.names

    def restore(self, names: list[str] | None) -> None:
        """Go on with what an earlier daemon has begun to read."""
        self._told_before = names

    def close(self) -> None:
        """Nobody reads it any more."""
        self.directory.readers -= 1
        if self._reading is not None:
            self._reading.close()

    async def read(self, start: int, token: pyfuse3.ReaddirToken) -> None:
        """Reply with entries from position `start` on, as many as fit.

        Raises:
            StoreError: The directory could not be listed.
            FsError: ESTALE, it was removed meanwhile.
        """
        reading = await self._at(start)
        for position in range(start, 2):
            if not self._dot(position, token):
                return
        position = begin = max(start, 2)
        since = self._replied
        told = False  # an answer without entries would be the end of the directory
        while True:
            if not told:
                await reading.behind(position - 2)
            names = reading.names[position - 2 : position - 2 + self._piece]
            if not names:
                return
            looks = await self._tree.prefetcher.reads(self.directory, names, self.asker, since)
            answer = self._reply(names, position, token, asks=looks)
            self._replied = clock.monotonic()
            position += answer.taken
            told |= answer.told
            if answer.taken < self._piece:
                self._piece = min(PIECE, position - begin + 1)
                if told or answer.taken < len(names):
                    return
            else:
                self._piece = PIECE
            if since == NEVER and told and not (looks or answer.complete):
                return

    async def _at(self, start: int) -> Reading:
        if start == 0 or self._reading is None:
            if self._reading is not None:
                self._reading.close()
            self._reading = await self._begin(start)
            self._replied, self._piece = NEVER, FIRST
        return self._reading

    async def _begin(self, start: int) -> Reading:
        before, self._told_before = self._told_before, None
        if not start or before is None:
            return await self._tree.subtree.read(self.directory)
        await self._tree.subtree.ensure(self.directory)
        return Reading.resumed(before, self.directory.children)

    def _reply(
        self, names: Sequence[str], start: int, token: pyfuse3.ReaddirToken, *, asks: bool
    ) -> _Answer:
        """Reply with some entries.

        Args:
            names: Theirs.
            start: Position of the first.
            token: As pyfuse3 has it.
            asks: Of the first one tell the name alone: whether the kernel then asks for it says
                whether the program still looks.
        """
        children = self.directory.children
        there = [child for name in names if (child := children.get(name)) is not None]
        posix = dict(zip(there, self._tree.glances(there), strict=True))
        told = False
        for taken, name in enumerate(names):
            child = children.get(name)
            if child is None:
                continue
            known = None if asks and not taken else posix[child]
            entry = self._encode.glanced(child, known)
            if not pyfuse3.readdir_reply(token, name.encode(), entry, start + taken + 1):
                return _Answer(taken, told=told, complete=True)
            self._tree.state.table.count(child)
            told = True
        return _Answer(len(names), told=told, complete=None not in posix.values())

    def _dot(self, position: int, token: pyfuse3.ReaddirToken) -> bool:
        directory = self.directory
        name, inode = (b".", directory) if position == 0 else (b"..", directory.parent or directory)
        return pyfuse3.readdir_reply(token, name, self._encode.listed(inode), position + 1)
