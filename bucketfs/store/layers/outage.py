"""An endpoint that is silent as a whole: all calls share one deadline, however many wait in line.

The kernel lets one call at a time change a directory. On a dead network each of ten such calls
would wait its own time for the endpoint, one after the other, and the last program would hear of it
ten times too late. So the time is that of the outage, not that of the call: when nothing has been
heard for so long, all calls that wait end, and those that come fail at once. Meanwhile the mount
itself asks the endpoint again and again. Any answer, whatever it says, ends the outage.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from bucketfs import clock
from bucketfs.errors import NoAnswer, StoreError
from bucketfs.store.layers.wrapper import Call

_log = logging.getLogger("bucketfs.store.layers.outage")

#: Seconds between two questions to a silent endpoint, and before the first: most silences are one
#: lost answer, which the next try makes up for.
_PAUSE: Final = 3.0
#: Seconds after which such a question counts as lost, far above what a small one takes anywhere.
_LONGEST: Final = 20.0
#: A silence of so many seconds is told of at its end, if requests failed in it.
_WORTH_TELLING: Final = 10.0
#: Failures that say nothing about whether anybody is there.
_SILENT: Final = frozenset(
    {"ConnectFailed", "ConnectTimeout", "ConnectionClosed", "ReadTimeout", "UnknownHost"}
)


class Outage:
    """Whether the endpoint is silent, for how long, and who waits for it.

    Args:
        patience: Seconds of silence after which it is over with waiting.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        #: Time of the trio clock at which the first request began that nobody answered.
        self._since: float | None = None
        self._heard = -math.inf
        self._code = ""
        self._begun = trio.Event()
        self._over = False
        self._waiting: set[trio.CancelScope] = set()
        #: Calls that have failed since then, by operation.
        self._lost: Counter[str] = Counter()

    @property
    def over(self) -> bool:
        """Whether the silence has lasted so long that nobody is to wait for its end any more."""
        return self._over

    def heard(self) -> None:
        """The endpoint has answered something."""
        self._heard = clock.monotonic()
        if self._since is None:
            return
        silence = self._heard - self._since
        if self._over or (self._lost and silence >= _WORTH_TELLING):
            _log.warning(
                "the endpoint answers again, after %.0f s of silence%s", silence, _told(self._lost)
            )
        self._since, self._over, self._begun = None, False, trio.Event()
        self._lost.clear()

    def failed(self, error: StoreError, began: float) -> None:
        """A request that was sent at a time of the trio clock has met an error."""
        # what is no answer and not silent either (garbage, a broken body) came from somebody
        if error.status or (isinstance(error, NoAnswer) and error.code not in _SILENT):
            self.heard()
        elif error.code in _SILENT and self._since is None and self._heard <= began:
            self._since, self._code = began, error.code
            self._begun.set()
        if isinstance(error, NoAnswer):
            error.silent_since = self._since

    def gave_up(self, call: Call) -> None:
        """A call has failed for good."""
        if self._since is not None:
            self._lost[call.operation] += 1

    def failure(self, call: Call) -> NoAnswer:
        """What a call gets while the outage is over its time."""
        assert self._since is not None
        seconds = clock.monotonic() - self._since
        words = f"no answer to anything for {seconds:.0f} s"
        self.gave_up(call)
        error = NoAnswer(self._code, operation=call.operation, key=call.key, message=words)
        error.silent_since = self._since
        return error

    @contextmanager
    def waiting(self) -> Iterator[trio.CancelScope]:
        """A scope that ends after `patience`, or earlier: when the outage has lasted so long."""
        with trio.move_on_after(self._patience) as scope:
            self._waiting.add(scope)
            try:
                yield scope
            finally:
                self._waiting.discard(scope)

    async def watch(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Ask a silent endpoint until it answers; runs as long as the mount.

        Args:
            ask: Sends one small request. Raises StoreError.
        """
        try:
            while True:
                begun = self._begun
                await begun.wait()
                while begun is self._begun:
                    await self._ask_once(ask)
        finally:
            self._over = False  # nobody would end it

    async def _ask_once(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Pause and ask; or give up waiting, if it is time for that."""
        assert self._since is not None
        now, ends = clock.monotonic(), self._since + self._patience
        if not self._over and now >= ends:
            self._give_up(now - self._since)
        left = math.inf if self._over else ends - now
        with trio.move_on_after(min(_PAUSE + _LONGEST, left)):
            await trio.sleep(_PAUSE)
            if self._since is None:
                return
            try:
                await ask()
            except StoreError as error:
                self.failed(error, began=now)
            else:
                self.heard()

    def _give_up(self, seconds: float) -> None:
        self._over = True
        _log.error(
            "the endpoint has not answered anything for %.0f s (%s): calls that need it fail at"
            " once until it does; check the network and the endpoint",
            seconds, self._code,
        )  # fmt: skip
        for scope in self._waiting:
            scope.cancel()


def _told(lost: Counter[str]) -> str:
    if not lost:
        return ""
    kinds = ", ".join(f"{operation} {times}" for operation, times in lost.most_common())
    return f"; requests that failed meanwhile: {kinds}"
