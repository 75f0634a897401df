"""How long what the bucket has told holds: listings, lookups, and names that were free.

Without a feed of changes it is a matter of age. With one, what was asked for since the feed began
is as good as new: what changed after that was told. It still has a limit, for a server that leaves
out what it should have told, as both MinIO and RustFS do when they have too much to tell.

No I/O: it compares times that stand in the inodes.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Final

from bucketfs import clock
from bucketfs.tree.core.inode import NEVER, Directory, Inode

#: Free names remembered per directory.
_FREE_NAMES: Final = 10_000
#: Monotonic time of a listing that no configured time lets count; one it was, unlike NEVER.
_LONG_AGO: Final = -1e12

#: Seconds for which what a feed has not contradicted is trusted.
FOLLOWED: Final = 3600.0


def is_followed(seen: float, now: float, since: float | None) -> bool:
    """Whether a feed would have told if what was seen had changed.

    Args:
        seen: Time of the question that was answered so.
        now: Time.
        since: From when on the feed tells; None: there is none now.
    """
    return since is not None and seen > since and now - seen <= FOLLOWED


def is_trusted(seen: float, now: float, limit: float, since: float | None) -> bool:
    """Whether no question is needed; `limit`: seconds that hold without a feed, others as above."""
    return now - seen <= limit or is_followed(seen, now, since)


class Freshness:
    """Says whether the bucket has to be asked.

    Args:
        ttl: Seconds for which what is known of a name holds that was there.
        absence_ttl: Seconds for which a listing or a lookup in vain says what is not there.

    Attributes:
        forgotten: Monotonic time before which no answer is believed that comes from now on
            (`Refresher`).
        followed: Monotonic time since which a feed tells what others change; None: nothing tells
            (`News`).
    """

    def __init__(self, *, ttl: float, absence_ttl: float) -> None:
        self.change(ttl=ttl, absence_ttl=absence_ttl)
        self.forgotten = NEVER
        self.followed: float | None = None

    def change(self, *, ttl: float, absence_ttl: float) -> None:
        """Trust for other times from now on; what the kernel was told it keeps until then."""
        self._ttl = ttl
        self._absence_ttl = absence_ttl

    def trusts(self, seen: float, limit: float) -> bool:
        """Whether what was seen at a monotonic time counts; `limit` in seconds, without a feed."""
        return is_trusted(seen, clock.monotonic(), limit, self.followed)

    def is_listed(self, directory: Directory) -> bool:
        """Whether the directory's entries are completely known and fresh."""
        return not directory.heard and self.trusts(directory.listed, self._ttl)

    def is_current(self, directory: Directory) -> bool:
        """Whether no other names than those known are in the directory, as far as is asked."""
        return not directory.heard and self.trusts(directory.listed, self._absence_ttl)

    def free_since(self, directory: Directory, name: str) -> float:
        """Monotonic time of the last answer that a name which is not known is free."""
        if name in directory.heard:
            return NEVER
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

    def seen(self, inode: Inode) -> float:
        """Monotonic time at which the bucket last showed this inode's version to us, or NEVER."""
        parent = inode.parent
        if parent is None:
            return inode.checked
        if inode.name in parent.heard:
            return NEVER
        return max(inode.checked, parent.listed)

    def check_heard(self, inode: Inode, asked: float) -> None:
        """An answer about an inode came; the question may be older than what was forgotten."""
        if asked <= self.forgotten:
            inode.checked = NEVER
        if inode.parent is not None:
            self.answered(inode.parent, inode.name, asked)

    def answered(self, directory: Directory, name: str, asked: float) -> None:
        """The bucket was asked for a name: what was heard of it before is known now."""
        if directory.heard.get(name, asked) < asked:
            del directory.heard[name]

    def is_outdated(self, directory: Directory, began: float) -> bool:
        """Whether a listing that began at a monotonic time may lack what others did meanwhile."""
        return began <= self.forgotten or began < directory.blind

    def outdate(self, directory: Directory) -> None:
        """Have a directory listed anew; that it is known to take one page still counts."""
        # another time at each call: what was asked since the last one counts no more (`Surveys`)
        directory.listed = min(directory.listed - 1, _LONG_AGO)

    def is_ours(self, inode: Inode) -> bool:
        """Whether the bucket has nothing newer to tell: the root, the removed, the unsaved."""
        if inode.parent is None or inode.open_state is None:
            return inode.parent is None
        return inode.open_state.unsaved

    def is_fresh(self, inode: Inode) -> bool:
        """Whether what is known of the inode needs no question to the bucket."""
        return self.is_ours(inode) or self.trusts(self.seen(inode), self._ttl)

    def timeout(self, inode: Inode) -> float:
        """Seconds for which the kernel may keep what it is told of the inode now."""
        if self.is_ours(inode):
            return self._ttl
        return self.time_left(self.seen(inode), self._ttl)

    def time_left(self, seen: float, limit: float) -> float:
        """Seconds for which the kernel may keep it: it is told no more when the feed has ended."""
        now = clock.monotonic()
        return limit if is_followed(seen, now, self.followed) else max(0.0, limit - (now - seen))

    def learn_taken(self, directory: Directory, name: str) -> None:
        """The bucket has something of a name that we took for free: look again."""
        directory.listed = NEVER
        directory.negatives.pop(name, None)
