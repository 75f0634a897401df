"""How a mount begins and ends: by bucketfs, by libfuse alone, or by somebody who hands it over."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bucketfs.cli.failure import ExitCode
from bucketfs.fuse import descriptor, device
from tests.harness.endpoint import REPOSITORY
from tests.harness.mounts import SHARED, Mount, Mounts, mounted_for_others
from tests.harness.posix import refused
from tests.harness.waiting import until
from tests.harness.witness import Witness

#: A helper whose descriptor is of another file.
SENDS_NULL = """exec {python} -c '
import os, socket
there = socket.socket(fileno=int(os.environ["_FUSE_COMMFD"]))
socket.send_fds(there, [b"x"], [os.open(os.devnull, os.O_RDWR)])'"""


@pytest.fixture
def handed(mount: Mounts, bucket: Witness) -> Iterator[Mount]:
    """A mount that was made for bucketfs, which is not started yet."""
    made = mount(bucket, start=False)
    made.handed = mounted_for_others(made.path)
    yield made
    os.close(made.handed)


def options_of(path: Path) -> str:
    """What the kernel says of a mount behind its number and place."""
    (line,) = (
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if line.split()[4] == str(path)
    )
    return line.split(" ", 5)[5]


@pytest.mark.parametrize("options", [(), ("nosuid", "noexec", "ro", *SHARED)])
def test_the_kernel_gets_the_same_options_from_bucketfs_as_from_libfuse(
    mount: Mounts, bucket: Witness, options: tuple[str, ...]
) -> None:
    ours, plain = mount(bucket, *options), mount(bucket, *options, "plain_fuse")
    assert options_of(ours.path) == options_of(plain.path)


@pytest.mark.parametrize("options", [(), ("plain_fuse",), ("auto_unmount",)])
def test_a_signal_unmounts(mount: Mounts, bucket: Witness, options: tuple[str, ...]) -> None:
    here = mount(bucket, *options)
    (here.path / "f").write_text("x")
    here.signal(signal.SIGTERM)
    assert here.wait() == 0
    assert not here.path.is_mount()
    assert bucket.get("f") == b"x"


def test_a_signal_unmounts_what_is_in_use(mount: Mounts, bucket: Witness) -> None:
    here = mount(bucket)
    with closing(os.scandir(here.path)):
        here.signal(signal.SIGTERM)
        assert here.wait() == 0
        assert not here.path.is_mount()


@pytest.mark.needs_root("libfuse needs the helper for others, too")
@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        SENDS_NULL,
    ],
    ids=["refuses", "hands over something else"],
)
def test_libfuse_mounts_where_the_helper_does_not(
    mount: Mounts, bucket: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    helper = tmp_path / "fusermount3"
    helper.write_text(f"#!/bin/sh\n{script.format(python=sys.executable)}\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    here = mount(bucket)
    (here.path / "f").write_text("x")
    assert bucket.get("f") == b"x"
    assert "libfuse mounts by itself" in here.log.read_text()


@pytest.mark.parametrize("options", [(), ("plain_fuse",)])
def test_a_mount_that_was_handed_over(
    handed: Mount, bucket: Witness, options: tuple[str, ...]
) -> None:
    handed.options = options
    handed.start()
    (handed.path / "d").mkdir()
    (handed.path / "d/f").write_text("x")
    assert bucket.get("d/f") == b"x"
    assert os.listdir(handed.path / "d") == ["f"]


def test_it_stays_when_the_daemon_ends(handed: Mount, bucket: Witness) -> None:
    handed.start()
    (handed.path / "f").write_text("x")
    handed.signal(signal.SIGTERM)
    assert handed.wait() == 0
    assert bucket.get("f") == b"x"
    options_of(handed.path)


def test_nothing_is_written_with_ro_though_the_kernel_would(handed: Mount, bucket: Witness) -> None:
    bucket.put("f", b"x")
    handed.options = ("ro",)
    handed.start()
    path = handed.path / "f"
    assert path.read_bytes() == b"x"
    for change in (
        lambda: os.close(os.open(path, os.O_RDWR)),
        lambda: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC)),
        lambda: os.close(os.open(handed.path / "new", os.O_CREAT | os.O_WRONLY)),
        lambda: os.chmod(path, 0o600),
        lambda: os.truncate(path, 0),
        lambda: os.unlink(path),
        lambda: os.mkdir(handed.path / "d"),
        lambda: os.symlink("a", handed.path / "l"),
        lambda: os.rename(path, handed.path / "g"),
        lambda: os.setxattr(path, "user.a", b"1"),
    ):
        with refused(errno.EROFS):
            change()
    assert bucket.keys() == ["f"]


def test_in_the_background(handed: Mount, bucket: Witness) -> None:
    """The descriptor is the one that the daemon keeps of those that it was started with."""
    assert handed.handed is not None
    command = [word for word in handed.command() if word != "-f"]
    command[-1] += f",logfile={handed.log},dbglevel=info"
    subprocess.run(command, cwd=REPOSITORY, pass_fds=[handed.handed], check=True)
    (handed.path / "f").write_text("x")
    assert bucket.get("f") == b"x"
    subprocess.run(["umount", str(handed.path)], check=True)
    until(lambda: "unmounted" in handed.log.read_text(), "the daemon's end")


def refusal(handed: Mount, number: int) -> str:
    handed.handed = number
    done = subprocess.run(
        handed.command(),
        cwd=REPOSITORY,
        close_fds=False,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (ExitCode.MOUNTPOINT, ExitCode.FUSE)
    return done.stderr.splitlines()[-1]


def test_somebody_serves_it_already(mount: Mounts, handed: Mount, bucket: Witness) -> None:
    handed.start()
    assert handed.handed is not None
    os.set_inheritable(handed.handed, True)
    second = mount(bucket, start=False)
    with closing(os.scandir(handed.path)):
        assert "somebody has begun to serve it already" in refusal(second, handed.handed)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/dev/null", "is not /dev/fuse"),
        ("/dev/fuse", "nothing is mounted with it"),
        (None, "no such descriptor is open"),
    ],
)
def test_other_descriptors(mount: Mounts, bucket: Witness, path: str | None, reason: str) -> None:
    number = os.open(path or os.devnull, os.O_RDWR)
    os.set_inheritable(number, True)
    if path is None:
        os.close(number)
    try:
        line = refusal(mount(bucket, start=False), number)
        assert line.startswith("bucketfs: ")
        assert reason in line
        assert reason in descriptor.unusable(number)
    finally:
        if path is not None:
            os.close(number)


def test_spellings() -> None:
    assert descriptor.handed_over("/dev/fd/5") == 5
    for other in ("/dev/fd/", "/dev/fd/x", "/dev/fd/5/", "/dev/fd/-1", "/mnt", "/proc/self/fd/5"):
        assert descriptor.handed_over(other) is None


def test_a_fusermount3_that_hangs_does_not_keep_a_mount_from_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    helper = tmp_path / "fusermount3"
    helper.write_text("#!/bin/sh\nexec sleep 60\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(device, "_PATIENCE_WITH_HELPER", 0.1)
    device._unmount(str(tmp_path))
    assert f"bucketfs umount -l {tmp_path}" in caplog.text


@pytest.mark.parametrize("path", ["/", "/proc", "/proc/sys", "/dev/shm"])
def test_a_device_is_known_without_a_look_at_its_files(path: str) -> None:
    assert descriptor.device_at(path) == os.stat(path).st_dev
