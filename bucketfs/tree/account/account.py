"""All buckets of an account as the directories of one mount: entering them, and their end.

A bucket is entered when something in it is asked for, and stays so until the mount ends: it may
have files that are not saved yet.

Invariant: a bucket has at most one tree in a mount.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from bucketfs import clock
from bucketfs.errors import FsError, StoreError, advice
from bucketfs.tasks import gather, internal
from bucketfs.tree.account.member import Bucket, Entering
from bucketfs.tree.account.roster import Roster
from bucketfs.tree.lookup.forget import Forgotten
from bucketfs.tree.saving.outstanding import LeftBehind, Remaining
from bucketfs.tree.tree import Tree

log = logging.getLogger(__name__)

#: Buckets entered side by side before the mount stands.
_AT_ONCE: Final = 8
#: Seconds between two looks at what is left while the mount drains.
_LOOK: Final = 1.0

#: Opens the tree of a bucket: asks for the bucket first, does what an earlier mount has left last.
Plant = Callable[[Bucket], AbstractAsyncContextManager[Tree]]


class Account:
    """The buckets of an account, and a tree for each that was entered.

    Args:
        roster: Which there are.
        plant: Opens one.
        nursery: Where the opened ones live, until `close`.

    Attributes:
        roster: As given.
        mounted_ns: When it was opened, in nanoseconds of the wall clock.
    """

    def __init__(self, roster: Roster, plant: Plant, nursery: trio.Nursery) -> None:
        self.roster = roster
        self._plant = plant
        self._nursery = nursery
        self._over = trio.Event()
        #: Other times than those that buckets are planted with, if somebody wanted them.
        self._times: dict[str, float] = {}
        self.mounted_ns = clock.wall_ns()

    @property
    def trees(self) -> list[Tree]:
        """Those of the buckets that were entered."""
        return [bucket.tree for bucket in self.roster.every if bucket.tree is not None]

    async def at(self, path: str) -> tuple[Tree, str]:
        """The tree of a path below the mount point, and the path in it.

        Raises FsError, StoreError.
        """
        name, _, below = path.partition("/")
        if not name:
            raise FsError(errno.EISDIR, "name a file in one of the buckets")
        return await self.enter(await self.roster.find(name)), below

    async def forget(self, path: str) -> Forgotten:
        """As `Refresher.forget`, of a path below the mount point; of all buckets for ""."""
        name, _, below = path.partition("/")
        await self.roster.ask_anew()
        forgotten = Forgotten()
        for bucket in self.roster.every:
            if bucket.tree is not None and name in ("", bucket.name):
                part = await bucket.tree.refresher.forget(below)
                forgotten.missing |= part.missing
                forgotten.names += part.names
                forgotten.inodes += part.inodes
        if name and name not in {bucket.name for bucket in self.roster.present}:
            forgotten.missing = True
        return forgotten

    def trust(self, *, ttl: float, open_ttl: float) -> None:
        """As `TreeState.trust`, for all buckets, also those that are entered later."""
        self._times = {"ttl": ttl, "open_ttl": open_ttl}
        self.roster.trust(**self._times)
        for tree in self.trees:
            tree.state.trust(**self._times)

    async def enter(self, bucket: Bucket) -> Tree:
        """The tree of a bucket, opened at first.

        Raises:
            FsError: The cache cannot be used, or there are no keys.
            StoreError: The bucket cannot be asked.
        """
        while bucket.tree is None:
            if bucket.entering is None:
                bucket.entering = Entering()
                self._nursery.start_soon(self._keep, bucket, bucket.entering)
            entering = bucket.entering
            await entering.done.wait()
            if entering.failure is not None:
                raise entering.failure
        return bucket.tree

    async def enter_all(self, names: Sequence[str]) -> None:
        """Enter buckets in which an earlier mount has left something; what fails is logged."""
        if names:
            await gather([functools.partial(self._resume, each) for each in names], limit=_AT_ONCE)

    async def _resume(self, name: str) -> None:
        bucket = self.roster.known(name)
        asked = clock.monotonic()
        try:
            await self.enter(bucket)
        except (FsError, StoreError) as error:
            log.error(
                "bucket %s cannot be entered, what an earlier mount has left for it waits: %s",
                name, _why(error),
            )  # fmt: skip
        else:
            self.roster.appeared(bucket, asked)

    async def _keep(self, bucket: Bucket, entering: Entering) -> None:
        """Have a bucket open until the account is closed."""
        try:
            with entering.scope:
                async with self._plant(bucket) as tree:
                    if self._times:
                        tree.state.trust(**self._times)
                    bucket.tree = tree
                    bucket.entering = None
                    entering.done.set()
                    await self._over.wait()
        except Exception as error:
            if bucket.tree is not None:
                log.exception("bucket %s was not closed as it should be", bucket.name)
                return
            bucket.entering = None
            if isinstance(error, FsError | StoreError):
                entering.failure = error
            else:
                log.exception("bucket %s cannot be entered", bucket.name)
                entering.failure = internal("enter", error)
            entering.done.set()

    def remaining(self) -> Remaining:
        """How much waits, in all buckets."""
        return Remaining.total([tree.outstanding.remaining() for tree in self.trees])

    async def drain(self, hurry: trio.Event, tell: Callable[[Remaining], None]) -> LeftBehind:
        """As `Drain.run`, of all buckets side by side.

        One that is just being entered is let go: nobody waits for it, and what an earlier mount has
        left for it stays in the journal.
        """
        self._stop_entering()
        left: list[LeftBehind] = []

        async def one(tree: Tree) -> None:
            left.append(await tree.drain.run(hurry, lambda _: None))

        async with trio.open_nursery() as watching:
            watching.start_soon(self._tell, tell)
            async with trio.open_nursery() as draining:
                for tree in self.trees:
                    draining.start_soon(one, tree)
            watching.cancel_scope.cancel()
        return LeftBehind.total(left)

    async def _tell(self, tell: Callable[[Remaining], None]) -> None:
        while True:
            tell(self.remaining())
            await trio.sleep(_LOOK)

    def close(self) -> None:
        """Let all buckets go."""
        self._over.set()
        self._stop_entering()

    def _stop_entering(self) -> None:
        for bucket in self.roster.every:
            if bucket.entering is not None:
                bucket.entering.scope.cancel()


def _why(error: FsError | StoreError) -> str:
    if isinstance(error, FsError):
        return error.why or str(error)
    return f"{error}; {hint}" if (hint := advice(error)) else str(error)
