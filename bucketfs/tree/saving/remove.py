"""Removing many names at once: what `rm -r` takes away leaves the bucket in batches.

A lone unlink waits for its DELETE, so that its error comes back from that very call. When one
follows the other through a directory (`Streak`, pure), the names go at once and their keys wait
here: whatever has gathered while the last DeleteObjects was under way, and until somebody waits for
it or a moment later, leaves with the next one. Then each directory they were in is looked after:
one that nothing makes exist any more gets a marker.

The task that deletes takes no locks, because those who have some wait for it
(`wait_for_deletions`). Looking after a directory takes that one's lock, so each is a task of its
own, which nobody who has a lock may wait for (`wait_for_directory`, `wait_for_all`).

Invariants:
- a name in `TreeState.leaving` is in no answer to anyone, and nothing new takes its key before the
  deletion has ended (`wait_for_name`, `wait_for_deletions`);
- a directory in `leaving` is kept in memory, whatever a listing says;
- what could not be deleted is there again afterwards, and the directory's next
  `wait_for_directory` raises why.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio
from cachetools import LRUCache

from bucketfs import clock
from bucketfs.errors import FsError, StoreError
from bucketfs.tasks import Turns, gather, internal
from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.state import TreeState
from bucketfs.units import count

log = logging.getLogger(__name__)

#: Removals in a row after which further ones need not wait: who removes eight names of a directory
#: in the order of its listing is about to remove them all.
PATIENCE = 8
#: Seconds between the end of a removal and the next one that make it another row. `rm -r` looks
#: at a directory's entries in between: some round trips.
PAUSE = 0.5
#: Seconds in which names gather that nobody waits for, about a round trip: the marker of an emptied
#: directory leaves with what is in the next one.
GATHER = 0.025
#: DeleteObjects takes a thousand keys; so many such requests are under way at once.
_BATCH, _SIDE_BY_SIDE = 1000, 4


@dataclass(slots=True)
class Streak:
    """Names removed from one directory one after the other; times are monotonic seconds.

    Attributes:
        count: How many, in the order of a listing and without a pause.
        last: The latest.
        ended: When its removal was answered.
        below: Longest streak in a directory that was itself removed from this one.
    """

    count: int = 0
    last: str = ""
    ended: float = NEVER
    below: int = 0

    def goes_on(self, name: str, now: float) -> bool:
        """Whether the removal of a name, asked for now, belongs to the streak."""
        return name > self.last and now - self.ended <= PAUSE

    def is_burst(self, name: str, now: float) -> bool:
        """Whether it need not wait for the bucket."""
        return self.count >= PATIENCE and self.goes_on(name, now)

    def removed(self, name: str, began: float, ended: float) -> None:
        """The removal of a name was answered."""
        if not self.goes_on(name, began):
            self.count = self.below = 0
        self.count += 1
        self.last = name
        self.ended = ended

    def handed_down(self) -> Streak:
        """How a directory below begins: who empties one directory after another goes on so."""
        return Streak(max(self.count, self.below), "", self.ended)


@dataclass(frozen=True, slots=True)
class _Leaving:
    """A name whose objects are to be deleted."""

    directory: Directory
    name: str
    keys: Sequence[str]


class Removals:
    """Deletes objects behind the names that were removed.

    Args:
        state: The tree's memory.
        on_emptied: Told of each directory that stays and whose last name here may have gone.
    """

    def __init__(
        self, state: TreeState, *, on_emptied: Callable[[Directory], Awaitable[None]]
    ) -> None:
        self._state = state
        self._store = state.files.store
        self._index = state.files.cache.index
        self._journal = state.files.cache.journal
        self._background = state.files.background
        self._on_emptied = on_emptied
        self._queue: list[_Leaving] = []
        #: For how many items of a directory it has not been looked after yet; "" may be among them
        #: several times.
        self._items: Counter[Directory] = Counter()
        self._added = self._done = 0
        #: The end of each look after a directory.
        self._looks: dict[trio.Event, None] = {}
        self._working = False
        self._turns = Turns()
        self._wanted = trio.Event()
        self._streaks: LRUCache[Directory, Streak] = LRUCache(256)
        #: Why names are back, until that is told or they are gone after all; "" for the directory.
        self._failures: LRUCache[Directory, dict[str, StoreError | FsError]] = LRUCache(256)
        #: Directories that are being removed themselves: they need no marker any more.
        self._going: set[Directory] = set()

    def is_burst(self, directory: Directory, name: str) -> bool:
        """Whether the removal of a name, asked for now, need not wait for the bucket."""
        return self._streak(directory).is_burst(name, clock.monotonic())

    def removed(self, parent: Directory, inode: Inode, name: str, began: float) -> None:
        """A removal that began at a monotonic time has succeeded (or is in the queue)."""
        streak = self._streak(parent)
        streak.removed(name, began, clock.monotonic())
        self._failures.get(parent, {}).pop(name, None)
        inner = self._streaks.pop(inode, None) if isinstance(inode, Directory) else None
        if inner is not None:
            streak.below = max(streak.below, inner.count, inner.below)

    def add(self, directory: Directory, name: str, keys: Sequence[str]) -> None:
        """Delete the objects of a name as soon as no other batch is under way.

        The caller takes the name from the tree.
        """
        leaving = self._state.leaving
        if directory not in leaving:
            leaving[directory] = {}
            self._state.ensure_open_state(directory).users += 1
        leaving[directory][name] = keys
        self._items[directory] += 1
        self._queue.append(_Leaving(directory, name, keys))
        self._added += 1
        if not self._working:
            self._working = True
            self._background.start(self._work, "delete")

    async def wait_for_name(self, directory: Directory, name: str) -> None:
        """Wait until nothing that is leaving has this name any more."""
        while name in self._state.leaving.get(directory, ()):
            await self._next()

    async def wait_for_directory(self, directory: Directory) -> None:
        """Wait until all removed names of a directory are gone from the bucket.

        Raises:
            StoreError, FsError: Since the last call one of them could not be deleted, and is back;
                or the directory could not be kept when it was empty.
        """
        while directory in self._state.leaving:
            await self._next()
        for failure in self._failures.pop(directory, {}).values():
            raise failure

    def failures(self) -> Iterator[tuple[Directory, str, StoreError | FsError]]:
        """Names that could not be deleted and are back, until `wait_for_directory` tells why."""
        for directory, failures in self._failures.items():
            for name, failure in failures.items():
                yield directory, name, failure

    async def wait_for_deletions(self) -> None:
        """Wait until whatever is leaving now has left the bucket; the caller may have locks."""
        wanted = self._added
        while self._done < wanted:
            await self._next()

    async def wait_for_all(self) -> None:
        """As `wait_for_deletions`, and until the directories have been looked after.

        That takes locks: the caller has none.
        """
        await self.wait_for_deletions()
        for ended in list(self._looks):
            await ended.wait()

    async def _next(self) -> None:
        """Wait until the next batch has left; it is not to gather any longer."""
        self._wanted.set()
        await self._turns.next()

    @contextmanager
    def going(self, directory: Directory) -> Iterator[None]:
        """The directory itself is being removed: it is not kept when it gets empty.

        Unless it has to stay after all: then that is seen to afterwards.
        """
        self._going.add(directory)
        try:
            yield
        finally:
            self._going.discard(directory)
            if directory.parent is not None:
                self.add(directory, "", ())

    def _streak(self, directory: Directory) -> Streak:
        streak = self._streaks.get(directory)
        if streak is None:
            above = directory.parent
            while above is not None and above not in self._streaks:
                above = above.parent
            streak = self._streaks[above].handed_down() if above is not None else Streak()
            self._streaks[directory] = streak
        return streak

    async def _work(self) -> None:
        try:
            while self._queue:
                with trio.move_on_after(GATHER):
                    await self._wanted.wait()
                batch, self._queue, self._wanted = self._queue, [], trio.Event()
                try:
                    await self._delete(batch)
                except Exception:
                    # a bug: the names that come next must not wait for ever
                    log.exception("cannot remove %s", count(len(batch), "name"))
                finally:
                    self._done += len(batch)
                    self._turns.moved()
        finally:
            self._working = False

    async def _delete(self, batch: Sequence[_Leaving]) -> None:
        keys = [key for item in batch for key in item.keys]
        stayed: dict[str, StoreError | FsError] = {}
        try:
            await gather(
                [
                    functools.partial(self._delete_keys, keys[at : at + _BATCH], stayed)
                    for at in range(0, len(keys), _BATCH)
                ],
                limit=_SIDE_BY_SIDE,
            )
        finally:
            self._free_names(batch, stayed)
            for directory, items in Counter(item.directory for item in batch).items():
                self._start_look(directory, items)

    async def _delete_keys(
        self, keys: Sequence[str], stayed: dict[str, StoreError | FsError]
    ) -> None:
        failed: Mapping[str, StoreError | FsError]
        try:
            failed = await self._store.delete_many(keys)
        except StoreError as error:
            failed = dict.fromkeys(keys, error)
        except Exception as error:
            log.exception("cannot delete %s", count(len(keys), "object"))
            failed = dict.fromkeys(keys, internal("delete", error))
        stayed.update(failed)
        self._journal.removed(keys)
        # before the names are free: the next mount after a power cut deletes what it finds there
        # with the same ETag, which a new file of the same bytes has
        with contextlib.suppress(FsError):
            await self._journal.synced()
        for key in keys:
            if key not in failed:
                self._index.drop_headers(key)

    def _free_names(
        self, batch: Sequence[_Leaving], stayed: dict[str, StoreError | FsError]
    ) -> None:
        """The deletions have ended: the names are free, or there again."""
        for item in batch:
            self._state.leaving[item.directory].pop(item.name, None)
            failure = next((stayed[key] for key in item.keys if key in stayed), None)
            if failure is None:
                self._state.note_removed(item.directory, item.name)
            else:
                self._note_failure(item.directory, item.name, failure)
                self._streaks.pop(item.directory, None)
                self._state.freshness.learn_taken(item.directory, item.name)
        if stayed:
            log.error(
                "%d of %s cannot be deleted in the bucket, their names are back: %s",
                len(stayed), count(sum(len(item.keys) for item in batch), "removed object"),
                next(iter(stayed.values())),
            )  # fmt: skip

    def _note_failure(self, directory: Directory, name: str, failure: StoreError | FsError) -> None:
        self._failures.setdefault(directory, {})[name] = failure

    def _start_look(self, directory: Directory, items: int) -> None:
        """Look after a directory that so many items of a batch were of."""
        ended = trio.Event()
        self._looks[ended] = None
        self._background.start(
            functools.partial(self._look_after, directory, items, ended),
            "look after an emptied directory",
            failed=functools.partial(self._note_failure, directory, ""),
        )

    async def _look_after(self, directory: Directory, items: int, ended: trio.Event) -> None:
        """See to what a directory's names leave behind: perhaps nothing that makes it exist."""
        leaving = self._state.leaving[directory]
        try:
            if not leaving and directory not in self._going and directory.parent is not None:
                await self._on_emptied(directory)
        except (StoreError, FsError) as error:
            log.error(
                "cannot store a marker for the emptied directory %r, it may vanish: %s",
                self._state.shown(directory), error,
            )  # fmt: skip
            self._note_failure(directory, "", error)
        finally:
            self._batch_ended(directory, items)
            del self._looks[ended]
            ended.set()
            self._turns.moved()

    def _batch_ended(self, directory: Directory, items: int) -> None:
        self._items[directory] -= items
        if not self._items[directory]:
            del self._items[directory], self._state.leaving[directory]
            self._state.ensure_open_state(directory).users -= 1
            self._state.drop_if_idle(directory)
