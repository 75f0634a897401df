"""How many small requests are under way at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bucketfs.store.http.pace import Pace

USUAL, MOST = 32, 128


def answer(pace: Pace, seconds: float, rounds: int) -> None:
    for _ in range(rounds):
        for _ in range(pace.width):
            pace.answered(seconds)


def test_it_doubles_while_answers_take_as_long_as_ever() -> None:
    pace = Pace(USUAL, MOST)
    widths = []
    for _ in range(3):
        answer(pace, 0.02, 1)
        widths.append(pace.width)
    assert widths == [64, 128, 128]


def test_answers_that_take_longer_end_its_growth() -> None:
    pace = Pace(USUAL, MOST)
    answer(pace, 0.02, 1)
    answer(pace, 0.05, 3)
    assert pace.width == 64
    answer(pace, 0.02, 1)
    assert pace.width == 64 + USUAL // 4, "by steps from now on"


def test_slow_answers_bring_it_back_to_what_is_usual() -> None:
    pace = Pace(USUAL, MOST)
    answer(pace, 0.02, 2)
    answer(pace, 0.5, 1)
    assert pace.width == 96
    for _ in range(10):
        answer(pace, 5.0 * pace.width, 1)  # slower and slower
    assert pace.width == USUAL


def test_a_slower_network_is_not_taken_for_an_overloaded_one_for_ever() -> None:
    pace = Pace(USUAL, MOST)
    answer(pace, 0.02, 2)
    answer(pace, 0.1, 60)
    assert pace.width == MOST


def test_a_refusal_halves_it_once_for_all_that_were_under_way() -> None:
    pace = Pace(USUAL, MOST)
    answer(pace, 0.02, 2)
    for _ in range(MOST):
        pace.refused()
    assert pace.width == MOST // 2
    pace.answered(0.02)
    pace.refused()
    assert pace.width == MOST // 4


def test_an_overloaded_server_is_left_with_one_request() -> None:
    pace = Pace(USUAL, MOST)
    for _ in range(1000):
        pace.refused()
    assert pace.width == 1
    answer(pace, 0.02, 20)
    assert pace.width > USUAL, "and gets more when it has recovered"


def test_who_came_first_goes_on_and_none_is_without_a_request() -> None:
    pace = Pace(USUAL, MOST)
    first, second = [USUAL - 3], [0]
    with pace.used(lambda: first[0]):
        assert pace.has_room(USUAL - 3)
        with pace.used(lambda: second[0]):
            second[0] = 3
            assert not pace.has_room(3)
            first[0] = USUAL
            assert not pace.has_room(USUAL)
            second[0] = 0
            assert pace.has_room(0)


times = st.floats(0.0, 100.0)


@given(st.integers(1, 512), st.integers(1, 8), st.lists(st.none() | times, max_size=600))
def test_it_stays_in_its_bounds(usual: int, factor: int, answers: list[float | None]) -> None:
    pace = Pace(usual, usual * factor)
    for seconds in answers:
        before = pace.width
        if seconds is None:
            pace.refused()
            assert pace.width in (before, max(1, before // 2))
        else:
            pace.answered(seconds)
            assert pace.width <= 2 * before
        assert 1 <= pace.width <= usual * factor
        assert pace.has_room(0)


@given(st.integers(1, 64), st.lists(times, max_size=600))
def test_slow_answers_alone_leave_what_is_usual(usual: int, answers: list[float]) -> None:
    pace = Pace(usual, usual * 4)
    for seconds in answers:
        pace.answered(seconds)
        assert pace.width >= usual


@given(st.lists(times, max_size=300))
def test_the_same_answers_make_the_same_width(answers: list[float]) -> None:
    one, other = Pace(8, 64), Pace(8, 64)
    for seconds in answers:
        one.answered(seconds)
        other.answered(seconds)
    assert one.width == other.width
