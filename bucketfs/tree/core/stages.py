"""Where an inode is on its way to the bucket: the stages, and a table of what moves it.

Which moves there are is said here alone; nothing here knows files, requests or the clock.

Theory
======

A program changes a file (DIRTY), the mount takes over to save it (PROMISED), its object is written
(PUBLISHING), and the bucket has all of it (CLEAN). An attempt may also meet others' version
(CONFLICT), fail and be repeated (RETRYING), or fail in a way that no repetition mends (GIVEN_UP).
What a program here has removed is published no more (REMOVED). Directories, and files of which only
attributes have changed, go the same way and are never DIRTY: no close saves them, the mount does.

There are two kinds of moves, as in h11:

a) Something happens to the file: bytes or attributes change, an attempt begins or ends, its name is
   removed. Who does that tells `OpenState`, in the same step of the event loop.
b) Who is to save it changes. That is told from facts that belong to the file and its handles:
   whether a program has unsaved bytes open for writing that the journal does not have
   (`OpenState.being_written`), whether anything is unsaved at all (`OpenState.unsaved`), and
   whether an attempt has failed. `OpenState.find_saver` looks at these after each of (a), and
   whenever a handle comes or goes or the journal has a new row: OPENED, PROMISED,
   PROMISED_AFTER_FAILURE, NOTHING_LEFT.

After an attempt that was interrupted, or that saved less than there is by now, it is open who goes
on: the file is DIRTY until (b) has said it, within the same step.

What is not here, and why: whether bytes are unsaved, lost or promised is asked of the bytes
themselves (`Overlay`, `Promise`), because a file must be saved even where a stage were wrong; they
are what moves the machine, not what it says. `tests/tree/check.py` compares the two.

One owner moves: `OpenState`. Nobody else knows the events, or tells a stage from facts.

Invariants:
- PUBLISHING and CONFLICT only while who moves has the right to write the object (`Locks`), of which
  there is one at a time; so an inode is removed, and given up, only between attempts;
- bytes do not change in CONFLICT (`Content.hold`), nor in PUBLISHING but where only attributes are
  being saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Stage(StrEnum):
    """Where an inode is; the values are what `bucketfs status` says."""

    CLEAN = "clean"  # the bucket has all of it
    DIRTY = "open"  # a program has unsaved bytes open: its close saves them
    PROMISED = "waiting"  # the mount is to save it; bytes are in the journal where that is possible
    PUBLISHING = "uploading"  # its object, or the attributes of that, are being written
    CONFLICT = "conflict"  # others' version has its name: ours is being stored all the same
    RETRYING = "retrying"  # an attempt has failed, and another follows
    GIVEN_UP = "given up"  # its bytes are in a local file; a program has it open for reading
    REMOVED = "removed"  # by a program here, while something still needs it


class Event(StrEnum):
    """What moves an inode; the values are the words of the picture in the documents."""

    WRITTEN = "written"  # its bytes have changed, or it is new
    CHANGED = "attributes changed"
    OPENED = "open for writing"
    PROMISED = "closed, or in the journal"
    PROMISED_AFTER_FAILURE = "closed, an attempt had failed"
    BEGUN = "attempt begun"
    OVERTAKEN = "others have the name"
    SAVED = "saved"
    SAVED_OLDER = "saved, changed meanwhile"
    INTERRUPTED = "interrupted"  # or cancelled: nobody knows more than before
    FAILED = "failed"
    GIVEN_UP = "given up"
    NOTHING_LEFT = "nothing unsaved left"  # without an attempt: it went with a copy, or was let go
    REMOVED = "removed"


#: Stage, event, and the stage after that. What is not here cannot happen.
MOVES: Mapping[Stage, Mapping[Event, Stage]] = MappingProxyType(
    {
        Stage.CLEAN: {
            Event.WRITTEN: Stage.DIRTY,
            Event.CHANGED: Stage.PROMISED,
            Event.REMOVED: Stage.REMOVED,
        },
        Stage.DIRTY: {
            Event.WRITTEN: Stage.DIRTY,
            Event.CHANGED: Stage.DIRTY,
            Event.PROMISED: Stage.PROMISED,
            Event.PROMISED_AFTER_FAILURE: Stage.RETRYING,
            Event.BEGUN: Stage.PUBLISHING,
            Event.GIVEN_UP: Stage.GIVEN_UP,
            Event.NOTHING_LEFT: Stage.CLEAN,
            Event.REMOVED: Stage.REMOVED,
        },
        Stage.PROMISED: {
            Event.WRITTEN: Stage.DIRTY,
            Event.CHANGED: Stage.PROMISED,
            Event.OPENED: Stage.DIRTY,
            Event.BEGUN: Stage.PUBLISHING,
            Event.GIVEN_UP: Stage.GIVEN_UP,
            Event.NOTHING_LEFT: Stage.CLEAN,
            Event.REMOVED: Stage.REMOVED,
        },
        Stage.PUBLISHING: {
            Event.WRITTEN: Stage.PUBLISHING,
            Event.CHANGED: Stage.PUBLISHING,
            Event.OVERTAKEN: Stage.CONFLICT,
            Event.SAVED: Stage.CLEAN,
            Event.SAVED_OLDER: Stage.DIRTY,
            Event.INTERRUPTED: Stage.DIRTY,
            Event.FAILED: Stage.RETRYING,
        },
        Stage.CONFLICT: {
            Event.CHANGED: Stage.CONFLICT,
            Event.SAVED: Stage.CLEAN,
            Event.SAVED_OLDER: Stage.DIRTY,
            Event.INTERRUPTED: Stage.DIRTY,
            Event.FAILED: Stage.RETRYING,
        },
        Stage.RETRYING: {
            Event.WRITTEN: Stage.DIRTY,
            Event.CHANGED: Stage.RETRYING,
            Event.OPENED: Stage.DIRTY,
            Event.BEGUN: Stage.PUBLISHING,
            Event.GIVEN_UP: Stage.GIVEN_UP,
            Event.NOTHING_LEFT: Stage.CLEAN,
            Event.REMOVED: Stage.REMOVED,
        },
        Stage.GIVEN_UP: {
            Event.WRITTEN: Stage.DIRTY,
            Event.CHANGED: Stage.RETRYING,
            Event.OPENED: Stage.DIRTY,
            Event.BEGUN: Stage.PUBLISHING,
            Event.NOTHING_LEFT: Stage.CLEAN,
            Event.REMOVED: Stage.REMOVED,
        },
        Stage.REMOVED: {
            Event.WRITTEN: Stage.REMOVED,
            Event.CHANGED: Stage.REMOVED,
        },
    }
)

#: An attempt is under way.
ATTEMPTING = frozenset({Stage.PUBLISHING, Stage.CONFLICT})
#: The mount is to save it, whoever has it open for reading.
OURS_TO_SAVE = frozenset({Stage.PROMISED, Stage.RETRYING})
#: The bucket lacks nothing that it is to have.
ENDS = frozenset({Stage.CLEAN, Stage.REMOVED})


class MoveError(Exception):
    """The table has no such move: a bug of who moves."""
