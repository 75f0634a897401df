"""Names and attributes that are not what the kernel remembers: it is told to ask again.

Attributes alone may be taken back at any time. For a name the kernel locks its directory, and who
tells it waits where no signal reaches: as long as a request that has that lock has no answer. A
daemon that is killed there never ends, and with it the mount hangs, as nobody answers any more and
the kernel does not notice that. So a name waits here until its directory is idle.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import pyfuse3
import trio

from bucketfs import clock
from bucketfs.errors import FsError, StoreError, errno_of
from bucketfs.fuse.calls import OF_HANDLES, Calls, Running
from bucketfs.tree.core.inode import ROOT_INO, Directory, Inode

#: Seconds for which an answer waits until the kernel has forgotten a name.
PATIENCE: Final = 1.0
#: Seconds after which a directory that is never idle, but moves on, is taken as it is.
_BUSY: Final = 1.0
#: Calls that lock a directory which their first argument does not name.
_ANYWHERE: Final = frozenset({"rename", "link", "readdir", "fsyncdir"})


class _Batch:
    """Names of one directory that the kernel is to forget."""

    def __init__(self) -> None:
        self.names: set[bytes] = set()
        self.told = clock.monotonic()
        self.forgotten = trio.Event()


class KernelCache:
    """What the kernel remembers of one mount.

    Args:
        calls: Those of the mount.
    """

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self._batches: dict[int, _Batch] = {}
        self._change = trio.Event()
        self._ended = False

    async def run(self) -> None:
        """Have names forgotten until it is cancelled; from then on nobody waits for that."""
        try:
            while True:
                self._change = trio.Event()
                told = {ino: batch.told for ino, batch in self._batches.items()}
                if found := idle(told, self.calls.under_way):
                    await self._forget_in(found)
                elif told:
                    with self._watching(self._change.set):
                        await self._change.wait()
                else:
                    await self._change.wait()
        finally:
            self._ended = True
            for batch in self._batches.values():
                batch.forgotten.set()

    async def _forget_in(self, directories: Sequence[int]) -> None:
        batches = {ino: self._batches.pop(ino) for ino in directories}
        try:
            await trio.to_thread.run_sync(_invalidate, batches, abandon_on_cancel=True)
        finally:
            for batch in batches.values():
                batch.forgotten.set()

    async def until_unused(self, uses: Callable[[Running], bool]) -> None:
        """Wait until no call under way uses something, or none for long.

        The kernel locks what a call uses, and who takes that back waits as for a directory.
        """
        latest = clock.monotonic() + _BUSY
        while any(call.began <= latest and uses(call) for call in self.calls.under_way):
            ended = trio.Event()
            with self._watching(ended.set):
                await ended.wait()

    @contextmanager
    def _watching(self, hear: Callable[[], None]) -> Iterator[None]:
        self.calls.watching.add(hear)
        try:
            yield
        finally:
            self.calls.watching.remove(hear)

    def _is_to_forget(self, ino: int, name: str) -> _Batch:
        batch = self._batches.setdefault(ino, _Batch())
        batch.names.add(name.encode())
        if self._ended:
            batch.forgotten.set()
        self._change.set()
        return batch

    # ---- names -----------------------------------------------------------------------------------

    def moved(self, parent: Directory, name: str) -> None:
        """A name stands for others' file now: who opens it is not to go on in a conflict copy."""
        self._is_to_forget(parent.ino, name)

    def bucket_changed(self, name: str) -> None:
        """A name in the mount point of an account stands for a bucket now, or does so no more."""
        self._is_to_forget(ROOT_INO, name)

    @contextmanager
    def if_taken(self, parent: Directory, name: str) -> Iterator[None]:
        """A name that was free may turn out in the block to be others'."""
        try:
            yield
        except (FsError, StoreError) as error:
            if errno_of(error) == errno.EEXIST:
                self._is_to_forget(parent.ino, name)
            raise

    @asynccontextmanager
    async def if_moved(self, inode: Inode) -> AsyncIterator[None]:
        """A failure in the block may come with another name for the file: a conflict copy's.

        Who hears of it and opens the old name finds others' version. Not for requests that lock the
        directory.
        """
        parent, name = inode.parent, inode.name
        try:
            yield
        except (FsError, StoreError):
            if parent is not None and (inode.parent, inode.name) != (parent, name):
                await self.forget_name(parent, name)
            raise

    async def forget_name(self, parent: Directory, name: str) -> None:
        """Have the kernel ask for a name anew. Not within requests that lock the directory."""
        with trio.move_on_after(PATIENCE):
            await self._is_to_forget(parent.ino, name).forgotten.wait()

    async def forget(self, names: Sequence[tuple[int, str]], inodes: Sequence[int]) -> None:
        """Have it ask again for names that were free, and for attributes; returns after that.

        Args:
            names: With the numbers of their directories.
            inodes: By number.
        """
        for batch in {self._is_to_forget(parent, name) for parent, name in names}:
            await batch.forgotten.wait()
        await trio.to_thread.run_sync(functools.partial(_outdate, inodes), abandon_on_cancel=True)

    # ---- attributes ------------------------------------------------------------------------------

    def replaced(self, inode: Inode) -> None:
        """Others gave the file another version: a read must not end where the old one did."""
        _outdate([inode.ino])


def idle(told: Mapping[int, float], calls: Iterable[Running]) -> list[int]:
    """The directories whose lock no call under way has, or none for long.

    Args:
        told: When names of a directory were told, by its number.
        calls: Those under way. Of those that lock some directory, none is known not to be one.
    """
    oldest: dict[int, float] = {}
    anywhere = math.inf
    for call in calls:
        if call.name in _ANYWHERE:
            anywhere = min(anywhere, call.began)
        elif call.name not in OF_HANDLES:
            oldest[call.number] = min(oldest.get(call.number, math.inf), call.began)
    return [
        ino
        for ino, since in told.items()
        if min(anywhere, oldest.get(ino, math.inf)) > since + _BUSY
    ]


def _invalidate(batches: Mapping[int, _Batch]) -> None:
    for parent, batch in batches.items():
        for name in batch.names:
            # the kernel may not know the name
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_entry(parent, name)


def _outdate(inodes: Sequence[int]) -> None:
    for ino in inodes:
        # the kernel may have forgotten the inode meanwhile
        with contextlib.suppress(OSError):
            pyfuse3.invalidate_inode(ino, attr_only=True)
