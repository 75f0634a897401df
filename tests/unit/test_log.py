"""Log lines: levels, formats, and no secret in any of them."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bucketfs import log as logs
from bucketfs.errors import NoAnswer, StoreError
from bucketfs.options import Options
from bucketfs.repeats import OncePerOutage

SECRET = "hush-hush-secret"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Leave the logging of the test run as it was."""
    root, own = logging.getLogger(), logging.getLogger("bucketfs")
    handlers, level, own_level = root.handlers[:], root.level, own.level
    for handler in handlers:
        root.removeHandler(handler)
    yield
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    own.setLevel(own_level)
    logging.captureWarnings(capture=False)


def options(path: Path, **more: object) -> Options:
    return Options(bucket="b", mountpoint="/m", logfile=str(path), **more)  # type: ignore[arg-type]


def boom() -> None:
    raise RuntimeError(f"key is {SECRET}")


@pytest.mark.parametrize("form", ["plain", "json"])
def test_secrets_are_blotted_out_of_lines_and_tracebacks(tmp_path: Path, form: str) -> None:
    path = tmp_path / "log"
    logs.setup(options(path, log_format=form))
    logs.protect(SECRET, None, "")
    log = logging.getLogger("bucketfs.test")
    log.warning("with %s inside", SECRET)
    try:
        boom()
    except RuntimeError:
        log.exception("failed")
    text = path.read_text()
    assert "with *** inside" in text
    assert "Traceback" in text
    assert SECRET not in text


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(options(path, log_format="json", instance_name="mine"))
    logging.getLogger("bucketfs.test").warning("two\nlines")
    (line,) = path.read_text().splitlines()
    entry = json.loads(line)
    assert entry["message"] == "two\nlines"
    assert entry["ident"] == "bucketfs[mine]"


