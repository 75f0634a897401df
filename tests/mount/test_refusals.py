"""Mounts that cannot be: one line that says why, an exit code, and nothing mounted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.harness.endpoint import REPOSITORY, Endpoint
from tests.harness.mounts import Mounts, passwd_lines
from tests.harness.witness import Witness

pytestmark = pytest.mark.usefixtures("need_fuse")


@dataclass(frozen=True)
class Outcome:
    code: int
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass
class Attempt:
    """Runs bucketfs without -f as mount(8) would, and expects it to fail."""

    endpoint: Endpoint
    bucket: str
    mountpoint: Path
    passwd: Path
    url: str = ""
    options: tuple[str, ...] = ()

    def run(self) -> Outcome:
        options = ",".join(
            (
                f"url={self.url or self.endpoint.url}",
                "use_path_request_style",
                f"passwd_file={self.passwd}",
                "connect_timeout=3",
                "retries=1",
                *self.options,
            )
        )
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        done = subprocess.run(
            [sys.executable, "-m", "bucketfs", self.bucket, str(self.mountpoint), "-o", options],
            cwd=REPOSITORY,
            env=environ,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        return Outcome(done.returncode, (done.stdout + done.stderr).strip().splitlines())


@pytest.fixture
def attempt(endpoint: Endpoint, bucket: Witness, tmp_path: Path) -> Attempt:
    """What would mount, were it not for the one thing each test breaks."""
    passwd = tmp_path / "passwd"
    passwd.touch(0o600)
    passwd.write_text(passwd_lines(endpoint))
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    return Attempt(endpoint, bucket.name, mountpoint, passwd)


def fails(attempt: Attempt, *words: str) -> None:
    """One line with all of `words` in it, an exit code and no mount."""
    outcome = attempt.run()
    assert outcome.code not in (0, None), outcome.text
    assert len(outcome.lines) == 1, outcome.text
    assert "Traceback" not in outcome.text
    for word in words:
        assert word.lower() in outcome.text.lower(), outcome.text
    assert attempt.endpoint.secret_key not in outcome.text
    assert not os.path.ismount(attempt.mountpoint)


def test_no_such_bucket(attempt: Attempt) -> None:
    attempt.bucket = "bucketfs-there-is-no-such-bucket"
    fails(attempt, attempt.bucket)


@pytest.mark.needs("told_keys")
@pytest.mark.real_endpoint
def test_unknown_access_key(attempt: Attempt) -> None:
    attempt.passwd.write_text("AKIAUNKNOWN:SECRETTEST\n")
    fails(attempt, "key")


@pytest.mark.needs("told_keys")
@pytest.mark.real_endpoint
def test_wrong_secret_key(attempt: Attempt) -> None:
    attempt.passwd.write_text(passwd_lines(replace(attempt.endpoint, secret_key="WRONG")))
    fails(attempt, "secret")


def test_nobody_listens(attempt: Attempt) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    attempt.url = f"http://127.0.0.1:{port}"
    fails(attempt, str(port))


def test_an_unknown_host(attempt: Attempt) -> None:
    attempt.url = "http://no-such-host.invalid"
    fails(attempt, "no-such-host.invalid")


def test_not_an_s3_endpoint(attempt: Attempt) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(65536)
                    body = b"<html>hello</html>"
                    peer.sendall(
                        b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s"
                        % (len(body), body)
                    )

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        attempt.url = f"http://127.0.0.1:{server.getsockname()[1]}"
        fails(attempt)
        server.shutdown(socket.SHUT_RDWR)


def test_the_mountpoint_is_missing(attempt: Attempt) -> None:
    attempt.mountpoint = attempt.mountpoint / "absent"
    fails(attempt, str(attempt.mountpoint))


def test_the_mountpoint_is_a_file(attempt: Attempt) -> None:
    attempt.mountpoint = attempt.passwd
    fails(attempt, str(attempt.mountpoint), "directory")


def test_the_mountpoint_is_taken(attempt: Attempt, mount: Mounts, bucket: Witness) -> None:
    """Mounting over a mount, and over a directory with files in it, needs ``nonempty``."""
    mounted = mount(bucket)
    attempt.mountpoint = mounted.path
    outcome = attempt.run()
    assert outcome.code != 0
    assert len(outcome.lines) == 1
    with open("/proc/self/mountinfo", errors="surrogateescape") as table:
        assert sum(str(mounted.path) in line.split() for line in table) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_the_passwd_file_is_open_to_others(attempt: Attempt, mode: int) -> None:
    attempt.passwd.chmod(mode)
    fails(attempt, "permissions", str(attempt.passwd))


def test_the_passwd_file_is_missing_or_empty(attempt: Attempt) -> None:
    attempt.passwd.write_text("# nothing\n")
    fails(attempt, str(attempt.passwd))
    attempt.passwd.unlink()
    fails(attempt, str(attempt.passwd))


@pytest.mark.parametrize(
    "option",
    [
        "no_such_option",
        "no_such_option=1",
        "multipart_size=many",
        "stat_cache_expire=-5",
        "umask=9",
    ],
)
def test_bad_options(attempt: Attempt, option: str) -> None:
    attempt.options = (option,)
    fails(attempt, option.partition("=")[0])


def test_the_prefix_is_a_file_name(attempt: Attempt, bucket: Witness) -> None:
    """A prefix nobody has written to yet is no error: it is an empty directory."""
    attempt.bucket = f"{bucket.name}:/not/yet"
    outcome = attempt.run()
    try:
        assert outcome.code == 0, outcome.text
        assert os.listdir(attempt.mountpoint) == []
    finally:
        subprocess.run(["umount", str(attempt.mountpoint)], check=False, capture_output=True)
