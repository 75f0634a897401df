"""Prefetch in a directory: what a program that goes through its entries will ask for next.

Two habits are told apart. Who only looks (`ls -l`, `find`) gets the attributes of further entries
by HEADs side by side. Who opens one file after another in the order of the listing (`grep -r`, `cp
-r`, `tar`, a dataset's loader) gets the next small files whole, before they are asked for, and the
versions of those that are in the cache. Who reads symbolic links in that order gets the targets of
the next ones. All end at the first sign of disorder. Who opens many cached files of a directory in
no order gets their versions by one listing. The decisions are `policy`'s; `Prefetcher` carries them
out.
"""

from __future__ import annotations

import functools
import logging
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import trio
from cachetools import LRUCache

from bucketfs import clock
from bucketfs.errors import FsError, StoreError
from bucketfs.file.local_pages import ALONE
from bucketfs.tasks import gather
from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.attributes import LINK_MAX, Attributes, Claimed
from bucketfs.tree.lookup.first_bytes import WHOLE_FILE, Guess
from bucketfs.tree.lookup.lister import FULL_PAGE, LOOKUP_PAGES, Lister
from bucketfs.tree.prefetch.policy import LOOKS, NEAR, ONLY_LOOKING, Habit, Progress

log = logging.getLogger(__name__)

#: Largest file that is fetched ahead, and bytes of one batch.
FILE_MAX = 1 << 20
BATCH_MAX = 32 << 20
#: Seconds for which names wait for attributes that are under way.
PATIENCE = 3.0
#: Versions to be asked for in one directory from which on it is listed for them: as in
#: `lister.MANY_MISSES`.
WORTH_LISTING = 12


@dataclass(slots=True)
class _Order:
    """A directory's names as its listing of time `listed` has them, and how far programs are.

    Attributes:
        progress: Along all.
        links: Along the symbolic links alone, in numbers of its own.
        link: Position of the link read last, -1 for none.
    """

    directory: Directory
    listed: float
    names: Sequence[str]
    progress: Progress = field(default_factory=Progress)
    links: Progress = field(default_factory=Progress)
    link: int = -1

    def is_done(self) -> bool:
        """Whether its files were opened in order, up to the last ones."""
        return self.progress.streak > 0 and self.progress.last >= len(self.names) - NEAR


