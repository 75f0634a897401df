"""The index beside the page files (SQLite): what a restart needs to go on using them.

Two tables. `pages` names each page file, its (key, ETag) and its seals. `headers` remembers
the metadata headers of objects by (key, ETag, Last-Modified), so that a later listing, which shows
these three but no metadata, saves the HEAD.

A row may promise more than the disk holds, since nothing waits for the disk: after a power cut page
files lack bytes, and rows are old. So what a row says of is served only when the checksums agree.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucketfs.store.base import Headers

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pages (
    file TEXT PRIMARY KEY, key TEXT NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL,
    seals BLOB NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS headers (
    key TEXT PRIMARY KEY, etag TEXT NOT NULL, last_modified INTEGER NOT NULL,
    written INTEGER NOT NULL, headers TEXT NOT NULL)
    WITHOUT ROWID;
"""
#: Format of the tables; another one is dropped and made anew.
_VERSION = 3
#: Rows of `headers` kept; the oldest written go first. 250 bytes each.
_HEADERS_KEPT = 1_000_000
#: A PutObject does not answer the Last-Modified it made. A listing that shows the same ETag and a
#: time this close (seconds) to our upload shows our upload.
_SAME_UPLOAD = 5


@dataclass(frozen=True, slots=True)
class PageRow:
    """A page file as the index knows it.

    Attributes:
        file: Its name.
        key, etag, size: The version it belongs to.
        seals: Of what it holds, for `bucketfs.cache.extents.Seals.load`.
        used: Unix time of the last use.
    """

    file: str
    key: str
    etag: str
    size: int
    seals: bytes
    used: float


class Index:
    """The SQLite file of one cache directory; one process has it at a time.

    Calls are synchronous and take tens of microseconds: nothing waits for the disk
    (``synchronous=OFF``), because a lost row only costs a request. For the same reason a damaged
    file or a full disk is no error to anyone: the index deletes itself and remembers nothing more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = _open(path)
        except sqlite3.Error as error:
            log.warning("cannot read the index %s, files are fetched again: %s", path, error)
            self._remove()
            self._db = _open(Path(":memory:"))

    def close(self) -> None:
        """Write everything and let go of the file."""
        self._do(
            "DELETE FROM headers WHERE key IN (SELECT key FROM headers ORDER BY written LIMIT"
            " max(0, (SELECT count(*) FROM headers) - ?))",
            _HEADERS_KEPT,
        )
        self._db.close()

    def _do(self, statement: str, *values: str | float | bytes) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            log.warning("cannot use the index %s any more, it is deleted: %s", self._path, error)
            self._db.close()
            self._remove()
            self._db = _open(Path(":memory:"))
            return []

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def pages(self) -> Iterator[PageRow]:
        """All page files."""
        for row in self._do("SELECT file, key, etag, size, seals, used FROM pages"):
            yield PageRow(*row)

    def put_pages(self, file: str, key: str, etag: str, size: int, seals: bytes) -> None:
        """Add or replace a page file's row."""
        self._do(
            "INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?)",
            file, key, etag, size, seals, time.time(),
        )  # fmt: skip

    def drop_pages(self, file: str) -> None:
        """Forget a page file."""
        self._do("DELETE FROM pages WHERE file = ?", file)

    def headers_of(self, versions: Sequence[tuple[str, str, int]]) -> dict[str, Headers]:
        """What HEADs of exactly these versions answered, or was uploaded with them, by key.

        Args:
            versions: Some hundred of ``(key, etag, last_modified)``.
        """
        marks = ",".join("?" * len(versions))
        columns = "key, etag, last_modified, written, headers"
        rows = self._do(
            f"SELECT {columns} FROM headers WHERE key IN ({marks})",  # noqa: S608 - no values
            *(key for key, _, _ in versions),
        )
        found = {row[0]: row[1:] for row in rows}
        return {
            key: _headers(found[key][3])
            for key, etag, modified in versions
            if key in found and _is_version(found[key], etag, modified)
        }

    def put_headers(self, key: str, etag: str, last_modified: int, headers: Headers) -> None:
        """Remember the headers of a version in place of those of an older one.

        A `last_modified` of 0 means: uploaded just now.
        """
        text = json.dumps([dict(headers.metadata), headers.content_type, dict(headers.other)])
        self._do(
            "INSERT OR REPLACE INTO headers VALUES (?, ?, ?, ?, ?)",
            key, etag, last_modified, int(time.time()), text,
        )  # fmt: skip

    def drop_headers(self, key: str) -> None:
        """Forget the headers of a key."""
        self._do("DELETE FROM headers WHERE key = ?", key)


def _headers(text: str) -> Headers:
    metadata, content_type, other = json.loads(text)
    return Headers(metadata=metadata, content_type=content_type, other=other)


def _is_version(row: tuple[Any, ...], etag: str, modified: int) -> bool:
    known_etag, last_modified, written = row[:3]
    near = last_modified == 0 and abs(written - modified) <= _SAME_UPLOAD
    return bool(known_etag == etag and (last_modified == modified or near))


def _open(path: Path) -> sqlite3.Connection:
    """The database with its tables, those of another format removed."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=OFF")
        if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            for table in ("pages", "headers", "state"):
                db.execute(f"DROP TABLE IF EXISTS {table}")
            db.execute(f"PRAGMA user_version = {_VERSION}")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db
