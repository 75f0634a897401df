"""systemd's file descriptor store as what keeps a mount from one daemon to the next.

As sd_notify(3) (FDSTORE=1) and sd_listen_fds(3) have it. systemd keeps what it was given while the
service restarts, and closes it when the service is stopped; a mount that has ended it notices
itself.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from bucketfs.cli.process.notify import notify

#: SD_LISTEN_FDS_START: the number of the first descriptor that is handed over.
_FIRST = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class FdStore:
    """Implements `bucketfs.fuse.keeper.Keeper`."""

    def __init__(self, kept: dict[str, int]) -> None:
        self.kept = kept

    def keep(self, name: str, descriptor: int) -> None:
        """Give it a descriptor, in place of others of that name."""
        self.drop(name)
        notify("FDSTORE=1", f"FDNAME={name}", descriptors=[descriptor])

    def drop(self, name: str) -> None:
        """Have it close what it has under a name."""
        notify("FDSTOREREMOVE=1", f"FDNAME={name}")


def offered(environment: MutableMapping[str, str]) -> FdStore | None:
    """The store of the service manager that has started this process, None without one.

    What it hands over is this process's alone: its children hear nothing of it.
    """
    words = [environment.pop(name, "") for name in _VARIABLES]
    kept = _handed_over(*words)
    for number in kept.values():
        os.set_inheritable(number, False)
    return FdStore(kept) if environment.get("NOTIFY_SOCKET") else None


def _handed_over(pid: str, count: str, names: str) -> dict[str, int]:
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    numbers = range(_FIRST, _FIRST + int(count))
    return dict(zip(names.split(":"), numbers, strict=False))
