"""A program that works in a mount until the mount dies, and notes what it was told.

    python -m tests.crash.writer DIRECTORY PREFIX NOTES SEED

Each of its threads has the directory ``PREFIX<n>`` and the file ``NOTES<n>`` (see
`tests.crash.ledger`). Any error but that of a dead mount ends it with exit code 1.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

THREADS = 4
KIB, MIB = 1 << 10, 1 << 20
SIZES = (0, 1, 100, 4096, 5000, 60 * KIB, 200 * KIB, MIB, 3 * MIB, 12 * MIB, 40 * MIB)
WEIGHTS = (4, 4, 8, 8, 8, 8, 6, 4, 2, 1, 0.5)
#: What programs get from a mount whose daemon is gone.
DEAD = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV}
#: Removals in the order of a listing are acknowledged before the bucket has done them, from the
#: ninth on (docs/semantics.md); one thread keeps below that.
ASCENTS = 6


class Writer:
    """One thread's work."""

    def __init__(self, top: Path, prefix: str, notes: Path, rng: random.Random) -> None:
        self._top = top
        self._rng = rng
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._root = f"{prefix}/"
        self._files: dict[str, bytes] = {}
        self._directories: list[str] = []
        self._number = 0
        self._removed = ""
        self._ascents = 0

    def work(self) -> None:
        """Go on until the mount fails."""
        self._make_directory(self._root)
        actions: list[tuple[Callable[[], None], float]] = [
            (self._create, 8), (self._append, 3), (self._overwrite, 3), (self._patch, 3),
            (self._replace, 3), (self._rename, 2), (self._remove, 3), (self._mkdir, 1.5),
            (self._rename_directory, 1),
        ]  # fmt: skip
        choices, weights = zip(*actions, strict=True)
        while True:
            self._rng.choices(choices, weights)[0]()

    def _note(self, note: str, **fields: str) -> None:
        line = json.dumps({"note": note, **fields}) + "\n"
        os.write(self._notes, line.encode())
        os.fdatasync(self._notes)

    def _path(self, key: str) -> Path:
        return self._top / key

    def _new_key(self) -> str:
        self._number += 1
        return f"{self._rng.choice(self._directories)}f{self._number}"

    def _body(self) -> bytes:
        return self._rng.randbytes(self._rng.choices(SIZES, WEIGHTS)[0])

    def _write(self, key: str, body: bytes, flags: int, pieces: list[tuple[int, bytes]]) -> None:
        """Make `key` hold `body` by writing `pieces`, sometimes with fsync in between."""
        now = bytearray(b"" if flags & os.O_TRUNC else self._files.get(key, b""))
        self._note("begin", op="write", key=key, sha=_sha(body))
        fd = os.open(self._path(key), os.O_WRONLY | flags, 0o644)
        try:
            for start, piece in pieces:
                os.pwrite(fd, piece, start)
                now[start : start + len(piece)] = piece
                if self._rng.random() < 0.15:
                    self._note("sync", sha=_sha(now))
                    os.fsync(fd)
                    self._note("synced")
        finally:
            os.close(fd)
        assert now == body
        self._note("done")
        self._files[key] = body

    def _create(self) -> None:
        body, key = self._body(), self._new_key()
        flags = os.O_CREAT | self._rng.choice([0, os.O_EXCL])
        self._write(key, body, flags, _pieces(body, self._rng))

    def _some_file(self) -> str | None:
        return self._rng.choice(list(self._files)) if self._files else None

    def _append(self) -> None:
        if key := self._some_file():
            old, piece = self._files[key], self._rng.randbytes(self._rng.choice([1, 5000, MIB]))
            self._write(key, old + piece, os.O_APPEND, [(len(old), piece)])

    def _overwrite(self) -> None:
        if key := self._some_file():
            body = self._body()
            self._write(key, body, os.O_TRUNC, _pieces(body, self._rng))

    def _patch(self) -> None:
        if key := self._some_file():
            body, pieces = bytearray(self._files[key]), []
            for _ in range(self._rng.randrange(1, 4)):
                start, piece = self._rng.randrange(len(body) + 1), self._rng.randbytes(3000)
                body[start : start + len(piece)] = piece
                pieces.append((start, piece))
            self._write(key, bytes(body), 0, pieces)

    def _replace(self) -> None:
        """As editors save: a new file beside, renamed into place."""
        if key := self._some_file():
            body = self._body()
            beside = self._new_key()
            self._write(beside, body, os.O_CREAT, _pieces(body, self._rng))
            self._move(beside, key)

    def _rename(self) -> None:
        if key := self._some_file():
            self._move(key, self._new_key())

    def _move(self, key: str, to: str) -> None:
        self._note("begin", op="rename", key=key, to=to)
        os.rename(self._path(key), self._path(to))
        self._note("done")
        self._files[to] = self._files.pop(key)

    def _remove(self) -> None:
        key = self._some_file()
        if key is None or (key > self._removed and self._ascents >= ASCENTS):
            return
        self._ascents = self._ascents + 1 if key > self._removed else 0
        self._removed = key
        self._note("begin", op="remove", key=key)
        os.unlink(self._path(key))
        self._note("done")
        del self._files[key]

    def _mkdir(self) -> None:
        self._number += 1
        self._make_directory(f"{self._root}d{self._number}/")

    def _make_directory(self, key: str) -> None:
        self._note("begin", op="write", key=key, sha=_sha(b""))
        os.mkdir(self._path(key))
        self._note("done")
        self._directories.append(key)

    def _rename_directory(self) -> None:
        if len(self._directories) < 2:
            return
        self._number += 1
        at = self._rng.randrange(1, len(self._directories))
        old, new = self._directories[at], f"{self._root}d{self._number}/"
        self._note("begin", op="rename", key=old, to=new)
        os.rename(self._path(old), self._path(new))
        self._note("done")
        self._directories[at] = new
        for key in [key for key in self._files if key.startswith(old)]:
            self._files[new + key[len(old) :]] = self._files.pop(key)


def _sha(body: bytes | bytearray) -> str:
    return hashlib.sha256(body).hexdigest()


def _pieces(body: bytes, rng: random.Random) -> list[tuple[int, bytes]]:
    step = max(4096, len(body) // rng.randrange(1, 5))
    return [(at, body[at : at + step]) for at in range(0, len(body), step)]


def main() -> int:
    top, prefix, notes, seed = sys.argv[1:]
    failures: list[str] = []

    def run(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        try:
            Writer(Path(top), f"{prefix}{number}", Path(f"{notes}{number}"), rng).work()
        except OSError as error:
            if error.errno not in DEAD:
                failures.append(traceback.format_exc())
        except Exception:  # noqa: BLE001 - told at the end
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
