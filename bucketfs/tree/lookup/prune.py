"""A bound for what the tree remembers: entries of directories nobody has read lately are forgotten.

Only what a listing would bring back goes: nothing that the kernel knows, that is open, unsaved or
being changed, and nothing of a directory that is being read or listed. It goes when there are too
many entries, and, of those that are trusted no more, when the kernel has given many back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import trio

from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.state import TreeState

#: Entries kept: some 450 MB. Directories go, those first that were listed longest ago, until so
#: many are left.
MOST_ENTRIES, KEPT_ENTRIES = 1_000_000, 700_000
#: Inodes that the kernel has given back (20 MB) after which entries go that are trusted no more.
MANY_GIVEN_BACK = 50_000
#: Entries looked at before others have a turn: 10 ms.
_PIECE = 10_000


class Pruner:
    """Forgets entries when there are too many."""

    def __init__(self, state: TreeState) -> None:
        self._state = state
        self._background = state.files.background
        self._pruning = self._letting_go = False

    def check(self) -> None:
        """Entries were added; forget others in the background if they are too many now."""
        if self._state.entries > MOST_ENTRIES and not self._pruning:
            self._pruning = True
            self._background.start(self._prune, "forget entries")

    def given_back(self) -> None:
        """The kernel has forgotten inodes; if they are many, let go of them as soon as may be."""
        if self._state.table.given_back >= MANY_GIVEN_BACK and not self._letting_go:
            self._letting_go = True
            self._background.start(self._let_go, "let go of entries")

    async def _prune(self) -> None:
        try:
            directories = await self._directories()
            for directory in sorted(directories, key=lambda directory: directory.listed):
                if self._state.entries <= KEPT_ENTRIES:
                    break
                await self._drop_entries(directory, lambda _: False)
        finally:
            self._pruning = False

    async def _let_go(self) -> None:
        try:
            await trio.sleep(self._state.config.ttl)  # what was listed just now is trusted so long
            for directory in await self._directories():
                await self._drop_entries(directory, self._state.freshness.is_fresh)
            self._state.table.compact()
        finally:
            self._letting_go = False

    async def _directories(self) -> list[Directory]:
        """All directories, the deepest first; the count of entries is exact again."""
        directories = []
        entries = 0
        for directory in _walk(self._state.root):
            directories.append(directory)
            entries += len(directory.children)
            await trio.lowlevel.checkpoint()
        self._state.entries = entries  # what vanished with its parent is not in it
        return directories

    async def _drop_entries(self, directory: Directory, is_needed: Callable[[Inode], bool]) -> None:
        entries = list(directory.children.values())
        for at in range(0, len(entries), _PIECE):
            if directory.readers or directory.asking or directory.renaming:
                return
            for child in entries[at : at + _PIECE]:
                if child.parent is directory and _may_be_dropped(child) and not is_needed(child):
                    self._state.detach(child)
                    directory.listed = NEVER
            await trio.lowlevel.checkpoint()
        if len(directory.children) < len(entries) // 2:
            directory.children = dict(directory.children)  # a dict does not shrink by itself


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
