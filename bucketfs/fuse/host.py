"""What a mount and the program around it tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from bucketfs.cache.cache import Pool
from bucketfs.fuse.calls import Calls
from bucketfs.fuse.keeper import Keeper, Taken
from bucketfs.fuse.kernel_cache import KernelCache
from bucketfs.tree.lookup.forget import Forgotten
from bucketfs.tree.saving.outstanding import LeftBehind, Remaining
from bucketfs.tree.tree import Tree


class Counted(Protocol):
    """What is known of the kernel's side of a mount."""

    calls: Calls

    @property
    def open_files(self) -> int:
        """How many handles of files programs hold."""
        ...

    def subject(self, handler: str, number: int) -> str:
        """The path below the mount point that a call is about, "" if that is not known.

        Args:
            handler: Its name.
            number: Its first argument.
        """
        ...


class Trees(Protocol):
    """The buckets of a mount: one, or those of an account that were entered."""

    @property
    def trees(self) -> Sequence[Tree]:
        """Their trees."""
        ...

    async def at(self, path: str) -> tuple[Tree, str]:
        """The tree of a path below the mount point, and the path in it.

        Raises FsError, StoreError.
        """
        ...

    async def forget(self, path: str) -> Forgotten:
        """As `Refresher.forget`, of a path below the mount point."""
        ...

    def trust(self, *, ttl: float, open_ttl: float) -> None:
        """As `TreeState.trust`."""
        ...


class OneTree:
    """A mount of one bucket."""

    def __init__(self, tree: Tree) -> None:
        self.trees: Sequence[Tree] = (tree,)

    async def at(self, path: str) -> tuple[Tree, str]:
        return self.trees[0], path

    async def forget(self, path: str) -> Forgotten:
        return await self.trees[0].refresher.forget(path)

    def trust(self, *, ttl: float, open_ttl: float) -> None:
        self.trees[0].state.trust(ttl=ttl, open_ttl=open_ttl)


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a mount that can be asked about it."""

    buckets: Trees
    pool: Pool
    operations: Counted
    kernel: KernelCache


class Host(Protocol):
    """The program that runs a mount.

    Attributes:
        hurry: Set when the mount is to end without waiting for the bucket any longer.
        keeper: Who keeps the mount for the next daemon, if anybody does.
        taken: The mount that an earlier daemon has left.
        goes_on: The mount is to stand when this daemon ends.
    """

    hurry: trio.Event
    keeper: Keeper | None
    taken: Taken | None
    goes_on: bool

    async def attend(
        self, service: Service, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run beside the mount, from before it stands until it has drained; is cancelled then."""
        ...

    def stands(self, device: int) -> None:
        """The kernel gets answers for the mount point, whose st_dev is `device`. Called once."""
        ...

    def drains(self, remaining: Remaining) -> None:
        """The mount serves no more, and so much is not in the bucket. Called about each second."""
        ...

    async def drained(self, left: LeftBehind) -> None:
        """Nothing is waited for any more; what is left is on the local disk."""
        ...
