"""Counts of what the mount does, kept in memory for the log and for who asks."""

from __future__ import annotations

from collections import Counter


class Metrics:
    """Counters by name; adding is one dictionary update."""

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