class Prefetcher:
    """Fetches ahead in directories that are listed."""

    def __init__(
        self, state: TreeState, attributes: Attributes, lister: Lister, guess: Guess
    ) -> None:
        self._state = state
        self._background = state.files.background
        self._attributes = attributes
        self._lister = lister
        self._habits: LRUCache[int, Habit] = LRUCache(256)
        self._guess = guess
        #: Where a file was opened last.
        self._reading: _Order | None = None
        self._orders: LRUCache[Directory, _Order] = LRUCache(256)

    def opened(self, inode: Inode, asker: int) -> None:
        """A thread of a program opened a file to read it."""
        self._habit(asker).opened()
        self._guess.read()
        order, position = self._place(inode)
        if order is None:
            return
        before, self._reading = self._reading, order
        progress, now = order.progress, clock.monotonic()
        if before is not None and before.directory is not order.directory and before.is_done():
            progress.goes_on(before.progress, now)
        positions = progress.opened(position, now, self._state.config.open_ttl)
        if positions:
            entries = list(self._from_here_on(order, positions))
            self._fetch(self._files(inode, entries), FILE_MAX, "files ahead")
            self._renew(order, entries, progress.until(positions.stop, now))

    def _fetch(self, inodes: list[Inode], whole: int, name: str) -> None:
        self._ask(inodes, self._is_fetched, whole=whole, name=name)

    def _is_fetched(self, child: Inode) -> bool:
        """Whether reading a file takes nothing more; of an empty one only the attributes count."""
        if not child.size:
            return self._attributes.glance(child) is not None
        return self._attributes.is_here(child)

    def _renew(self, order: _Order, entries: Iterable[Inode], wait: float) -> None:
        """Have the versions known of files that are here, where an open would ask for them.

        Args:
            order: Where a program opens files.
            entries: The next ones.
            wait: Seconds until the last of them is opened.
        """

        def is_known(child: Inode) -> bool:
            return self._state.freshness.trusts(
                self._state.freshness.seen(child), self._state.config.open_ttl - wait
            )

        stale = [
            child
            for child in entries
            if not isinstance(child, Directory)
            and not (child.open_state or is_known(child))
            and self._attributes.is_here(child)
        ]
        inside = sum(child.parent is order.directory for child in stale)
        is_listed = order.directory.loading is not None
        if is_listed or (inside >= WORTH_LISTING and self._list_anew(order)):
            stale = [child for child in stale if child.parent is not order.directory]
        self._ask(stale, is_known, whole=0, name="versions ahead")

    def outdated(self, inode: Inode, *, opens: bool = True) -> None:
        """A program opens a file, in whatever order, whose version has to be asked for.

        Or it changes its attributes, for which the bytes need not be here.
        """
        order, _ = self._place(inode)
        if order is None or (opens and not self._attributes.is_here(inode)):
            return
        if order.progress.outdated(clock.monotonic(), self._state.config.open_ttl):
            self._list_anew(order)

    def _list_anew(self, order: _Order) -> bool:
        """Have a directory listed, if that is a matter of few pages; whether it will be."""
        directory = order.directory
        if len(order.names) > LOOKUP_PAGES * FULL_PAGE:
            return False
        if directory.loading is None:
            self._background.start(lambda: self._list(directory), "versions ahead")
        return True

    async def _list(self, directory: Directory) -> None:
        try:
            await self._lister.ensure(directory, pages=LOOKUP_PAGES, anew=True)
        except (StoreError, FsError) as error:
            # who opens the files asks for each
            log.debug("cannot prefetch a listing: %s", error)

    def _from_here_on(self, order: _Order, positions: range) -> Iterator[Inode]:
        """Entries of a directory and, where it ends before `positions` do, of those behind it."""
        yield from self._entries(order, positions)
        room = positions.stop - max(positions.start, len(order.names))
        for behind in self._behind(order.directory):
            if behind.is_done() and behind.progress.began < order.progress.began:
                behind.progress = Progress()  # that was in an earlier round
            begin, end = behind.progress.fetched, min(room, len(behind.names))
            if begin < end and behind.progress.last < 0:
                behind.progress.fetched = end
                yield from self._entries(behind, range(begin, end))
            room -= len(behind.names)
            if room <= 0:
                return

    def link_read(self, inode: Inode) -> None:
        """A program reads a symbolic link."""
        order, position = self._place(inode)
        if order is None:
            return
        links, number = order.links, order.links.last + 1 + self._links_passed(order, position)
        order.link = position
        wanted = links.opened(number, clock.monotonic(), self._state.config.open_ttl)
        if wanted:
            behind = self._links(order, range(position + 1, position + 1 + LOOKS))
            links.fetched = min(links.fetched, number + 1 + len(behind))
            next_ones = behind[wanted.start - number - 1 : wanted.stop - number - 1]
            self._fetch(self._files(inode, next_ones), LINK_MAX, "links ahead")

    def _links_passed(self, order: _Order, position: int) -> int:
        """How many links lie between the one read last and a position; `NEAR` if too many."""
        between = range(order.link + 1, position)
        if order.link < 0 or position <= order.link or len(between) > LOOKS:
            return NEAR
        return len(self._links(order, between))

    def _links(self, order: _Order, positions: range) -> list[Inode]:
        """The links among entries, up to the first one that nobody has looked at."""
        entries = self._entries(order, positions)
        links = []
        for child, posix in zip(entries, self._attributes.glances(entries), strict=True):
            if posix is None and not self._attributes.kind_known(child):
                break
            if posix is not None and stat.S_ISLNK(posix.mode):
                links.append(child)
        return links

    def looked_at(self, inode: Inode, asker: int) -> int:
        """Attributes of an inode have to be asked for, by a thread of a program.

        Answers the size up to which the file is to be fetched along with them: who asks for the
        attributes of one file mostly reads it next.
        """
        now = clock.monotonic()
        order, position = self._place(inode)
        if isinstance(inode, Directory):
            # who goes into each of them looks at directories, too, and may open what is in them
            if order is not None:
                order.progress.directories += 1
                if order.progress.directories >= ONLY_LOOKING:
                    self._look_ahead(inode, order, position, beyond=False)
            return 0
        habit = self._habit(asker)
        still = habit.only_looks(now)
        habit.looked(now)
        if order is not None and habit.looks >= ONLY_LOOKING:
            self._look_ahead(inode, order, position, beyond=still)
        return 0 if still else WHOLE_FILE

    def _look_ahead(self, inode: Inode, order: _Order, position: int, *, beyond: bool) -> None:
        positions = self._next_looks(order, position)
        wanted = self._unknown(order, positions)
        if beyond and positions.stop >= len(order.names):
            wanted += self._unknown_behind(order.directory)
        self._look([i for i in wanted if i is not inode], "attributes ahead")

    def _next_looks(self, order: _Order, position: int) -> range:
        """What to look at ahead; not before it is clear whether that is worth it."""
        if order.progress.looked and self._attributes.is_sampling(order.directory):
            return range(0)
        return order.progress.looked_at(position)

    def _habit(self, thread: int) -> Habit:
        return self._habits.setdefault(thread, Habit())

    def asked_for(self, asker: int) -> None:
        """A thread of a program asks for a name or for attributes, known ones or not."""
        habit = self._habits.get(asker)
        if habit is not None:
            habit.goes_on(clock.monotonic())

    async def reads(
        self, directory: Directory, names: Sequence[str], asker: int, since: float
    ) -> bool:
        """Whether a thread that reads a directory only looks, so that it will ask for all entries.

        Then what it will ask for is asked for now, and what is under way is waited for: the kernel
        is told of attributes along with the names, and has no question of its own.

        Args:
            directory: What it reads.
            names: The next entries, at least one.
            asker: The thread.
            since: Monotonic time at which it got those before these, `NEVER` for none.
        """
        habit = self._habits.get(asker)
        if habit is None or habit.last < since or not habit.only_looks(clock.monotonic()):
            return False
        if since == NEVER:
            self._look(self._unknown_behind(directory), "attributes behind")
        elif (order := self._order(directory)) is not None:
            positions = self._next_looks(order, bisect_left(order.names, names[0]) - 1)
            self._look(self._unknown(order, positions), "attributes ahead")
        with trio.move_on_after(PATIENCE):
            for name in names:
                child = directory.children.get(name)
                if child is not None and not self._attributes.is_presumed(child):
                    await self._attributes.wait_for_answer(child)
        habit.last = clock.monotonic()  # it was not idle meanwhile, it has waited
        return True

    def _unknown_behind(self, directory: Directory) -> list[Inode]:
        """Entries of unknown attributes in the directories that follow one.

        As many of these directories count as have `LOOKS` entries together.
        """
        wanted: list[Inode] = []
        room = LOOKS
        for order in self._behind(directory):
            begin, end = order.progress.looked, min(room, len(order.names))
            if begin < end:
                order.progress.looked = end
                wanted += self._unknown(order, range(begin, end))
            room -= len(order.names)
            if room <= 0:
                break
        return wanted

    def _behind(self, directory: Directory) -> Iterator[_Order]:
        """The directories that follow one in its parent, up to the first that is not listed."""
        parents, position = self._place(directory)
        if parents is None:
            return
        for name in parents.names[position + 1 : position + 1 + LOOKS]:
            sibling = parents.directory.children.get(name)
            if isinstance(sibling, Directory):
                order = self._order(sibling)
                if order is None:
                    return
                yield order

    def _place(self, inode: Inode) -> tuple[_Order | None, int]:
        order = self._order(inode.parent) if inode.parent is not None else None
        return order, bisect_left(order.names, inode.name) if order is not None else 0

    def _order(self, directory: Directory) -> _Order | None:
        if not self._state.freshness.is_listed(directory):
            return None
        order = self._orders.get(directory)
        if order is None or order.listed != directory.listed:
            names = sorted(directory.children)
            if order is None:
                order = _Order(directory, directory.listed, names)
            else:
                order = replace(order, listed=directory.listed, names=names)
            self._orders[directory] = order
        return order

    def _entries(self, order: _Order, positions: range) -> list[Inode]:
        children = order.directory.children
        found = (children.get(name) for name in order.names[positions.start : positions.stop])
        return [child for child in found if child is not None]

    def _files(self, inode: Inode, entries: Iterable[Inode]) -> list[Inode]:
        """Small files among the entries that are neither here nor in use."""
        budget = BATCH_MAX
        wanted = []
        for child in entries:
            if isinstance(child, Directory) or child.open_state or child.size > FILE_MAX:
                continue
            if child is inode or self._is_fetched(child):
                continue
            budget -= child.size
            if budget < 0:
                break
            wanted.append(child)
        return wanted

    def _unknown(self, order: _Order, positions: range) -> list[Inode]:
        entries = self._entries(order, positions)
        glances = self._attributes.glances(entries)
        return [child for child, posix in zip(entries, glances, strict=True) if posix is None]

    def _look(self, inodes: list[Inode], name: str) -> None:
        self._ask(inodes, lambda inode: inode.posix is not None, whole=0, name=name)

    def _ask(
        self, inodes: list[Inode], is_known: Callable[[Inode], bool], *, whole: int, name: str
    ) -> None:
        if not inodes:
            return
        if whole:
            self._background.start(lambda: self._ask_each(inodes, is_known, whole), name)
            return
        wanted = [inode for inode in inodes if self._is_wanted(inode, is_known)]
        claimed = self._attributes.claim(i for i in wanted if not isinstance(i, Directory))
        others = [inode for inode in wanted if isinstance(inode, Directory)]
        self._background.start(lambda: self._ask_together(claimed, others, is_known), name)

    async def _ask_together(
        self, claimed: Claimed, others: Sequence[Inode], is_known: Callable[[Inode], bool]
    ) -> None:
        left: list[Inode] = []
        with trio.move_on_after(ALONE):
            left = await self._attributes.ask_claimed(
                claimed, lambda inode: _is_at_rest(inode) and not is_known(inode)
            )
        await self._ask_each([*left, *others], is_known, 0)

    async def _ask_each(
        self, inodes: list[Inode], is_known: Callable[[Inode], bool], whole: int
    ) -> None:
        jobs = [functools.partial(self._ask_quietly, inode, is_known, whole) for inode in inodes]
        await gather(jobs, limit=self._state.files.parallel)

    def _is_wanted(self, inode: Inode, is_known: Callable[[Inode], bool]) -> bool:
        """Whether to ask: not if it was removed, is in use, or somebody is at it already."""
        is_ours = _is_at_rest(inode) and not self._attributes.is_asking(inode)
        return is_ours and not is_known(inode)

    async def _ask_quietly(
        self, inode: Inode, is_known: Callable[[Inode], bool], whole: int
    ) -> None:
        if not self._is_wanted(inode, is_known):
            return
        try:
            with trio.move_on_after(ALONE):
                await self._attributes.revalidate(inode, whole=whole)
        except (StoreError, FsError) as error:
            # nobody asked for this one yet; who does will meet the error again
            log.debug("cannot prefetch a file: %s", error)


def _is_at_rest(inode: Inode) -> bool:
    """Whether it is in its place, and nobody uses it."""
    return inode.parent is not None and inode.open_state is None
