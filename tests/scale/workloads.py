"""What programs do on each mount."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from tests.scale import budget
from tests.scale.bucket import CountingBucket
from tests.scale.budget import Budget
from tests.simulation.kernel import File, Kernel

#: Files of the shared data set, and of the directory that is listed.
FILES = 100
#: Bytes of a file of the data set, of a result, and of a line of a log.
DATA, RESULT, LINE = 4096, 4096, 100
SHARED = "shared"


@dataclass
class Node:
    """One mount: its number, and its kernel."""

    number: int
    kernel: Kernel

    async def read(self, path: str, length: int) -> bytes:
        """All of a file, from open to close."""
        file = await self.kernel.open(path, os.O_RDONLY, self.number + 1, _nothing)
        data = await self.kernel.read(file, 0, length)
        await self._close(file)
        return data

    async def write(self, path: str, data: bytes, flags: int, at: int = 0) -> None:
        """Open, write and close."""
        flags |= os.O_WRONLY | os.O_CREAT
        file = await self.kernel.open(path, flags, self.number + 1, _nothing)
        await self.kernel.write(file, at, data, lambda: lambda _done: None)
        await self._close(file)

    async def _close(self, file: File) -> None:
        await self.kernel.flush(file)
        self.kernel.release(file)


def _nothing(_file: File) -> None:
    """Nobody takes down that a file was opened."""


def name(number: int) -> str:
    """A file of the data set."""
    return f"{SHARED}/{number:04}"


def fill(bucket: CountingBucket) -> None:
    """Put the data set into the bucket."""
    for number in range(FILES):
        bucket.poke(name(number), bytes(DATA))


@dataclass(frozen=True)
class Workload:
    """What a program does again and again.

    Attributes:
        title: For the table.
        period: Seconds from one step to the next.
        step: One step; its number counts from 0.
        budget: What it may ask.
        room: How far a count may be from the budget: an interval more or less may fall into the
            time that is counted.
    """

    title: str
    period: float
    step: Callable[[Node, int], Awaitable[None]]
    budget: Budget
    room: float = 0.12

    async def run(self, node: Node, start: float) -> None:
        """Steps until cancelled; one that takes longer than a period delays the next."""
        number = 0
        while True:
            await trio.sleep_until(start + number * self.period)
            await self.step(node, number)
            number += 1


async def _list(node: Node, _number: int) -> None:
    assert len(await node.kernel.names(SHARED)) == FILES


async def _stat(node: Node, _number: int) -> None:
    await node.kernel.look(name(7))


async def read_all(node: Node, _number: int) -> None:
    """The whole data set, file by file."""
    for number in range(FILES):
        assert len(await node.read(name(number), DATA)) == DATA


async def _result(node: Node, number: int) -> None:
    if not number:
        await node.kernel.mkdir(f"n{node.number}")
    await node.write(f"n{node.number}/{number}", bytes(RESULT), os.O_EXCL)


async def _append(node: Node, number: int) -> None:
    await node.write(f"log{node.number}", bytes(LINE), os.O_APPEND, number * LINE)


WORKLOADS = {
    "ls": Workload("`ls` of 100 files, every 10 s", 10.0, _list, budget.listing),
    "stat": Workload("`stat` of one name, every 10 s", 10.0, _stat, budget.looking),
    "read": Workload(
        "read the same 100 small files, every 60 s", 60.0, read_all, budget.reading, room=0.25
    ),
    "results": Workload(
        "a new file in a folder of its own, every 60 s", 60.0, _result, budget.results, room=0.2
    ),
    "append": Workload(
        "a line more in a log of its own, every 10 s", 10.0, _append, budget.appending
    ),
}
