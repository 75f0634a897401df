"""Mount points, as mount(2) makes them and umount2(2) takes them away. Needs CAP_SYS_ADMIN."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

from grpc import StatusCode

from bucketfs.cli import mounts
from bucketfs.cli.mounts import Mount
from bucketfs.cli.process import unmounting
from bucketfs.csi.refused import Refused

_FUSE_DEVICE = "/dev/fuse"
_LIBC = ctypes.CDLL(None, use_errno=True)
#: Flag of umount2(2): out of the tree now, whoever uses it still.
_DETACH = 2


def mount(source: str, target: str, flags: int, data: Sequence[str]) -> int:
    """Mount, and answer the descriptor of who is to serve it.

    Args:
        source: What the mount table shows as its source.
        target: A directory, made if it is missing.
        flags: Of mount(2).
        data: Further words of the mount.

    Raises:
        Refused: The kernel does not.
    """
    try:
        os.makedirs(target, mode=0o750, exist_ok=True)
        number = os.open(_FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        line = f"{error.filename}: {error.strerror}"
        raise Refused(StatusCode.INTERNAL, line) from None
    words = (
        f"fd={number}",
        *("rootmode=40000", "user_id=0", "group_id=0", "default_permissions", "allow_other"),
        *data,
    )
    failed = _LIBC.mount(
        os.fsencode(source),
        os.fsencode(target),
        mounts.TYPE.encode(),
        flags,
        os.fsencode(",".join(words)),
    )
    if failed:
        code = ctypes.get_errno()
        os.close(number)
        hint = "; the container must be privileged" if code == errno.EPERM else ""
        raise Refused(StatusCode.INTERNAL, f"{target}: mount: {os.strerror(code)}{hint}")
    return number


def unmount(target: str, *, lazy: bool = False) -> None:
    """Take the mount at exactly this path away. Raises Refused."""
    if _LIBC.umount2(os.fsencode(target), _DETACH if lazy else 0):
        code = ctypes.get_errno()
        if code == errno.EBUSY:
            line = f"{target}: in use on the node; see by whom: fuser -vm {target}"
            raise Refused(StatusCode.FAILED_PRECONDITION, line)
        raise Refused(StatusCode.INTERNAL, f"{target}: umount: {os.strerror(code)}")


def remove(target: str) -> None:
    """Remove the directory of a mount that is gone. Raises Refused."""
    try:
        os.rmdir(target)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(StatusCode.INTERNAL, f"{target}: {error.strerror}") from None


def mounted(target: str) -> Mount | None:
    """What is mounted at exactly this path; nothing in it is touched."""
    return mounts.mounted_at(unmounting.absolute(target), mounts.current())


def capacity(target: str) -> os.statvfs_result:
    """What the file system tells of itself. Raises OSError if nobody serves it any more."""
    return os.statvfs(target)


def is_dead(target: str) -> bool:
    """Whether nobody serves what is mounted there."""
    try:
        capacity(target)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False
