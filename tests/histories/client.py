"""A program that appends to lists under locks, and writes down what it did.

``python client.py FOLDER HISTORY NAME SEED STOP LIST…``: a line of JSON in HISTORY when a
transaction begins, and one when it has ended, until there is a file STOP. A list is a file of
lines; its name says by which call it is locked.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import sys
import time
from contextlib import suppress

#: Seconds after an error, and between two transactions.
_AFTER_ERROR, _BETWEEN = 0.2, 0.02
_LONGEST = 1 << 20


class Program:
    """One client."""

    def __init__(self, folder: str, name: str, seed: int, lists: list[str]) -> None:
        self._folder = folder
        self._name = name
        self._chance = random.Random(seed)
        self._lists = lists
        self._open: dict[str, int] = {}

    def plan(self, number: int) -> tuple[list[str], dict[str, str]]:
        """Which lists are read, in the order in which they are locked, and what is appended."""
        keys = sorted(self._chance.sample(self._lists, self._chance.choice((1, 1, 2))))
        return keys, {key: f"{self._name}.{number}" for key in keys if self._chance.random() < 0.75}

    def run(self, keys: list[str], appends: dict[str, str]) -> tuple[str, dict[str, str]]:
        """The outcome, and what was read."""
        reads: dict[str, bytes] = {}
        wrote = False
        try:
            for key in keys:
                self._lock(key, fcntl.LOCK_EX if key in appends else fcntl.LOCK_SH)
            for key in keys:
                reads[key] = os.pread(self._open[key], _LONGEST, 0)
            for key, element in appends.items():
                wrote = True
                os.pwrite(self._open[key], f"{element}\n".encode(), len(reads[key]))
            if self._chance.random() < 0.5:  # else the end of the lock stores it
                for key in appends:
                    os.fsync(self._open[key])
            for key in reversed(keys):
                self._end(key)
        except OSError:
            for fd in self._open.values():
                with suppress(OSError):
                    os.close(fd)
            self._open.clear()
            return "maybe" if wrote else "failed", {}
        return "ok", {key: text.decode(errors="replace") for key, text in reads.items()}

    def _lock(self, key: str, operation: int) -> None:
        if key not in self._open:
            self._open[key] = os.open(os.path.join(self._folder, key), os.O_RDWR)
        call = fcntl.flock if key.startswith("flock") else fcntl.lockf
        call(self._open[key], operation)

    def _end(self, key: str) -> None:
        """Give the lock up, by a call or by closing the file."""
        if self._chance.random() < 0.5:
            self._lock(key, fcntl.LOCK_UN)
        else:
            os.close(self._open.pop(key))


def main() -> None:
    folder, history, name, seed, stop, *lists = sys.argv[1:]
    program = Program(folder, name, int(seed), lists)
    number = 0
    with open(history, "a", encoding="utf-8") as file:

        def tell(**what: object) -> None:
            file.write(json.dumps({"name": f"{name}.{number}", **what}) + "\n")
            file.flush()

        while not os.path.exists(stop):
            number += 1
            keys, appends = program.plan(number)
            tell(appends=appends, began=time.monotonic())
            outcome, reads = program.run(keys, appends)
            tell(outcome=outcome, reads=reads, ended=time.monotonic())
            time.sleep(_BETWEEN if outcome == "ok" else _AFTER_ERROR)


if __name__ == "__main__":
    main()
