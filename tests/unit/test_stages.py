"""The table of stages: what it allows, what it refuses, and that the documents show it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bucketfs
from bucketfs.tree.core.inode import OpenState
from bucketfs.tree.core.stages import ATTEMPTING, ENDS, MOVES, Event, MoveError, Progress, Stage
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


@given(st.lists(st.sampled_from(Event), max_size=60))
def test_random_events_never_leave_the_table(events: list[Event]) -> None:
    progress = Progress()
    for at, event in enumerate(events, 1):
        before = progress.stage
        counted = (progress.since, progress.tries, progress.error, progress.attribute_changes)
        if event in MOVES[before]:
            progress.move(event, at=float(at), error="why")
            assert progress.stage is MOVES[before][event]
        else:
            with pytest.raises(MoveError, match=f"{event.name} in {before.name}"):
                progress.move(event, at=float(at), error="why")
            now = (progress.since, progress.tries, progress.error, progress.attribute_changes)
            assert (progress.stage, now) == (before, counted)
        stage = progress.stage
        assert bool(progress.tries) == bool(progress.error)
        if stage in ENDS:
            assert (progress.since, progress.tries, progress.error) == (0.0, 0, "")
        elif stage is not Stage.DIRTY:
            assert 0 < progress.since <= at
        if stage is Stage.RETRYING and before in ATTEMPTING:
            assert progress.tries
        assert not (stage is Stage.REMOVED and progress.attributes_unsaved)


@given(st.lists(st.sampled_from([Event.FAILED, Event.INTERRUPTED]), max_size=10))
def test_what_waits_waits_since_its_first_attempt(ends: list[Event]) -> None:
    progress = Progress()
    progress.move(Event.WRITTEN, at=1.0)
    assert progress.since == 0.0
    for at, end in enumerate(ends, 2):
        progress.move(Event.BEGUN, at=float(at))
        progress.move(end, at=at + 0.5, error="why")
    assert progress.since == (2.0 if ends else 0.0)
    assert progress.tries == ends.count(Event.FAILED)


def test_attributes_go_their_way_without_bytes() -> None:
    state = OpenState()
    state.attributes_changed()
    assert state.stage is Stage.PROMISED
    state.begin()
    changes = state.progress.attribute_changes
    state.attributes_changed()
    state.attributes_stored(changes)
    state.saved()
    assert state.stage is Stage.PROMISED, "they changed while they were being saved"
    state.begin()
    state.failed(OSError("no"))
    assert (state.stage, state.progress.tries) == (Stage.RETRYING, 1)
    state.begin()
    state.interrupted()
    assert state.stage is Stage.RETRYING, "it had failed before"
    state.attributes_stored(state.progress.attribute_changes)
    assert (state.stage, state.progress.error) == (Stage.CLEAN, ""), "they went with a copy"
    state.removed()
    state.attributes_changed()
    assert (state.unlinked, state.unsaved, state.in_use) == (True, False, False)
    with pytest.raises(MoveError, match="BEGUN in REMOVED"):
        state.begin()


def calls_of_move() -> Iterator[tuple[str, str]]:
    """Module and class in which `Progress.move` is called, or `Event` known."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "bucketfs.tree.core.stages":
                known = {alias.name for alias in node.names} & {"Event", "Progress", "MOVES"}
                for name in known:
                    yield path.relative_to(ROOT).as_posix(), name


def test_one_owner_moves() -> None:
    assert {module for module, _ in calls_of_move()} == {"tree/core/inode.py"}


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_the_documents_draw_the_table(name: str) -> None:
    _, picture, _ = pictures.pieces((DOCS / name).read_text(encoding="utf-8"))
    assert picture == pictures.PICTURES[name](), "make docs"
