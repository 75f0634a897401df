"""Page files that waited for their upload, and whose rows the journal has lost."""

from __future__ import annotations

import functools
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from bucketfs.cache.extents import Seals
from bucketfs.cache.journal import Journal
from bucketfs.cache.pages import Tag, read_exactly, sync_directory
from bucketfs.cache.places import UNSAVED
from bucketfs.cache.rows import FailedRow, PendingRow

log = logging.getLogger(__name__)


def unsaved(directory: Path) -> Path:
    """Where files are kept that nothing deletes, in a cache's directory; made if missing."""
    path = directory / UNSAVED
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def name_for(key: str) -> str:
    """A name for a file under `unsaved`: no other has it, and it reminds of the key's last part."""
    return f"{secrets.token_hex(4)}-{key.rpartition('/')[2][:100]}"


def keep(directory: Path, journal: Journal) -> list[Path]:
    """Put what the journal should name and does not under ``unsaved/``; the log says so.

    Args:
        directory: Of a cache that no mount uses.
        journal: The journal in it.

    Raises:
        OSError: The disk refuses.
        FsError: The journal cannot be read.
    """
    rows = {row.file: row for row in journal.pending()}
    kept = []
    for path, tag in _tagged(directory):
        row = rows.get(path.name)
        if row is not None and not _is_older(row, tag):
            continue
        data = journal.data(path.name)
        stands = row is not None and row.written >= tag.since and _stands(row, path, data)
        # a page file beside bytes in the journal may have newer ones, or what a power cut left
        if not stands or (data is not None and not _has(path, data)):
            kept.append(_keep(directory, journal, path, tag, stands=stands))
    return kept


def _tagged(directory: Path) -> Iterator[tuple[Path, Tag]]:
    for path in sorted(directory.glob("*.pages")):
        tag = Tag.read(path)
        if tag is not None:
            yield path, tag


def _is_older(row: PendingRow, tag: Tag) -> bool:
    """Whether a row cannot be read, or is not the last that was written of its file."""
    return row.unreadable or row.written < tag.written


def _has(path: Path, data: bytes) -> bool:
    return path.stat().st_size == len(data) and path.read_bytes() == data


def _stands(row: PendingRow, path: Path, data: bytes | None) -> bool:
    """Whether all bytes are there of an older row that is of them.

    A change of its key or headers is not synced, and a power cut may take that alone. Bytes that
    are written over in place have no checksums: they are what they are.
    """
    try:
        seals = Seals.load(row.seals)
    except ValueError:
        return False
    if row.unreadable:
        return False
    if data is not None:
        return len(data) == row.size and seals.broken(lambda a, b: data[a:b]) is None
    with path.open("rb") as file:
        return seals.broken(functools.partial(read_exactly, file.fileno())) is None


def _keep(directory: Path, journal: Journal, path: Path, tag: Tag, *, stands: bool) -> Path:
    if path.stat().st_size < tag.size:
        os.truncate(path, tag.size)  # zeros at the end take no room
    aside = unsaved(directory) / name_for(tag.key or path.name)
    path.replace(aside)
    sync_directory(aside.parent)
    key = tag.key or "a file of unknown name"
    rest = "" if tag.whole else "; the version in the bucket may have bytes where these are zero"
    error = f"the journal is damaged and has lost its row{rest}"
    with journal.batch():
        if not stands:
            journal.drop(path.name)
        journal.fail(FailedRow(str(aside.relative_to(directory)), key, error, time.time()))
    Tag.beside(path).unlink(missing_ok=True)
    log.error("%r is not in the bucket yet: %s; its bytes are in %s", key, error, aside)
    return aside
