"""Whether the store copies a range faster in pieces that run side by side. Pure decisions.

Each piece costs a request. AWS moves about as many bytes a second for each request, so that pieces
pay; a store that copies at its full speed in one request gains nothing by them. Which of both an
endpoint is, shows when it has copied in each way once.
"""

from __future__ import annotations

#: Bytes from which on a copy says something of the speed: below, round trips are most of its time.
TELLING = 32 << 20
#: Bytes up to which a copy in one request is tried at an endpoint that never made one.
TRIAL_MOST = 256 << 20
#: How much faster pieces have to be to be worth their requests.
WORTH = 1.5
#: Seconds one copy may take: longer, a lost connection would cost too much.
LONGEST = 30
#: Bytes a second that are said of a copy in one request that failed.
_FAILED = 1.0
#: How much the latest copy counts beside those before it.
_LATEST = 0.5


class CopySpeed:
    """How fast an endpoint copies whole ranges, and pieces of them."""

    def __init__(self) -> None:
        self._whole = 0.0
        self._pieces = 0.0

    def prefers_whole(self, size: int) -> bool:
        """Whether the next copy, of `size` bytes, is made in as few requests as can be."""
        if not self._pieces:
            return False
        if not self._whole:
            return size <= TRIAL_MOST
        return self._pieces < WORTH * self._whole and size <= LONGEST * self._whole

    def took(self, *, whole: bool, size: int, seconds: float) -> None:
        """Learn from a copy of `size` bytes altogether that took so long."""
        if size < TELLING or seconds <= 0:
            return
        rate = size / seconds
        if whole:
            self._whole = _mean(self._whole, rate)
        else:
            self._pieces = _mean(self._pieces, rate)

    def failed(self, *, whole: bool) -> None:
        """A copy failed, perhaps because it took too long in one request."""
        if whole:
            self._whole = _FAILED


def _mean(before: float, rate: float) -> float:
    return rate if not before else before + _LATEST * (rate - before)
