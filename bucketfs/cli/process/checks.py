"""Everything that can be known to be wrong before the kernel is asked to mount.

Each check raises `Failure` with one line: what is wrong, and what to do about it.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import sys

from bucketfs.cli import mounts
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.process import unmounting
from bucketfs.fuse import descriptor
from bucketfs.options import Options

log = logging.getLogger("bucketfs.checks")

FUSE_DEVICE = "/dev/fuse"
FUSE_CONF = "/etc/fuse.conf"


_DEAD = frozenset({errno.ENOTCONN, errno.ECONNABORTED})


def mountpoint(options: Options) -> None:
    """The mount point can be used; for /dev/fd/N: such a descriptor is open, and mounted."""
    handed = descriptor.handed_over(options.mountpoint)
    if handed is None:
        _directory(options)
    elif reason := descriptor.unusable(handed):
        raise Failure(ExitCode.MOUNTPOINT, reason)


def _directory(options: Options) -> None:
    """The mount point exists, is a directory, and nothing of FUSE is mounted there already.

    A bucket mounted there whose daemon has died is taken away first.
    """
    path = options.mountpoint
    _clear_dead_mounts(options)
    try:
        # stat(2) does not trigger an automount, so this is safe under x-systemd.automount.
        mode = os.stat(path).st_mode
        mount = mounts.mounted_at(os.path.realpath(path), mounts.current())
        is_taken = mount is not None and mount.type.startswith("fuse.")
        if is_taken:
            os.statvfs(path)
    except OSError as error:
        raise _mountpoint_failure(path, error) from None
    if not stat.S_ISDIR(mode):
        raise Failure(ExitCode.MOUNTPOINT, f"{path}: is not a directory")
    if mount is not None and is_taken:
        raise Failure(
            ExitCode.MOUNTPOINT,
            f"{path}: {mount.source} ({mount.type}) is mounted there already; run: umount {path}",
        )
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        raise Failure(ExitCode.MOUNTPOINT, f"{path}: you need write permission on the mount point")
    if mount is None or mount.type != "autofs":
        _mention_contents(options)


def _clear_dead_mounts(options: Options) -> None:
    """Unmount what daemons of ours left there when they died: nobody answers for it."""
    path = unmounting.absolute(options.mountpoint)
    while (
        (mount := mounts.mounted_at(path, mounts.current())) is not None
        and mount.type == mounts.TYPE
        and _is_dead(path)
    ):
        unmounting.unmount(path, lazy=True)
        line = f"{path}: the daemon of {mount.source} mounted there had died; unmounted"
        log.warning("%s", line)
        if not options.foreground:
            print(f"bucketfs: {line}", file=sys.stderr)


def _is_dead(path: str) -> bool:
    try:
        # the kernel may still remember attributes of a dead mount; this question asks its daemon
        os.statvfs(path)
    except OSError as error:
        return error.errno in _DEAD
    return False


def _mountpoint_failure(path: str, error: OSError) -> Failure:
    match error.errno:
        case errno.ENOENT:
            line = f"{path}: the mount point does not exist; run: mkdir -p {path}"
        case code if code in _DEAD:
            line = f"{path}: a dead mount ({error.strerror}); run: umount -l {path}"
        case errno.ENOTDIR:
            line = f"{path}: a part of the path is not a directory"
        case _:
            line = f"{path}: {error.strerror}"
    return Failure(ExitCode.MOUNTPOINT, line)


def _mention_contents(options: Options) -> None:
    if options.nonempty:
        return
    try:
        with os.scandir(options.mountpoint) as entries:
            occupied = next(entries, None) is not None
    except OSError:
        # Whether it may be mounted over is the kernel's to say, not a listing's.
        return
    if occupied:
        log.warning(
            "%s is not empty; its files are hidden while the bucket is mounted",
            options.mountpoint,
        )


def fuse(options: Options) -> None:
    """This user can open /dev/fuse and, without root, has fusermount3; none of it for /dev/fd/N."""
    if descriptor.handed_over(options.mountpoint) is not None:
        return
    if not os.path.exists(FUSE_DEVICE):
        raise Failure(
            ExitCode.FUSE,
            f"{FUSE_DEVICE} does not exist; run: modprobe fuse"
            " (in a container: add the device, --device /dev/fuse --cap-add SYS_ADMIN)",
        )
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise Failure(
            ExitCode.FUSE,
            f"{FUSE_DEVICE} is closed to you; run as root: chmod 666 {FUSE_DEVICE}",
        )
    needs_helper = os.geteuid() != 0 or "auto_unmount" in options.fuse_options
    if needs_helper and shutil.which("fusermount3") is None:
        raise Failure(ExitCode.FUSE, "fusermount3 is missing; install the package fuse3")
    shares = options.allow_other or "allow_root" in options.fuse_options
    if shares and os.geteuid() != 0 and not _others_allowed():
        raise Failure(
            ExitCode.FUSE,
            f"allow_other needs the line user_allow_other in {FUSE_CONF}, or root",
        )


def _others_allowed() -> bool:
    try:
        with open(FUSE_CONF, encoding="utf-8", errors="replace") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def cache_directory(options: Options) -> None:
    """With check_cache_dir_exist the directory of use_cache must be there."""
    path = options.use_cache
    if options.check_cache_dir_exist and path and not os.path.isdir(path):
        raise Failure(ExitCode.FAILED, f"use_cache={path}: the directory does not exist")
