"""``bucketfs umount [-l] MOUNTPOINT``: unmount with whatever this user may use."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from bucketfs.cli import mounts
from bucketfs.cli.failure import ExitCode, Failure

USAGE = """usage: bucketfs umount [-l] MOUNTPOINT

  -l, -z, --lazy   take the mount out of the tree at once, even if it is in use or dead"""

_LAZY = frozenset({"-l", "-z", "--lazy"})

#: umount(8) waits for the kernel, which waits for the last open file to be flushed.
_PATIENCE = 600.0


def run(argv: Sequence[str]) -> int:
    """Unmount one mount point. Raises Failure."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return ExitCode.OK
    lazy = bool(_LAZY & set(argv))
    paths = [word for word in argv if word not in _LAZY]
    if len(paths) != 1 or paths[0].startswith("-"):
        raise Failure(ExitCode.USAGE, "usage: bucketfs umount [-l] MOUNTPOINT")
    path = absolute(paths[0])
    mount = mounts.mounted_at(path, mounts.current())
    if mount is None or mount.type != mounts.TYPE:
        raise Failure(ExitCode.MOUNTPOINT, f"{path}: no bucket is mounted there")
    unmount(path, lazy=lazy)
    return ExitCode.OK


def absolute(path: str) -> str:
    """The absolute path without asking the last component, which may be a dead mount."""
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(parent), name)


def unmount(path: str, *, lazy: bool = False) -> None:
    """Unmount `path`, as root with umount(8), else with fusermount3. Raises Failure."""
    try:
        done = subprocess.run(
            _command(path, lazy=lazy),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failure(
            ExitCode.FAILED, f"{path}: not unmounted after {_PATIENCE:.0f} s; try -l"
        ) from None
    if done.returncode == 0:
        return
    words = " ".join((done.stderr or done.stdout).split())
    if "busy" in words:
        raise Failure(
            ExitCode.FAILED,
            f"{path}: in use; see who with: fuser -vm {path}; or run: bucketfs umount -l {path}",
        )
    raise Failure(ExitCode.FAILED, f"{path}: {words or 'cannot be unmounted'}")


def _command(path: str, *, lazy: bool) -> list[str]:
    if os.geteuid() == 0:
        return ["umount", *(["-l"] if lazy else []), path]
    helper = shutil.which("fusermount3") or shutil.which("fusermount")
    if helper is None:
        raise Failure(ExitCode.FUSE, "fusermount3 is missing; install the package fuse3")
    return [helper, "-u", *(["-z"] if lazy else []), path]
