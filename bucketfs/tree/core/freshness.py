"""How long what the bucket has told holds: listings, lookups, and names that were free.

No I/O: it compares times that stand in the inodes.
"""

from __future__ import annotations

from itertools import takewhile

from bucketfs import clock
from bucketfs.tree.core.inode import NEVER, Directory, Inode

#: Free names remembered per directory.
_FREE_NAMES = 10_000


class Freshness:
    """Says whether the bucket has to be asked.

    Args:
        ttl: Seconds for which what is known of a name holds that was there.
        absence_ttl: Seconds for which a listing or a lookup in vain says what is not there.

    Attributes:
        forgotten: Monotonic time before which no answer is believed that comes from now on
            (`Refresher`).
    """

    def __init__(self, *, ttl: float, absence_ttl: float) -> None:
        self._ttl = ttl
        self._absence_ttl = absence_ttl
        self.forgotten = NEVER

    def is_listed(self, directory: Directory) -> bool:
        """Whether the directory's entries are completely known and fresh."""
        return clock.monotonic() - directory.listed <= self._ttl

    def is_current(self, directory: Directory) -> bool:
        """Whether no other names than those known are in the directory, as far as is asked."""
        return clock.monotonic() - directory.listed <= self._absence_ttl

    def free_since(self, directory: Directory, name: str) -> float:
        """Monotonic time of the last answer that a name which is not known is free."""
        return max(directory.listed, directory.negatives.get(name, NEVER))

    def note_free(self, directory: Directory, name: str, since: float) -> bool:
        """Remember that a name was free at a monotonic time; whether that is possible."""
        if since <= self.forgotten:
            return False
        negatives = directory.negatives
        negatives.pop(name, None)  # the latest come last
        if len(negatives) >= _FREE_NAMES:
            outdated = clock.monotonic() - self._absence_ttl
            for other in list(takewhile(lambda other: negatives[other] < outdated, negatives)):
                del negatives[other]
        if len(negatives) >= _FREE_NAMES:
            return False
        negatives[name] = since
        return True

    def age(self, inode: Inode) -> float:
        """Seconds since the bucket last showed this inode's version to us."""
        seen = inode.checked
        if inode.parent is not None:
            seen = max(seen, inode.parent.listed)
        return clock.monotonic() - seen

    def check_heard(self, inode: Inode, asked: float) -> None:
        """An answer about an inode came; the question may be older than what was forgotten."""
        if asked <= self.forgotten:
            inode.checked = NEVER

    def is_ours(self, inode: Inode) -> bool:
        """Whether the bucket has nothing newer to tell: the root, the removed, the unsaved."""
        if inode.parent is None or inode.open_state is None:
            return inode.parent is None
        return inode.open_state.unsaved

    def is_fresh(self, inode: Inode) -> bool:
        """Whether what is known of the inode needs no question to the bucket."""
        return self.is_ours(inode) or self.age(inode) <= self._ttl

    def timeout(self, inode: Inode) -> float:
        """Seconds for which the kernel may keep what it is told of the inode now."""
        if self.is_ours(inode):
            return self._ttl
        return max(0.0, self._ttl - self.age(inode))

    def learn_taken(self, directory: Directory, name: str) -> None:
        """The bucket has something of a name that we took for free: look again."""
        directory.listed = NEVER
        directory.negatives.pop(name, None)
