"""A mount handed over through a Unix socket: the descriptor of /dev/fuse comes as SCM_RIGHTS.

In a cluster a driver with the right to mount has done that, and a container without it is to serve
the mount. They share a directory with a socket in it. Either side may be the one that listens
there: the sidecars of gcsfuse and of meta-fuse-csi-plugin connect, the pods of Mountpoint for S3
listen. The text beside the descriptor is each driver's own, and is not looked at: the command line
says what is mounted, and how.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bucketfs.errors import MountRefused
from bucketfs.option_row import Handover

#: Seconds for a driver that has to get round to it: it may mount first.
_PATIENCE = 300.0
#: Bytes of the text beside a descriptor; drivers send a few hundred.
_ROOM = 1 << 16
#: More than one is none that we know what to do with.
_MOST = 8


def receive(handover: Handover, *, patience: float = _PATIENCE) -> int:
    """The descriptor that is handed over, as a mount point /dev/fd/N wants it.

    Args:
        handover: Where, and whether we listen there.
        patience: Seconds to wait for it.

    Raises:
        MountRefused: None came.
    """
    connected = _listening if handover.listens else _calling
    with _address(handover.path) as address:
        try:
            with connected(address, patience) as connection:
                return _descriptor(connection, handover)
        except TimeoutError:
            who = "nobody has connected and sent" if handover.listens else "who listens sent"
            line = f"fuse_fd={handover}: {who} no descriptor within {patience:.0f} s"
            raise MountRefused(errno.ETIMEDOUT, line) from None
        except OSError as error:
            line = f"fuse_fd={handover}: {_advice(error, handover)}"
            raise MountRefused(error.errno or errno.EIO, line) from None


def _advice(error: OSError, handover: Handover) -> str:
    if handover.listens and error.errno == errno.EADDRINUSE:
        return "somebody listens there already; to connect to it, write unix:PATH"
    if not handover.listens and error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return (
            f"nobody listens there ({error.strerror}); if the other side connects, write"
            " unix-listen:PATH"
        )
    return error.strerror or str(error)


@contextmanager
def _address(path: str) -> Iterator[str]:
    """A name of `path` that fits into an address (108 bytes), as paths of volumes often do not."""
    folder, name = os.path.split(path)
    try:
        number = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MountRefused(
            error.errno or errno.EIO, f"fuse_fd: {folder}: {error.strerror}"
        ) from None
    try:
        yield f"/proc/self/fd/{number}/{name}"
    finally:
        os.close(number)


@contextmanager
def _calling(address: str, patience: float) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(patience)
        connection.connect(address)
        yield connection


@contextmanager
def _listening(address: str, patience: float) -> Iterator[socket.socket]:
    """The first connection; the socket is there no longer than it is waited for."""
    _remove_abandoned(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.settimeout(patience)
        mask = os.umask(0o177)
        try:
            listener.bind(address)
        finally:
            os.umask(mask)
        try:
            listener.listen(1)
            connection, _ = listener.accept()
        finally:
            with suppress(FileNotFoundError):
                os.unlink(address)
    with connection:
        connection.settimeout(patience)
        yield connection


def _remove_abandoned(address: str) -> None:
    """Remove the socket of an earlier try, which nobody listens at."""
    try:
        if not stat.S_ISSOCK(os.lstat(address).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(address)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(address)


def _descriptor(connection: socket.socket, handover: Handover) -> int:
    _, found, _, _ = socket.recv_fds(connection, _ROOM, _MOST)
    if len(found) != 1:
        for each in found:
            os.close(each)
        line = f"fuse_fd={handover}: {len(found)} descriptors came, instead of that of /dev/fuse"
        raise MountRefused(errno.EPROTO, line)
    return found[0]
