"""The journal beside the page files (SQLite): what a mount that dies must not forget.

Unlike the index, which only saves requests, the journal is believed after a crash:

- `uploads`: multipart uploads under way, whose parts cost money until somebody ends them;
- `pending`: files whose bytes are in a page file here and not in the bucket yet, or (`saved`) the
  bytes themselves, when they are few;
- `removals`: objects that were removed here and are still to be deleted;
- `renames`: copies under way whose originals are to go.

A statement is safe from kill -9 when the call returns, and costs some tens of microseconds on the
event loop; it is safe from a power cut once `Journal.synced` has returned, which all who wait at
the same time share.

A file that is damaged, or of another format, is set aside, never deleted, and an empty one takes
its place.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from bucketfs.cache.extents import Extents
from bucketfs.cache.pages import Tag, sync_directory
from bucketfs.cache.rows import FailedRow, PendingRow, Removal, Rename, Upload, decode, encode
from bucketfs.errors import FsError
from bucketfs.tasks import Turns

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
#: The write-ahead log is copied into the database from this many bytes on, beside the loop.
_CHECKPOINT_FROM = 8 << 20
#: What a statement takes of the log beside its values, about: three pages. The length of the log
#: does not tell, as it is written over from its start once it has been copied.
_STATEMENT = 3 * 4096

#: What takes all rows of a page file away.
_DROPS = ("DELETE FROM pending WHERE file = ?", "DELETE FROM saved WHERE file = ?")

#: An SQL statement and its values.
_Statement = tuple[str, tuple[Any, ...]]


class Journal:
    """The SQLite file of one cache directory; one process has it at a time.

    What cannot be written stops nobody but who would make a promise on it (`put`, `synced`): it
    is logged, and written with the next statement that can be. A journal that is damaged is set
    aside.

    Attributes:
        in_thread: Runs what waits for the disk beside the event loop.
        lost: An older one was set aside, by this process or one before: what it counted on is not
            known.
        may_return: The row of a file was dropped, which a power cut may bring back (`synced`).

    Raises:
        FsError: The disk is full or fails, so that what the journal says is not known.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = _open_or_set_aside(path)
            self.lost = _is_instead(self._db)
        except sqlite3.Error as error:
            raise FsError(
                errno.EIO, f"the journal {path} cannot be opened: {error}; is the disk full?"
            ) from error
        self.in_thread: Callable[[Callable[[], Any]], Any] = trio.to_thread.run_sync
        #: Statements that could not be carried out yet, and those of a batch that has not ended.
        self._owed: list[_Statement] = []
        self._batched: list[_Statement] = []
        #: Rows of such a batch whose page files are still to be tagged, and whether of new bytes.
        self._untagged: list[tuple[PendingRow, bool]] = []
        #: Rows of new bytes in page files that have the tag of an older row, which holds until no
        #: power cut can leave that one: with the tag's `since`, and the change that it waits for.
        self._unsafe: dict[str, tuple[PendingRow, int, int]] = {}
        self._promises = False
        # the clock may have gone back since: a row of now is not older than one of then
        self._written = max((row.written for row in self.pending()), default=0)
        self._number: int = self._read("SELECT coalesce(max(id), 0) FROM uploads")[0][0]
        #: Statements so far, and those of them that a power cut leaves. That of a killed mount,
        #: which may be on no disk yet, counts as one.
        self._changes, self._safe = 1, 0
        #: The last of them that took away the row of a file.
        self._dropped = 0
        self.may_return = False
        #: Bytes that the log has got since it was last copied, about.
        self._uncopied = 0
        self._syncing = False
        self._turns = Turns()
        self._wal = -1

    def made_good(self) -> None:
        """What a damaged journal may have counted on has been put where nothing deletes it."""
        self._do("PRAGMA application_id = 0")
        self.lost = False

    # ---- multipart uploads -----------------------------------------------------------------------

    def begin(self, key: str, since: float) -> int:
        """An upload is about to be begun at a Unix time; answers what `began` and `end` need.

        Its id is not known before the store has answered: a crash until then leaves a row without.
        """
        self._number += 1
        self._do("INSERT INTO uploads VALUES (?, ?, '', ?)", self._number, key, since)
        return self._number

    def began(self, number: int, upload_id: str) -> None:
        """The store has named the upload."""
        self._do("UPDATE uploads SET upload_id = ? WHERE id = ?", upload_id, number)

    def drop_upload(self, number: int) -> None:
        """The upload never began, or there is nothing of it any more."""
        self._do("DELETE FROM uploads WHERE id = ?", number)

    def end_upload(self, upload_id: str) -> None:
        """An upload has been completed or aborted, or is left to somebody else."""
        self._do("DELETE FROM uploads WHERE upload_id = ?", upload_id)

    def uploads(self) -> list[Upload]:
        """Uploads that were begun and, as far as is known, not ended."""
        rows = self._read("SELECT id, key, upload_id, since FROM uploads ORDER BY id")
        return [Upload(*row) for row in rows]

    # ---- files that wait for their upload --------------------------------------------------------

    def put(self, row: PendingRow, data: bytes | None = None) -> None:
        """Remember a file, in place of what was known of its page file.

        Args:
            row: What it is.
            data: All its bytes, when the page file is not to be relied on for them.

        Raises:
            FsError: It could not be written.
        """
        row = self._stamped(row)
        with self.batch():
            self._promise(
                "INSERT OR REPLACE INTO pending VALUES (?, ?, '', ?, ?, ?)",
                row.file, row.key, *encode(row),
            )  # fmt: skip
            if data is not None:
                self._promise("INSERT OR REPLACE INTO saved VALUES (?, ?)", row.file, data)
            else:
                self._promise("DELETE FROM saved WHERE file = ?", row.file)
            self._untagged.append((row, True))

    def change(self, row: PendingRow) -> None:
        """The file has another key or other headers, or its bytes are unsealed, or on the disk."""
        row = self._stamped(row)
        with self.batch():
            self._do(
                "UPDATE pending SET key = ?, state = ?, seals = ?, sum = ? WHERE file = ?",
                row.key, *encode(row), row.file,
            )  # fmt: skip
            self._untagged.append((row, False))

    def drop(self, file: str) -> None:
        """The bucket has the file, or nobody wants it any more."""
        self._unsafe.pop(file, None)
        Tag.drop(self._path.with_name(file))  # first: a tag without a row says that one is lost
        try:
            with self.batch():
                for statement in _DROPS:
                    self._do(statement, file)
        except FsError as error:  # not even begun; nobody waits for this
            log.error("%s", error.why)
            self._owed += [(statement, (file,)) for statement in _DROPS]
            self._count((file,))
        self._dropped, self.may_return = self._changes, True

    def damage(self, file: str, error: str) -> None:
        """What the row says is not so: nothing is uploaded, until somebody has looked at it."""
        self._do("UPDATE pending SET error = ? WHERE file = ?", error, file)

    def pending(self) -> list[PendingRow]:
        """Files that wait, those first that have waited longest."""
        rows = self._read("SELECT file, key, error, state, seals, sum FROM pending")
        return sorted((decode(*row) for row in rows), key=lambda row: row.since)

    def data(self, file: str) -> bytes | None:
        """A file's bytes, if the journal has them itself."""
        rows = self._read("SELECT data FROM saved WHERE file = ?", file)
        return bytes(rows[0][0]) if rows else None

    # ---- files that could not be uploaded --------------------------------------------------------

    def fail(self, row: FailedRow) -> None:
        """A file was given up, its bytes are in `row.path`."""
        self._do(
            "INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?)",
            row.path, row.key, row.error, row.since,
        )  # fmt: skip

    def drop_failed(self, path: str) -> None:
        """Somebody has seen to a file that was given up."""
        self._do("DELETE FROM failed WHERE path = ?", path)

    def failed(self) -> list[FailedRow]:
        """Files that were given up."""
        rows = self._read("SELECT path, key, error, since FROM failed ORDER BY since")
        return [FailedRow(*row) for row in rows]

    # ---- objects that are to go ------------------------------------------------------------------

    def remove(self, removals: Iterable[Removal]) -> None:
        """Objects are to be deleted: names that stood for them were removed."""
        with self.batch():
            for removal in removals:
                self._do("INSERT OR REPLACE INTO removals VALUES (?, ?)", removal.key, removal.etag)

    def removed(self, keys: Iterable[str]) -> None:
        """Objects are gone, or not to be deleted any more."""
        with self.batch():
            for key in keys:
                self._do("DELETE FROM removals WHERE key = ?", key)

    def removals(self) -> list[Removal]:
        """What is still to be deleted."""
        return [Removal(*row) for row in self._read("SELECT key, etag FROM removals")]

    # ---- renames ---------------------------------------------------------------------------------

    def rename(self, row: Rename) -> None:
        """Objects are about to be copied, and the originals to be deleted then."""
        self._do(
            "INSERT OR REPLACE INTO renames VALUES (?, ?, ?, ?)",
            row.old, row.new, row.etag, row.replaced,
        )  # fmt: skip

    def renamed(self, old: str) -> None:
        """The rename has ended, one way or the other."""
        self._do("DELETE FROM renames WHERE old = ?", old)

    def renames(self) -> list[Rename]:
        """Renames that have not ended."""
        rows = self._read("SELECT old, new, etag, replaced FROM renames")
        return [Rename(*row) for row in rows]

    # ---- the disk --------------------------------------------------------------------------------

    @contextmanager
    def batch(self) -> Iterator[None]:
        """What is written in the block is written as a whole or not at all; no await inside.

        Raises:
            FsError: A promise (`put`) is among it, and cannot be written, or nothing at all can.
        """
        if self._db.in_transaction:
            yield
            return
        try:
            self._pay()
        except sqlite3.Error as error:
            log.error("the journal %s cannot be written: %s", self._path, error)
        self._batched.clear()
        self._untagged.clear()
        self._promises, older = False, len(self._owed)
        try:
            self._db.execute("BEGIN")
        except sqlite3.Error as error:
            raise self._failure(error) from error
        try:
            yield
            if not self._db.in_transaction:
                raise sqlite3.OperationalError("SQLite has undone what was written")
            self._db.execute("COMMIT")
            self._tag()
        except sqlite3.Error as error:
            self._db.rollback()
            self._owed[:0] = self._batched
            if self._promises:
                del self._owed[older:]
                raise self._failure(error) from error
            log.error("the journal %s cannot be written: %s", self._path, error)
        except BaseException:
            self._db.rollback()
            self._owed[:0] = self._batched
            del self._owed[older:]
            raise

    def _stamped(self, row: PendingRow) -> PendingRow:
        """The row with the time of its writing, which no other has."""
        self._written = max(self._written + 1, time.time_ns())
        return replace(row, written=self._written)

    def _tag(self) -> None:
        """Have the page files of rows that were just written say so themselves."""
        for row, is_new in self._untagged:
            before, unsafe = Tag.read(self._path.with_name(row.file)), self._unsafe.get(row.file)
            if is_new and before is not None:
                self._unsafe[row.file] = row, row.written, self._changes
            elif unsafe is not None:
                self._unsafe[row.file] = row, *unsafe[1:]
            else:
                self._put_tag(row, row.written if before is None else before.since)

    def _tag_safe(self, safe: int) -> None:
        """The same, of those that wait for it, as far as the changes that a power cut leaves."""
        for file, (row, since, change) in list(self._unsafe.items()):
            if change <= safe:
                del self._unsafe[file]
                self._put_tag(row, since)

    def _put_tag(self, row: PendingRow, since: int) -> None:
        whole = Extents(row.valid).covers(0, row.size)
        tag = Tag(row.key, row.size, whole=whole, written=row.written, since=since)
        try:
            tag.put(self._path.with_name(row.file))
        except OSError as error:
            log.info("cannot tag the page file of %r: %s", row.key, error)

    async def synced(self) -> None:
        """Wait until all that was written before this call would survive a power cut.

        Raises:
            FsError: The disk refuses, or some of it could not be written.
        """
        try:
            self._pay()
        except sqlite3.Error as error:
            raise self._failure(error) from error
        wanted = self._changes
        while self._safe < wanted:
            if self._syncing:
                await self._turns.next()
                continue
            self._syncing, covered = True, self._changes
            job = self._sync
            if self._uncopied > _CHECKPOINT_FROM:
                self._uncopied, job = 0, self._sync_and_copy
            try:
                await self.in_thread(job)
                self._safe, self.may_return = covered, self._dropped > covered
                self._tag_safe(covered)
            except OSError as error:
                raise self._failure(error) from error
            finally:
                self._syncing = False
                self._turns.moved()

    def _sync(self) -> None:
        """In a thread. The database itself is SQLite's to open: closing it here ends its locks."""
        if self._wal < 0:
            self._wal = os.open(_beside(self._path, "-wal"), os.O_RDWR | os.O_CLOEXEC)
            sync_directory(self._path.parent)
        os.fdatasync(self._wal)

    def _sync_and_copy(self) -> None:
        """In a thread: as `_sync`, and what the log has goes into the database."""
        self._sync()
        other = sqlite3.connect(self._path, isolation_level=None)
        try:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            log.info("cannot copy the write-ahead log of %s into it yet: %s", self._path, error)
        finally:
            other.close()

    def close(self) -> None:
        """Write what is owed, and let go of the file."""
        try:
            self._pay()
        except sqlite3.Error as error:
            log.error("the journal %s cannot be written: %s", self._path, error)
        if self._wal >= 0:
            os.close(self._wal)
            self._wal = -1
        self._db.close()

    def _promise(self, statement: str, *values: Any) -> None:
        self._promises = True
        try:
            self._pay()  # or else it might undo this one later
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        self._count(values)

    def _failure(self, error: Exception) -> FsError:
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        code = errno.ENOSPC if full else errno.EIO
        return FsError(code, f"the journal {self._path} cannot be written: {error}")

    def _do(self, statement: str, *values: Any) -> None:
        self._owed.append((statement, values))
        try:
            self._pay()
        except sqlite3.Error as error:
            log.error("the journal %s cannot be written: %s", self._path, error)
        self._count(values)

    def _count(self, values: Iterable[Any]) -> None:
        self._changes += 1
        self._uncopied += _STATEMENT + sum(len(v) for v in values if isinstance(v, bytes))

    def _pay(self) -> None:
        """Carry out what is owed, in its order; raises sqlite3.Error."""
        while self._owed:
            self._db.execute(*self._owed[0])
            done = self._owed.pop(0)
            if self._db.in_transaction:
                self._batched.append(done)

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise FsError(errno.EIO, f"the journal {self._path} cannot be read: {error}") from error


