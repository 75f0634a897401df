"""Reading a directory: a picture of its names, handed to the kernel piece by piece."""

from __future__ import annotations

import pyfuse3

from bucketfs.fuse.encode import Encoder
from bucketfs.tree.inode import Directory
from bucketfs.tree.listing import names_of
from bucketfs.tree.tree import Tree


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

    async def read(self, start: int, token: pyfuse3.ReaddirToken) -> None:
        """Reply with entries from position `start` on, as many as fit.

        Raises:
            StoreError: The directory could not be listed.
        """
        children = self.directory.children
        if start == 0 or self._names is None:
            await self._tree.subtree.ensure(self.directory)
            self._names = names_of(children.values())
        for position in range(start, len(self._names) + 2):
            if position < 2:
                if not self._dot(position, token):
                    return
                continue
            child = children.get(self._names[position - 2])
            if child is None:
                continue
            entry = self._encode.listed(child)
            if not pyfuse3.readdir_reply(token, child.name.encode(), entry, position + 1):
                return
            self._tree.state.table.count(child)

    def _dot(self, position: int, token: pyfuse3.ReaddirToken) -> bool:
        directory = self.directory
        name, inode = (b".", directory) if position == 0 else (b"..", directory.parent or directory)
        return pyfuse3.readdir_reply(token, name, self._encode.listed(inode), position + 1)
