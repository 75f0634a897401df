"""Whether copies are cut into pieces, learned from how long copies took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bucketfs.file.copy_speed import LONGEST, TELLING, TRIAL_MOST, WORTH, CopySpeed

sizes = st.integers(TELLING, TRIAL_MOST)
rates = st.floats(1e6, 1e11)


def learned(size: int, whole: float, pieces: float) -> CopySpeed:
    """What is known after a copy in each way, at so many bytes a second."""
    speed = CopySpeed()
    speed.took(whole=False, size=size, seconds=size / pieces)
    speed.took(whole=True, size=size, seconds=size / whole)
    return speed


def test_pieces_come_first_and_a_whole_copy_is_tried_once() -> None:
    speed = CopySpeed()
    assert not speed.prefers_whole(TELLING)
    speed.took(whole=False, size=TELLING - 1, seconds=1)
    assert not speed.prefers_whole(TELLING), "too little to tell"
    speed.took(whole=False, size=TELLING, seconds=1)
    assert speed.prefers_whole(TRIAL_MOST)
    assert not speed.prefers_whole(TRIAL_MOST + 1), "too much for a trial"


@given(sizes, rates, rates)
def test_pieces_are_taken_where_they_are_worth_their_requests(
    size: int, whole: float, pieces: float
) -> None:
    speed = learned(size, whole, pieces)
    if pieces > 1.01 * WORTH * whole:
        assert not speed.prefers_whole(size)
    if pieces < 0.99 * WORTH * whole and size < 0.99 * LONGEST * whole:
        assert speed.prefers_whole(size)


@given(sizes, rates)
def test_no_single_copy_takes_too_long(size: int, rate: float) -> None:
    speed = learned(size, rate, rate)
    assert not speed.prefers_whole(int(1.01 * LONGEST * rate) + 1)


def test_an_endpoint_that_changes_is_learned_anew() -> None:
    speed = learned(TELLING, whole=1e8, pieces=1e8)
    assert speed.prefers_whole(TELLING)
    for _ in range(10):
        speed.took(whole=True, size=TELLING, seconds=TELLING / 1e7)
    assert not speed.prefers_whole(TELLING)


def test_a_copy_in_one_request_that_fails_is_not_tried_again_at_once() -> None:
    speed = CopySpeed()
    speed.took(whole=False, size=TELLING, seconds=1)
    assert speed.prefers_whole(TELLING)
    speed.failed(whole=True)
    assert not speed.prefers_whole(TELLING)
    speed.failed(whole=False)
    assert not speed.prefers_whole(TELLING)
