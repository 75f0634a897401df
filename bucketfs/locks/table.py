"""The locks on one file: who has which bytes, and what a new lock does to them. Pure.

The rules are those of Linux for locks on one machine. A lock is of bytes ``[start, end]``, both
included. Locks of one owner never stand in each other's way: a new one takes the place of what that
owner had there. Two owners conflict where ranges overlap and one of them writes. `flock` and
`fcntl` do not see each other.

Invariant of a table: rows of one holder do not overlap, and two of one mode do not touch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

#: The last byte of a file, as the kernel counts (OFFSET_MAX).
LAST: Final = (1 << 63) - 1
#: Of the format; a table of another version is not understood.
_VERSION: Final = 1
#: Rows that a mount may have on one file.
MOST_ROWS: Final = 10_000


class Kind(StrEnum):
    """Which call makes it."""

    POSIX = "posix"  # fcntl, lockf: of a process
    FLOCK = "flock"  # of an open file


class Mode(StrEnum):
    """What it keeps from others."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"


@dataclass(frozen=True, slots=True)
class Row:
    """One lock.

    Attributes:
        mount: Which mount has it.
        owner: Who there, as that mount's kernel numbers processes and open files.
        kind, mode: What it is.
        start, end: Its first and last byte.
        pid: Process that asked for it, for who is told that it is in the way.
    """

    mount: str
    owner: int
    kind: Kind
    mode: Mode
    start: int = 0
    end: int = LAST
    pid: int = 0

    @property
    def holder(self) -> tuple[str, int, Kind]:
        """Locks of one holder never conflict."""
        return self.mount, self.owner, self.kind

    def conflicts(self, other: Row) -> bool:
        """Whether both cannot be granted."""
        if self.kind is not other.kind or self.holder == other.holder:
            return False
        overlap = self.start <= other.end and other.start <= self.end
        return overlap and Mode.EXCLUSIVE in (self.mode, other.mode)


Rows = tuple[Row, ...]


def in_the_way(rows: Iterable[Row], wanted: Row) -> Row | None:
    """The first lock that `wanted` has to wait for."""
    return next((row for row in rows if row.conflicts(wanted)), None)


def granted(rows: Rows, wanted: Row) -> Rows:
    """The table with `wanted` in it, which nothing is in the way of."""
    rest = cleared(rows, wanted)
    merged = wanted
    for row in rest:
        same = row.holder == wanted.holder and row.mode is wanted.mode
        if same and (row.end + 1 == wanted.start or wanted.end + 1 == row.start):
            rest = tuple(other for other in rest if other is not row)
            merged = replace(
                merged, start=min(merged.start, row.start), end=max(merged.end, row.end)
            )
    return _sorted((*rest, merged))


def cleared(rows: Rows, span: Row) -> Rows:
    """The table without what the holder of `span` has within its bytes, whatever the mode."""
    left: list[Row] = []
    for row in rows:
        if row.holder != span.holder or row.end < span.start or span.end < row.start:
            left.append(row)
            continue
        if row.start < span.start:
            left.append(replace(row, end=span.start - 1))
        if span.end < row.end:
            left.append(replace(row, start=span.end + 1))
    return _sorted(left)


def _sorted(rows: Iterable[Row]) -> Rows:
    return tuple(sorted(rows, key=lambda row: (row.mount, row.owner, row.kind, row.start)))


@dataclass(frozen=True, slots=True)
class Lease:
    """What a mount says of itself in a table.

    Attributes:
        beat: Differs in each table that the mount writes. Who sees the same one for `seconds` may
            take the mount for dead.
        seconds: How long it holds without a new beat.
        host: For people.
    """

    beat: int
    seconds: float
    host: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """What one lock object says.

    Attributes:
        rows: The locks of all mounts.
        leases: Of each mount that has some.
        stamp: Differs in each table that was ever written, so that its writer knows it again.
    """

    rows: Rows = ()
    leases: Mapping[str, Lease] = field(default_factory=dict)
    stamp: str = ""

    def of(self, mount: str) -> Rows:
        """The rows of a mount."""
        return tuple(row for row in self.rows if row.mount == mount)

    def without(self, mounts: Iterable[str]) -> Table:
        """The table without some mounts."""
        gone = frozenset(mounts)
        return Table(
            tuple(row for row in self.rows if row.mount not in gone),
            {mount: lease for mount, lease in self.leases.items() if mount not in gone},
            self.stamp,
        )

    def with_mount(self, mount: str, rows: Rows, lease: Lease, stamp: str) -> Table:
        """The table in which a mount has exactly these rows."""
        others = self.without([mount])
        leases = {**others.leases, mount: lease} if rows else others.leases
        return Table(_sorted((*others.rows, *rows)), leases, stamp)


def dump(table: Table, name: str) -> bytes:
    """A table as `load` takes it; `name` says to people whose it is."""
    rows = [
        [row.mount, f"{row.owner:x}", row.kind, row.mode, row.start, row.end, row.pid]
        for row in table.rows
    ]
    leases = {
        mount: {"beat": lease.beat, "seconds": lease.seconds, "host": lease.host}
        for mount, lease in table.leases.items()
    }
    what = {
        "bucketfs-locks": _VERSION,
        "file": name,
        "stamp": table.stamp,
        "mounts": leases,
        "locks": rows,
    }
    return json.dumps(what, ensure_ascii=False, separators=(",", ":")).encode()


def load(data: bytes) -> Table:
    """The table of a lock object. Raises ValueError for anything else."""
    try:
        what = json.loads(data)
        if what["bucketfs-locks"] != _VERSION:
            raise ValueError("of another version")
        rows = tuple(_row(fields) for fields in what["locks"])
        leases = {
            str(mount): Lease(int(told["beat"]), float(told["seconds"]), str(told["host"]))
            for mount, told in what["mounts"].items()
        }
        stamp = str(what["stamp"])
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a table of locks: {error!r}") from error
    if {row.mount for row in rows} - leases.keys():
        raise ValueError("a lock without a lease")
    return Table(_sorted(rows), leases, stamp)


def _row(fields: Sequence[Any]) -> Row:
    mount, owner, kind, mode, start, end, pid = fields
    if not 0 <= start <= end <= LAST:
        raise ValueError(f"not a range of bytes: {start} to {end}")
    return Row(str(mount), int(owner, 16), Kind(kind), Mode(mode), int(start), int(end), int(pid))
