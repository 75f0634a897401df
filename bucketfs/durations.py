"""Classes of durations, by which calls and requests are counted. Pure.

Each is twice as long as the one before: 28 small numbers tell a microsecond from a minute, and to
find the class of a duration takes one instruction of the processor, not a search.
"""

from __future__ import annotations

from typing import Final

#: Class 0 is less than a microsecond; class n is 2^(n-1) up to less than 2^n microseconds; the last
#: has all that is longer (67 s).
CLASSES: Final = 28


def duration_class(seconds: float) -> int:
    """The class that a duration belongs to."""
    return min(int(seconds * 1e6).bit_length(), CLASSES - 1)


def upper_bound(duration: int) -> float:
    """Seconds below which durations of a class are; infinite for the last."""
    return float("inf") if duration >= CLASSES - 1 else (1 << duration) / 1e6


def none_yet() -> list[int]:
    """How many durations of each class there are, before there are any."""
    return [0] * CLASSES
