"""Sets of byte positions, against Python's own sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bucketfs.cache.extents import Extent, Extents

END = 40
ranges = st.tuples(st.integers(0, END), st.integers(0, END))


def positions(extents: list[Extent]) -> set[int]:
    """The positions in a list of extents, which must be disjoint and in order."""
    found = [at for start, stop in extents for at in range(start, stop)]
    assert found == sorted(set(found))
    assert all(start < stop for start, stop in extents)
    return set(found)


class Machine(RuleBasedStateMachine):
    """Every operation on both."""

    def __init__(self) -> None:
        super().__init__()
        self.model: set[int] = set()
        self.extents = Extents()

    @rule(pair=ranges)
    def add(self, pair: Extent) -> None:
        self.extents.add(*pair)
        self.model |= set(range(*pair))

    @rule(length=st.integers(1, 5))
    def append(self, length: int) -> None:
        end = self.extents.end
        self.extents.add(end, end + length)
        self.model |= set(range(end, end + length))

    @rule(pair=ranges)
    def remove(self, pair: Extent) -> None:
        self.extents.remove(*pair)
        self.model -= set(range(*pair))

    @rule()
    def clear(self) -> None:
        self.extents.clear()
        self.model.clear()

    @rule()
    def copy(self) -> None:
        before = self.extents
        self.extents = before.copy()
        assert self.extents == before
        before.add(1000, 1001)
        assert self.extents != before

    @rule(pair=ranges)
    def ask(self, pair: Extent) -> None:
        asked = set(range(*pair))
        assert self.extents.covers(*pair) == (asked <= self.model)
        assert self.extents.overlaps(*pair) == bool(asked & self.model)
        assert positions(self.extents.within(*pair)) == asked & self.model
        assert positions(self.extents.missing(*pair)) == asked - self.model

    @invariant()
    def agrees(self) -> None:
        extents = list(self.extents)
        assert positions(extents) == self.model
        assert all(a[1] < b[0] for a, b in pairwise(extents)), "merged"
        assert self.extents.total == len(self.model)
        assert bool(self.extents) == bool(self.model)
        assert self.extents.end == (max(self.model) + 1 if self.model else 0)


TestExtents = Machine.TestCase


@given(st.lists(ranges))
def test_equal_sets_compare_equal_whatever_their_history(pairs: list[Extent]) -> None:
    assert Extents(pairs) == Extents(reversed(pairs))
    assert Extents(Extents(pairs)) == Extents(pairs)
    assert Extents(pairs) != set(pairs)


def test_iterating_allows_changes() -> None:
    extents = Extents([(0, 1), (2, 3), (4, 5)])
    for start, stop in extents:
        extents.remove(start, stop)
    assert not extents
    assert repr(Extents([(0, 1)])) == "Extents([(0, 1)])"
