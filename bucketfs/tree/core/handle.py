"""What a program has that opened a file."""

from __future__ import annotations

from dataclasses import dataclass, field

from bucketfs.file.content import Content
from bucketfs.file.readers import Reader
from bucketfs.tree.core.inode import Inode


@dataclass(slots=True, eq=False)
class Handle:
    """One open file: its inode, its bytes, its reading positions.

    Attributes:
        keep_cache: The kernel may keep the pages it has: they are of this version.
        pid: Process that opened it; of one that was opened only for reading, perhaps a thread.
        conflicts: Conflicts of the content that this handle's user has been told of.
        appends: Opened with O_APPEND: the kernel has each write go to where it takes the end to be.
        fenced: A lock on the file was lost while it was open: nothing is written by it any more.
    """

    inode: Inode
    content: Content
    writable: bool
    keep_cache: bool
    pid: int
    reader: Reader = field(default_factory=Reader)
    conflicts: int = 0
    appends: bool = False
    fenced: bool = False

    @property
    def untold(self) -> int:
        """How many conflicts its user has not been told of."""
        return self.content.conflicts - self.conflicts
