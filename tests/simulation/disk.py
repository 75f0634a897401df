"""What is left of a cache directory after kill -9, and after a power cut.

A killed process leaves all it has written. A machine that loses its power leaves, of each file,
what was synced, and of each later write perhaps something; a name that was made or removed without
a sync of its directory is there or not.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from pathlib import Path

import trio

BLOCK = 4096
_fdatasync, _fsync = os.fdatasync, os.fsync

#: By inode number: the bytes of a file (of a write-ahead log: how many) at its last sync.
_synced: dict[int, bytes | int] = {}
#: By path of a directory: its names and their inode numbers at its last sync.
_names: dict[str, dict[str, int]] = {}
#: By path of a directory: when the write-ahead log of its journal was synced.
_journal_synced: dict[str, float] = {}


def install() -> None:
    """Take down what is synced from now on. No disk is waited for."""
    os.fsync = os.fdatasync = _note


def forget() -> None:
    """Another run begins."""
    _synced.clear()
    _names.clear()
    _journal_synced.clear()


def journal_synced(directory: Path) -> float:
    """When the journal in a cache directory was taken to the disk the last time."""
    return _journal_synced.get(str(directory), 0.0)


def _note(fd: int) -> None:
    status, path = os.fstat(fd), os.readlink(f"/proc/self/fd/{fd}")
    if stat.S_ISDIR(status.st_mode):
        _names[path] = {entry.name: entry.inode() for entry in os.scandir(path)}
    elif path.endswith("-wal"):
        _synced[status.st_ino] = status.st_size
        _journal_synced[os.path.dirname(path)] = trio.current_time()
    else:
        _synced[status.st_ino] = os.pread(fd, status.st_size, 0)


def killed(directory: Path, copy: Path) -> None:
    """What kill -9 leaves."""
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*-shm"))
    for path in [copy, *sorted(copy.rglob("*"))]:
        there = directory / path.relative_to(copy)
        if path.is_dir():
            known = _names.get(str(there), {})
            _names[str(path)] = {
                name: (path / name).stat().st_ino for name in known if (path / name).exists()
            }
            _journal_synced[str(path)] = _journal_synced.get(str(there), 0.0)
        elif (synced := _synced.get(there.stat().st_ino)) is not None:
            _synced[path.stat().st_ino] = synced


def cut_off(directory: Path, copy: Path, dice: random.Random) -> None:
    """What a power cut leaves."""
    killed(directory, copy)
    keep_index = dice.random() < 0.7
    for path in sorted(copy.rglob("*")):
        there = directory / path.relative_to(copy)
        if path.name.startswith("index."):
            if not keep_index:
                path.unlink()
        elif path.name.endswith("-wal"):
            _cut_log(path, there, dice)
        elif path.suffix == ".pages" or "unsaved" in path.parent.name:
            _cut_pages(path, there, dice)
    _have_synced(copy)


def _have_synced(directory: Path) -> None:
    """What is left after a power cut is on the disk."""
    for path in [directory, *sorted(directory.rglob("*"))]:
        if path.is_dir():
            _names[str(path)] = {entry.name: entry.inode() for entry in os.scandir(path)}
            _journal_synced[str(path)] = trio.current_time()
        elif path.name.endswith("-wal"):
            _synced[path.stat().st_ino] = path.stat().st_size
        else:
            _synced[path.stat().st_ino] = path.read_bytes()


def _cut_log(path: Path, there: Path, dice: random.Random) -> None:
    safe = _synced.get(there.stat().st_ino, 0)
    assert isinstance(safe, int)
    size = path.stat().st_size
    os.truncate(path, dice.randint(min(safe, size), size))


def _cut_pages(path: Path, there: Path, dice: random.Random) -> None:
    number = there.stat().st_ino
    if number not in _names.get(str(there.parent), {}).values() and dice.random() < 0.5:
        path.unlink()
        return
    old, new = _synced.get(number, b""), path.read_bytes()
    assert isinstance(old, bytes)
    if old == new:
        return
    size = dice.choice([len(old), len(new)])
    blocks = [
        dice.choice([old, new])[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, size, BLOCK)
    ]
    path.write_bytes(b"".join(blocks)[:size])
