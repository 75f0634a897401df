"""Where control sockets are: a private directory for each user, a file for each mount.

Root's are in /run/bucketfs, those of others in $XDG_RUNTIME_DIR/bucketfs (/run/user/UID), or, where
there is none, in /tmp/bucketfs-UID. A socket nobody listens at is left by a daemon that died, and
is removed by its owner's next command or mount.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from bucketfs import owned

_SUFFIX = ".sock"
#: struct ucred: pid, uid, gid.
_UCRED = struct.Struct("3i")


class _HasOptions(Protocol):
    def getsockopt(self, level: int, option: int, length: int, /) -> bytes: ...


def directories(uid: int) -> list[Path]:
    """Where sockets of this user may be, the best place first."""
    places = []
    if uid == 0:
        places.append(Path("/run/bucketfs"))
    else:
        own = os.environ.get("XDG_RUNTIME_DIR", "") if uid == os.getuid() else ""
        if own.startswith("/"):
            places.append(Path(own, "bucketfs"))
        places.append(Path(f"/run/user/{uid}/bucketfs"))
    # in a directory where anyone could have made it before, hence `is_private`
    places.append(Path(f"/tmp/bucketfs-{uid}"))  # noqa: S108
    return list(dict.fromkeys(places))


def is_private(directory: Path, uid: int) -> bool:
    """Whether only this user can put something there."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == uid
    return is_own and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def listen() -> tuple[socket.socket, Path]:
    """A socket of this process that is listening, and where.

    Raises:
        OSError: In none of the places.
    """
    failure = OSError("no private directory for it")
    uid = os.getuid()
    for directory in directories(uid):
        try:
            owned.check_above(directory.parent)
            directory.mkdir(mode=0o700, exist_ok=True)
            owned.make_own(directory)
            clean(directory)
            return _listen_in(directory)
        except owned.NotOwnError as error:
            failure = OSError(error.errno, error.why)
        except OSError as error:
            failure = error
    raise failure


def _listen_in(directory: Path) -> tuple[socket.socket, Path]:
    """Under its name only once it listens: before, it would look like a dead one."""
    path = directory / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
    unready = path.with_suffix(".new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(unready))
        unready.chmod(0o600)
        listener.listen()
        unready.rename(path)
    except OSError:
        listener.close()
        unready.unlink(missing_ok=True)
        raise
    return listener, path


def sockets(uid: int) -> Iterator[Path]:
    """Sockets in this user's directories, alive or not."""
    for directory in directories(uid):
        if is_private(directory, uid):
            with contextlib.suppress(OSError):
                yield from sorted(directory.glob(f"*{_SUFFIX}"))


def connect(path: Path, uid: int, timeout: float) -> socket.socket | None:
    """A connection to a socket of this user, None if its daemon is gone.

    Args:
        path: From `sockets`.
        uid: Whose it is to be; root may stand in for anyone.
        timeout: Seconds for this and everything that follows.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(timeout)
    try:
        connection.connect(str(path))
        if peer(connection)[1] in (0, uid):
            return connection
    except ConnectionRefusedError:
        if uid == os.getuid():  # in another one's directory a path may be another one meanwhile
            with contextlib.suppress(OSError):
                path.unlink()
    except OSError:
        pass  # it ended just now, or does not answer; the caller asks the next one
    connection.close()
    return None


def clean(directory: Path) -> None:
    """Remove the sockets of daemons that died."""
    for path in directory.glob(f"*{_SUFFIX}"):
        connection = connect(path, os.getuid(), 1.0)
        if connection is not None:
            connection.close()


def peer(connection: _HasOptions) -> tuple[int, int]:
    """Process and user at the other end (SO_PEERCRED, unix(7)); a process not seen here is 0."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(raw)
    return pid, uid
