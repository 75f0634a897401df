"""The index beside the page files (SQLite): what a restart needs to go on using them.

`pages` names the page file of each (key, ETag) and its seals. `headers` remembers
the metadata headers of objects by (key, ETag, Last-Modified), so that a later listing, which shows
these three but no metadata, saves the HEAD. `ended` has a row, what `pages` amounts to,
while no mount uses the directory, `pages` names all that is in it, and nothing waits there.

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
    key TEXT NOT NULL, etag TEXT NOT NULL, file TEXT NOT NULL, size INTEGER NOT NULL,
    seals BLOB NOT NULL, used REAL NOT NULL, held INTEGER NOT NULL,
    PRIMARY KEY (key, etag)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pages_used ON pages (used);
CREATE TABLE IF NOT EXISTS headers (
    key TEXT PRIMARY KEY, etag TEXT NOT NULL, last_modified INTEGER NOT NULL,
    written INTEGER NOT NULL, headers TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ended (files INTEGER NOT NULL, held INTEGER NOT NULL);
"""
#: Format of the tables; another one is dropped and made anew.
_VERSION = 4
#: Rows read at a time where there may be a million.
_PIECE = 1000
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
        held: Bytes of disk that it took then.
    """

    file: str
    key: str
    etag: str
    size: int
    seals: bytes
    used: float
    held: int


class Index:
    """The SQLite file of one cache directory; one process has it at a time.

    Calls are synchronous and take tens of microseconds: nothing waits for the disk
    (``synchronous=OFF``), because a lost row only costs a request. For the same reason a damaged
    file or a full disk is no error to anyone: the index deletes itself and remembers nothing more.

    Attributes:
        complete: The mount before has ended in order: `pages` names all page files, and none waits.
        total: How many page files there were then, and the bytes of disk they took.
        lost: It has deleted itself.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lost = False
        try:
            self._db = _open(path)
        except sqlite3.Error as error:
            log.warning("cannot read the index %s, files are fetched again: %s", path, error)
            self._remove()
            self._db = _open(Path(":memory:"))
        ended = self._do("SELECT files, held FROM ended")
        self.complete = bool(ended)
        if self.complete:
            # on the disk before anything else: after a power cut the old row must not be there
            self._do("PRAGMA synchronous=FULL")
            self._do("DELETE FROM ended")
            self._do("PRAGMA synchronous=OFF")
        self.total: tuple[int, int] = ended[0] if ended else self._total()

    def close(self, *, complete: bool) -> None:
        """Write everything and let go of the file; `complete` as the attribute."""
        if complete:
            self._do("INSERT INTO ended VALUES (?, ?)", *self._total())
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
            self.lost = True
            return []

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _total(self) -> tuple[int, int]:
        ((files, held),) = self._do("SELECT count(*), coalesce(sum(held), 0) FROM pages") or [
            (0, 0)
        ]
        return files, held

    def files(self) -> set[str]:
        """Names of all page files."""
        return {name for (name,) in self._do("SELECT file FROM pages")}

    def versions(self) -> Iterator[tuple[str, str]]:
        """Key and ETag of all page files, those used longest ago first, as rows are now."""
        behind = (float("-inf"), "", "")
        while rows := self._do(
            "SELECT used, key, etag FROM pages WHERE (used, key, etag) > (?, ?, ?)"
            " ORDER BY used, key, etag LIMIT ?",
            *behind,
            _PIECE,
        ):
            yield from (row[1:] for row in rows)
            behind = rows[-1]

    def page(self, key: str, etag: str) -> PageRow | None:
        """The page file of a version."""
        rows = self._do(
            "SELECT file, key, etag, size, seals, used, held FROM pages WHERE key = ? AND etag = ?",
            key,
            etag,
        )
        return PageRow(*rows[0]) if rows else None

    def has_pages(self, key: str) -> bool:
        """Whether there is a page file of some version of an object."""
        return bool(self._do("SELECT 1 FROM pages WHERE key = ? LIMIT 1", key))

    def put_pages(self, row: PageRow) -> None:
        """Add or replace a page file's row."""
        self._do(
            "INSERT OR REPLACE INTO pages (file, key, etag, size, seals, used, held)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(row.file, row.key, row.etag, row.size, row.seals, row.used, row.held),
        )

    def drop_pages(self, file: str, key: str, etag: str) -> None:
        """Forget a page file of a version; another one of it stays."""
        self._do("DELETE FROM pages WHERE key = ? AND etag = ? AND file = ?", key, etag, file)

    def drop_files(self, names: Sequence[str]) -> None:
        """Forget page files by their names, which takes a look at all."""
        marks = "(SELECT value FROM json_each(?))"
        self._do(f"DELETE FROM pages WHERE file IN {marks}", json.dumps(names))  # noqa: S608 - no values

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
            for table in ("pages", "headers", "ended", "state"):
                db.execute(f"DROP TABLE IF EXISTS {table}")
            db.execute(f"PRAGMA user_version = {_VERSION}")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db
