"""What leaves the cache, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bucketfs.cache.budget import Candidate, capacity, excess, victims

amounts = st.integers(0, 1 << 40)


@given(held=amounts, wanted=amounts, limit=amounts, disk_free=amounts, keep_free=amounts)
def test_after_the_excess_has_gone_both_bounds_hold(
    held: int, wanted: int, limit: int, disk_free: int, keep_free: int
) -> None:
    needed = excess(held=held, wanted=wanted, limit=limit, disk_free=disk_free, keep_free=keep_free)
    assert needed >= 0
    assert held - needed + wanted <= max(limit, 0) or needed > held
    assert disk_free + needed - wanted >= keep_free
    if needed:
        assert held + wanted - needed == limit or disk_free + needed - wanted == keep_free


@given(held=amounts, limit=amounts, disk_free=amounts, keep_free=amounts)
def test_a_cache_at_its_capacity_has_no_excess(
    held: int, limit: int, disk_free: int, keep_free: int
) -> None:
    most = capacity(held=held, limit=limit, disk_free=disk_free, keep_free=keep_free)
    over = excess(held=held, wanted=0, limit=limit, disk_free=disk_free, keep_free=keep_free)
    assert (over == 0) if most > held else (over >= held - most)


@st.composite
def caches(draw: st.DrawFn) -> list[Candidate]:
    """Files of different ages."""
    sizes = draw(st.lists(st.integers(0, 100), max_size=20))
    used = draw(st.permutations(range(len(sizes))))
    return [
        Candidate(f"{at}", size, float(age))
        for at, (size, age) in enumerate(zip(sizes, used, strict=True))
    ]


@given(caches(), st.integers(-10, 1000))
def test_the_least_recently_used_go_first_and_no_more_than_needed(
    files: list[Candidate], needed: int
) -> None:
    chosen = victims(files, needed)
    by_age = sorted(files, key=lambda file: file.used)
    assert chosen == [file.name for file in by_age[: len(chosen)]]
    sizes = [file.held for file in by_age[: len(chosen)]]
    if len(chosen) < len(files):
        assert sum(sizes) >= needed
    assert not chosen or sum(sizes[:-1]) < needed
