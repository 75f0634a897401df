"""The journal: what it remembers across a crash, and what happens when it cannot."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.cache import journal as journal_module
from bucketfs.cache import orphans
from bucketfs.cache.journal import Journal
from bucketfs.cache.rows import FailedRow, PendingRow, Removal, Rename, decode, encode
from bucketfs.errors import FsError
from bucketfs.store.base import Headers

_WRITER = """
import os, sys
from pathlib import Path
from bucketfs.cache.journal import Journal
from bucketfs.cache.rows import Removal
journal = Journal(Path(sys.argv[1]))
journal.began(journal.begin("a key", 1.5), "one")
journal.began(journal.begin("other", 2.5), "two")
journal.end_upload("two")
journal.remove([Removal("x", "etag"), Removal("y", "")])
journal.removed(["y"])
os.kill(os.getpid(), 9)
"""

Opener = Callable[[], Journal]

ROW = PendingRow(
    file="0.pages",
    key="a/key",
    since=1.5,
    size=10,
    valid=((0, 10),),
    stored=10,
    dirty=((2, 10),),
    limit=2,
    new=False,
    cut=True,
    base=("a/key", "etag", 7),
    if_match="etag",
    headers=Headers({"mode": "33188"}, "text/plain", {"cache-control": "no"}),
    attempts=((3, {"mode": "1"}),),
    seals=b"0123456789abcdef",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def opened(path: Path) -> Iterator[Opener]:
    """What opens the journal; it is closed at the end, where the test does not close it."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Journal(path)))


def keys(journal: Journal) -> list[tuple[str, str]]:
    return [(upload.key, upload.upload_id) for upload in journal.uploads()]


def waiting(journal: Journal) -> list[PendingRow]:
    """The rows of the pending files but for the time of their writing."""
    return [replace(row, written=0) for row in journal.pending()]


def test_rows_survive_a_kill(path: Path, opened: Opener) -> None:
    done = subprocess.run([sys.executable, "-c", _WRITER, str(path)], check=False)
    assert done.returncode == -9
    journal = opened()
    assert keys(journal) == [("a key", "one")]
    assert journal.removals() == [Removal("x", "etag")]
    journal.end_upload("one")
    journal.close()
    assert opened().uploads() == []


def test_an_upload_without_an_answer_is_known_by_its_key(opened: Opener) -> None:
    journal = opened()
    number = journal.begin("key", 3.0)
    [upload] = journal.uploads()
    assert (upload.key, upload.upload_id, upload.since) == ("key", "", 3.0)
    journal.drop_upload(number)
    assert journal.uploads() == []


def test_pending_files(opened: Opener) -> None:
    journal = opened()
    journal.put(ROW, b"0123456789")
    later = replace(ROW, file="1.pages", since=0.5)
    journal.put(later)
    assert waiting(journal) == [later, ROW]
    assert journal.data("0.pages") == b"0123456789"
    assert journal.data("1.pages") is None
    moved = replace(ROW, key="b")
    journal.change(moved)
    journal.drop("1.pages")
    journal.close()
    journal = opened()
    assert waiting(journal) == [moved]
    assert journal.data("0.pages") == b"0123456789"
    journal.put(ROW)
    assert journal.data("0.pages") is None, "the page file has them now"
    journal.damage("0.pages", "short")
    assert waiting(journal) == [replace(ROW, error="short")]
    journal.drop("0.pages")
    assert journal.pending() == []


def test_failures_and_renames(opened: Opener) -> None:
    journal = opened()
    failed, rename = FailedRow("unsaved/f", "f", "EFBIG", 1.0), Rename("a/", "b/")
    journal.fail(failed)
    journal.rename(rename)
    journal.close()
    journal = opened()
    assert (journal.failed(), journal.renames()) == ([failed], [rename])
    assert rename.is_tree
    journal.drop_failed("unsaved/f")
    journal.renamed("a/")
    assert (journal.failed(), journal.renames()) == ([], [])


