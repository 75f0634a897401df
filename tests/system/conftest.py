"""The program as mount(8), systemd and a shell call it: installed helpers, real processes.

These tests put ``mount.bucketfs`` and ``mount.fuse.bucketfs`` into /sbin for their duration, unless
they are installed already, and so need root.
"""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from bucketfs.cli import main
from tests.harness.endpoint import REPOSITORY
from tests.harness.witness import Witness

HELPERS = ("mount.bucketfs", "mount.fuse.bucketfs")
#: A line of the helpers that tests make.
MADE = "# made by the tests of bucketfs"


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
        timeout=120,
        check=False,
    )


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
    if path.is_mount():
        subprocess.run(["umount", "-l", str(path)], check=False)


def _is_free(helper: Path) -> bool:
    """Whether nobody installed it; a test run that was killed has left its own."""
    return not helper.exists() or MADE in helper.read_bytes().decode(errors="replace")


@pytest.fixture(scope="session")
def helpers(need_fuse: None) -> Iterator[None]:
    """The mount helpers in /sbin."""
    if os.geteuid() != 0:
        pytest.skip("mount(8) needs root")
    made = [path for name in HELPERS if _is_free(path := Path("/sbin", name))]
    for path in made:
        # mount(8) gives no environment; the script has to know everything.
        start = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r});"
        start += f" sys.argv[0] = {path.name!r};"
        start += " from bucketfs.cli.main import main; sys.exit(main())"
        words = shlex.join([sys.executable, "-c", start])
        path.write_text(f'#!/bin/sh\n{MADE}\nexec {words} "$@"\n')
        path.chmod(0o755)
    yield
    for path in made:
        path.unlink()
