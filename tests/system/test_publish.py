"""`-o publish=unmount` as a job's script uses it: write, flush perhaps, unmount."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.system.conftest import Place
from tests.system.test_command import daemon_of, one_line


def files(place: Place) -> list[str]:
    return [key for key in place.bucket.keys() if not key.endswith("/")]  # noqa: SIM118 - a method


def test_umount_publishes_the_folder(place: Place) -> None:
    name, path = f"{place.bucket.name}:/runs/{{uuid}}", str(place.path)
    assert place.run(name, path, "-o", f"{place.options},publish=unmount").returncode == 0
    (place.path / "sub").mkdir()
    for number in range(20):
        (place.path / "sub" / f"f{number}").write_bytes(b"%d" % number)
    assert files(place) == []
    status = json.loads(place.run("status", "--json", path).stdout)
    assert (status["waiting"]["files"], status["failed"]) == (20, [])
    done = place.run("umount", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(place) == sorted(f"{status['prefix']}sub/f{number}" for number in range(20))


def test_flush_publishes_what_is_there(place: Place) -> None:
    assert place.mount("publish=unmount").returncode == 0
    (place.path / "d").mkdir()
    for name in ("a", "d/b"):
        (place.path / name).write_bytes(b"first")
    assert place.run("flush", str(place.path / "d")).returncode == 0
    assert files(place) == ["d/b"]
    assert place.run("flush", str(place.path)).returncode == 0
    assert files(place) == ["a", "d/b"]
    (place.path / "a").write_bytes(b"second")
    assert place.bucket.get("a") == b"first"
    assert place.run("umount", str(place.path)).returncode == 0
    assert place.bucket.get("a") == b"second"


def test_recover_publishes_what_a_killed_job_left(place: Place) -> None:
    assert place.mount("publish=unmount").returncode == 0
    (place.path / "a").write_bytes(b"mine")
    os.kill(daemon_of(place.path), signal.SIGKILL)
    assert place.run("umount", "-l", str(place.path)).returncode == 0
    done = place.run(
        "recover", place.bucket.name, "--apply", "-o", f"{place.options},publish=unmount"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert place.bucket.get("a") == b"mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("publish=later", "publish=later: must be one of close, unmount"),
        ("publish=unmount,exclusive_create=open", "exclude each other"),
    ],
)
def test_wrong(place: Place, words: str, said: str) -> None:
    done = place.mount(words)
    assert done.returncode == 2
    assert said in one_line(done)
