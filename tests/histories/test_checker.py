"""The checker finds each anomaly that is planted in a history, and none in one without."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.histories.checker import List, Outcome, Transaction, check

T = Transaction
OK, MAYBE, FAILED = Outcome.OK, Outcome.MAYBE, Outcome.FAILED


def kinds(history: Sequence[T], **final: List) -> set[str]:
    return {anomaly.kind for anomaly in check(history, final)}


def chain(count: int) -> list[T]:
    """Appends to x, one after the other."""
    return [
        T(f"t{n}", OK, {"x": tuple(f"e{m}" for m in range(n))}, {"x": f"e{n}"}, 2 * n, 2 * n + 1)
        for n in range(count)
    ]


def test_a_good_history() -> None:
    assert kinds(chain(5), x=("e0", "e1", "e2", "e3", "e4")) == set()


def test_what_may_have_happened_may_be_there_or_not() -> None:
    history = [*chain(2), T("m", MAYBE, {"x": ("zz",)}, {"x": "m"}, 5)]
    assert kinds(history, x=("e0", "e1")) == set()
    assert kinds(history, x=("e0", "e1", "m")) == set()
    # but if so once, and not in the midst of what came before it
    assert kinds(history, x=("e0", "e1", "m", "m")) == {"duplicate"}


def test_a_lost_update() -> None:
    one, two = T("a", OK, {"x": ()}, {"x": "a"}, 0, 1), T("b", OK, {"x": ()}, {"x": "b"}, 0, 1)
    assert kinds([one, two], x=("b",)) == {"lost update"}
    # both are there, and yet one has not seen what it has changed
    assert kinds([one, two], x=("a", "b")) == {"lost update"}


def test_an_update_that_was_seen_and_is_gone() -> None:
    history = [*chain(3), T("r", OK, {"x": ("e0", "e1", "e2")}, {}, 10, 11)]
    assert kinds(history, x=("e0", "e1")) == {"lost version"}
    history.append(T("w", MAYBE, {}, {"x": "w"}))
    assert kinds(history, x=("e0", "e1", "w")) == {"lost version"}


@pytest.mark.parametrize(
    ("final", "kind"),
    [
        (("e0", "e1", "e1", "e2"), "duplicate"),
        (("e0", "e1", "e2", "e"), "torn"),
        (("e0", "e1", "e2", "\0\0\0"), "torn"),
        (("e1", "e0", "e2"), "reordered"),
    ],
)
def test_lists_that_cannot_be(final: List, kind: str) -> None:
    assert kind in kinds([*chain(3), T("r", OK, {"x": ("e0", "e1", "e2")})], x=final)


def test_what_failed_is_seen() -> None:
    assert kinds([T("f", FAILED, {}, {"x": "f"})], x=("f",)) == {"aborted read"}


def test_writes_in_two_orders() -> None:
    history = [T("a", OK, {}, {"x": "a", "y": "a"}), T("b", OK, {}, {"x": "b", "y": "b"})]
    assert kinds(history, x=("a", "b"), y=("a", "b")) == set()
    assert kinds(history, x=("a", "b"), y=("b", "a")) == {"G0"}


def test_circular_information() -> None:
    history = [T("a", OK, {"y": ("b",)}, {"x": "a"}), T("b", OK, {"x": ("a",)}, {"y": "b"})]
    assert kinds(history, x=("a",), y=("b",)) == {"G1c"}


def test_write_skew() -> None:
    history = [
        T("a", OK, {"x": (), "y": ()}, {"x": "a"}),
        T("b", OK, {"x": (), "y": ()}, {"y": "b"}),
    ]
    assert kinds(history, x=("a",), y=("b",)) == {"G2"}


def test_a_torn_transaction_is_seen_in_part() -> None:
    history = [T("a", OK, {}, {"x": "a", "y": "a"}), T("r", OK, {"x": ("a",), "y": ()})]
    assert kinds(history, x=("a",), y=("a",)) == {"G2"}
    # of one whose outcome is not known, a part may be all there is
    history[0] = replace(history[0], outcome=MAYBE)
    assert kinds(history, x=("a",), y=()) == set()


def test_a_stale_read() -> None:
    history = [*chain(3), T("r", OK, {"x": ("e0",)}, {}, 10, 11)]
    assert kinds(history, x=("e0", "e1", "e2")) == {"real time"}
    history[-1] = replace(history[-1], began=2.5)
    assert kinds(history, x=("e0", "e1", "e2")) == set()


def serial(seed: int) -> tuple[list[T], dict[str, List]]:
    """A history of transactions on three lists, one after the other, or side by side in time."""
    chance = random.Random(seed)
    lists: dict[str, List] = {"x": (), "y": (), "z": ()}
    history = []
    for number in range(40):
        keys = chance.sample(sorted(lists), chance.randint(1, 2))
        reads = {key: lists[key] for key in keys}
        appends = {key: f"{key}{number}" for key in keys if chance.random() < 0.7}
        outcome = MAYBE if chance.random() < 0.2 else OK
        for key, element in appends.items():
            if outcome is OK or chance.random() < 0.5:
                lists[key] += (element,)
        moment = float(number)
        overlap = chance.uniform(0, 3)
        history.append(T(f"t{number}", outcome, reads, appends, moment - overlap, moment + overlap))
    return history, lists


@given(st.integers(0, 10_000))
def test_no_anomaly_in_what_is_serial(seed: int) -> None:
    assert check(*serial(seed)) == []


@given(st.integers(0, 10_000), st.data())
def test_an_update_that_is_taken_out_is_missed(seed: int, data: st.DataObject) -> None:
    history, lists = serial(seed)
    sure = [
        (key, element) for t in history if t.outcome is OK for key, element in t.appends.items()
    ]
    key, element = data.draw(st.sampled_from(sure))
    lists[key] = tuple(other for other in lists[key] if other != element)
    assert check(history, lists) != []
