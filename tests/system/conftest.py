"""The program as mount(8), systemd and a shell call it: installed helpers, real processes.

These tests put ``mount.bucketfs`` and ``mount.fuse.bucketfs`` into /sbin for their duration, unless
they are installed already, and so need root.
"""

from __future__ import annotations

import fcntl
import io
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

from bucketfs.cli import main
from tests.harness.endpoint import REPOSITORY
from tests.harness.witness import Witness

HELPERS = ("mount.bucketfs", "mount.fuse.bucketfs")

#: How the helpers begin that tests made.
OURS = "#!/bin/sh\n# made by the tests of bucketfs\n"
#: Locked by each test process that needs the helpers.
USERS = Path("/run/bucketfs-test-helpers")


@dataclass
class Place:
    """A bucket, a directory to mount it at, and what every mount of it needs.

    Attributes:
        options: url, keys and cache as one comma list.
    """

    bucket: Witness
    path: Path
    options: str
    passwd: Path

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """``bucketfs WORDS…`` in a clean environment."""
        return run([sys.executable, "-m", "bucketfs", *words], **environment)

    def here(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same in this process, which is there already: for what is asked again and again."""
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = main.main(["bucketfs", *words])
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    def mount(self, *options: str) -> subprocess.CompletedProcess[str]:
        """``bucketfs BUCKET PATH -o …``, in the background."""
        return self.run(self.bucket.name, str(self.path), "-o", ",".join((self.options, *options)))


def run(words: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as an administrator's shell would, without keys in the environment."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS")}
    return subprocess.run(
        words,
        cwd=REPOSITORY,
        env=environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def hear(listener: socket.socket, word: str) -> None:
    """Wait until the service manager is told `word`; other messages may come before it."""
    listener.settimeout(60)
    while word not in listener.recv(1000).decode().splitlines():
        pass


def daemon_of(path: Path) -> int:
    """The process that serves a mount point, found by its command line."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(path) in words and any(b"bucketfs" in word for word in words[:4]):
            return int(process.name)
    raise AssertionError("no daemon")


@pytest.fixture
def place(need_fuse: None, bucket: Witness, tmp_path: Path) -> Iterator[Place]:
    """A place to mount at; whatever is mounted there at the end is taken away."""
    path, passwd = tmp_path / "mnt", tmp_path / "passwd"
    path.mkdir()
    passwd.touch(0o600)
    passwd.write_text(f"{bucket.endpoint.access_key}:{bucket.endpoint.secret_key}\n")
    options = (
        f"url={bucket.endpoint.url},use_path_request_style,passwd_file={passwd},"
        f"use_cache={tmp_path / 'cache'},logfile={tmp_path / 'log'},dbglevel=info"
    )
    yield Place(bucket, path, options, passwd)
    # without asking whether anything is: a dead mount gives no answer
    subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


@pytest.fixture(scope="session")
def helpers(need_fuse: None) -> Iterator[None]:
    """The mount helpers in /sbin, for as long as one of the test processes needs them."""
    if os.geteuid() != 0:
        pytest.skip("mount(8) needs root")
    # mount(8) gives no environment; the script has to know everything.
    start = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r});"
    start += " sys.argv[0] = {!r};"
    start += " from bucketfs.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start]
    with USERS.open("w") as users:
        _remove_unless_used(users)  # what a killed run left names a clone that may be gone
        fcntl.flock(users, fcntl.LOCK_SH)
        for name in HELPERS:
            words = shlex.join([*command[:-1], command[-1].format(name)])
            _install(Path("/sbin", name), f'{OURS}exec {words} "$@"\n')
        yield
        _remove_unless_used(users)


def _remove_unless_used(users: TextIO) -> None:
    """Remove the tests' helpers, or leave that to the last process that needs them."""
    with suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in (Path("/sbin", name) for name in HELPERS):
            if path.exists() and path.read_text().startswith(OURS):
                path.unlink()


def _install(path: Path, script: str) -> None:
    """Put a script there in one step, unless there is one."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(script)
    fresh.chmod(0o755)
    with suppress(FileExistsError):
        os.link(fresh, path)
    fresh.unlink()
