"""A process that frees a test which hangs in the mount.

A thread of the test process cannot do it: a page fault on a mapped file of a mount blocks the whole
interpreter. So this process reads lines from its standard input, ``arm SECONDS`` and ``disarm``,
and when a time is over it aborts the FUSE connections of all mounts under directories that
`scratch_base` made for its parent, and sends its parent SIGALRM.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MNT_FORCE = 1

CONNECTIONS = Path("/sys/fs/fuse/connections")

#: Begins the names of directories that hold mountpoints; the owner's process id follows.
BASE = "bucketfs-test-"


class Watchdog:
    """The test process's side."""

    def __init__(self) -> None:
        command = [sys.executable, "-S", __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def arm(self, seconds: float) -> None:
        """Strike in so many seconds."""
        self._say(f"arm {seconds}\n")

    def disarm(self) -> None:
        self._say("disarm\n")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def scratch_base() -> Path:
    """A directory for mountpoints that every user may pass through (pytest's own are private)."""
    base = Path(tempfile.mkdtemp(prefix=f"{BASE}{os.getpid()}-"))
    base.chmod(0o755)
    return base


def abort(owner: int) -> None:
    """Abort the mounts of a test process: whoever waits in one gets ECONNABORTED."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split()
        if f"/{BASE}{owner}-" not in fields[4]:
            continue
        control = CONNECTIONS / fields[2].split(":")[1] / "abort"
        try:
            control.write_text("1")
        except OSError:
            # Without fusectl a forced unmount, which only root may do, has the same effect.
            ctypes.CDLL(None).umount2(os.fsencode(fields[4]), MNT_FORCE)


def main() -> None:
    deadline: float | None = None
    pending = b""
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([0], [], [], wait)
        if not ready:
            deadline = None
            abort(os.getppid())
            os.kill(os.getppid(), signal.SIGALRM)
            continue
        data = os.read(0, 4096)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            word, _, seconds = line.partition(b" ")
            deadline = time.monotonic() + float(seconds) if word == b"arm" else None


if __name__ == "__main__":
    main()
