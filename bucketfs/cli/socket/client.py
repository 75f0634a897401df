"""Asking the daemons of mounts through their control sockets.

A mount is found by a path at or below it, without touching the mount itself: its daemon may be dead
or its endpoint stalled. Every wait for a daemon is bounded; daemons that work on something tell so
every half second.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from bucketfs.cli import mounts, show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.mounts import Mount
from bucketfs.cli.socket import protocol, runtime
from bucketfs.cli.socket.protocol import ProtocolError

#: Seconds a daemon may be silent.
_PATIENCE = 15.0
#: The same for the question who it is, which is put to all daemons of this machine.
_PATIENCE_HELLO = 3.0
#: Bytes of one answer at most.
_LONGEST_ANSWER = 16 << 20
_PIECE = 1 << 18

#: For requests without any.
NO_WORDS: Final[Mapping[str, str]] = MappingProxyType({})


class NoDaemon(Exception):
    """Nobody answers, or not in time."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process that serves a mount, or did and drains.

    Attributes:
        socket: Its control socket.
        uid: Whose it is.
        mountpoint / source / device: As it says itself; the device as ``MAJOR:MINOR``.
        draining: Whether it does not serve any more.
    """

    socket: Path
    uid: int
    mountpoint: str
    source: str
    device: str
    draining: bool

    def serves(self, mount: Mount) -> bool:
        """Whether it is the one behind a mount."""
        return not self.draining and self.device == mount.device


class Conversation:
    """One request under way; a context manager that hangs up."""

    def __init__(
        self,
        connection: socket.socket,
        do: str,
        path: str = "",
        words: Mapping[str, str] = NO_WORDS,
    ) -> None:
        self._connection = connection
        self._patience = connection.gettimeout() or _PATIENCE
        self._buffer = bytearray()
        self.pid = runtime.peer(connection)[0]
        try:
            with _bounded():
                connection.sendall(protocol.encode({"do": do, "path": path, "with": dict(words)}))
        except NoDaemon:
            connection.close()
            raise

    def answers(self) -> Iterator[dict[str, Any]]:
        """All lines; the last has ``done`` or ``error``. Raises NoDaemon."""
        while True:
            try:
                answer = protocol.decode(self._line())
            except ProtocolError as error:
                raise NoDaemon(f"the daemon answers nonsense: {error}") from None
            yield answer
            if "done" in answer or "error" in answer:
                return

    def _line(self) -> bytes:
        """The next line, all of it in time: another user's program may be at the other end."""
        deadline = time.monotonic() + self._patience
        with _bounded():
            while b"\n" not in self._buffer:
                self._connection.settimeout(max(0.001, deadline - time.monotonic()))
                piece = self._connection.recv(_PIECE)
                if not piece:
                    raise NoDaemon("the daemon has ended")
                self._buffer += piece
                if len(self._buffer) > _LONGEST_ANSWER or time.monotonic() > deadline:
                    raise NoDaemon("the daemon does not come to an end")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return bytes(line)

    def result(self) -> dict[str, Any]:
        """What the last line says. Raises NoDaemon, and Failure for a refusal."""
        for answer in self.answers():
            if "progress" not in answer:
                return done_of(answer)
        raise AssertionError("unreachable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


@contextmanager
def _bounded() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise NoDaemon("the daemon does not answer") from None
    except OSError as error:
        raise NoDaemon(f"the daemon does not answer: {error.strerror}") from None


def done_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The result in a last line. Raises Failure for a refusal."""
    if "error" in answer:
        raise Failure(ExitCode.FAILED, show.name(str(answer["error"])))
    done: dict[str, Any] = answer["done"]
    return done


def ask(
    daemon: Daemon, do: str, path: str = "", words: Mapping[str, str] = NO_WORDS
) -> Conversation:
    """Put a request to a daemon. Raises NoDaemon."""
    connection = runtime.connect(daemon.socket, daemon.uid, _PATIENCE)
    if connection is None:
        raise NoDaemon("the daemon has ended")
    return Conversation(connection, do, path, words)


def ask_about(path: str, do: str, **words: str) -> dict[str, Any]:
    """Put a request about a file in a mount to its daemon, and wait for the answer.

    Raises:
        Failure: No bucket is mounted there, its daemon does not answer, or it refuses.
    """
    daemon, below = daemon_at(path)
    try:
        with show.waiting(f"{do} {show.name(path)}"), ask(daemon, do, below, words) as talk:
            return talk.result()
    except NoDaemon as error:
        raise Failure(ExitCode.FAILED, f"{daemon.mountpoint}: {error}") from None


def daemons(uids: Iterable[int]) -> list[Daemon]:
    """All daemons of these users that answer."""
    found = []
    for uid in sorted(set(uids)):
        for path in runtime.sockets(uid):
            connection = runtime.connect(path, uid, _PATIENCE_HELLO)
            if connection is None:
                continue
            with (
                suppress(NoDaemon, Failure, LookupError, TypeError),
                Conversation(connection, "hello") as talk,
            ):
                found.append(_daemon(path, uid, talk.result()))
    return found


def _daemon(path: Path, uid: int, hello: dict[str, Any]) -> Daemon:
    return Daemon(
        socket=path,
        uid=uid,
        mountpoint=str(hello["mountpoint"]),
        source=str(hello["source"]),
        device=str(hello["device"]),
        draining=hello["state"] != "mounted",
    )


def reachable(known: Iterable[Mount]) -> list[Daemon]:
    """The daemons that this user may ask: root all of them, others their own."""
    uid = os.getuid()
    others = {mount.user for mount in known if mount.type == mounts.TYPE} if uid == 0 else set()
    return daemons({uid} | others)


def locate(path: str, known: list[Mount]) -> tuple[Mount, str]:
    """The mount of ours that a path is in, and the rest of the path; nothing in it is touched.

    Raises:
        Failure: There is none.
    """
    head = "/"
    parts = [part for part in os.path.abspath(path).split("/") if part]
    while parts and not _is_ours(mounts.covering(head, known)):
        head = os.path.join(head, parts.pop(0))
        if not _is_ours(mounts.covering(head, known)):
            head = os.path.realpath(head)
    whole = os.path.join(head, *parts)
    mount = mounts.covering(whole, known)
    if mount is not None and _is_ours(mount):
        return mount, whole[len(mount.target) :].strip("/")
    raise Failure(ExitCode.MOUNTPOINT, f"{path}: no bucket is mounted there")


def _is_ours(mount: Mount | None) -> bool:
    return mount is not None and mount.type == mounts.TYPE


def daemon_at(path: str) -> tuple[Daemon, str]:
    """The daemon behind a path, and the path below its mount point.

    Raises:
        Failure: No bucket is mounted there, or its daemon does not answer.
    """
    known = mounts.current()
    mount, rest = locate(path, known)
    serving = next((one for one in reachable(known) if one.serves(mount)), None)
    if serving is None:
        raise Failure(ExitCode.MOUNTPOINT, silent(mount))
    if rest:
        # it is alive, so that symlinks inside can be asked for
        mount, rest = locate(os.path.realpath(path), known)
        if not serving.serves(mount):
            raise Failure(ExitCode.MOUNTPOINT, f"{path}: leads into another mount")
    return serving, _join(mount.root, rest)


def _join(*parts: str) -> str:
    return "/".join(part.strip("/") for part in parts if part.strip("/"))


def may_ask(mount: Mount) -> bool:
    """Whether this user may ask the daemon of a mount."""
    return os.getuid() in (0, mount.user)


def silent(mount: Mount) -> str:
    """The line for a mount whose daemon does not answer."""
    if not may_ask(mount):
        return f"{mount.target}: was mounted by user {mount.user}; only that user and root may ask"
    return (
        f"{mount.target}: its daemon does not answer;"
        f" if it has died, mount again, or run: bucketfs umount -l {mount.target}"
    )


def await_exit(pid: int, timeout: float | None) -> bool:
    """Wait until a process has ended (pidfd_open(2)); whether it has within `timeout` seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError):
        return True  # it is gone, or not in sight from this container
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))
    finally:
        os.close(descriptor)
