"""The two clocks: wall time for what is written to the bucket, monotonic time for ages and waits.

And which run of the machine this is, for what did not have to outlive its end.

Code that decides takes times as arguments. Code that needs one asks here, so that under trio's
MockClock the monotonic clock is virtual too.
"""

from __future__ import annotations

import time
from pathlib import Path

import trio

#: Another one each time a kernel begins to run (random(4)).
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def wall_ns() -> int:
    """Unix time in nanoseconds, for mtime, ctime and names of conflict copies."""
    return time.time_ns()


def monotonic() -> float:
    """Seconds of the running trio clock, for TTLs and deadlines."""
    return trio.current_time()


def boot_id() -> str:
    """What names this run of the machine, "" where the kernel does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
