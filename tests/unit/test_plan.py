"""The plan of an upload, and the part schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketfs.cache.extents import Extents
from bucketfs.file.plan import (
    FIRST_PART,
    SINGLE_PUT,
    Multipart,
    Part,
    Put,
    TooLarge,
    part_at,
    plan_upload,
    reach,
)
from bucketfs.store.base import Capabilities
from tests.harness.examples import examples

MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
AWS = Capabilities()
SMALL = AWS.min_part


@dataclass(frozen=True)
class Change:
    """A file before it is published: where it differs, and what it has of the old object."""

    base: int
    dirty: tuple[tuple[int, int], ...]
    size: int

    def plan(
        self,
        limits: Capabilities = AWS,
        part_size: int | None = None,
        *,
        whole_copies: bool = False,
    ) -> Put | Multipart:
        """Its plan."""
        return plan_upload(
            base=self.base,
            dirty=Extents(self.dirty),
            size=self.size,
            limits=limits,
            part_size=part_size,
            whole_copies=whole_copies,
        )


#: Lengths on both sides of every limit that decides anything.
lengths = st.one_of(
    st.integers(1, 100),
    st.sampled_from([SMALL, 2 * SMALL, FIRST_PART, SINGLE_PUT, GIB]).flatmap(
        lambda edge: st.integers(edge - 2, edge + 2)
    ),
    st.integers(1, 3 * GIB),
)


@st.composite
def changes(draw: st.DrawFn, stretches: int = 12) -> Change:
    """Alternating unchanged and changed extents, the last one perhaps beyond the old end."""
    position, dirty = 0, []
    changed = draw(st.booleans())
    for length in draw(st.lists(lengths, max_size=stretches)):
        if changed:
            dirty.append((position, position + length))
        position += length
        changed = not changed
    base = position
    if dirty and dirty[-1][1] == position:
        base = draw(st.integers(dirty[-1][0], position))
    return Change(base, tuple(dirty), position)


def check(change: Change, plan: Put | Multipart, limits: Capabilities) -> None:
    """What holds for every plan."""
    if isinstance(plan, Put):
        assert plan.size == change.size <= limits.max_put
        return
    parts = plan.parts
    assert parts[0].start == 0
    assert parts[-1].stop == change.size
    assert all(a.stop == b.start for a, b in pairwise(parts))
    assert 1 <= len(parts) <= limits.max_parts
    assert all(0 < part.stop - part.start <= limits.max_part for part in parts)
    assert all(part.stop - part.start >= limits.min_part for part in parts[:-1])
    dirty = Extents(change.dirty)
    for part in parts:
        if part.copied:
            assert part.stop <= change.base
            assert not dirty.overlaps(part.start, part.stop)


def carried(change: Change, parts: tuple[Part, ...]) -> int:
    """Bytes uploaded that the old object has."""
    clean = Extents(Extents(change.dirty).missing(0, change.base))
    uploads = [part for part in parts if not part.copied]
    return sum(b - a for part in uploads for a, b in clean.within(part.start, part.stop))


@settings(max_examples=examples(500))
@given(changes())
def test_every_byte_comes_from_one_part_and_limits_are_kept(change: Change) -> None:
    check(change, change.plan(), AWS)


@settings(max_examples=examples(500))
@given(changes())
def test_no_byte_travels_that_the_store_could_copy(change: Change) -> None:
    """But less than two minimum parts a changed extent, and small objects as a whole."""
    plan = change.plan()
    clean = Extents(Extents(change.dirty).missing(0, change.base)).total
    forced = max(1, len(change.dirty)) * 2 * SMALL
    if isinstance(plan, Put):
        assert clean < forced
    else:
        assert carried(change, plan.parts) < forced


@given(changes(), st.sampled_from([5 * MIB, 8 * MIB, 100 * MIB, 5 * GIB]))
def test_a_fixed_part_size(change: Change, part_size: int) -> None:
    plan = change.plan(part_size=part_size)
    check(change, plan, AWS)
    if isinstance(plan, Multipart):
        uploads = [part.stop - part.start for part in plan.parts if not part.copied]
        assert all(length < part_size + SMALL for length in uploads)


@settings(max_examples=examples(300))
@given(changes())
def test_whole_copies(change: Change) -> None:
    """The same bytes are copied, in no more parts than in pieces, and one a range up to 5 GiB."""
    pieces, whole = change.plan(), change.plan(whole_copies=True)
    check(change, whole, AWS)
    if not isinstance(pieces, Multipart) or not isinstance(whole, Multipart):
        assert pieces == whole
        return
    assert carried(change, whole.parts) == carried(change, pieces.parts)
    assert len(whole.parts) <= len(pieces.parts)
    for one, other in pairwise(whole.parts):
        assert not (one.copied and other.copied) or other.stop - one.start > AWS.max_part


@given(changes(), st.booleans())
def test_equal_parts(change: Change, copies: bool) -> None:
    """As Cloudflare R2 wants them: all but the last of one size."""
    limits = replace(AWS, equal_parts=True, copy_part=copies)
    plan = change.plan(limits)
    check(change, plan, limits)
    if isinstance(plan, Multipart):
        assert len({part.stop - part.start for part in plan.parts[:-1]}) <= 1
        assert copies or not any(part.copied for part in plan.parts)


@given(changes())
def test_without_copies_or_multipart(change: Change) -> None:
    limits = replace(AWS, copy_part=False)
    plan = change.plan(limits)
    check(change, plan, limits)
    assert isinstance(plan, Put) or not any(part.copied for part in plan.parts)
    limits = replace(AWS, multipart=False)
    if change.size <= limits.max_put:
        assert change.plan(limits) == Put(change.size)
    else:
        with pytest.raises(TooLarge):
            change.plan(limits)


@given(changes(stretches=40), st.integers(2, 12))
def test_few_part_numbers(change: Change, numbers: int) -> None:
    """More extents than part numbers: the plan gives up copies, not the limits."""
    limits = replace(AWS, max_parts=numbers)
    if change.size > numbers * AWS.max_part:
        with pytest.raises(TooLarge):
            change.plan(limits)
    else:
        check(change, change.plan(limits), limits)


@pytest.mark.parametrize("size", [2 * TIB, 11 * TIB, 20 * TIB, 40 * TIB])
def test_patching_a_huge_object_uploads_the_patch(size: int) -> None:
    change = Change(size, ((size // 3, size // 3 + 10),), size)
    plan = change.plan()
    check(change, plan, AWS)
    assert isinstance(plan, Multipart)
    assert carried(change, plan.parts) < 2 * SMALL


@pytest.mark.parametrize(
    ("change", "plan"),
    [
        (Change(0, (), 0), Put(0)),
        (Change(0, ((0, 1),), 1), Put(1)),
        (Change(10, ((0, 1),), 10), Put(10)),
        (Change(10, (), 5), Put(5)),
        (Change(0, ((0, SINGLE_PUT),), SINGLE_PUT), Put(SINGLE_PUT)),
        (Change(SMALL + 9, ((0, 1),), SMALL + 9), Put(SMALL + 9)),
        (
            Change(SMALL, ((SMALL, SMALL + 4),), SMALL + 4),
            Multipart((Part(0, SMALL, copied=True), Part(SMALL, SMALL + 4, copied=False))),
        ),
        (Change(64 * MIB, (), 16 * MIB), Multipart((Part(0, 16 * MIB, copied=True),))),
    ],
)
def test_examples(change: Change, plan: Put | Multipart) -> None:
    assert change.plan() == plan


def test_a_file_little_longer_than_the_part_size_is_one_put() -> None:
    assert Change(0, ((0, 6 * MIB),), 6 * MIB).plan(part_size=5 * MIB) == Put(6 * MIB)


class TestSchedule:
    stores = st.builds(
        Capabilities,
        max_parts=st.sampled_from([100, 1000, 10_000]),
        max_part=st.sampled_from([64 * MIB, GIB, 5 * GIB]),
        min_part=st.sampled_from([5 * MIB, 16 * MIB]),
        max_object=st.sampled_from([GIB, 64 * GIB, 4 * TIB, 5 * TIB, 48 * TIB]),
    )

    @given(stores)
    def test_sizes_grow_within_the_limits_and_reach_what_is_promised(
        self, limits: Capabilities
    ) -> None:
        position, before = 0, 0
        for _ in range(limits.max_parts):
            size = part_at(position, limits)
            assert limits.min_part <= size <= limits.max_part
            assert size >= before
            position, before = position + size, size
        assert position == reach(limits)
        with pytest.raises(TooLarge):
            part_at(position, limits)

    @given(stores)
    def test_the_largest_object_is_reached_where_growing_can(self, limits: Capabilities) -> None:
        growing = [max(FIRST_PART, limits.min_part)]
        while growing[-1] < limits.max_part:
            growing.append(min(limits.max_part, growing[-1] * 2))
        fastest = sum(growing) + (limits.max_parts - len(growing)) * limits.max_part
        if fastest >= limits.max_object:
            assert reach(limits) >= limits.max_object
        else:
            assert reach(limits) >= 0.8 * limits.max_parts * limits.max_part

    def test_aws(self) -> None:
        assert reach(AWS) >= 50e12
        assert part_at(0, AWS) == FIRST_PART

    def test_five_tebibytes_in_a_thousand_parts(self) -> None:
        limits = Capabilities(max_parts=1000, max_object=5 * TIB)
        assert reach(limits) >= 4.2 * TIB
        assert reach(replace(limits, max_object=4 * TIB)) >= 4 * TIB

    @pytest.mark.parametrize("size", [AWS.max_object, int(53e12), int(51e12)])
    def test_no_file_is_too_large_that_the_store_takes(self, size: int) -> None:
        change = Change(0, ((0, size),), size)
        check(change, change.plan(), AWS)
        with pytest.raises(TooLarge):
            Change(0, ((0, AWS.max_object + 1),), AWS.max_object + 1).plan()

    @given(st.integers(0, 10_000 * 5 * MIB - 1))
    def test_a_fixed_size_is_the_same_everywhere(self, offset: int) -> None:
        assert part_at(offset, AWS, 5 * MIB) == 5 * MIB

    @pytest.mark.parametrize("limits", [AWS, replace(AWS, equal_parts=True)])
    def test_a_fixed_size_that_cannot_hold_the_file_names_the_option(
        self, limits: Capabilities
    ) -> None:
        size = 10_001 * 5 * MIB
        with pytest.raises(TooLarge, match="raise multipart_size"):
            Change(0, ((0, size),), size).plan(limits, 5 * MIB)
        with pytest.raises(TooLarge, match="raise multipart_size"):
            part_at(10_000 * 5 * MIB, AWS, 5 * MIB)
