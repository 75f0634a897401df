"""Mounts that are handed over through a Unix socket, to a bucketfs that has no right to mount."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bucketfs.cli.failure import ExitCode
from bucketfs.errors import MountRefused
from bucketfs.fuse import handed
from bucketfs.option_row import Handover
from tests.harness.endpoint import REPOSITORY
from tests.harness.mounts import WITHOUT_RIGHTS, Mount, Mounts
from tests.harness.waiting import until
from tests.harness.witness import Witness

#: What drivers send beside the descriptor, and how long their paths are.
MESSAGES = {
    "gcsfuse": {"bucketName": "another", "options": ["implicit-dirs"]},
    "meta-fuse": {"volumeName": "pvc-1"},
    "mountpoint": {"bucketName": "another", "args": ["--read-only"], "env": ["A=B"]},
}


def mounted_by_root(path: Path) -> int:
    """Open /dev/fuse and mount it by mount(2), as a driver does; the descriptor."""
    number = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    data = f"fd={number},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.mount(b"bucket", os.fsencode(path), b"fuse.bucketfs", 0, data.encode())
    assert not failed, os.strerror(ctypes.get_errno())
    return number


class Pod:
    """A bucketfs without rights, which is told the socket alone."""

    def __init__(self, made: Mount, shared: Path) -> None:
        self.made = made
        self.shared = shared
        self.socket = shared / "s"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, scheme: str) -> None:
        source, _, *rest = self.made.command()[3:]
        rest[-1] += f",fuse_fd={scheme}:{self.socket}"
        words = [*WITHOUT_RIGHTS, sys.executable, "-m", "bucketfs", source, *rest]
        with self.made.log.open("ab") as log:
            self.process = subprocess.Popen(words, cwd=REPOSITORY, stdout=log, stderr=log)

    def stop(self) -> None:
        subprocess.run(["umount", "-l", str(self.made.path)], check=False, capture_output=True)
        if self.process is not None:
            assert self.process.wait(20) == 0, self.made.tail()


@pytest.fixture
def pod(mount: Mounts, bucket: Witness) -> Iterator[Pod]:
    made = mount(bucket, start=False)
    made.path.mkdir()
    # the path of a volume in a pod is longer than the address of a socket may be
    shared = made.scratch / ("volumes-" + "x" * 90)
    shared.mkdir()
    found = Pod(made, shared)
    yield found
    found.stop()
    shutil.rmtree(shared)


def connect(pod: Pod) -> socket.socket:
    """As Mountpoint's driver, which tries until the pod listens."""
    connection = socket.socket(socket.AF_UNIX)
    folder = os.open(pod.shared, os.O_PATH)
    address = f"/proc/self/fd/{folder}/s"

    def connected() -> bool:
        return connection.connect_ex(address) == 0

    until(connected, "the pod's socket")
    os.close(folder)
    return connection


def listen(pod: Pod) -> socket.socket:
    """As the drivers of gcsfuse and meta-fuse-csi-plugin, before their pods start."""
    listener = socket.socket(socket.AF_UNIX)
    folder = os.open(pod.shared, os.O_PATH)
    listener.bind(f"/proc/self/fd/{folder}/s")
    os.close(folder)
    listener.listen()
    listener.settimeout(20)
    return listener


def accepted(pod: Pod) -> socket.socket:
    with listen(pod) as listener:
        pod.start("unix")
        return listener.accept()[0]


def called(pod: Pod) -> socket.socket:
    pod.start("unix-listen")
    return connect(pod)


def hand_over(pod: Pod, connection: socket.socket, message: object) -> None:
    number = mounted_by_root(pod.made.path)
    with connection:
        socket.send_fds(connection, [json.dumps(message).encode()], [number])
    os.close(number)


@pytest.mark.needs_root("mounts, for a process without rights")
@pytest.mark.parametrize(
    ("driver", "begin"),
    [("gcsfuse", accepted), ("meta-fuse", accepted), ("mountpoint", called)],
)
def test_who_has_no_rights_serves_what_root_has_mounted(
    pod: Pod, bucket: Witness, driver: str, begin: Callable[[Pod], socket.socket]
) -> None:
    hand_over(pod, begin(pod), MESSAGES[driver])
    (pod.made.path / "d").mkdir()
    (pod.made.path / "d/f").write_text("x")
    assert bucket.get("d/f") == b"x"
    assert (pod.made.path / "d/f").read_text() == "x"
    assert pod.process is not None
    status = Path(f"/proc/{pod.process.pid}/status").read_text()
    assert "\nCapEff:\t0000000000000000\n" in status


@pytest.mark.needs_root("mounts, for a process without rights")
def test_the_socket_of_a_try_that_failed_is_no_obstacle(pod: Pod) -> None:
    listen(pod).close()
    hand_over(pod, called(pod), {})
    assert os.listdir(pod.made.path) == []
    assert not pod.socket.exists()


def refusal(handover: Handover, patience: float = 5.0) -> MountRefused:
    with pytest.raises(MountRefused) as found:
        handed.receive(handover, patience=patience)
    return found.value


def test_nobody_listens(tmp_path: Path) -> None:
    error = refusal(Handover(str(tmp_path / "s"), listens=False))
    assert error.errno == errno.ENOENT
    assert "write unix-listen:PATH" in error.why


def test_nobody_connects(tmp_path: Path) -> None:
    error = refusal(Handover(str(tmp_path / "s"), listens=True), 0.05)
    assert error.errno == errno.ETIMEDOUT
    assert "nobody has connected" in error.why
    assert os.listdir(tmp_path) == []


def test_somebody_listens_already(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        error = refusal(Handover(str(tmp_path / "s"), listens=True))
    assert error.errno == errno.EADDRINUSE
    assert "write unix:PATH" in error.why


@pytest.mark.parametrize("number", [0, 2])
def test_other_than_one_descriptor(tmp_path: Path, number: int) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        sender = os.fork()
        if sender == 0:
            connection, _ = listener.accept()
            socket.send_fds(connection, [b"{}"], [0] * number)
            os._exit(0)
        error = refusal(Handover(str(tmp_path / "s"), listens=False))
        os.waitpid(sender, 0)
    assert error.errno == errno.EPROTO
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_folder_that_is_missing() -> None:
    assert "/nowhere: No such file" in refusal(Handover("/nowhere/s", listens=True)).why


@pytest.mark.needs_root("only root can give up rights")
def test_a_descriptor_that_is_no_mount_is_refused_by_the_program(pod: Pod) -> None:
    connection = called(pod)
    with connection, open("/dev/null", "rb") as null:
        socket.send_fds(connection, [b"{}"], [null.fileno()])
    assert pod.process is not None
    assert pod.process.wait(20) == ExitCode.MOUNTPOINT
    assert "is not /dev/fuse" in pod.made.tail()
    pod.process = None
