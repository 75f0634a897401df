"""Sets of byte positions, kept as sorted disjoint half-open extents ``[start, stop)``.

Pure data structure; neighbouring extents are always merged, so that equal sets compare equal.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Extent = tuple[int, int]


class Extents:
    """A mutable set of non-negative byte positions.

    Cost: O(log n + k) to find, O(n) worst case to insert in the middle, with n the number of
    extents (not of bytes) and k the number of extents touched.
    """

    __slots__ = ("_starts", "_stops", "_total")

    def __init__(self, extents: Iterable[Extent] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._total = 0
        for start, stop in extents:
            self.add(start, stop)

    def __iter__(self) -> Iterator[Extent]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Extents):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Extents({list(self)})"

    @property
    def total(self) -> int:
        """Number of byte positions in the set."""
        return self._total

    @property
    def end(self) -> int:
        """One past the last position, 0 for the empty set."""
        return self._stops[-1] if self._stops else 0

    def add(self, start: int, stop: int) -> None:
        """Include ``[start, stop)``; an empty range changes nothing."""
        if start >= stop:
            return
        stops = self._stops
        if stops and stops[-1] == start:
            # a sequential writer or fetch: the last extent grows
            stops[-1] = stop
            self._total += stop - start
            return
        first = bisect_left(stops, start)
        last = bisect_right(self._starts, stop)
        removed = 0
        for at in range(first, last):
            removed += stops[at] - self._starts[at]
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, stops[last - 1])
        self._starts[first:last] = [start]
        stops[first:last] = [stop]
        self._total += (stop - start) - removed

    def remove(self, start: int, stop: int) -> None:
        """Exclude ``[start, stop)``."""
        if start >= stop:
            return
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last:
            return
        keep: list[Extent] = []
        if self._starts[first] < start:
            keep.append((self._starts[first], start))
        if self._stops[last - 1] > stop:
            keep.append((stop, self._stops[last - 1]))
        removed = sum(self._stops[at] - self._starts[at] for at in range(first, last))
        self._starts[first:last] = [a for a, _ in keep]
        self._stops[first:last] = [b for _, b in keep]
        self._total -= removed - sum(b - a for a, b in keep)

    def clear(self) -> None:
        """Empty the set."""
        self._starts.clear()
        self._stops.clear()
        self._total = 0

    def copy(self) -> Extents:
        """An independent set with the same positions."""
        other = Extents()
        other._starts = self._starts.copy()
        other._stops = self._stops.copy()
        other._total = self._total
        return other

    def covers(self, start: int, stop: int) -> bool:
        """Whether all of ``[start, stop)`` is in the set (true for an empty range)."""
        if start >= stop:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and self._stops[at] >= stop

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether any position of ``[start, stop)`` is in the set."""
        if start >= stop:
            return False
        at = bisect_right(self._stops, start)
        return at < len(self._starts) and self._starts[at] < stop

    def within(self, start: int, stop: int) -> list[Extent]:
        """The parts of ``[start, stop)`` that are in the set, in order."""
        if start >= stop:
            return []
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        return [
            (max(start, self._starts[at]), min(stop, self._stops[at])) for at in range(first, last)
        ]

    def missing(self, start: int, stop: int) -> list[Extent]:
        """The parts of ``[start, stop)`` that are not in the set, in order."""
        gaps: list[Extent] = []
        position = start
        for a, b in self.within(start, stop):
            if position < a:
                gaps.append((position, a))
            position = b
        if position < stop:
            gaps.append((position, stop))
        return gaps
