"""The units are what systemd takes them for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"

#: Not about our units: a machine without a manual page, or with units of its own that are wrong.
IGNORED = ("man ",)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", ["bucketfs@.service", "mnt-bucket.mount", "mnt-bucket.automount"])
def test_systemd_accepts(name: str, tmp_path: Path) -> None:
    program = tmp_path / "bucketfs"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("@BINDIR@", str(tmp_path))
        (tmp_path / unit.name).write_text(text)
    instance = name.replace("@", "@x")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / instance)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    said = [line for line in done.stderr.splitlines() if not any(word in line for word in IGNORED)]
    assert said == []
