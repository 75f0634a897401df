"""Waiting for something outside this process, bounded."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds after which a wait is a failure. Generous: the machine may be busy with other tests.
PATIENCE = 20.0


def until(condition: Callable[[], object], what: str, *, timeout: float = PATIENCE) -> None:
    """Poll `condition` until it is true; AssertionError naming `what` after `timeout`.

    For conditions of other processes that no event tells of (mount tables, files, buckets).
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.01)
