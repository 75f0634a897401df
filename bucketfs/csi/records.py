"""What the mounter knows of its mounts: a private directory for each, with a record and the keys.

The files are the truth, so that a mounter that is started anew finds the processes of the one
before. They belong on a file system in memory; in a container that is an emptyDir of the medium
Memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_RECORD, _KEYS = "mount.json", "passwd"


@dataclass(frozen=True, slots=True)
class Record:
    """A process that serves a mount.

    Attributes:
        target: The mount point, as the orchestrator names it.
        fingerprint: Of what was asked for.
        words: Options behind ``-o``, without those of the mounter's own. None is secret.
        pid: Of the process.
        started: When it began, in the kernel's ticks: another one may get its number.
    """

    target: str
    volume: str
    spec: str
    fingerprint: str
    single_writer: bool
    words: tuple[str, ...]
    pid: int = 0
    started: int = 0


class Records:
    """The directories of all mounts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)

    def folder(self, target: str) -> Path:
        """The directory of a mount."""
        return self._folder / hashlib.sha256(target.encode()).hexdigest()[:24]

    def keys(self, target: str) -> Path:
        """Its file of keys, which is there if it has some."""
        return self.folder(target) / _KEYS

    def write_keys(self, target: str, text: str) -> None:
        """Give a mount these keys, in place of others."""
        self.folder(target).mkdir(mode=0o700, exist_ok=True)
        _write(self.keys(target), text)

    def write(self, record: Record) -> None:
        """Remember a mount."""
        self.folder(record.target).mkdir(mode=0o700, exist_ok=True)
        _write(self.folder(record.target) / _RECORD, json.dumps(asdict(record)))

    def forget(self, target: str) -> None:
        """Remove all of a mount's."""
        shutil.rmtree(self.folder(target), ignore_errors=True)

    def forget_process(self, record: Record) -> None:
        """The same, unless another process has taken its place."""
        found = _read(self.folder(record.target) / _RECORD)
        if found is not None and (found.pid, found.started) == (record.pid, record.started):
            self.forget(record.target)

    def find(self, target: str) -> Record | None:
        """The record of a mount whose process lives."""
        return _alive(_read(self.folder(target) / _RECORD))

    def all(self) -> Iterator[Record]:
        """All of them whose processes live."""
        for path in sorted(self._folder.glob(f"*/{_RECORD}")):
            record = _alive(_read(path))
            if record is not None:
                yield record

    def remove_dead(self) -> None:
        """Remove what processes left that are gone."""
        for folder in self._folder.iterdir():
            if _alive(_read(folder / _RECORD)) is None:
                shutil.rmtree(folder, ignore_errors=True)


def started(pid: int) -> int:
    """When a process began (field 22 of proc_pid_stat(5)); 0 if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def _read(path: Path) -> Record | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Record(**{**values, "words": tuple(values["words"])})


def _alive(record: Record | None) -> Record | None:
    if record is None or not record.pid or started(record.pid) != record.started:
        return None
    return record


def _write(path: Path, text: str) -> None:
    """Whole or not at all, mode 600."""
    fresh = path.with_suffix(".new")
    number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(number, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.rename(path)
