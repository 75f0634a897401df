"""``-o restart``: a process that keeps the mount, and ``bucketfs restart``."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketfs.cli.socket import client
from tests.harness.endpoint import REPOSITORY
from tests.harness.posix import refused
from tests.harness.program import Program
from tests.harness.waiting import until
from tests.system.conftest import Place

MIB = 1 << 20


@pytest.fixture
def program() -> Iterator[Program]:
    with Program() as program:
        yield program


def daemons(place: Place) -> list[int]:
    """The processes that serve the place, whose mount stands; none is started for asking."""
    found = []
    for daemon in client.daemons([os.getuid()]):
        stands = daemon.device != "0:0" and not daemon.draining
        if daemon.mountpoint == str(place.path) and stands:
            with client.ask(daemon, "hello") as talk:
                found.append(talk.pid)
    return found


def daemon_of(place: Place, but: int = 0) -> int:
    """The one that serves it, as soon as it is another than `but`."""
    found: list[int] = []

    def is_there() -> bool:
        found[:] = daemons(place)
        return bool(found) and found != [but]

    until(is_there, "a daemon", timeout=60)
    return found[0]


def status_of(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(place.run("status", "--json", str(place.path)).stdout)
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_reader_and_a_writer(place: Place, program: Program) -> None:
    data = os.urandom(24 * MIB)
    place.bucket.put("big", data)
    assert place.mount("restart").returncode == 0
    first = daemon_of(place)
    keeper = parent_of(first)
    assert Path(f"/proc/{keeper}/comm").read_text() == "bucketfs-keeper\n"
    program("big = open(top + '/big', 'rb', buffering=0)", top=str(place.path))
    program("log = open(top + '/log', 'ab', buffering=0); log.write(b'a' * MIB)", MIB=MIB)
    assert program("os.pread(big.fileno(), MIB, 0)") == data[:MIB]
    done = place.run("restart", str(place.path))
    assert done.returncode == 0, done.stderr
    second = daemon_of(place, but=first)
    assert program("os.pread(big.fileno(), MIB, 5 * MIB)") == data[5 * MIB : 6 * MIB]
    program("log.write(b'b' * MIB); os.fsync(log.fileno())")
    os.kill(second, signal.SIGKILL)
    program("log.write(b'c')")
    assert program("os.pread(big.fileno(), 30 * MIB, 0)") == data
    third = daemon_of(place, but=second)
    assert {parent_of(third), parent_of(keeper)} == {keeper, 1}
    program("log.close(); big.close()")
    assert place.bucket.get("log") == b"a" * MIB + b"b" * MIB + b"c"
    assert place.run("umount", str(place.path)).returncode == 0
    until(lambda: is_gone(third) and is_gone(keeper), "the end of both processes")


def test_the_keeper_is_small(place: Place) -> None:
    assert place.mount("restart").returncode == 0
    keeper = parent_of(daemon_of(place))
    memory = Path(f"/proc/{keeper}/smaps_rollup").read_text()
    private = [line for line in memory.splitlines() if line.startswith("Private_Dirty:")]
    assert int(private[0].split()[1]) < 8 << 10
    assert place.run("umount", str(place.path)).returncode == 0


def test_without_its_keeper_a_daemon_goes_on(place: Place) -> None:
    """And the mount ends with it, as any other."""
    assert place.mount("restart").returncode == 0
    daemon = daemon_of(place)
    keeper = parent_of(daemon)
    os.kill(keeper, signal.SIGKILL)
    until(lambda: is_gone(keeper), "its end")
    (place.path / "f").write_text("x")
    done = place.run("restart", str(place.path))
    assert done.returncode == 1
    assert "keeps the mount has been ended" in done.stderr
    os.kill(daemon, signal.SIGUSR1)
    os.kill(daemon, signal.SIGTERM)
    until(lambda: is_gone(daemon), "its end")
    assert not place.path.is_mount()
    assert place.bucket.get("f") == b"x"


def test_signals_are_handed_on(place: Place, tmp_path: Path) -> None:
    assert place.mount("restart").returncode == 0
    daemon = daemon_of(place)
    keeper = parent_of(daemon)
    # as systemd ends what a mount unit has left: both are told
    os.kill(daemon, signal.SIGTERM)
    os.kill(keeper, signal.SIGTERM)
    until(lambda: is_gone(daemon) and is_gone(keeper), "the end of both")
    assert not place.path.is_mount()
    assert "SIGTERM again" not in (tmp_path / "log").read_text()


def test_what_another_start_does_not_mend(place: Place) -> None:
    """The keeper gives up at once; programs fail, and do not write into the directory below."""
    assert place.mount("restart").returncode == 0
    daemon = daemon_of(place)
    keeper = parent_of(daemon)
    place.passwd.unlink()
    os.kill(daemon, signal.SIGKILL)
    until(lambda: is_gone(keeper), "the keeper's end", timeout=60)
    with refused(errno.ENOTCONN):
        (place.path / "f").write_text("x")
    assert place.run("umount", "-l", str(place.path)).returncode == 0
    assert os.listdir(place.path) == []


def test_it_fails_as_any_mount(place: Place) -> None:
    place.passwd.write_text("nonsense\n")
    done = place.mount("restart")
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert not place.path.is_mount()
    for other in ("versions", "follow", "locks=bucket", "plain_fuse", "auto_unmount"):
        done = place.mount("restart", other)
        assert done.returncode == 2
        assert "restart: no other daemon" in done.stderr
        assert other in done.stderr


def test_in_the_foreground(place: Place, tmp_path: Path) -> None:
    """The process that was started is the keeper, as a container's first."""
    words = [place.bucket.name, str(place.path), "-f", "-o", f"{place.options},restart"]
    environ = {name: text for name, text in os.environ.items() if name != "NOTIFY_SOCKET"}
    with subprocess.Popen(
        [sys.executable, "-m", "bucketfs", *words],
        cwd=REPOSITORY,
        env=environ,
        process_group=0,
    ) as process:
        first = daemon_of(place)
        assert parent_of(first) == process.pid
        os.kill(first, signal.SIGKILL)
        daemon_of(place, but=first)
        (place.path / "f").write_text("x")
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        assert process.wait(60) == 0
    assert "SIGINT again" not in (tmp_path / "log").read_text()
    assert not place.path.is_mount()
    assert place.bucket.get("f") == b"x"


