"""The two clocks: wall time for what is written to the bucket, monotonic time for ages and waits.

Code that decides takes times as arguments. Code that needs one asks here, so that under trio's
MockClock the monotonic clock is virtual too.
"""

from __future__ import annotations

import time

import trio


def wall_ns() -> int:
    """Unix time in nanoseconds, for mtime, ctime and names of conflict copies."""
    return time.time_ns()


def monotonic() -> float:
    """Seconds of the running trio clock, for TTLs and deadlines."""
    return trio.current_time()
