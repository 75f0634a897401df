"""`metadata=lazy`: whether the objects of a directory may be shown as their listing has them.

Where the first objects that were asked for carry no attributes of a file, the others hardly do:
one program made them all. Pure, no I/O. What is presumed is checked behind (`behind`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from cachetools import LRUCache

from bucketfs.store.base import Headers
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.posix import Defaults, Posix, decode

#: Objects of a directory that have to show nothing of their own first.
ENOUGH = 32
#: Directories that are remembered.
_REMEMBERED = 1024


@dataclass(slots=True)
class _Sample:
    """What a directory's objects have shown: how many nothing, and whether one has."""

    plain: int = 0
    telling: bool = False


class Samples:
    """What has been seen of the objects of each directory.

    Args:
        defaults: Attributes of objects that carry none.
    """

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._samples: LRUCache[Directory, _Sample] = LRUCache(_REMEMBERED)

    def saw(self, file: Inode, posix: Posix) -> None:
        """An object was asked for, and has these attributes."""
        if file.parent is None or isinstance(file, Directory):
            return
        sample = self._samples.setdefault(file.parent, _Sample())
        if shows_alike(posix, _presumed(file.modified, self._defaults)):
            sample.plain += 1
        else:
            sample.telling = True

    def undecided(self, directory: Directory) -> bool:
        """Whether more of a directory has to be seen before anything may be presumed, or not."""
        sample = self._samples.get(directory)
        return sample is None or not (sample.telling or sample.plain >= ENOUGH)

    def presumed(self, file: Inode) -> Posix | None:
        """Attributes of a file that nobody has asked for, None where nothing may be presumed."""
        if file.parent is None or isinstance(file, Directory):
            return None
        sample = self._samples.get(file.parent)
        if sample is None or sample.telling or sample.plain < ENOUGH:
            return None
        return _presumed(file.modified, self._defaults)


def shows_alike(one: Posix, other: Posix) -> bool:
    """Whether two files look the same to `stat`, but for their sizes."""
    return _shown(one) == _shown(other)


def _shown(posix: Posix) -> tuple[int, ...]:
    times = posix.mtime_ns, posix.atime_ns, posix.ctime_ns
    return posix.mode, posix.uid, posix.gid, posix.rdev, *times


@functools.lru_cache(4096)
def _presumed(modified: int, defaults: Defaults) -> Posix:
    """As `plain`, of an object that may carry more: nothing is stored in its place unasked."""
    headers = Headers(partial=True)
    return decode(headers, size=1, modified=modified, directory=False, defaults=defaults)
