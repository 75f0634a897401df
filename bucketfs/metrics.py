"""Counts of what the kernel asks of a mount and what fails, told by ``bucketfs status --json``."""

from __future__ import annotations

from collections import Counter


class Metrics:
    """Counters by name; adding is one dictionary update."""

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