def test_a_batch_is_written_as_a_whole(opened: Opener) -> None:
    journal = opened()

    def fail() -> None:
        with journal.batch():
            journal.put(ROW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert journal.pending() == []
    with journal.batch(), journal.batch():
        journal.put(ROW)
    assert waiting(journal) == [ROW]


async def test_synced_once_for_all_who_wait(opened: Opener) -> None:
    journal = opened()
    syncs = 0

    async def slow(_job: object) -> None:
        nonlocal syncs
        syncs += 1
        await trio.sleep(0.001)

    await journal.synced()
    journal.in_thread = slow
    async with trio.open_nursery() as nursery:
        for number in range(16):
            journal.remove([Removal(f"{number}", "")])
            nursery.start_soon(journal.synced)
    assert 1 <= syncs <= 2
    await journal.synced()
    assert syncs <= 2, "nothing has been written since"


async def test_synced_for_real(path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_CHECKPOINT_FROM", 64 << 10)
    journal = opened()
    for number in range(100):
        journal.put(replace(ROW, file=f"{number}"), b"x" * 8000)
        await journal.synced()
    assert path.with_name(path.name + "-wal").stat().st_size < 400 << 10, "it is used again"
    for number in range(100):
        journal.drop(f"{number}")
    await journal.synced()
    journal.put(ROW)
    await journal.synced()
    journal.close()
    assert waiting(opened()) == [ROW]


async def test_a_log_that_was_copied_is_not_copied_again_at_each_sync(
    path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays as long as it was, and is written over from its start."""
    monkeypatch.setattr(journal_module, "_CHECKPOINT_FROM", 256 << 10)
    journal = opened()
    for number in range(100):
        journal.put(replace(ROW, file=f"{number}"), b"x" * 8000)
        await journal.synced()
    assert path.with_name(path.name + "-wal").stat().st_size > 256 << 10
    copies = 0
    connect = sqlite3.connect

    def counted(*args: object, **how: object) -> sqlite3.Connection:
        nonlocal copies
        copies += 1
        return connect(*args, **how)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", counted)
    for number in range(20):
        journal.remove([Removal(f"{number}", "")])
        await journal.synced()
    assert copies <= 1


def test_a_file_goes_with_its_bytes_or_not_at_all(opened: Opener) -> None:
    """One commit for both tables, in the order of what else is written."""
    journal = opened()
    for number in range(2):
        journal.put(replace(ROW, file=f"{number}"), b"bytes")
    statements: list[str] = []
    journal._db.set_trace_callback(statements.append)
    journal.drop("0")
    assert statements.count("COMMIT") == 1
    with journal.batch():
        journal.drop("1")
    assert statements.count("COMMIT") == 2
    assert journal.pending() == []
    assert journal.data("0") is None


async def test_a_disk_that_does_not_sync_is_told_to_all(opened: Opener) -> None:
    journal = opened()

    async def refuse(_job: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(5, "Input/output error")

    journal.put(ROW)
    journal.in_thread = refuse
    for _ in range(2):
        with pytest.raises(FsError, match="cannot be written"):
            await journal.synced()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b""])
def test_a_damaged_journal_is_set_aside(path: Path, opened: Opener, content: bytes) -> None:
    for _ in range(2):
        path.write_bytes(content)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        journal = opened()
        assert journal.uploads() == []
        journal.begin("key", 0)
        journal.close()
        with closing(Journal(path)) as again:
            assert keys(again) == [("key", "")]
    if content:
        aside = [path.with_name(path.name + end) for end in (".damaged", ".damaged.1")]
        assert [part.read_bytes() for part in aside] == [content] * 2


def test_a_journal_of_another_format_is_set_aside(path: Path, opened: Opener) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    journal = opened()
    journal.begin("key", 0)
    assert path.with_name(path.name + ".damaged").exists()


def test_a_damaged_page_of_the_database_is_found(path: Path) -> None:
    with closing(Journal(path)) as journal:
        for number in range(100):
            journal.put(replace(ROW, file=f"{number}.pages"))
    content = bytearray(path.read_bytes())
    content[-4096:] = bytes(4096)
    path.write_bytes(content)
    with closing(Journal(path)) as journal:
        assert journal.lost
        assert journal.pending() == []
    assert path.with_name(path.name + ".damaged").read_bytes() == content
    with closing(Journal(path)) as journal:
        assert journal.lost, "until somebody has seen to it"
        journal.made_good()
    with closing(Journal(path)) as journal:
        assert not journal.lost


def test_what_cannot_be_opened_stays(path: Path) -> None:
    path.mkdir()
    with pytest.raises(FsError, match="is the disk full"):
        Journal(path)
    assert path.is_dir()


def test_a_disk_that_refuses_stops_nobody(
    path: Path, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    journal = opened()
    with closing(sqlite3.connect(path)) as other:
        other.execute("ALTER TABLE removals RENAME TO gone")
        other.execute("ALTER TABLE pending RENAME TO gone_too")
    journal.remove([Removal("x", "")])
    assert "cannot be written" in caplog.text
    with pytest.raises(FsError, match="cannot be written"):
        journal.put(ROW)
    with sqlite3.connect(path) as other:
        other.execute("ALTER TABLE gone RENAME TO removals")
    other.close()
    journal.remove([Removal("y", "")])
    assert [removal.key for removal in journal.removals()] == ["x", "y"], "nothing is forgotten"


class Full:
    """A connection to a database on a disk that has no room at times."""

    def __init__(self, db: sqlite3.Connection, *refused: str) -> None:
        self.db = db
        self.refused = refused

    def __getattr__(self, name: str) -> object:
        return getattr(self.db, name)

    def execute(self, statement: str, *values: object) -> object:
        if statement.startswith(self.refused):
            raise sqlite3.OperationalError("database or disk is full")
        return self.db.execute(statement, *values)


def test_a_batch_that_cannot_be_committed_stops_nobody(path: Path) -> None:
    with closing(Journal(path)) as journal:
        full = journal._db = Full(journal._db, "COMMIT")  # type: ignore[assignment]
        journal.remove([Removal("x", ""), Removal("y", "")])
        with pytest.raises(FsError, match="cannot be written"):
            journal.put(ROW)
        full.refused = ()
        journal.removed(["y"])
        assert [removal.key for removal in journal.removals()] == ["x"]
        assert journal.pending() == []


async def test_what_could_not_be_written_is_not_synced(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.put(ROW)
        await journal.synced()
        full = journal._db = Full(journal._db, "UPDATE pending")  # type: ignore[assignment]
        journal.change(replace(ROW, key="renamed"))
        for _ in range(2):
            with pytest.raises(FsError, match="cannot be written"):
                await journal.synced()
        full.refused = ()
        await journal.synced()
        assert [row.key for row in waiting(journal)] == ["renamed"]


def test_what_is_owed_is_written_at_the_end(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is room again, and nothing else to be written."""
    with closing(Journal(path)) as journal:
        journal.remove([Removal("x", "")])
        full = journal._db = Full(journal._db, "DELETE FROM removals")  # type: ignore[assignment]
        journal.removed(["x"])
        full.refused = ()
    with closing(Journal(path)) as journal:
        assert journal.removals() == []
        journal._db = Full(journal._db, "INSERT INTO uploads")  # type: ignore[assignment]
        journal.begin("a", 0)
        caplog.clear()
    assert "cannot be written" in caplog.text


def test_a_promise_is_not_undone_by_what_is_owed_from_before_it(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.put(ROW)
        full = journal._db = Full(journal._db, "DELETE FROM pending")  # type: ignore[assignment]
        journal.drop(ROW.file)
        with pytest.raises(FsError, match="cannot be written"):
            journal.put(ROW, b"0123456789")
        full.refused = ()
        journal.put(ROW, b"0123456789")
        journal.removed(["x"])
        assert waiting(journal) == [ROW]
        assert journal.data(ROW.file) == b"0123456789"


def test_an_upload_that_could_not_be_noted_is_not_taken_for_another(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.began(journal.begin("a", 0), "one")
        full = journal._db = Full(journal._db, "INSERT INTO uploads")  # type: ignore[assignment]
        number = journal.begin("b", 0)
        full.refused = ()
        journal.began(number, "two")
        assert keys(journal) == [("a", "one"), ("b", "two")]


extents = st.lists(st.tuples(st.integers(0, 9), st.integers(10, 99)), max_size=3).map(tuple)
texts = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)


@given(
    st.builds(
        PendingRow,
        file=st.text(),
        key=st.text(),
        since=st.floats(0, 1e10),
        size=st.integers(0),
        valid=extents,
        stored=st.integers(0),
        dirty=extents,
        limit=st.integers(0),
        new=st.booleans(),
        cut=st.booleans(),
        base=st.none() | st.tuples(st.text(), st.text(), st.integers(0)),
        if_match=st.text(),
        headers=st.builds(Headers, texts, st.text(), texts),
        attempts=st.lists(st.tuples(st.integers(0), texts), max_size=2).map(tuple),
        error=st.text(),
        more=st.just({"seals": [1, 2]}),
    )
)
def test_a_row_is_read_as_it_was_written(row: PendingRow) -> None:
    assert decode(row.file, row.key, row.error, *encode(row)) == row


@given(st.integers(0, 7), st.data())
def test_a_row_with_a_flipped_bit_is_known(bit: int, data: st.DataObject) -> None:
    state, seals, total = encode(ROW)
    columns = [ROW.key.encode(), state.encode(), seals]
    which = data.draw(st.integers(0, 2))
    at = data.draw(st.integers(0, len(columns[which]) - 1))
    flipped = bytearray(columns[which])
    flipped[at] ^= 1 << bit
    columns[which] = bytes(flipped)
    key, state, seals = (
        columns[0].decode(errors="replace"),
        columns[1].decode(errors="replace"),
        columns[2],
    )
    assert "damaged" in decode(ROW.file, key, "", state, seals, total).error
    assert "damaged" in decode(ROW.file, ROW.key, "", *encode(ROW)[:2], total ^ 1 << bit).error


def test_a_clock_that_has_gone_back(
    path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that has just been written is not taken for an older one than its page file knows."""
    pages = path.with_name(ROW.file)
    pages.write_bytes(bytes(10))
    monkeypatch.setattr(time, "time_ns", lambda: 2_000)
    first = Journal(path)
    first.put(ROW)
    first.close()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000)
    again = opened()
    again.put(ROW)
    assert orphans.keep(path.parent, again) == []
    assert pages.exists()