@pytest.mark.parametrize("form", ["plain", "json"])
def test_lines_for_the_journal_of_systemd(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their priority stands first, on each line; what the journal knows itself is left out."""
    with (tmp_path / "journal").open("w+") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        logs.setup(Options(bucket="b", mountpoint="/m", foreground=True, log_format=form))
        logs.protect(SECRET)
        log = logging.getLogger("bucketfs.test")
        log.warning("%s\nlines", SECRET)
        log.info("more")
        text = (tmp_path / "journal").read_text()
    if form == "plain":
        assert text == "<4>***\\nlines\n<6>more\n"
    else:
        assert [line[:4] for line in text.splitlines()] == ["<4>{", "<6>{"]


def test_plain_lines_without_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(options(path, no_time_stamp_msg=True))
    logging.getLogger("bucketfs.test").error("text")
    assert path.read_text() == "bucketfs[b] ERROR: text\n"


def test_no_name_can_forge_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(options(path, no_time_stamp_msg=True))
    logging.getLogger("bucketfs.test").error("%s is lost", "a\nbucketfs[b] ERROR: \x1b[2J\u2028\tb")
    assert (
        path.read_text() == "bucketfs[b] ERROR: a\\nbucketfs[b] ERROR: \\x1b[2J\\u2028\tb is lost\n"
    )


def test_a_moved_file_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(options(path))
    path.rename(tmp_path / "log.1")
    logs.reopen()
    assert path.exists()


@pytest.mark.parametrize(
    ("more", "level"),
    [
        ({}, logging.WARNING),
        ({"foreground": True}, logging.INFO),
        ({"foreground": True, "dbglevel": "error"}, logging.ERROR),
        ({"dbglevel": "critical"}, logging.CRITICAL),
        ({"debug": True, "dbglevel": "critical"}, logging.DEBUG),
    ],
)
def test_levels(tmp_path: Path, more: dict[str, object], level: int) -> None:
    assert logs.level_of(options(tmp_path, **more)) == level


class TestOwner:
    """In a directory where others can write, only a file of this user's is written."""

    def test_a_new_file_is_private(self, tmp_path: Path) -> None:
        old = os.umask(0)
        try:
            logs.setup(options(tmp_path / "log"))
        finally:
            os.umask(old)
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
    def test_what_others_may_have_put_there(self, tmp_path: Path, kind: str) -> None:
        tmp_path.chmod(0o1777)
        path, target = tmp_path / "log", tmp_path / "target"
        target.write_text("precious")
        if kind == "link":
            path.symlink_to(target)
        elif kind == "second name":
            os.link(target, path)
        else:
            os.mkfifo(path)
        with pytest.raises(OSError, match=r"link|special"):
            logs.setup(options(path))
        assert target.read_text() == "precious"

    @pytest.mark.needs_root("changes the owner")
    def test_a_file_of_another_user(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o1777)
        (tmp_path / "log").write_text("")
        os.chown(tmp_path / "log", 4711, 4711)
        with pytest.raises(OSError, match="belongs to user"):
            logs.setup(options(tmp_path / "log"))

    def test_opened_anew_in_the_same_way(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o1777)
        path, target = tmp_path / "log", tmp_path / "target"
        logs.setup(options(path))
        path.rename(tmp_path / "old")
        path.symlink_to(target)
        logging.getLogger("bucketfs.test").warning("one")
        logs.reopen()
        assert not target.exists()
        path.unlink()
        logging.getLogger("bucketfs.test").warning("two")
        assert "two" in path.read_text()

    def test_a_link_that_only_we_could_have_made(self, tmp_path: Path) -> None:
        (tmp_path / "log").symlink_to("elsewhere")
        logs.setup(options(tmp_path / "log"))
        logging.getLogger("bucketfs.test").warning("one")
        assert "one" in (tmp_path / "elsewhere").read_text()


class TestRepeats:
    """The same line in a row is written once, and then the number of the others."""

    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        clock = [1000.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        return clock

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        logs.setup(options(tmp_path / "log", no_time_stamp_msg=True))
        return tmp_path / "log"

    def lines(self, path: Path) -> list[str]:
        return [line.removeprefix("bucketfs[b] ") for line in path.read_text().splitlines()]

    @pytest.mark.usefixtures("now")
    def test_told_when_another_line_comes(self, path: Path) -> None:
        log = logging.getLogger("bucketfs.test")
        for number in range(18):
            log.warning("same %s", "text")
            assert len(self.lines(path)) == 1, number
        log.warning("another")
        assert self.lines(path) == [
            "WARNING: same text", "WARNING: … repeated 17 times: same text", "WARNING: another",
        ]  # fmt: skip

    @pytest.mark.usefixtures("now")
    def test_a_single_one_is_written_as_it_is(self, path: Path) -> None:
        log = logging.getLogger("bucketfs.test")
        for text in ("same", "same", "another"):
            log.error(text)
        assert self.lines(path) == ["ERROR: same", "ERROR: same", "ERROR: another"]

    @pytest.mark.usefixtures("now")
    def test_other_level_logger_or_error_is_another_line(self, path: Path) -> None:
        for name, level in (("a", 30), ("a", 40), ("b", 40)):
            logging.getLogger(f"bucketfs.{name}").log(level, "same")
        for error in (OSError(1, "x"), OSError(2, "x")):
            logging.getLogger("bucketfs.b").error("same", exc_info=error)
        assert len(self.lines(path)) == 7  # two of them of an exception
        assert "repeated" not in path.read_text()

    def test_told_at_the_end_of_the_window(self, path: Path, now: list[float]) -> None:
        log = logging.getLogger("bucketfs.test")
        for _ in range(5):
            log.warning("same")
        now[0] += 29
        logs.tell_waiting()
        assert self.lines(path) == ["WARNING: same"]
        now[0] += 1
        logs.tell_waiting()
        logs.tell_waiting()
        assert self.lines(path) == ["WARNING: same", "WARNING: … repeated 4 times: same"]
        log.warning("same")
        assert self.lines(path)[2:] == ["WARNING: same"]

    def test_a_line_that_comes_slowly_is_never_held_back(
        self, path: Path, now: list[float]
    ) -> None:
        for _ in range(3):
            logging.getLogger("bucketfs.test").warning("same")
            now[0] += 30
        assert self.lines(path) == ["WARNING: same"] * 3

    @pytest.mark.parametrize("end", [logs.flush, logging.shutdown])
    @pytest.mark.usefixtures("now")
    def test_nothing_is_lost_at_the_end(self, path: Path, end: Callable[[], None]) -> None:
        for _ in range(4):
            logging.getLogger("bucketfs.test").warning("same")
        end()
        end()
        assert self.lines(path) == ["WARNING: same", "WARNING: … repeated 3 times: same"]

    @pytest.mark.usefixtures("now")
    def test_secrets_and_json(self, tmp_path: Path) -> None:
        logs.setup(options(tmp_path / "log", log_format="json"))
        logs.protect(SECRET)
        for _ in range(3):
            logging.getLogger("bucketfs.test").warning("with %s", SECRET)
        logs.flush()
        entries = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        assert [entry["message"] for entry in entries] == [
            "with ***", "… repeated 2 times: with ***",
        ]  # fmt: skip


def silent(since: float | None) -> NoAnswer:
    error = NoAnswer("ReadTimeout")
    error.silent_since = since
    return error


def test_one_line_for_each_kind_of_failure_in_an_outage() -> None:
    outages = OncePerOutage()
    levels = [
        outages.level(kind, error, logging.ERROR)
        for kind, error in (
            ("read", silent(1.0)), ("read", silent(1.0)), ("lookup", silent(1.0)),
            ("read", silent(2.0)), ("read", silent(None)), ("read", silent(None)),
            ("read", StoreError("AccessDenied")), ("read", StoreError("AccessDenied")),
        )
    ]  # fmt: skip
    told = logging.ERROR
    assert levels == [told, logging.DEBUG, told, told, told, told, told, told]
