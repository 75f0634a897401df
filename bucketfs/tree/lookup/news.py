"""Others' changes as a feed tells them: the names concerned are asked for again, and no others.

No request is made for an event: a name that was heard of (`Directory.heard`) counts as unknown
until a question that began later is answered. What is unsaved here stays; whether it conflicts is
found out when it is saved, as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bucketfs import clock
from bucketfs.store.base import Change
from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.names import FOLDER_SUFFIX, is_visible
from bucketfs.tree.core.state import TreeState

#: Names heard of in a directory, beyond twice those it has, before all of it counts as unknown.
MANY: Final = 1000


class News:
    """Takes changes over into the tree."""

    def __init__(self, state: TreeState) -> None:
        self._state = state

    def take(self, changes: Sequence[Change]) -> None:
        """Others have changed these objects."""
        prefix = self._state.config.prefix
        for change in changes:
            for key in change.keys:
                self._take(key.removeprefix(prefix).split("/"), removed=change.removed)

    def _take(self, path: list[str], *, removed: bool) -> None:
        """Note a change at the deepest place on the way to it that is known."""
        directory = self._state.root
        *above, last = path
        for at, name in enumerate(above):
            if not is_visible(name):
                return
            child = directory.children.get(name)
            is_own_object = at == len(above) - 1 and not last
            if is_own_object or not isinstance(child, Directory):
                self._hear(directory, name)
                break
            directory = child
        else:
            if not last:
                self._forget_attributes(directory)
            for name in {last, last.removesuffix(FOLDER_SUFFIX)}:
                if is_visible(name):
                    self._hear(directory, name)
        if removed:
            self._hear_of_emptied(directory)

    def _hear(self, directory: Directory, name: str) -> None:
        heard = directory.heard
        heard[name] = clock.monotonic()
        if directory.negatives.pop(name, None) is not None:
            self._state.watcher.moved(directory, name)
        child = directory.children.get(name)
        if child is not None:
            child.checked = NEVER
            self._forget_attributes(child)
        too_many = len(heard) > MANY + 2 * len(directory.children)
        if too_many and not self._state.is_asking(directory):
            self._state.freshness.outdate(directory)
            heard.clear()

    def _forget_attributes(self, inode: Inode) -> None:
        if inode.open_state is None:
            inode.posix = None
            if isinstance(inode, Directory):
                inode.modified = 0  # another version of an empty object has the same ETag
        if inode.lookups or inode.parent is None:
            self._state.watcher.replaced(inode)

    def _hear_of_emptied(self, directory: Directory) -> None:
        """Something is gone from a directory: without objects it is gone as well."""
        while directory.parent is not None and not directory.markers:
            if len(directory.heard) < len(directory.children):
                return
            self._hear(directory.parent, directory.name)
            directory = directory.parent
