"""What cannot be saved is left on the local disk: in a file under ``unsaved/``, or in the journal.

Nothing is asked of the bucket here. Who leaves something writes the line for the log; the words
that say where it is come from here.
"""

from __future__ import annotations

import logging

from bucketfs import clock
from bucketfs.file.content import Content
from bucketfs.tree.core.inode import Inode
from bucketfs.tree.core.state import GivenUp, TreeState
from bucketfs.tree.saving.promises import Promises

log = logging.getLogger(__name__)


class Leaver:
    """Leaves bytes on the local disk.

    Attributes:
        left: What the end of the mount has left: it is not left a second time.
    """

    def __init__(self, state: TreeState, promises: Promises) -> None:
        self._state = state
        self._cache = state.files.cache
        self._promises = promises
        self.left: set[Inode] = set()

    def behind(self, inode: Inode, error: Exception, *, to_next_mount: bool) -> str:
        """Keep what is not saved when the mount ends; words that say where."""
        content, words = inode.content, ""
        if to_next_mount:
            self._promises.note(inode, at_once=True)
            if content is not None and content.promised_as_it_is:
                words = "; the next mount of this bucket here goes on with it"
                self._note_given_up(inode, f"{error}{words}", "")
        if not words:
            where = self.on_disk(inode, error)
            words = where or ""
            if where is None:
                self._promises.note(inode, at_once=True)
                self._note_given_up(inode, str(error), "")
        self.left.add(inode)
        return words

    def on_disk(self, inode: Inode, error: Exception) -> str | None:
        """Keep unsaved bytes that nobody writes any more in a file; words that say where.

        None where the disk refuses.
        """
        content, open_state = inode.content, inode.open_state
        if open_state is None or not open_state.unsaved or inode in self.left:
            return ""
        path, words = "", ""
        if content is not None and content.unsaved:
            try:
                kept = self._cache.rescue(content.local.pages, inode.name, content.size)
            except OSError as failure:
                log.error(
                    "the bytes of %s cannot be moved to unsaved/ in the cache: %s",
                    self._state.shown(inode), failure,
                )  # fmt: skip
                return None
            path = str(kept)
            self._promises.fail(inode, str(kept.relative_to(self._cache.directory)), error)
            words = f"; its bytes are in {path}{_gaps(content)}{content.early_upload.hand_over()}"
        self._note_given_up(inode, str(error), path)
        return words

    def _note_given_up(self, inode: Inode, error: str, where: str) -> None:
        path = self._state.shown_below(inode)
        self._state.given_up.append(GivenUp(path, error, clock.wall_ns() / 1e9, where))


def _gaps(content: Content) -> str:
    """Words for what a rescued file lacks because only the version in the bucket has it."""
    gaps = ", ".join(
        f"{start}-{stop - 1}" for start, stop in content.local.missing(0, content.size)
    )
    return f", without bytes {gaps}, which are those of the version in the bucket" if gaps else ""
