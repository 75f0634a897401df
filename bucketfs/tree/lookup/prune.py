"""A bound for what the tree remembers: entries of directories nobody has read lately are forgotten.

Only what a listing would bring back goes: nothing that the kernel knows, that is open, unsaved or
being changed, and nothing of a directory that is being read or listed.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.state import TreeState

#: Entries kept: some 450 MB. Directories go, those first that were listed longest ago, until so
#: many are left.
MOST_ENTRIES, KEPT_ENTRIES = 1_000_000, 700_000


class Pruner:
    """Forgets entries when there are too many."""

    def __init__(self, state: TreeState) -> None:
        self._state = state
        self._background = state.files.background
        self._running = False

    def check(self) -> None:
        """Entries were added; forget others in the background if they are too many now."""
        if self._state.entries > MOST_ENTRIES and not self._running:
            self._running = True
            self._background.start(self._prune, "forget entries")

    async def _prune(self) -> None:
        try:
            directories = []
            entries = 0
            for directory in _walk(self._state.root):
                directories.append(directory)
                entries += len(directory.children)
                await trio.lowlevel.checkpoint()
            self._state.entries = entries  # exact again: what vanished with its parent is not in it
            for directory in sorted(directories, key=lambda directory: directory.listed):
                if self._state.entries <= KEPT_ENTRIES:
                    break
                self._drop_entries(directory)
                await trio.lowlevel.checkpoint()
        finally:
            self._running = False

    def _drop_entries(self, directory: Directory) -> None:
        if directory.readers or directory.asking or directory.renaming:
            return
        forgettable = [child for child in directory.children.values() if _may_be_dropped(child)]
        for child in forgettable:
            self._state.detach(child)
        if forgettable:
            directory.listed = NEVER


def _may_be_dropped(inode: Inode) -> bool:
    if inode.lookups or inode.open_state is not None:
        return False
    return not (
        isinstance(inode, Directory) and (inode.children or inode.asking or inode.only_here)
    )


def _walk(directory: Directory) -> Iterator[Directory]:
    """A directory and all below it, the deepest first."""
    for child in list(directory.children.values()):
        if isinstance(child, Directory):
            yield from _walk(child)
    yield directory
