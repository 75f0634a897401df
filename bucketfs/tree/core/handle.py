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
        appends: Each write is to go to the end of the file.
        fenced: A lock on the file was lost while it was open: nothing is written by it any more.
        moved_aside: By a conflict, of which its user was told, the file has become a conflict copy.
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
    moved_aside: bool = False

    @property
    def is_aside(self) -> bool:
        """Whether the file has become a conflict copy since it was opened."""
        return self.moved_aside or self.untold > 0

    @property
    def untold(self) -> int:
        """How many conflicts its user has not been told of."""
        return self.content.conflicts - self.conflicts

    def tell(self) -> bool:
        """Its user is told of conflicts: whether there were any."""
        news = self.untold > 0
        self.conflicts = self.content.conflicts
        self.moved_aside |= news
        return news
