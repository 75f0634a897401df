"""Log lines: levels, formats, and no secret in any of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketfs import log as logs
from bucketfs.options import Options

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


def test_plain_lines_without_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.setup(options(path, no_time_stamp_msg=True))
    logging.getLogger("bucketfs.test").error("text")
    assert path.read_text() == "bucketfs[b] ERROR: text\n"


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
