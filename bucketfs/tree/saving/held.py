"""What a row of the journal counts on of a page file, and whether a file may have a row."""

from __future__ import annotations

from dataclasses import dataclass

from bucketfs.cache.extents import Extent
from bucketfs.file.content import Content
from bucketfs.file.promise import COPIED
from bucketfs.tree.core.inode import OpenState


@dataclass(frozen=True, slots=True)
class Held:
    """What a row counts on of the page file; clean pages that come later may not be on the disk.

    Attributes:
        valid: Which bytes.
        stored: Length of the local file, as far as it belongs to the content.
    """

    valid: tuple[Extent, ...]
    stored: int

    @classmethod
    def now(cls, content: Content) -> Held:
        """As it is now. Raises OSError."""
        return cls(counted(content), min(content.local.pages.stored, content.size))


def counted(content: Content) -> tuple[Extent, ...]:
    """Which bytes of its page file a row of a content counts on."""
    valid, limit = content.local.pages.valid, content.overlay.limit
    if content.size > COPIED:
        # what is clean now may be written over, in place, without another row: it comes again
        # from the base version
        ours = content.overlay.dirty.copy()
        for start, stop in valid.within(limit, content.size):
            ours.add(start, stop)
        valid = ours
    return tuple(valid.within(0, content.size))


def may_be_noted(open_state: OpenState, content: Content) -> bool:
    """Whether somebody wants the bytes of a file, and all that no bucket has are here."""
    early = content.early_upload
    return not (open_state.unlinked or early.has_upload_only or content.overlay.lost)
