"""`.ci/check-fuse`: what is wrong with fusermount3 is said before anything is built."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci/check-fuse"

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="/dev/fuse is missing or closed"
)


def program(directory: Path, name: str, script: str = "", mode: int = 0o755) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(mode)


def check(programs: Path) -> tuple[int, str]:
    """Its exit code and its words, for an ordinary user who has these programs."""
    program(programs, "id", 'case "$1" in -un) echo ann ;; *) echo 1000 ;; esac')
    done = subprocess.run(
        ["/bin/sh", SCRIPT],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_all_is_well(tmp_path: Path) -> None:
    program(tmp_path, "fusermount3", mode=0o4755)
    assert check(tmp_path) == (0, "")


def test_it_does_not_run_as_root(tmp_path: Path) -> None:
    program(tmp_path, "fusermount3")
    code, words = check(tmp_path)
    assert code == 1
    assert f"so ann cannot mount. Run: sudo chmod u+s {tmp_path}/fusermount3" in words


def test_it_is_missing(tmp_path: Path) -> None:
    code, words = check(tmp_path)
    assert code == 1
    assert "There is no fusermount3. Install the package fuse3." in words
    program(tmp_path, "dpkg-query")
    assert check(tmp_path) == (0, ""), "setup installs it"
