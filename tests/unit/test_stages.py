"""The table of stages: what it allows, what it refuses, and that the documents show it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bucketfs
from bucketfs import clock
from bucketfs.tree.core.inode import OpenState
from bucketfs.tree.core.stages import ATTEMPTING, ENDS, MOVES, Event, MoveError, Stage
from tests import pictures

ROOT = Path(bucketfs.__file__).parent
DOCS = ROOT.parent / "docs"


def reachable(start: Stage) -> set[Stage]:
    found, waiting = {start}, [start]
    while waiting:
        after = set(MOVES[waiting.pop()].values()) - found
        found |= after
        waiting += after
    return found


def test_every_stage_is_reached_and_every_event_moves_something() -> None:
    assert reachable(Stage.CLEAN) == set(Stage) == set(MOVES)
    assert {event for moves in MOVES.values() for event in moves} == set(Event)


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_has_a_way_to_an_end(stage: Stage) -> None:
    assert Stage.REMOVED in reachable(stage)
    assert Stage.CLEAN in reachable(stage) or stage is Stage.REMOVED


def test_attempts_begin_and_end_as_attempts() -> None:
    ends = {Event.SAVED, Event.SAVED_OLDER, Event.INTERRUPTED, Event.FAILED}
    for stage, moves in MOVES.items():
        entered = {event for event, after in moves.items() if after in ATTEMPTING}
        if stage in ATTEMPTING:
            assert {event for event, after in moves.items() if after not in ATTEMPTING} == ends
        else:
            assert entered <= {Event.BEGUN}
            assert not ends & moves.keys()


@pytest.mark.parametrize("stage", Stage)
def test_what_was_changed_may_be_saved_again(stage: Stage) -> None:
    """No stage but REMOVED, and the attempts themselves, is the end for a program's next change."""
    for event in (Event.WRITTEN, Event.CHANGED):
        after = MOVES[stage].get(event)
        if stage not in ATTEMPTING | {Stage.REMOVED}:
            assert after is not None
            assert Event.BEGUN in MOVES[after]


def moved(state: OpenState, event: Event, at: float) -> None:
    """Move a state at a Unix time, as its methods do."""
    with mock.patch.object(clock, "wall_ns", return_value=int(at * 1e9)):
        state._move(event, error="why")


@given(st.lists(st.sampled_from(Event), max_size=60))
def test_random_events_never_leave_the_table(events: list[Event]) -> None:
    state = OpenState()
    for at, event in enumerate(events, 1):
        before = state.stage
        counted = (state.since, state.tries, state.error, state.attribute_changes)
        if event in MOVES[before]:
            moved(state, event, at=float(at))
            assert state.stage is MOVES[before][event]
        else:
            with pytest.raises(MoveError, match=f"{event.name} in {before.name}"):
                moved(state, event, at=float(at))
            now = (state.since, state.tries, state.error, state.attribute_changes)
            assert (state.stage, now) == (before, counted)
        stage = state.stage
        assert bool(state.tries) == bool(state.error)
        if stage in ENDS:
            assert (state.since, state.tries, state.error) == (0.0, 0, "")
        elif stage is not Stage.DIRTY:
            assert 0 < state.since <= at
        if stage is Stage.RETRYING and before in ATTEMPTING:
            assert state.tries
        assert not (stage is Stage.REMOVED and state.attributes_unsaved)


@given(st.lists(st.sampled_from([Event.FAILED, Event.INTERRUPTED]), max_size=10))
def test_what_waits_waits_since_its_first_attempt(ends: list[Event]) -> None:
    state = OpenState()
    moved(state, Event.WRITTEN, at=1.0)
    assert state.since == 0.0
    for at, end in enumerate(ends, 2):
        moved(state, Event.BEGUN, at=float(at))
        moved(state, end, at=at + 0.5)
    assert state.since == (2.0 if ends else 0.0)
    assert state.tries == ends.count(Event.FAILED)


def test_attributes_go_their_way_without_bytes() -> None:
    state = OpenState()
    state.attributes_changed()
    assert state.stage is Stage.PROMISED
    state.begin()
    changes = state.attribute_changes
    state.attributes_changed()
    state.attributes_stored(changes)
    state.saved()
    assert state.stage is Stage.PROMISED, "they changed while they were being saved"
    state.begin()
    state.failed(OSError("no"))
    assert (state.stage, state.tries) == (Stage.RETRYING, 1)
    state.begin()
    state.interrupted()
    assert state.stage is Stage.RETRYING, "it had failed before"
    state.attributes_stored(state.attribute_changes)
    assert (state.stage, state.error) == (Stage.CLEAN, ""), "they went with a copy"
    state.removed()
    state.attributes_changed()
    assert (state.unlinked, state.unsaved, state.in_use) == (True, False, False)
    with pytest.raises(MoveError, match="BEGUN in REMOVED"):
        state.begin()


def who_knows_the_events() -> Iterator[str]:
    """Modules that know what moves an inode."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "bucketfs.tree.core.stages":
                known = {alias.name for alias in node.names} & {"Event", "MOVES"}
                if known:
                    yield path.relative_to(ROOT).as_posix()


def test_one_owner_moves() -> None:
    assert set(who_knows_the_events()) == {"tree/core/inode.py"}


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_the_documents_draw_the_table(name: str) -> None:
    _, picture, _ = pictures.pieces((DOCS / name).read_text(encoding="utf-8"))
    assert picture == pictures.PICTURES[name](), "make docs"
