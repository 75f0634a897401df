"""What a file is on top of its base version. Pure: no I/O, no waiting, no clock.

A byte of a file is clean when the base version has it: it lies before `limit` and is not dirty.
Clean bytes may be dropped from the disk and are fetched again. All others are *ours*: no version in
the bucket has them, and they are on the disk, in an unfinished upload, or lost.

Invariants: ``0 <= limit <= size``; ``dirty`` and ``lost`` lie within ``[0, size)``.
"""

from __future__ import annotations

import errno

from bucketfs.cache.extents import Extent, Extents
from bucketfs.cache.rows import PendingRow
from bucketfs.errors import FsError


class Overlay:
    """Which bytes of one file are whose.

    Args:
        base: Size of its base version in bytes; None for a new file.

    Attributes:
        size: Current length in bytes.
        limit: Bytes of the base version that are still part of the file; 0 without one.
        dirty: What differs from the base version.
        lost: What nobody has any more: it was only in an upload that is gone, or was here alone
            and is damaged.
        new: Not in the bucket under any name yet.
        cut: It was made shorter (or emptied) since it was published.
        touched: Whether a program has written since the file was created or truncated by open.
        revision: Counts changes, to see whether one came between two moments.
    """

    __slots__ = ("cut", "dirty", "limit", "lost", "new", "revision", "size", "touched")

    def __init__(self, base: int | None) -> None:
        self.size = self.limit = base or 0
        self.dirty = Extents()
        self.lost = Extents()
        self.new = base is None
        self.cut = False
        self.touched = False
        self.revision = 0

    @classmethod
    def emptied(cls) -> Overlay:
        """A file that the bucket knows, as O_TRUNC leaves it."""
        overlay = cls(None)
        overlay.new, overlay.cut = False, True
        return overlay

    @classmethod
    def promised(cls, row: PendingRow) -> Overlay:
        """A file as an earlier mount promised it."""
        overlay = cls(None)
        overlay.size, overlay.limit, overlay.dirty = row.size, row.limit, Extents(row.dirty)
        overlay.new, overlay.cut, overlay.touched = row.new, row.cut, True
        return overlay

    @property
    def unsaved(self) -> bool:
        """Whether the bucket lacks something: bytes, the new length, or the file itself."""
        return self.new or bool(self.dirty) or self.cut

    @property
    def overwritten(self) -> int:
        """How many bytes of the base version others have taken the place of."""
        return sum(stop - start for start, stop in self.dirty.within(0, self.limit))

    def ours(self, start: int, stop: int) -> Extents:
        """What of ``[start, stop)`` no version in the bucket has."""
        ours = Extents(self.dirty.within(start, stop))
        ours.add(max(start, self.limit), min(stop, self.size))
        return ours

    def droppable(self, valid: Extents, kept: Extents) -> list[Extent]:
        """What is `valid` on the disk and clean, and not to be `kept` for anybody."""
        keep = kept.copy()
        for start, stop in self.dirty:
            keep.add(start, stop)
        clean = valid.within(0, self.limit)
        return [gap for start, stop in clean for gap in keep.missing(start, stop)]

    def copyable(self, start: int, stop: int) -> bool:
        """Whether the base version has exactly the bytes ``[start, stop)``."""
        return stop <= self.limit and not self.dirty.overlaps(start, stop)

    def check(self, start: int, stop: int) -> None:
        """Raise FsError, EIO, when some of ``[start, stop)`` is lost."""
        if self.lost.overlaps(start, stop):
            raise FsError(errno.EIO, "some of these bytes are lost")

    def written(self, start: int, stop: int) -> None:
        """A program has written ``[start, stop)``; a gap before it has become zeros."""
        self.dirty.add(min(start, self.size), stop)
        self.size = max(self.size, stop)
        self.lost.remove(start, stop)
        self._changed()

    def extended(self, size: int) -> None:
        """Zeros make the file `size` bytes long, which is no less than before."""
        self.dirty.add(self.size, size)
        self.size = size
        self._changed()

    def truncated(self, size: int) -> None:
        """The file ends at `size` now, which is less than before."""
        self.dirty.remove(size, self.size)
        self.lost.remove(size, self.size)
        self.limit = min(self.limit, size)
        self.size = size
        self.cut = True
        self._changed()

    def _changed(self) -> None:
        self.touched = True
        self.revision += 1

    def opened_empty(self) -> None:
        """What has changed is that open truncated the file: no program has written since."""
        self.touched = False

    def published(self) -> None:
        """The bucket has exactly these bytes, and they are the base version."""
        self.limit = self.size
        self.dirty.clear()
        self.new = self.cut = self.touched = False

    def renewed(self, size: int) -> None:
        """The file, of which nothing was changed, stands for another version of `size` bytes."""
        self.size = self.limit = size
        self.new = False
        self.lost.clear()

    def base_dropped(self) -> None:
        """The base version is gone: what is here is all there is, and so ours."""
        self.limit = 0

    def damaged(self, start: int, stop: int) -> Extents:
        """Bytes ``[start, stop)`` of the disk are not what they were; answers what is lost."""
        ours = self.ours(start, stop)
        self.lose(ours)
        return ours

    def lose(self, extents: Extents) -> None:
        """Nobody has these bytes any more."""
        for start, stop in extents:
            self.lost.add(start, stop)
