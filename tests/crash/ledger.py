"""What a bucket may and must hold after a crash, from what a writer was told before it.

The writer's threads have a directory each and note every operation twice, in a file of their own:
when it begins, with what it is about to do, and when it was acknowledged. What was acknowledged
must hold; an operation that was under way has happened, or has not, or has got as far as its last
fsync. Nothing in between may show, and no other key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Contents are told apart by their SHA-256; a directory is an empty object ``d/``.
EMPTY = hashlib.sha256(b"").hexdigest()

Record = dict[str, Any]


@dataclass
class Ledger:
    """One thread's account.

    Attributes:
        files: Contents by key, directories included.
        acknowledged: Operations, and fsyncs within them, that returned 0.
        allowed: Keys that an operation under way leaves open, with all that they may hold; None
            stands for no object.
        somewhere: Contents that must be under one of several keys.
    """

    files: dict[str, str] = field(default_factory=dict)
    acknowledged: int = 0
    allowed: dict[str, set[str | None]] = field(default_factory=dict)
    somewhere: list[tuple[str, set[str]]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Replay a thread's notes; the last line may be cut off."""
        ledger = cls()
        pending: Record | None = None
        synced: list[tuple[str, bool]] = []
        for line in path.read_text().splitlines():
            try:
                record: Record = json.loads(line)
            except ValueError:
                break
            match record["note"]:
                case "begin":
                    pending, synced = record, []
                case "sync":
                    synced.append((record["sha"], False))
                case "synced":
                    synced[-1] = (synced[-1][0], True)
                    ledger.acknowledged += 1
                case "done":
                    assert pending is not None
                    ledger._apply(pending)
                    ledger.acknowledged += 1
                    pending = None
        if pending is not None:
            ledger._leave_open(pending, synced)
        return ledger

    def _apply(self, record: Record) -> None:
        match record["op"]:
            case "write":
                self.files[record["key"]] = record["sha"]
            case "remove":
                del self.files[record["key"]]
            case "rename":
                for old, new in self._moves(record).items():
                    self.files[new] = self.files.pop(old)

    def _leave_open(self, record: Record, synced: list[tuple[str, bool]]) -> None:
        match record["op"]:
            case "write":
                states: list[str | None] = [self.files.get(record["key"])]
                for sha, acknowledged in synced:
                    states = [sha] if acknowledged else [*states, sha]
                self.allowed[record["key"]] = {*states, record["sha"]}
            case "remove":
                self.allowed[record["key"]] = {self.files[record["key"]], None}
            case "rename":
                for old, new in self._moves(record).items():
                    sha = self.files[old]
                    self.allowed[old] = {sha, None}
                    self.allowed[new] = {sha, self.files.get(new)}
                    self.somewhere.append((sha, {old, new}))

    def _moves(self, record: Record) -> Mapping[str, str]:
        """Keys that a renaming moves, with their new names; a directory's begin with its name."""
        old, new = record["key"], record["to"]
        if not old.endswith("/"):
            return {old: new}
        return {key: new + key[len(old) :] for key in self.files if key.startswith(old)}

    def losses(self, stored: Mapping[str, str]) -> list[str]:
        """What is wrong with the keys below this thread's directory, one line each."""
        wrong = []
        for key in sorted({*self.files, *self.allowed, *stored}):
            may = self.allowed.get(key, {self.files.get(key)})
            if stored.get(key) not in may:
                wrong.append(f"{key}: {_shown(stored.get(key))}, not {sorted(map(_shown, may))}")
        for sha, keys in self.somewhere:
            if all(stored.get(key) != sha for key in keys):
                wrong.append(f"{_shown(sha)} is under none of {sorted(keys)}")
        return wrong


def _shown(sha: str | None) -> str:
    return "no object" if sha is None else "empty" if sha == EMPTY else sha[:8]
