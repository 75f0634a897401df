"""What the bucket lacks of this mount: told to who asks, and waited for by `flush`.

Only looks on and asks `Saver` and `Removals` to do their work; what a file that a program is still
writing holds is none of its business: that file's close saves it, whole.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import trio

from bucketfs.errors import FsError, StoreError
from bucketfs.tasks import gather, internal
from bucketfs.tree.core.inode import Inode, OpenState
from bucketfs.tree.core.stages import Stage
from bucketfs.tree.core.state import GivenUp, TreeState
from bucketfs.tree.saving.remove import Removals
from bucketfs.tree.saving.save import Saver

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A file or directory of which the bucket lacks something.

    Attributes:
        path: Below the mount point.
        size: Bytes that the bucket lacks; 0 where only attributes wait.
        state: What is being done about it.
        since: Unix time at which it began to wait; 0.0 for one that is still being written.
        tries / error: Failed attempts, and the words for the last one.
    """

    path: str
    size: int
    state: Stage
    since: float
    tries: int
    error: str


@dataclass(frozen=True, slots=True)
class Remaining:
    """Sums over what waits.

    Attributes:
        files: How many lack something in the bucket, without those that are being written.
        size: Bytes of these.
        removals: Names that are removed here and whose objects are still there.
    """

    files: int
    size: int
    removals: int

    def __bool__(self) -> bool:
        return bool(self.files or self.removals)

    @classmethod
    def total(cls, parts: Iterable[Remaining]) -> Remaining:
        """The sums of several trees."""
        parts = list(parts)
        return cls(
            sum(part.files for part in parts),
            sum(part.size for part in parts),
            sum(part.removals for part in parts),
        )


@dataclass(slots=True)
class Held:
    """Figures of what is unsaved, files that are being written included.

    Attributes:
        stages: How many are in which stage.
        failing: How many have failed before.
        oldest: Unix time since which one waits; None if all are being written.
    """

    stages: Counter[Stage] = field(default_factory=Counter)
    failing: int = 0
    oldest: float | None = None

    def add(self, other: Held) -> None:
        """Count what another tree holds, too."""
        self.stages.update(other.stages)
        self.failing += other.failing
        times = [time for time in (self.oldest, other.oldest) if time is not None]
        self.oldest = min(times, default=None)


@dataclass(frozen=True, slots=True)
class FailedFlush:
    """What a flush could not do."""

    path: str
    error: str


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """What the bucket lacks of a mount that has ended.

    Attributes:
        files: The latest that could not be saved.
        removals: How many names were removed here and not in the bucket.
    """

    files: tuple[GivenUp, ...] = ()
    removals: int = 0

    def __bool__(self) -> bool:
        return bool(self.files or self.removals)

    @classmethod
    def total(cls, parts: Iterable[LeftBehind]) -> LeftBehind:
        """What the buckets of several trees lack."""
        parts = list(parts)
        return cls(
            tuple(file for part in parts for file in part.files),
            sum(part.removals for part in parts),
        )


class Outstanding:
    """Looks at what is unsaved."""

    def __init__(self, state: TreeState, saver: Saver, removals: Removals) -> None:
        self._state = state
        self._background = state.files.background
        self._saver = saver
        self._removals = removals

    def waiting(self) -> list[Waiting]:
        """Everything that is unsaved, in the order in which it began to wait; the open last."""
        found = [self._waiting(inode, open_state) for inode, open_state in self._unsaved()]
        return sorted(found, key=lambda item: (item.state is Stage.DIRTY, item.since, item.path))

    def held(self) -> Held:
        """Figures of it, for who asks often: no paths are made."""
        found = Held()
        for _, open_state in self._unsaved():
            stage = open_state.stage
            found.stages[stage] += 1
            found.failing += bool(open_state.error)
            if stage is not Stage.DIRTY and (
                found.oldest is None or open_state.since < found.oldest
            ):
                found.oldest = open_state.since
        return found

    def remaining(self) -> Remaining:
        """How much waits."""
        closed = [open_state for _, open_state in self._unsaved() if not open_state.being_written]
        return Remaining(
            files=len(closed),
            size=sum(map(_size, closed)),
            removals=sum(map(len, self._state.leaving.values())),
        )

    async def flush(self, below: str = "") -> list[FailedFlush]:
        """Wait until everything that waits now is in the bucket, or has failed.

        What is begun for it goes on when the caller is cancelled.

        Args:
            below: A path below the mount point without slashes around it, "" for all of it.
        """
        failed: list[FailedFlush] = []
        done = trio.Event()
        wanted = [
            inode
            for inode, open_state in self._unsaved()
            if not open_state.being_written and self._is_below(inode, below)
        ]
        self._background.start(functools.partial(self._flush, wanted, failed, done), "flush")
        await done.wait()
        return failed

    async def _flush(
        self, wanted: list[Inode], failed: list[FailedFlush], done: trio.Event
    ) -> None:
        try:
            before = set(self._removals.failures())
            await self._removals.wait_for_all()
            for directory, name, error in set(self._removals.failures()) - before:
                path = self._state.shown_below(directory).lstrip("/") + name
                failed.append(FailedFlush(path, f"not removed: {error}"))
            jobs = [functools.partial(self._flush_one, inode, failed) for inode in wanted]
            if jobs:
                await gather(jobs, limit=self._state.files.parallel)
        finally:
            done.set()

    async def _flush_one(self, inode: Inode, failed: list[FailedFlush]) -> None:
        try:
            await self._saver.save(inode)
        except (StoreError, FsError) as error:
            failed.append(FailedFlush(self._state.shown_below(inode), str(error)))
        except Exception as error:
            log.exception("%s is not saved", self._state.shown(inode))
            failed.append(
                FailedFlush(self._state.shown_below(inode), str(internal("flush", error)))
            )

    def _unsaved(self) -> Iterator[tuple[Inode, OpenState]]:
        for inode in list(self._state.open_inodes):
            open_state = inode.open_state
            if open_state is not None and open_state.unsaved:
                yield inode, open_state

    def _waiting(self, inode: Inode, open_state: OpenState) -> Waiting:
        path = self._state.shown_below(inode)
        return Waiting(
            path=path,
            size=_size(open_state),
            state=open_state.stage,
            since=0.0 if open_state.stage is Stage.DIRTY else open_state.since,
            tries=open_state.tries,
            error=open_state.error,
        )

    def _is_below(self, inode: Inode, below: str) -> bool:
        path = self._state.shown_below(inode).rstrip("/")
        return not below or path == below or path.startswith(below + "/")


def _size(open_state: OpenState) -> int:
    return open_state.content.overlay.dirty.total if open_state.content is not None else 0
