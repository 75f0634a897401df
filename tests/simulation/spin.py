"""A run that goes round without an end is a failure of its seed, and does not hang.

What goes round and lets others run, with requests or without, is bounded by its steps: in each
replay at the same one. What does not is ended by a timer, some seconds of CPU later.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import trio

#: Steps of tasks that a run may take. Of 1,500 seeds the longest took 733, with 111 requests.
STEPS = 10_000
#: Seconds of CPU that a run may take, and until it is tried again to end it. Most take a thirtieth
#: of one; a computer with other things to do takes several times that.
CPU, AGAIN = 10.0, 1.0


class Spins(BaseException):
    """A run takes far more CPU than any should."""


class StepBound(trio.abc.Instrument):
    """Counts the steps of a run, and tells once of too many.

    Args:
        tell: Told what went on for so long, and where it was at last.
    """

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell
        self._count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count += 1
        if self._count == STEPS:
            frames = traceback.StackSummary.extract(task.iter_await_frames())
            self._tell(
                f"the run spins: {STEPS} steps, the last one of {task.name}",
                "".join(frames.format()),
            )


@contextmanager
def bounded_cpu() -> Iterator[None]:
    """Raise `Spins` in the block, wherever it is, when it takes too long."""
    signal.signal(signal.SIGVTALRM, _spins)
    # again and again: trio's own code may catch it
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _spins(_number: int, frame: FrameType | None) -> NoReturn:
    raise Spins("".join(traceback.format_stack(frame, limit=12)))
