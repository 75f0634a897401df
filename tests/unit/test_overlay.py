"""What a file is on top of its base version, against a list with the origin of each byte."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bucketfs.cache.extents import Extent, Extents
from bucketfs.cache.rows import PendingRow
from bucketfs.errors import FsError
from bucketfs.file.overlay import Overlay
from bucketfs.store.base import Headers

END = 24
positions = st.integers(0, END)
ranges = st.tuples(positions, positions).map(lambda pair: (min(pair), max(pair)))
extents = st.lists(ranges, max_size=3).map(Extents)


class Origin(Enum):
    """Where a byte comes from: the base version, a program or zeros, a base version now gone."""

    BASE = 1
    CHANGED = 2
    LEFT = 3


@dataclass(slots=True)
class Byte:
    """One byte of the model."""

    origin: Origin
    lost: bool = False


def of(found: Extents | list[Extent]) -> set[int]:
    """The positions in extents."""
    return {at for start, stop in found for at in range(start, stop)}


class Machine(RuleBasedStateMachine):
    """Every operation on both, and every question to both."""

    def __init__(self) -> None:
        super().__init__()
        self.overlay = Overlay(None)
        self.model: list[Byte] = []
        self.new, self.cut, self.touched = True, False, False
        self.changes = 0

    @initialize(base=st.none() | positions)
    def open(self, base: int | None) -> None:
        self.overlay = Overlay(base)
        self.model = [Byte(Origin.BASE) for _ in range(base or 0)]
        self.new = base is None

    def _extend(self, size: int) -> None:
        self.model += [Byte(Origin.CHANGED) for _ in range(len(self.model), size)]

    def _change(self) -> None:
        self.touched = True
        self.changes += 1

    @rule(pair=ranges)
    def write(self, pair: Extent) -> None:
        start, stop = pair
        self.overlay.written(start, stop)
        self._extend(max(start, stop))
        self.model[start:stop] = [Byte(Origin.CHANGED) for _ in range(start, stop)]
        self._change()

    @rule(size=positions)
    def truncate(self, size: int) -> None:
        if size < len(self.model):
            self.overlay.truncated(size)
            del self.model[size:]
            self.cut = True
        else:
            self.overlay.extended(size)
            self._extend(size)
        self._change()

    @rule()
    def truncate_by_open(self) -> None:
        self.truncate(0)
        self.overlay.opened_empty()
        self.touched = False

    @precondition(lambda self: not self.overlay.lost)
    @rule()
    def publish(self) -> None:
        self.overlay.published()
        self.model = [Byte(Origin.BASE) for _ in self.model]
        self.new = self.cut = self.touched = False

    @precondition(lambda self: not self.overlay.unsaved)
    @rule(more=st.integers(0, 5))
    def renew(self, more: int) -> None:
        size = len(self.model) + more
        self.overlay.renewed(size)
        self.model = [Byte(Origin.BASE) for _ in range(size)]

    @rule()
    def drop_base(self) -> None:
        self.overlay.base_dropped()
        for byte in self.model:
            byte.origin = Origin.LEFT if byte.origin is Origin.BASE else byte.origin

    @rule(pair=ranges)
    def damage(self, pair: Extent) -> None:
        lost = {at for at in range(*pair) if at in self._ours()}
        assert of(self.overlay.damaged(*pair)) == lost
        for at in lost:
            self.model[at].lost = True

    @rule()
    def restore(self) -> None:
        """As the next mount has it, which is told what a row says."""
        if self.overlay.lost:
            return  # such a file has no row
        revision = self.overlay.revision
        self.overlay = Overlay.promised(row(self.overlay))
        self.touched = True
        self.changes -= revision

    def _with(self, *origins: Origin) -> set[int]:
        return {at for at, byte in enumerate(self.model) if byte.origin in origins}

    def _ours(self) -> set[int]:
        return self._with(Origin.CHANGED, Origin.LEFT)

    @invariant()
    def state(self) -> None:
        overlay = self.overlay
        assert overlay.size == len(self.model)
        assert of(overlay.dirty) == self._with(Origin.CHANGED)
        assert of(overlay.lost) == {at for at, byte in enumerate(self.model) if byte.lost}
        assert (overlay.new, overlay.cut, overlay.touched) == (self.new, self.cut, self.touched)
        assert overlay.revision == self.changes
        assert 0 <= overlay.limit <= overlay.size
        assert self._with(Origin.BASE) == set(range(overlay.limit)) - of(overlay.dirty)

    @invariant()
    def unsaved(self) -> None:
        changed = bool(self._with(Origin.CHANGED))
        assert self.overlay.unsaved == (self.new or self.cut or changed)

    @rule(pair=ranges)
    def ask_ours(self, pair: Extent) -> None:
        assert of(self.overlay.ours(*pair)) == self._ours() & set(range(*pair))

    @rule(valid=extents, kept=extents)
    def ask_droppable(self, valid: Extents, kept: Extents) -> None:
        before = kept.copy()
        found = self.overlay.droppable(valid, kept)
        assert of(found) == self._with(Origin.BASE) & of(valid) - of(kept)
        assert kept == before

    @rule(pair=ranges)
    def ask_copyable(self, pair: Extent) -> None:
        if pair[0] < pair[1]:
            whole = set(range(*pair)) <= self._with(Origin.BASE)
            assert self.overlay.copyable(*pair) == whole

    @rule()
    def ask_overwritten(self) -> None:
        behind = set(range(self.overlay.limit))
        assert self.overlay.overwritten == len(behind - self._with(Origin.BASE))

    @rule(pair=ranges)
    def check(self, pair: Extent) -> None:
        if any(byte.lost for byte in self.model[slice(*pair)]):
            with pytest.raises(FsError) as caught:
                self.overlay.check(*pair)
            assert caught.value.errno == errno.EIO
        else:
            self.overlay.check(*pair)


TestMachine = Machine.TestCase


def row(overlay: Overlay) -> PendingRow:
    """What the journal says of a file."""
    return PendingRow(
        file="a.pages", key="f", since=0.0, size=overlay.size, valid=(), stored=0,
        dirty=tuple(overlay.dirty), limit=overlay.limit, new=overlay.new, cut=overlay.cut,
        base=None, if_match="", headers=Headers(),
    )  # fmt: skip


def test_what_open_has_emptied_is_unsaved_and_not_new() -> None:
    overlay = Overlay.emptied()
    assert (overlay.size, overlay.new, overlay.cut, overlay.touched) == (0, False, True, False)
    assert overlay.unsaved


def test_another_version_has_what_the_one_that_is_gone_had_lost() -> None:
    overlay = Overlay(4)
    overlay.base_dropped()
    overlay.damaged(0, 2)
    overlay.renewed(4)
    assert not overlay.lost
    overlay.check(0, 4)


@given(changes=st.lists(st.tuples(st.booleans(), ranges), max_size=6))
def test_what_shrinks_and_grows_again_is_zeros_of_ours(
    changes: list[tuple[bool, Extent]],
) -> None:
    """No byte of the base version comes back from behind a cut."""
    overlay, least = Overlay(END), END
    for is_write, (start, stop) in changes:
        if is_write:
            overlay.written(start, stop)
        elif start < overlay.size:
            overlay.truncated(start)
            least = min(least, start)
        else:
            overlay.extended(start)
    assert overlay.limit == least
    assert all(not overlay.copyable(at, at + 1) for at in range(least, overlay.size))
