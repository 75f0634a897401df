"""Looking ahead in a directory: what a program that goes through its entries will ask for next.

Two habits are told apart. Who only looks (`ls -l`, `find`) gets the attributes of further entries
by HEADs side by side. Who opens one file after another in the order of the listing (`grep -r`, `cp
-r`, `tar`, a dataset's loader) gets the next small files whole, before they are asked for. Both end
at the first sign of disorder. The decisions are pure (`Walk`); `Ahead` carries them out.
"""

from __future__ import annotations

import functools
import logging
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from bucketfs.errors import FsError, StoreError
from bucketfs.tasks import gather
from bucketfs.tree.attributes import Attributes
from bucketfs.tree.inode import Directory, Inode
from bucketfs.tree.listing import names_of
from bucketfs.tree.state import TreeState

log = logging.getLogger(__name__)

#: Entries whose attributes are asked for together: enough to keep all connections busy for a few
#: round trips, few enough to be wasted on someone who stops.
LOOKS = 256
#: Looks without an opening in between that make a program one that only looks.
ONLY_LOOKING = 2
#: A file opened this many entries after the last one still follows it (others may be filtered out).
NEAR = 4
#: Files fetched ahead after the first that followed, doubling with each further one up to the
#: second.
FIRST_DEPTH, MOST_DEPTH = 4, 64
#: Largest file that is fetched ahead, and bytes of one batch.
FILE_MAX = 1 << 20
BATCH_MAX = 32 << 20


@dataclass(slots=True)
class Walk:
    """How far somebody has gone through a directory; positions are those of the listing.

    Attributes:
        last: Position of the file opened last.
        streak: How many files in a row were opened in order.
        fetched: Everything before it was fetched ahead or passed.
        looks: Entries looked at since the last opening.
        looked: Everything before it was looked at ahead.
    """

    last: int = -NEAR - 1
    streak: int = 0
    fetched: int = 0
    looks: int = 0
    looked: int = 0

    def opened(self, position: int) -> range:
        """A file was opened; which ones to fetch now."""
        follows = 0 < position - self.last <= NEAR
        self.streak = self.streak + 1 if follows else 0
        self.last = position
        self.looks = 0
        if not self.streak:
            self.fetched = position + 1
            return range(0)
        depth = min(FIRST_DEPTH << min(self.streak, 16), MOST_DEPTH)
        if self.fetched - position > depth // 2:
            return range(0)  # half of the last batch is still ahead
        begin = max(self.fetched, position + 1)
        self.fetched = position + 1 + depth
        return range(begin, self.fetched)

    def looked_at(self, position: int) -> range:
        """Attributes of an entry were needed; whose to ask for along with them."""
        self.looks += 1
        if self.looks < ONLY_LOOKING:
            return range(0)
        begin = max(self.looked, position + 1)
        if begin - position > LOOKS // 2:
            return range(0)
        self.looked = begin + LOOKS
        return range(begin, self.looked)


@dataclass(slots=True)
class _Order:
    """A directory's names as its listing of time `listed` has them, and a walk along them."""

    listed: float
    names: Sequence[str]
    walk: Walk


class Ahead:
    """Fetches ahead in directories that are listed."""

    def __init__(self, state: TreeState, attributes: Attributes) -> None:
        self._state = state
        self._attributes = attributes
        self._orders: LRUCache[Directory, _Order] = LRUCache(64)
        attributes.on_look = self.looked_at

    def opened(self, inode: Inode) -> None:
        """A program opened a file to read it."""
        order, position = self._place(inode)
        if order is not None:
            wanted = self._files(inode, order, order.walk.opened(position))
            self._ask(wanted, whole=FILE_MAX, name="files ahead")

    def looked_at(self, inode: Inode) -> None:
        """Attributes of an inode have to be asked for."""
        order, position = self._place(inode)
        if order is not None:
            wanted = self._unknown(inode, order, order.walk.looked_at(position))
            self._ask(wanted, whole=0, name="attributes ahead")

    def _place(self, inode: Inode) -> tuple[_Order | None, int]:
        parent = inode.parent
        if parent is None or not self._state.is_listed(parent):
            return None, 0
        order = self._orders.get(parent)
        if order is None or order.listed != parent.listed:
            walk = Walk() if order is None else order.walk
            order = _Order(parent.listed, names_of(parent.children.values()), walk)
            self._orders[parent] = order
        return order, bisect_left(order.names, inode.name)

    def _entries(self, inode: Inode, order: _Order, positions: range) -> list[Inode]:
        assert inode.parent is not None
        children = inode.parent.children
        found = (children.get(name) for name in order.names[positions.start : positions.stop])
        return [child for child in found if child is not None and child is not inode]

    def _files(self, inode: Inode, order: _Order, positions: range) -> list[Inode]:
        """Small files among the entries that are neither here nor in use."""
        budget = BATCH_MAX
        wanted = []
        for child in self._entries(inode, order, positions):
            if isinstance(child, Directory) or child.live or not 0 < child.size <= FILE_MAX:
                continue
            if self._attributes.is_here(child):
                continue
            budget -= child.size
            if budget < 0:
                break
            wanted.append(child)
        return wanted

    def _unknown(self, inode: Inode, order: _Order, positions: range) -> list[Inode]:
        return [
            child
            for child in self._entries(inode, order, positions)
            if not self._attributes.recall(child)
        ]

    def _ask(self, inodes: list[Inode], *, whole: int, name: str) -> None:
        if not inodes:
            return
        jobs = [functools.partial(self._ask_quietly, inode, whole) for inode in inodes]
        limit = self._state.files.parallel
        self._state.background.start(lambda: gather(jobs, limit=limit), name)

    async def _ask_quietly(self, inode: Inode, whole: int) -> None:
        if inode.parent is None or self._attributes.is_asking(inode):
            return
        if self._attributes.is_here(inode) if whole else inode.posix is not None:
            return
        try:
            await self._attributes.revalidate(inode, whole=whole)
        except (StoreError, FsError) as error:
            # nobody asked for this one yet; who does will meet the error again
            log.debug("fetched ahead: %s", error)
