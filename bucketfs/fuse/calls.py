"""Counts what the kernel asks of a mount: calls of each handler, their time, those under way.

Counted in one place, the guard, and told by whoever shows what a mount does. A call costs two looks
at the clock and one small object: about a microsecond.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from bucketfs import clock
from bucketfs.durations import duration_class, none_yet
from bucketfs.repeats import OncePerOutage


@dataclass(slots=True)
class CallTally:
    """Sums over the ended calls of one handler.

    Attributes:
        count: How many.
        seconds: Time they took together.
        durations: How many of each class, see `duration_class`.
    """

    count: int = 0
    seconds: float = 0.0
    durations: list[int] = field(default_factory=none_yet)


#: Handlers whose first argument is a handle; that of the others is an inode.
OF_HANDLES: Final = frozenset(
    {
        *("read", "write", "flush", "fsync", "release", "readdir", "fsyncdir", "releasedir"),
        *("getlk", "setlk", "end_locks"),
    }
)


class Running:
    """A call under way.

    Attributes:
        name: The handler.
        number: Its first argument, mostly an inode or a handle.
        began: Of `clock.monotonic`.
    """

    __slots__ = ("began", "name", "number")

    def __init__(self, name: str, number: int, began: float) -> None:
        self.name = name
        self.number = number
        self.began = began


class Calls:
    """The calls of one mount.

    Attributes:
        failures: How many ended in an error, by ``HANDLER ERRNO``.
        under_way: Those that have no answer yet.
        outages: Which failures are logged.
        watching: Who hears when a call has ended, right before the kernel gets its answer.
    """

    def __init__(self) -> None:
        self._tallies: defaultdict[str, CallTally] = defaultdict(CallTally)
        self.failures: Counter[str] = Counter()
        self.under_way: set[Running] = set()
        self.outages = OncePerOutage()
        self.watching: set[Callable[[], None]] = set()

    @property
    def tallies(self) -> Mapping[str, CallTally]:
        """By handler."""
        return self._tallies

    def begin(self, name: str, number: int) -> Running:
        """A handler is called; `end` has to follow."""
        call = Running(name, number, clock.monotonic())
        self.under_way.add(call)
        return call

    def end(self, call: Running) -> None:
        """The call has its answer, or an error."""
        self.under_way.remove(call)
        took = clock.monotonic() - call.began
        tally = self._tallies[call.name]
        tally.count += 1
        tally.seconds += took
        tally.durations[duration_class(took)] += 1
        for hear in tuple(self.watching):
            hear()