# ---- the file ------------------------------------------------------------------------------------


def _open_or_set_aside(path: Path) -> sqlite3.Connection:
    """The database, or a new one in place of a damaged one (`_is_instead`).

    Raises:
        sqlite3.Error: The disk is full or fails.
    """
    try:
        return _open(path)
    except _DAMAGE as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_DISK:
            raise
        log.error("cannot read the journal %s, it is set aside: %s", path, error)
    _set_aside(path)
    return _open(path)


def _is_instead(db: sqlite3.Connection) -> bool:
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
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.text_factory = _text
    db.execute("PRAGMA journal_mode=WAL")
    # each commit reaches the kernel; `Journal.synced` takes it to the disk
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"format {version} is not {_VERSION}")
    if version == 0:  # only then: there may be no room to write anything
        if any(path.parent.glob(f"{path.name}.damaged*")):
            db.execute(f"PRAGMA application_id = {_INSTEAD}")
        db.executescript(f"{_SCHEMA}PRAGMA user_version = {_VERSION};")
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found == "ok" and _tables(db) != _expected_tables():
        found = "its tables are not those of a journal"
    if found != "ok":
        raise sqlite3.DatabaseError(found)


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
        part = _beside(path, suffix)
        if part.exists():
            aside, number = _beside(part, ".damaged"), 0
            while aside.exists():
                number += 1
                aside = _beside(part, f".damaged.{number}")
            part.replace(aside)


def _beside(path: Path, suffix: str) -> Path:
    """A file whose name begins with that of the database."""
    return path.with_name(path.name + suffix)
