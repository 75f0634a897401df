"""``mount -o remount,ro`` and ``mount -o remount,rw`` of a bucket, as the mount helper does them.

The kernel keeps writers out of a file system that is read-only, so the daemon goes on as it is. One
that was started read-only has no way to write, and stays so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from bucketfs.cli import mounts
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.arguments import Arguments
from bucketfs.cli.process import unmounting
from bucketfs.cli.socket import client

#: Seconds for the system call of mount(8), which waits for nobody.
_PATIENCE = 60.0


def remount(found: Arguments) -> int:
    """Change the mount at the last position to what the options say. Raises Failure.

    mount(8) hands over the options of the mount as it is, and then those of the change.
    """
    path = unmounting.absolute(found.positions[-1]) if found.positions else ""
    mount = mounts.mounted_at(path, mounts.current())
    if mount is None or mount.type != mounts.TYPE:
        raise Failure(ExitCode.MOUNTPOINT, f"{path}: no bucket is mounted there")
    wanted = [name for name, _ in found.options if name in ("ro", "rw")]
    mode = wanted[-1] if wanted else "rw"
    if mode == "rw" and client.ask_about(path, "status")["read_only"]:
        line = "it was mounted read-only; unmount it and mount it again"
        raise Failure(ExitCode.FAILED, f"{path}: not remounted: {line}")
    kept = [flag for flag in mount.flags if flag not in ("ro", "rw")]
    _change(path, ["remount", mode, *kept])
    return ExitCode.OK


def _change(path: str, options: Sequence[str]) -> None:
    command = ["mount", "--internal-only", "-o", ",".join(options), path]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        line = f"{path}: not remounted within {_PATIENCE:.0f} s"
        raise Failure(ExitCode.FAILED, line) from None
    if done.returncode:
        why = (done.stderr.splitlines() or ["mount(8) failed"])[0].removeprefix("mount: ")
        if "busy" in why:
            why = "programs have files open for writing; see which with: fuser -vm PATH"
        raise Failure(ExitCode.FAILED, f"{path}: not remounted: {why}")
