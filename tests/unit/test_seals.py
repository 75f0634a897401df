"""Checksums of ranges, against a dictionary of positions."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bucketfs.cache import extents as module
from bucketfs.cache.extents import SPAN, Seal, Seals, spans
from tests.harness.examples import examples

END = 5 * 8
ranges = st.tuples(st.integers(0, END), st.integers(0, END)).map(sorted)
scale = SPAN // 8


class Machine(RuleBasedStateMachine):
    """Every operation on both; the model has a seal under each of its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[int, Seal] = {}
        self.seals = Seals()
        self.count = 0

    def drop(self, start: int, stop: int) -> None:
        gone = {self.model[at] for at in range(start, stop) if at in self.model}
        self.model = {at: seal for at, seal in self.model.items() if seal not in gone}

    @rule(at=st.integers(0, END), length=st.integers(1, 8))
    def add(self, at: int, length: int) -> None:
        self.count += 1
        start, stop = at, min(at + length, (at // 8 + 1) * 8)
        self.drop(start, stop)
        seal = Seal(start * scale, stop * scale, self.count)
        self.seals.add(*seal)
        self.model |= dict.fromkeys(range(start, stop), seal)

    @rule(pair=ranges)
    def remove(self, pair: list[int]) -> None:
        self.seals.remove(pair[0] * scale, pair[1] * scale)
        self.drop(*pair)

    @rule()
    def store(self) -> None:
        self.seals = Seals.load(self.seals.dump())

    @rule(pair=ranges)
    def look(self, pair: list[int]) -> None:
        start, stop = pair
        found = self.seals.overlapping(start * scale, stop * scale)
        assert found == sorted({self.model[at] for at in range(*pair) if at in self.model})
        bare = {at for a, b in self.seals.missing(start * scale, stop * scale)
                for at in range(a // scale, b // scale)}  # fmt: skip
        assert bare == {at for at in range(*pair) if at not in self.model}
        before = self.model.get(start - 1)
        ends = before if before is not None and before.stop == start * scale else None
        assert self.seals.ending_at(start * scale) == ends

    @invariant()
    def same(self) -> None:
        assert list(self.seals) == sorted(set(self.model.values()))
        assert len(self.seals) == len(set(self.model.values()))


TestSeals = Machine.TestCase


@given(st.integers(0, 9 * SPAN), st.integers(0, 4 * SPAN))
def test_spans_cut_at_the_same_places_whatever_is_asked(start: int, length: int) -> None:
    pieces = list(spans(start, start + length))
    assert [at for at, _ in pieces] == [start, *(b for _, b in pieces)][:-1] or not length
    assert sum(b - a for a, b in pieces) == length
    assert all(0 < b - a <= SPAN - a % SPAN for a, b in pieces)


@given(st.binary(max_size=200))
@settings(max_examples=examples(300))
def test_what_is_no_dump_is_refused_or_sane(data: bytes) -> None:
    try:
        seals = list(Seals.load(data))
    except ValueError:
        return
    assert all(0 < seal.stop - seal.start <= SPAN for seal in seals)
    assert all(one.stop <= two.start for one, two in pairwise(seals))


def test_dumps_stand_one_behind_another() -> None:
    one, two = Seals(), Seals()
    one.add(2 * SPAN, 3 * SPAN, 7)
    two.add(5, 9, 2**32 - 1)
    both = Seals.load(one.dump() + two.dump())
    assert list(both) == [Seal(5, 9, 2**32 - 1), Seal(2 * SPAN, 3 * SPAN, 7)]
    two.add(2 * SPAN + 1, 2 * SPAN + 2, 1)
    with pytest.raises(ValueError, match="no seal can be"):
        Seals.load(one.dump() + two.dump())


def test_a_seal_is_16_bytes() -> None:
    seals = Seals()
    for at in range(1000):
        seals.add(at * 4096, (at + 1) * 4096, at)
    assert len(seals.dump()) == 16 * 1000
    assert sum(len(column) * column.itemsize for column in (
        seals._starts, seals._lengths, seals._crcs)) == 16 * 1000  # fmt: skip
    assert module._RECORD.size == 16
