"""The units are what systemd takes them for."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"

#: Not about our units: a machine without a manual page, or with units of its own that are wrong.
IGNORED = ("man ",)


def place(unit: Path, directory: Path) -> Path:
    """A unit as it is installed, with a program of that name beside it."""
    program = directory / "bucketfs"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    installed = directory / unit.name
    installed.write_text(unit.read_text().replace("@BINDIR@", str(directory)))
    return installed


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize(
    "name",
    ["bucketfs@.service", "mnt-bucket.mount", "mnt-bucket.automount", "user/bucketfs@.service"],
)
def test_systemd_accepts(name: str, tmp_path: Path) -> None:
    for unit in (UNITS / name).parent.glob("*.*"):
        place(unit, tmp_path)
    instance = Path(name).name.replace("@", "@x")
    manager = ["--user"] if name.startswith("user/") else []
    done = subprocess.run(
        ["systemd-analyze", *manager, "verify", str(tmp_path / instance)],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    said = [line for line in done.stderr.splitlines() if not any(word in line for word in IGNORED)]
    assert said == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_calls_the_service_no_worse_than_ok(tmp_path: Path) -> None:
    """Its measure is in tenths of points here; below 50 it says OK."""
    unit = place(UNITS / "bucketfs@.service", tmp_path)
    unit = unit.rename(tmp_path / "bucketfs@x.service")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=50", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def test_others_get_through_to_the_mount_point(tmp_path: Path) -> None:
    """``allow_other`` is of no use below directories that only root may enter."""
    unit = (UNITS / "bucketfs@.service").read_text()
    (line,) = re.findall(r"^ExecStartPre=-(.*)$", unit, re.MULTILINE)
    (mask,) = re.findall(r"^UMask=(.*)$", unit, re.MULTILINE)
    path = tmp_path / "parent" / "with a blank"
    words = [word.replace("${MOUNTPOINT}", str(path)) for word in shlex.split(line)]
    words = [word.replace("$$", "$") for word in words]
    subprocess.run(words, umask=int(mask, 8), check=True)
    assert path.is_dir()
    assert path.parent.stat().st_mode & 0o777 == 0o755
