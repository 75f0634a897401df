"""The names of a directory on their way to a program that reads it.

A listing of a million entries takes a thousand requests. Names that it has shown are told before it
is complete, if that takes longer than a program should wait for the first of them.

Invariant: each name that is in the directory when the listing ends is told once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import trio

from bucketfs.errors import FsError, StoreError
from bucketfs.tasks import Turns

#: Seconds for which names wait for all of the listing. A shorter one is told in one order, and what
#: programs do with its entries is foreseen (`Prefetcher`), which takes the whole order.
PATIENCE = 0.5


class Reading:
    """What one program is told of a directory, in the order of positions.

    Attributes:
        names: Those that may be told; only longer from then on.
        complete: There are no others.
        scope: Of the task that lists the directory, if there is one.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.complete = False
        self.scope = trio.CancelScope()
        self._failure: StoreError | FsError | None = None
        self._turns = Turns()
        self._begun = False

    @classmethod
    def resumed(cls, told: Iterable[str], names: Iterable[str]) -> Reading:
        """Of a directory with these names, of which an earlier daemon has told some."""
        reading = cls()
        reading.names += told
        reading.names += sorted(not_among(sorted(reading.names), names))
        reading.complete = True
        return reading

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.complete or self._failure is not None

    def show(self, names: Iterable[str]) -> None:
        """The listing under way shows these; what is not behind all others is told at the end."""
        last = self.names[-1] if self.names else ""
        self.names += sorted(name for name in names if name > last)
        self._turns.moved()

    def finish(self, names: Iterable[str]) -> None:
        """These are all."""
        if not self._begun:
            self.names.clear()
        # sorted already, but where the store lists in another order, or names are new
        self.names += sorted(not_among(self.names, names))
        self.complete = True
        self._turns.moved()

    def fail(self, error: StoreError | FsError) -> None:
        """There are to be no others."""
        self._failure = error
        self._turns.moved()

    async def first(self) -> None:
        """Wait for all names, or, if that takes long, for the first. Raises as `behind`."""
        with trio.move_on_after(PATIENCE):
            while not self.ended:
                await self._turns.next()
        if self._failure is not None:
            raise self._failure
        self._begun = True
        await self.behind(0)

    async def behind(self, count: int) -> None:
        """Wait until there are more names than so many, or all.

        Raises:
            StoreError: The directory could not be listed to its end.
            FsError: ESTALE, it was removed meanwhile.
        """
        while len(self.names) <= count and not self.complete:
            if self._failure is not None:
                raise self._failure
            await self._turns.next()

    def close(self) -> None:
        """Nobody reads any more: a listing for this reading alone ends."""
        self.scope.cancel()


def not_among(told: Sequence[str], names: Iterable[str]) -> Iterator[str]:
    """The names that a sorted list lacks; quick for those that come in its order.

    A set of a million names would take 67 MB.
    """
    at = 0
    for name in names:
        if at == len(told) or told[at] != name:
            at = bisect_left(told, name)
            if at == len(told) or told[at] != name:
                yield name
                continue
        at += 1
