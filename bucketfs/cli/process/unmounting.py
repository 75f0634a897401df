"""Taking a mount out of the tree, with the system's own tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from bucketfs.cli.failure import ExitCode, Failure

#: Seconds for umount(8) or fusermount3, which return at once unless something is stuck: only the
#: daemon waits for the bucket.
_PATIENCE = 600.0


def absolute(path: str) -> str:
    """The absolute path without asking the last component, which may be a dead mount."""
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(parent), name)


def unmount(path: str, *, lazy: bool = False) -> None:
    """Unmount `path`, as root with umount(8), else with fusermount3. Raises Failure."""
    refusals = []
    for command in _commands(path, lazy=lazy):
        refusal = _refusal(command, path)
        if refusal is None:
            return
        refusals.append(refusal)
        if "busy" in refusal:
            raise Failure(
                ExitCode.FAILED,
                f"{path}: in use; see who with: fuser -vm {path};"
                f" or run: bucketfs umount -l {path}",
            )
    raise Failure(ExitCode.FAILED, f"{path}: {refusals[0] or 'cannot be unmounted'}")


def _refusal(command: Sequence[str], path: str) -> str | None:
    """Why `command` did not unmount `path`; None if it did. Raises Failure when it hangs."""
    try:
        done = subprocess.run(
            command,
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
    return None if done.returncode == 0 else " ".join((done.stderr or done.stdout).split())


def _commands(path: str, *, lazy: bool) -> Iterator[list[str]]:
    """The commands to try, in this order."""
    plain = ["umount", *(["-l"] if lazy else []), path]
    if os.geteuid() == 0:
        yield plain
        return
    helper = shutil.which("fusermount3") or shutil.which("fusermount")
    if helper is None:
        raise Failure(ExitCode.FUSE, "fusermount3 is missing; install the package fuse3")
    yield [helper, "-u", *(["-z"] if lazy else []), path]
    # fusermount3 wants /etc/mtab, which a bare container lacks. umount(8) reads /proc and lets a
    # user take away what fusermount3 mounted for them.
    if shutil.which("umount"):
        yield plain
