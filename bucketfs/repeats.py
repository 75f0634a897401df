"""What would be logged again and again: written once, and counted.

Two decisions, both pure: whether a line is the one before once more (`Repeats`, as syslogd has it),
and whether a failure belongs to an outage of which one like it was told (`OncePerOutage`). And the
handler that acts on the first (`RepeatHandler`).
"""

from __future__ import annotations

import copy
import logging
import time
from typing import Final

from bucketfs.errors import NoAnswer

#: Seconds after a line within which the same one is not written again.
WINDOW: Final = 30.0


class Repeats:
    """Whether lines are like the one before, and how many were."""

    def __init__(self) -> None:
        self._key: object = None
        self._written = 0.0
        self._count = 0

    def again(self, key: object, now: float) -> bool:
        """Whether a line is the one before once more, which is counted then."""
        if key == self._key and now - self._written < WINDOW:
            self._count += 1
            return True
        return False

    def written(self, key: object, now: float) -> None:
        """A line is written, with which the next ones are compared."""
        self._key, self._written, self._count = key, now, 0

    def is_over(self, now: float) -> bool:
        """Whether some are to be told of although no other line has come."""
        return self._count > 0 and now - self._written >= WINDOW

    def taken(self) -> int:
        """How many were like the one before; they are told of now."""
        count, self._count = self._count, 0
        return count


class RepeatHandler(logging.Handler):
    """Hands lines on to another handler; the same one in a row once, and then their number.

    Same are logger, level, text and exception. The number is told when another line comes, when
    `tell_waiting` is called after `WINDOW`, and at the end.
    """

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self.target = target
        self._repeats = Repeats()
        self._last: logging.LogRecord | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or count it."""
        now = time.monotonic()
        error = record.exc_info[1] if record.exc_info else None
        key = (record.name, record.levelno, record.getMessage(), repr(error))
        if self._repeats.again(key, now):
            self._last = record
            return
        self._tell()
        self._repeats.written(key, now)
        self.target.handle(record)

    def tell_waiting(self, now: float) -> None:
        """Tell of lines that have waited for `WINDOW`; `now` as of `time.monotonic`."""
        with self.lock:  # type: ignore[union-attr]  # None only for a handler without one
            if self._repeats.is_over(now):
                self._tell()

    def flush(self) -> None:
        """Tell of all lines; nothing waits afterwards."""
        with self.lock:  # type: ignore[union-attr]
            self._tell()

    def close(self) -> None:
        """Write what is left, and close the other handler."""
        self.flush()
        self.target.close()
        super().close()

    def _tell(self) -> None:
        count, last = self._repeats.taken(), self._last
        self._last = None
        if last is not None:
            self.target.handle(last if count == 1 else _counted(last, count))


def _counted(record: logging.LogRecord, count: int) -> logging.LogRecord:
    """The line that stands for some."""
    made = copy.copy(record)
    made.msg, made.args = "… repeated %d times: %s", (count, record.getMessage())
    made.exc_info = made.exc_text = None
    return made


class OncePerOutage:
    """The first failure of each kind in an outage is told, the others are not."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def level(self, kind: str, error: Exception, level: int) -> int:
        """At which level to log a failure: `level`, or DEBUG where one of its kind was told."""
        if not isinstance(error, NoAnswer) or error.silent_since is None:
            return level
        if self._told.get(kind) == error.silent_since:
            return logging.DEBUG
        self._told[kind] = error.silent_since
        return level
