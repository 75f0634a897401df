"""The ski-rental rule: however many random reads come, it costs at most twice the better way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bucketfs.file.rent import A_READ, FEWEST, MOST, UNSEEN_RATE, Link, Rent, is_due

MIB = 1 << 20
EVERYTHING = 1 << 60
seconds = st.floats(1e-4, 2.0)
rates = st.floats(1e6, 1e10)


def rented(reads: int, each: float) -> tuple[Rent, float]:
    """Random reads one after the other, and when the last of them ended."""
    rent, now = Rent(), 0.0
    for _ in range(reads):
        rent.begin(now)
        now += each
        rent.end(now)
    return rent, now


@given(st.integers(1, MOST), seconds, rates, st.integers(0, 3000))
def test_twice_the_better_of_both_at_most(size: int, each: float, rate: float, reads: int) -> None:
    """The bytes have their price in reads: `A_READ` of them, or `FEWEST` reads, if that is more."""
    link, rent, now, cost = Link(rate), Rent(), 0.0, 0.0
    price = max(size / rate, each * max(FEWEST, size / A_READ))
    for _ in range(reads):
        rent.begin(now)
        now += each
        rent.end(now)
        cost += each
        if is_due(rent, now, size, link, room=EVERYTHING):
            cost += price
            break
    best = min(reads * each, price)
    assert cost <= 2 * best + each * (1 + 1e-9)


@given(st.integers(0, 200), seconds, rates, st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_bytes_have_their_bounds(
    reads: int, each: float, rate: float, missing: int, room: int
) -> None:
    rent, now = rented(reads, each)
    if is_due(rent, now, missing, Link(rate), room=room):
        assert reads >= FEWEST
        assert 0 < missing <= min(room, MOST, reads * A_READ)
        assert now * rate >= missing * (1 - 1e-9)


@given(st.integers(FEWEST, 500), seconds, rates, st.integers(1, MOST))
def test_what_was_paid_is_not_paid_with_the_same_rent_again(
    reads: int, each: float, rate: float, missing: int
) -> None:
    rent, now = rented(reads, each)
    rent.paid = rent.spent(now)
    assert not is_due(rent, now, missing, Link(rate), room=EVERYTHING)


def test_reads_that_wait_together_count_once() -> None:
    rent = Rent()
    for now in (0.0, 0.5, 1.0):
        rent.begin(now)
    assert rent.spent(1.5) == 1.5
    for now in (2.0, 2.0, 3.0):
        rent.end(now)
    assert rent.spent(9.0) == 3.0
    assert rent.reads == 3


def test_a_slow_link_is_known_for_one_after_few_pieces() -> None:
    link = Link()
    for _ in range(8):
        link.seen(4 * MIB, 2.0, width=4, most=4)
    assert link.rate < UNSEEN_RATE / 10


def test_a_link_that_is_not_full_yet_is_expected_to_carry_more() -> None:
    """Four connections of 60 MB/s say nothing against sixteen."""
    link = Link(rate=480e6)
    link.seen(6_000_000, 0.1, width=4, most=16)
    assert link.rate == 480e6
