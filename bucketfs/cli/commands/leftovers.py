"""What mounts that ended too early left in cache directories, without asking any bucket.

A directory that a mount uses is only named: its journal belongs to that mount.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from bucketfs.cache import orphans, places
from bucketfs.cache.extents import Extents
from bucketfs.cache.journal import Journal
from bucketfs.cache.places import JOURNAL, UNSAVED
from bucketfs.cache.rows import PendingRow, Removal, Rename, Upload
from bucketfs.errors import FsError
from bucketfs.tree.saving.replay import DamagedError, check

#: Bytes copied at a time.
_PIECE = 1 << 20


class Kind(StrEnum):
    """What is left; the values are what people read."""

    FILE = "file"  # waits for its upload
    RESCUED = "rescued"  # could not be saved; its bytes are in a file of their own
    UPLOAD = "upload"  # a multipart upload that nobody has ended
    REMOVAL = "removal"  # an object that is still to be deleted
    RENAME = "rename"  # a copy whose original may still be there


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is left.

    Attributes:
        name: Key; of a rescued file its path in the cache directory.
        size: Bytes; 0 where there are none.
        since: Unix time, 0.0 where it is not known.
        note: What else is to be said of it.
        damaged: It cannot be uploaded as it is.
        row: Its row in the journal; None for a rescued file.
    """

    kind: Kind
    name: str
    size: int = 0
    since: float = 0.0
    note: str = ""
    damaged: bool = False
    row: PendingRow | Upload | Removal | Rename | None = None


@dataclass(slots=True)
class Leftovers:
    """A cache directory and what is left in it.

    Attributes:
        url, bucket: Whose cache it is; url "" is AWS, bucket "" is one that does not say.
        in_use: A mount uses it now, so nothing is known of it.
    """

    directory: Path
    url: str
    bucket: str
    in_use: bool = False
    entries: list[Entry] = field(default_factory=list)


@contextmanager
def opened(directory: Path) -> Iterator[tuple[Leftovers, Journal | None]]:
    """What is left in a cache directory, which no mount can take meanwhile.

    The journal is None when there is none, or a mount has it.

    Raises:
        FsError: It cannot be read.
    """
    left = Leftovers(directory, *places.whose(directory))
    descriptor = places.lock(directory)
    if descriptor is None:
        left.in_use = True
        yield left, None
        return
    journal = None
    try:
        if (directory / JOURNAL).exists():
            journal = Journal(directory / JOURNAL)
            orphans.keep(directory, journal)
            left.entries += _journaled(journal, directory)
        left.entries += _rescued(journal, directory)
        yield left, journal
    finally:
        if journal is not None:
            journal.close()
        os.close(descriptor)


def _journaled(journal: Journal, directory: Path) -> Iterator[Entry]:
    for row in journal.pending():
        try:
            check(row, journal.data(row.file), directory)
            damage = ""
        except DamagedError as error:
            damage = str(error)
        elsewhere = _elsewhere(row, journal)
        note = f"{elsewhere} of its bytes are in the bucket only" if elsewhere else ""
        yield Entry(
            Kind.FILE, row.key, row.size, row.since, damage or note, damaged=bool(damage), row=row
        )
    for upload in journal.uploads():
        yield Entry(Kind.UPLOAD, upload.key, since=upload.since, note=upload.upload_id, row=upload)
    for removal in journal.removals():
        yield Entry(Kind.REMOVAL, removal.key, row=removal)
    for rename in journal.renames():
        yield Entry(Kind.RENAME, rename.old, note=f"to {rename.new}", row=rename)


def _rescued(journal: Journal | None, directory: Path) -> Iterator[Entry]:
    known = {row.path: row for row in journal.failed()} if journal is not None else {}
    with suppress(FileNotFoundError):
        for path in sorted((directory / UNSAVED).iterdir()):
            status = path.stat()
            name = str(path.relative_to(directory))
            row = known.get(name)
            note = f"{row.key}: {row.error}" if row is not None else ""
            since = row.since if row is not None else status.st_mtime
            yield Entry(Kind.RESCUED, name, status.st_size, since, note)


def _elsewhere(row: PendingRow, journal: Journal) -> int:
    """How many bytes of a file only the bucket has."""
    if journal.data(row.file) is not None:
        return 0
    return sum(stop - start for start, stop in Extents(row.valid).missing(0, row.size))


def save(entry: Entry, left: Leftovers, journal: Journal | None, target: Path) -> Path:
    """Copy the bytes of a file to a place below `target`; answers where.

    What only the bucket has becomes a hole. Nothing that is there is written over.

    Raises:
        OSError: It cannot be written, or its name cannot be a path there.
    """
    path = _free(target, entry.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    row = entry.row
    data = _good_data(row, left.directory, journal) if isinstance(row, PendingRow) else None
    with path.open("xb") as out:
        if data is not None:
            out.write(data)
        elif isinstance(row, PendingRow) and row.size:
            with (left.directory / row.file).open("rb") as source:
                for start, stop in row.valid:
                    source.seek(start)
                    out.seek(start)
                    for at in range(start, stop, _PIECE):
                        out.write(source.read(min(_PIECE, stop - at)))
            out.truncate(row.size)
        else:  # or a row that does not say any more what it has
            name = row.file if isinstance(row, PendingRow) else entry.name
            with (left.directory / name).open("rb") as source:
                shutil.copyfileobj(source, out, _PIECE)
    return path


def _good_data(row: PendingRow, directory: Path, journal: Journal | None) -> bytes | None:
    """All bytes of a file, where the journal has them; None where the page file is better."""
    data = journal.data(row.file) if journal is not None else None
    try:
        return check(row, data, directory)
    except DamagedError:
        return data  # better than nothing


def _free(target: Path, name: str) -> Path:
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\0" in name:
        raise OSError(errno.EINVAL, "its name cannot be a path")
    path = target.joinpath(*parts)
    number = 0
    while path.exists() or path.is_symlink():
        number += 1
        path = target.joinpath(*parts[:-1], f"{parts[-1]}.{number}")
    return path


def discard(entry: Entry, left: Leftovers, journal: Journal | None) -> None:
    """Forget one thing, and delete the bytes that are here.

    Raises:
        OSError: They cannot be deleted.
    """
    match entry.row:
        case None:
            (left.directory / entry.name).unlink(missing_ok=True)
            if journal is not None:
                journal.drop_failed(entry.name)
            return
        case _ if journal is None:
            raise FsError(errno.EINVAL, "only a journal has rows")
        case PendingRow() as row:
            journal.drop(row.file)
            (left.directory / row.file).unlink(missing_ok=True)
        case Upload() as row:
            journal.drop_upload(row.number)
        case Removal() as row:
            journal.removed([row.key])
        case Rename() as row:
            journal.renamed(row.old)
