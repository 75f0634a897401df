"""A prefix with placeholders: expanded once a mount, shown, unmounted and mounted again."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.harness.waiting import until
from tests.system.conftest import Place, run
from tests.system.test_command import daemon_of, one_line
from tests.system.test_mount8 import line_of


def test_a_folder_for_each_run(place: Place, tmp_path: Path) -> None:
    name, path = f"{place.bucket.name}:/runs/{{jobID}}/{{date}}/{{uuid}}", str(place.path)
    for number in range(2):
        done = place.run(name, path, "-o", place.options, BACALHAU_JOB_ID="j-1")
        assert (done.returncode, done.stderr) == (0, "")
        (place.path / "out").write_bytes(b"%d" % number)
        assert line_of(place.path)[0] == name
        status = json.loads(place.run("status", "--json", path).stdout)
        assert re.fullmatch(r"runs/j-1/\d{4}-\d\d-\d\d/[0-9a-f-]{36}/", status["prefix"])
        key = status["prefix"] + "out"
        mounted = f"mounted {place.bucket.name}:/{status['prefix'].rstrip('/')} at"
        assert mounted in (tmp_path / "log").read_text()
        assert place.run("umount", path).returncode == 0
        assert place.bucket.get(key) == b"%d" % number
    assert sum(key.endswith("/out") for key in place.bucket.keys("runs/j-1/")) == 2


@pytest.mark.parametrize(
    ("prefix", "environ", "words"),
    [
        ("{jobID}", {}, "{jobID}: BACALHAU_JOB_ID is not set"),
        ("{jobID}", {"BACALHAU_JOB_ID": "../x"}, "{jobID}: its value must not"),
        ("{jobId}", {}, "{jobId}: unknown placeholder; did you mean {jobID}?"),
    ],
)
def test_refused(place: Place, prefix: str, environ: dict[str, str], words: str) -> None:
    name = f"{place.bucket.name}:/{prefix}"
    done = place.run(name, str(place.path), "-o", place.options, **environ)
    assert done.returncode == 2
    assert words in one_line(done)
    assert not place.path.is_mount()


def test_what_a_killed_mount_left_in_its_folder(place: Place) -> None:
    """The next mount has another folder; recover knows the bucket's name only."""
    name, path = f"{place.bucket.name}:/runs/{{uuid}}", str(place.path)
    options = f"{place.options},writeback"
    assert place.run(name, path, "-o", options).returncode == 0
    key = json.loads(place.run("status", "--json", path).stdout)["prefix"] + "out"
    (place.path / "out").write_bytes(b"mine")
    os.kill(daemon_of(place.path), signal.SIGKILL)
    assert place.run("umount", "-l", path).returncode == 0
    done = place.run("recover", name, "--apply", "-o", options)
    assert (done.returncode, done.stderr) == (0, "")
    assert place.bucket.get(key) == b"mine"


@pytest.mark.usefixtures("helpers")
def test_fstab(place: Place, tmp_path: Path) -> None:
    fstab = tmp_path / "fstab"
    name = f"{place.bucket.name}:/runs/{{hostname}}/{{time}}"
    fstab.write_text(f"{name} {place.path} bucketfs {place.options} 0 0\n")
    for _ in range(2):  # the second time it is there already, whatever the time is
        done = run(["mount", "-a", "-T", str(fstab)])
        assert (done.returncode, done.stderr) == (0, "")
    (place.path / "out").write_bytes(b"mine")
    assert run(["umount", str(place.path)]).returncode == 0
    log = tmp_path / "log"
    until(lambda: "unmounted" in log.read_text(), "the last line of the log")
    (key,) = (key for key in place.bucket.keys("runs/") if key.endswith("out"))
    assert re.fullmatch(rf"runs/{re.escape(os.uname().nodename)}/\d{{6}}/out", key)
