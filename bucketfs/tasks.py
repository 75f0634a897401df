"""Structured ways to run things side by side: bounded gathering, and work that outlives its caller.

Every task has an owner. `gather` owns what it starts until all of it has ended. `Background` is
owned by the mount: what several callers wait for, or nobody does, runs there and is waited for at
unmount.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import trio

from bucketfs.errors import FsError, StoreError

log = logging.getLogger(__name__)

T = TypeVar("T")


async def gather(jobs: Sequence[Callable[[], Awaitable[T]]], *, limit: int) -> list[T]:
    """Run all jobs, at most `limit` at a time, and answer their results in order.

    The first failure cancels the others and is raised as it is, not as a group.
    """
    results: list[T | None] = [None] * len(jobs)
    failures: list[Exception] = []
    waiting = iter(enumerate(jobs))

    async def work(scope: trio.CancelScope) -> None:
        for at, job in waiting:
            try:
                results[at] = await job()
            except Exception as failure:  # noqa: BLE001 - raised again below, alone
                failures.append(failure)
                scope.cancel()
                return

    if len(jobs) == 1:
        return [await jobs[0]()]
    async with trio.open_nursery() as nursery:
        for _ in range(min(limit, len(jobs))):
            nursery.start_soon(work, nursery.cancel_scope)
    if failures:
        raise failures[0]
    return results  # type: ignore[return-value]  # every job ended without a failure


@asynccontextmanager
async def alongside(job: Callable[[], Awaitable[object]], name: str) -> AsyncIterator[None]:
    """Run a job for the length of the block, as `Background.start` does.

    A failure of the block is raised alone, no group.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        Background(nursery).start(job, name)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again below, alone
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class Background:
    """Tasks of the mount. A failure ends the task that had it, never the mount."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start(
        self,
        job: Callable[[], Awaitable[object]],
        name: str,
        *,
        failed: Callable[[FsError], None] | None = None,
    ) -> None:
        """Run `job` until it ends or the mount does; what it raises is a bug and is logged as one.

        Jobs deal with the failures they expect (of the store, of the disk) themselves.

        Args:
            job: What is to be done.
            name: For the log.
            failed: Told of a bug that ended the job, in the same step of the event loop. Whoever
                waits for what the job was to bring must hear of it, or would wait for ever.
        """
        self._nursery.start_soon(self._guard, job, name, failed, name=name)

    async def _guard(
        self,
        job: Callable[[], Awaitable[object]],
        name: str,
        failed: Callable[[FsError], None] | None,
    ) -> None:
        try:
            await job()
        except Exception as error:
            log.exception("background task %s failed; the mount goes on", name)
            if failed is not None:
                failed(internal(name, error))


def internal(name: str, error: Exception) -> FsError:
    """What programs get of a bug: EIO."""
    return FsError(errno.EIO, f"internal error in {name}: {error!r}")


class Shared:
    """A question that one task asks and others want answered: these wait, and do not ask as well.

    What the store could not say after all its tries it is not asked again for each who waited. Who
    is cancelled, or meets a bug, has heard nothing: the next one asks then.
    """

    __slots__ = ("_ended", "_failure")

    def __init__(self) -> None:
        self._ended = trio.Event()
        self._failure: StoreError | None = None

    @contextmanager
    def asked(self) -> Iterator[None]:
        """The question is asked in this block."""
        try:
            yield
        except StoreError as error:
            self._failure = error
            raise
        finally:
            self._ended.set()

    def end(self) -> None:
        """Without such a block: the answer is here, or there is to be none."""
        self._ended.set()

    async def ended(self) -> None:
        """Wait until the block has been left."""
        await self._ended.wait()

    async def answered(self) -> None:
        """As `ended`. Raises the StoreError that the block has ended with."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure


class Turns:
    """Wakes all who wait each time something moved on."""

    __slots__ = ("_lot",)

    def __init__(self) -> None:
        self._lot = trio.lowlevel.ParkingLot()

    def moved(self) -> None:
        """Wake everyone who waits now."""
        self._lot.unpark_all()

    async def next(self) -> None:
        """Wait for the next move."""
        await self._lot.park()
