"""A program that keeps files open while the daemon of its mount is killed again and again.

    python -m tests.crash.holder DIRECTORY END SEED FILES SIZE

It ends when the file END is there, and prints what it has done. Its readers compare what they read
from `FILES` files `big<n>` with `pattern(n, SIZE)`. Its writers compare their own files with a
picture of what they have done: a handle either goes on with all of it, or is ESTALE; then the file
is what it was when it was last saved, or what the last request that failed was to save. Any other
answer, or error, ends it with exit code 1.
"""

from __future__ import annotations

import errno
import json
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

WRITERS = 3
#: Largest file of a writer, and largest read and write, in bytes.
MOST, PIECE = 3 << 20, 1 << 20
#: How many may come within one call and its repetitions.
CRASHES = 5
#: Seconds within which a handle may not be written down yet, on a busy machine.
MOMENT = 2.0
#: Seconds until a name shows that a daemon gave a file before it was killed.
PATIENCE = 10.0

Found = TypeVar("Found")


def pattern(number: int, size: int) -> bytes:
    """What is in `big<number>`."""
    return random.Random(number).randbytes(size)


def by_name(call: Callable[[], Found]) -> Found:
    """What a call answers that takes a path.

    The kernel walks a path once more after ESTALE; a second crash within one call, it hands on.
    """
    for _ in range(CRASHES):
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return call()


def whole(fd: int, length: int, at: int) -> bytes:
    """Bytes of a file, fewer than `length` only at its end.

    What the kernel has of them comes first, also where the rest is an error.
    """
    got = b""
    while len(got) < length and (more := os.pread(fd, length - len(got), at + len(got))):
        got += more
    return got


class Reader:
    """Reads a file that nobody changes, with handles that it opens and closes now and then."""

    def __init__(self, path: Path, data: bytes, seed: str) -> None:
        self._path, self._data, self._rng = path, data, random.Random(seed)
        self._open()
        self._at = 0
        self.done: Counter[str] = Counter()

    def _open(self) -> None:
        self._fd = by_name(lambda: os.open(self._path, os.O_RDONLY))
        self._opened = time.monotonic()

    def step(self) -> None:
        began = time.monotonic()
        try:
            self._read()
        except OSError as error:
            if error.errno != errno.ESTALE or began - self._opened > MOMENT:
                raise
            self.done["stale, just opened"] += 1
            with suppress(OSError):  # the same
                os.close(self._fd)
            self._open()

    def _read(self) -> None:
        if self._rng.random() < 0.02:
            os.close(self._fd)
            self._open()
        if self._rng.random() < 0.3:
            self._at = self._rng.randrange(len(self._data))
        length = self._rng.randrange(1, PIECE)
        got = whole(self._fd, length, self._at)
        assert got == self._data[self._at : self._at + length], f"{self._path}: at {self._at}"
        self._at = (self._at + length) % len(self._data)
        self.done["reads"] += 1
        self.done["bytes read"] += len(got)


class Writer:
    """Changes a file of its own."""

    def __init__(self, top: Path, seed: str) -> None:
        self._top, self._rng = top, random.Random(seed)
        self._path = top / "0"
        self._moves = 0
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        self._is, self._saved = bytearray(), [b""]
        self.done: Counter[str] = Counter()
        self._save()

    def step(self) -> None:
        action = self._rng.choices(
            [self._read, self._write, self._cut, self._save, self._reopen, self._move],
            [6, 4, 1, 5, 2, 1],
        )[0]
        try:
            action()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            self.done["stale"] += 1
            self._begin_again()

    def _read(self) -> None:
        at, length = self._rng.randrange(MOST), self._rng.randrange(1, PIECE)
        assert os.fstat(self._fd).st_size == len(self._is), self._path
        assert whole(self._fd, length, at) == self._is[at : at + length], self._path
        self.done["own reads"] += 1

    def _write(self) -> None:
        data = self._rng.randbytes(self._rng.randrange(1, PIECE))
        at = self._rng.randrange(min(len(self._is) + 1000, MOST - len(data)))
        gap = max(0, at - len(self._is))
        self._is[at - gap : at + len(data)] = bytes(gap) + data
        done = 0
        while done < len(data):  # a crash may come in between
            done += os.pwrite(self._fd, data[done:], at + done)
        self.done["writes"] += 1

    def _cut(self) -> None:
        size = self._rng.randrange(MOST)
        self._is = self._is[:size].ljust(size, b"\0")
        os.ftruncate(self._fd, size)
        self.done["cuts"] += 1

    def _save(self) -> None:
        self._saved.append(bytes(self._is))
        os.fsync(self._fd)
        self._saved = self._saved[-1:]
        self.done["saves"] += 1

    def _reopen(self) -> None:
        self._saved.append(bytes(self._is))
        fd, self._fd = self._fd, -1
        os.close(fd)
        self._saved = self._saved[-1:]
        self._fd = by_name(lambda: os.open(self._path, os.O_RDWR))
        self.done["closes"] += 1

    def _move(self) -> None:
        self._moves += 1
        new = self._top / str(self._moves)
        try:
            os.rename(self._path, new)
        except FileNotFoundError:
            self._await(new)  # it had been done when the daemon was killed
        self._path = new
        self.done["moves"] += 1

    def _await(self, path: Path) -> None:
        """The kernel believes for a second (`open_ttl`) that a new name is free, as before."""
        deadline = time.monotonic() + PATIENCE
        while not by_name(path.exists):
            assert time.monotonic() < deadline, f"{path} is not there"

    def _begin_again(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):  # as the call before
                os.close(self._fd)

        def read() -> bytes:
            self._fd = self._opened()
            return whole(self._fd, MOST + PIECE, 0)

        found = by_name(read)
        assert found in self._saved, f"{self._path} is neither what was saved nor what was to be"
        self._is, self._saved = bytearray(found), [found]

    def _opened(self) -> int:
        """The file, by the name that it has: a move may have been done when the daemon was killed.

        It may be one of which the kernel believes that it is free (`_await`).
        """
        moved = self._top / str(self._moves)
        deadline = time.monotonic() + PATIENCE
        while True:
            for path in dict.fromkeys((moved, self._path)):
                try:
                    fd = os.open(path, os.O_RDWR)
                except FileNotFoundError:
                    if time.monotonic() > deadline:
                        raise
                else:
                    self._path = path
                    return fd


def main(top: Path, end: Path, seed: str, files: int, size: int) -> int:
    wrong: list[str] = []
    everybody: list[Reader | Writer] = []
    for number in range(files):
        data, path = pattern(number, size), top / f"big{number}"
        everybody += [Reader(path, data, f"{seed}r{number}{each}") for each in range(2)]
    for number in range(WRITERS):
        (top / f"w{number}").mkdir()
        everybody.append(Writer(top / f"w{number}", f"{seed}w{number}"))
    print("open", flush=True)

    def work(step: Callable[[], None]) -> None:
        try:
            while not end.exists() and not wrong:
                step()
        except Exception:  # noqa: BLE001  (whatever it is, it ends the program)
            wrong.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=(each.step,)) for each in everybody]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(sum((each.done for each in everybody), Counter())), flush=True)
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3]), sys.argv[3], *map(int, sys.argv[4:])))
