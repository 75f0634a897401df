"""The processes of mounts: a bucketfs is started on a descriptor, awaited, ended.

Each is the leader of a session of its own and outlives the mounter, unless that ends its container.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bucketfs.cli.failure import ExitCode
from bucketfs.csi.refused import Refused, of_exit
from bucketfs.csi.volume import joined

#: Bytes of what a process has to say about its end.
_LONGEST_LINE = 2000
#: Milliseconds in which it must be ready or have given up: longer than it waits for the bucket.
_PATIENCE = 540_000
#: What it needs of the environment. Keys of the mounter's own are there for ``iam_role``.
_KEPT = ("PATH", "HOME", "LANG", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
_KEPT_PREFIXES = ("AWS_", "BUCKETFS_")


def start(
    source: str, words: list[str], descriptor: int, scratch: Path, log: int
) -> subprocess.Popen[bytes]:
    """Start a bucketfs that serves a descriptor; its process, when the kernel gets answers.

    Args:
        source: What is mounted.
        words: Options behind ``-o``.
        descriptor: Of /dev/fuse.
        scratch: A private directory.
        log: Descriptor that its log goes to.

    Raises:
        Refused: It gave up, with its reason.
    """
    options = [*words, f"logfile=/dev/fd/{log}"]
    command = _command(source, f"/dev/fd/{descriptor}", "-f", "-o", joined(options))
    with (
        _ready_socket(scratch) as (ready, address),
        open(os.memfd_create("said"), "w+b") as said,
    ):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=[descriptor, log],
            start_new_session=True,
            env=_environment({"NOTIFY_SOCKET": address}),
        )
        if _is_ready(process, ready):
            return process
        said.seek(0)
        raise _gave_up(process.wait(), said.read())


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bucketfs", *words]


def _environment(more: dict[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    return {**kept, **more}


@contextmanager
def _ready_socket(scratch: Path) -> Iterator[tuple[socket.socket, str]]:
    """Where a process says that it is ready (sd_notify(3))."""
    path = scratch / "ready"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(path))
        try:
            yield ready, str(path)
        finally:
            path.unlink(missing_ok=True)


def _is_ready(process: subprocess.Popen[bytes], ready: socket.socket) -> bool:
    """Wait for a process; False if it has ended, or has to be ended for it takes too long."""
    end = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(end, select.POLLIN)
        poll.register(ready, select.POLLIN)
        while events := dict(poll.poll(_PATIENCE)):
            if ready.fileno() in events and b"READY=1" in ready.recv(_LONGEST_LINE):
                return True
            if end in events:
                return False
        process.kill()
        return False
    finally:
        os.close(end)


def _gave_up(code: int, said: bytes) -> Refused:
    if code < 0:
        return of_exit(ExitCode.FAILED, f"bucketfs was ended by signal {-code} before it was ready")
    lines = said.decode(errors="replace").strip().splitlines() or ["bucketfs gave up"]
    return of_exit(code, lines[-1].removeprefix("bucketfs: ")[:_LONGEST_LINE])


def count(source: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Count the bytes of what is mounted, as ``bucketfs size --json`` does; answers its end."""
    command = _command("size", "--json", source, "-o", joined(words))
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_environment({}),
        check=False,
    )


def end(pid: int) -> None:
    """Ask a process to save all and end."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