def test_nobody_would_start_it_again(place: Place) -> None:
    assert place.mount().returncode == 0
    done = place.run("restart", str(place.path))
    assert done.returncode == 1
    assert "mount with -o restart" in done.stderr
    assert place.run("umount", str(place.path)).returncode == 0


def test_an_unmount_between_two_daemons(place: Place) -> None:
    """Nothing is mounted again where somebody has just unmounted."""
    assert place.mount("restart").returncode == 0
    daemon = daemon_of(place)
    keeper = parent_of(daemon)
    os.kill(keeper, signal.SIGSTOP)
    os.kill(daemon, signal.SIGKILL)
    until(lambda: "State:\tZ" in Path(f"/proc/{daemon}/status").read_text(), "its end")
    os.kill(keeper, signal.SIGCONT)
    until(lambda: children_of(keeper) - {daemon}, "the next daemon")
    (following,) = children_of(keeper) - {daemon}
    os.kill(following, signal.SIGSTOP)
    subprocess.run(["fusermount3", "-u", str(place.path)], check=True)
    os.kill(following, signal.SIGCONT)
    until(lambda: is_gone(following) and is_gone(keeper), "the end of both processes")
    assert not place.path.is_mount()


def test_placeholders_are_expanded_once(place: Place) -> None:
    """All daemons of a mount have the same folder, whenever they begin."""
    source = f"{place.bucket.name}:/runs/{{time}}/{{uuid}}"
    options = f"{place.options},restart"
    assert place.run(source, str(place.path), "-o", options).returncode == 0
    (place.path / "a").write_text("a")
    first = daemon_of(place)
    done = place.run("restart", str(place.path))
    assert done.returncode == 0, done.stderr
    second = daemon_of(place, but=first)
    (place.path / "b").write_text("b")
    os.kill(second, signal.SIGKILL)
    daemon_of(place, but=second)
    assert sorted(os.listdir(place.path)) == ["a", "b"]
    keys = place.bucket.keys()
    assert len({key.rpartition("/")[0] for key in keys}) == 1
    assert place.run("umount", str(place.path)).returncode == 0


@pytest.mark.needs("versions")
def test_a_moment_that_long_ago_stays_the_same(place: Place) -> None:
    place.bucket.versioning()
    assert place.mount("restart", "at=1h ago").returncode == 0
    first = daemon_of(place)
    then, second = status_of(place)["at"], int(time.time())
    until(lambda: int(time.time()) > second, "another second")
    assert place.run("restart", str(place.path)).returncode == 0
    daemon_of(place, but=first)
    assert status_of(place)["at"] == then
    assert place.run("umount", str(place.path)).returncode == 0
