"""The units are what systemd takes them for."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
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


#: Says which of two signals it gets first.
LISTENS = """
import signal
both = {signal.SIGUSR1, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, both)
print("ready", flush=True)
print(signal.Signals(signal.sigwait(both)).name)
"""


@pytest.mark.parametrize("unit", ["bucketfs@.service", "user/bucketfs@.service"])
@pytest.mark.parametrize(
    ("job", "told"),
    [
        (r"7 bucketfs@a\x2db.service restart running", "SIGUSR1"),
        (r"7 bucketfs@a\x2db.service stop running", "SIGTERM"),
        ("7 bucketfs@other.service restart running", "SIGTERM"),
        ("", "SIGTERM"),
    ],
)
def test_the_process_is_told_of_a_restart(unit: str, job: str, told: str, tmp_path: Path) -> None:
    (line,) = re.findall(r"^ExecStop=-(.*)$", (UNITS / unit).read_text(), re.MULTILINE)
    manager = tmp_path / "systemctl"
    manager.write_text(f"#!/bin/sh\necho '{job}'\n")
    manager.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-c", LISTENS], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        values = {"%n": r"bucketfs@a\x2db.service", "$MAINPID": str(process.pid)}
        words = [values.get(word, word).replace("$$", "$") for word in shlex.split(line)]
        subprocess.run(words, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False)
        process.terminate()
        assert process.stdout.read() == f"{told}\n"


def test_nothing_looks_at_the_mount_point_before_the_process() -> None:
    """Nobody would answer. mkdir(1) with -p does, without it does not."""
    for unit in ("bucketfs@.service", "user/bucketfs@.service"):
        (line,) = re.findall(r"^ExecStartPre=-(.*)$", (UNITS / unit).read_text(), re.MULTILINE)
        assert 'mkdir -p "$$(dirname "$$0")"; mkdir "$$0"' in line


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
