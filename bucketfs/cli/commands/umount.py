"""``bucketfs umount [-lq] [--timeout TIME] MOUNTPOINT``: unmount, and wait for what that leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bucketfs.cli import mounts, show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.process import unmounting
from bucketfs.cli.socket import client
from bucketfs.cli.socket.client import Conversation, NoDaemon
from bucketfs.units import count, parse_duration

USAGE = """usage: bucketfs umount [-l] [-q] [--timeout TIME] MOUNTPOINT

Unmounts and waits until everything written is in the bucket and the daemon has ended.

  -l, -z, --lazy   detach the mount at once, even if it is in use or dead; do not wait
  -q, --quiet      it is well if no bucket is mounted there
  --timeout TIME   wait no longer than this (60, 5m, 1h); the daemon goes on

Exit code 0: unmounted, and nothing of this mount is left here; 1: not unmounted, not done in time,
or something could not be saved or removed. bucketfs recover shows what earlier mounts left."""

#: Seconds between the farewell of a daemon and its end: it closes the cache.
_LAST_STEPS = 60.0


def run(argv: Sequence[str]) -> int:
    """Unmount one mount point. Raises Failure."""
    parser = Parser(USAGE)
    parser.add_argument("-l", "-z", "--lazy", action="store_true")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("--timeout")
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if len(found.rest) != 1:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    timeout = _timeout(found.timeout)
    path = unmounting.absolute(found.rest[0])
    known = mounts.current()
    mount = mounts.mounted_at(path, known)
    if mount is None or mount.type != mounts.TYPE:
        if found.quiet:
            return ExitCode.OK
        raise Failure(ExitCode.MOUNTPOINT, f"{path}: no bucket is mounted there")
    if found.lazy:
        unmounting.unmount(path, lazy=True)
        return ExitCode.OK
    deadline = None if timeout is None else time.monotonic() + timeout
    daemon = next((one for one in client.reachable(known) if one.serves(mount)), None)
    if daemon is None:
        unmounting.unmount(path)
        return ExitCode.OK
    try:
        talk = client.ask(daemon, "watch")
    except NoDaemon as error:
        line = f"{path}: not unmounted: {error}; see its log, or run: bucketfs umount -l {path}"
        raise Failure(ExitCode.FAILED, line) from None
    with talk:
        unmounting.unmount(path)
        try:
            _wait(path, mount.device, talk, deadline)
        except NoDaemon as error:
            raise Failure(ExitCode.FAILED, f"{path}: unmounted, but {error}; see its log") from None
    return ExitCode.OK


def _timeout(text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise Failure(ExitCode.USAGE, f"--timeout={text}: {error}") from None


def _wait(path: str, device: str, talk: Conversation, deadline: float | None) -> None:
    """Wait for a daemon whose mount is gone to end. Raises Failure and NoDaemon."""
    if any(mount.device == device for mount in mounts.current()):
        return  # bound to another place as well: it goes on
    progress = show.Progress()
    done: dict[str, Any] = {}
    try:
        for answer in talk.answers():
            if "progress" not in answer:
                done = client.done_of(answer)
                break
            progress.tell(answer)
            if deadline is not None and time.monotonic() > deadline:
                left = show.remaining(answer["progress"])
                line = f"{path}: unmounted; {left} are still being saved, by process {talk.pid}"
                raise Failure(ExitCode.FAILED, line)
    finally:
        progress.end()
    undone = list(_undone(done))
    if not client.await_exit(talk.pid, _LAST_STEPS):
        undone.append(f"process {talk.pid} still runs after {_LAST_STEPS:.0f} s; see its log")
    if undone:
        raise Failure(ExitCode.FAILED, f"{path}: unmounted; {'; '.join(undone)}")


def _undone(done: Mapping[str, Any]) -> Iterator[str]:
    """What the farewell of a daemon says that it has not done."""
    if done["files"]:
        names = ", ".join(show.name(one["path"]) for one in done["left"][:3])
        more = ", …" if done["files"] > 3 else ""
        files = f"{count(done['files'], 'file')} could not be saved ({names}{more})"
        yield f"{files} and stay on this machine: bucketfs recover"
    if removals := done.get("removals", 0):  # a daemon that was started long ago tells none
        yield f"{count(removals, 'removal')} could not be done in the bucket"
