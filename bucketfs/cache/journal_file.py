"""The SQLite file of a journal: its tables, how it is opened, how a damaged one is set aside."""

from __future__ import annotations

import functools
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS uploads (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, upload_id TEXT NOT NULL, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS pending (
    file TEXT PRIMARY KEY, key TEXT NOT NULL, error TEXT NOT NULL, state TEXT NOT NULL,
    seals BLOB NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS saved (file TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS failed (
    path TEXT PRIMARY KEY, key TEXT NOT NULL, error TEXT NOT NULL, since REAL NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS removals (key TEXT PRIMARY KEY, etag TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS renames (
    old TEXT PRIMARY KEY, new TEXT NOT NULL, etag TEXT NOT NULL, replaced TEXT NOT NULL)
    WITHOUT ROWID;
"""
#: Format of the tables; a journal of another one is set aside, never deleted.
_VERSION = 3
#: `PRAGMA application_id` of one in place of a damaged one, until `Journal.made_good`.
_INSTEAD = 1
#: Primary result codes (sqlite.org/rescode.html) of a database that may be all right.
_OF_THE_DISK = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
#: From so many pages on SQLite copies the write-ahead log into the database itself, on the loop.
_CHECKPOINT_PAGES = 16_384


#: Text that is damaged is no error: the checksum of its row says so.
_text = functools.partial(str, encoding="utf-8", errors="replace")


#: How sqlite3 says that something is wrong; a message may quote text that is damaged itself.
_DAMAGE = (sqlite3.Error, UnicodeDecodeError)


def open_or_set_aside(path: Path) -> sqlite3.Connection:
    """The database, or a new one in place of a damaged one (`is_instead`).

    Raises:
        sqlite3.Error: The disk is full or fails.
    """
    try:
        return _open(path)
    except _DAMAGE as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_DISK:
            raise
        log.error("the journal %s is unreadable and set aside: %s", path, error)
    _set_aside(path)
    return _open(path)


def is_instead(db: sqlite3.Connection) -> bool:
    """Whether the database took the place of a damaged one, and nobody has seen to that yet."""
    return bool(db.execute("PRAGMA application_id").fetchone()[0] == _INSTEAD)


def waiting(path: Path) -> list[str]:
    """The keys of what a journal that nobody has open at the moment has to carry out."""
    query = (
        "SELECT key FROM pending WHERE error = '' UNION ALL SELECT key FROM removals"
        " UNION ALL SELECT old FROM renames"
    )
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as db:
            db.text_factory = _text
            return [str(key) for (key,) in db.execute(query)]
    except _DAMAGE:
        return []  # whoever opens it says what is wrong with it


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.text_factory = _text
    db.execute("PRAGMA journal_mode=WAL")
    # each commit reaches the kernel; `Journal.synced` takes it to the disk
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _VERSION):
        db.close()
        raise sqlite3.DatabaseError(f"format {version} is not {_VERSION}")
    if version == 0:  # only then: there may be no room to write anything
        if any(path.parent.glob(f"{path.name}.damaged*")):
            db.execute(f"PRAGMA application_id = {_INSTEAD}")
        db.executescript(f"{_SCHEMA}PRAGMA user_version = {_VERSION};")
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found == "ok" and _tables(db) != _expected_tables():
        found = "its tables are not those of a journal"
    if found != "ok":
        db.close()
        raise sqlite3.DatabaseError(found)
    return db


def _tables(db: sqlite3.Connection) -> set[str]:
    """How each table was made: a bit that flips there renames a column."""
    return {str(sql) for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE type = 'table'")}


@functools.cache
def _expected_tables() -> set[str]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(_SCHEMA)
        return _tables(db)


def _set_aside(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        part = beside(path, suffix)
        if part.exists():
            aside, number = beside(part, ".damaged"), 0
            while aside.exists():
                number += 1
                aside = beside(part, f".damaged.{number}")
            part.replace(aside)


def beside(path: Path, suffix: str) -> Path:
    """A file whose name begins with that of the database."""
    return path.with_name(path.name + suffix)
