"""systemd's file descriptor store as what keeps a mount from one daemon to the next.

As sd_notify(3) (FDSTORE=1) and sd_listen_fds(3) have it. systemd keeps what it was given while the
service restarts, and closes it when the service is stopped; a mount that has ended it notices
itself.

Nobody says whether it takes what it is given (`FileDescriptorStoreMax=0` is the default, and
another manager may know nothing of it). So it is given pipes first: who throws a writing end away
ends the reading one.
"""

from __future__ import annotations

import os
import select
from collections.abc import MutableMapping

from bucketfs.cli.process.notify import notify

#: SD_LISTEN_FDS_START: the number of the first descriptor that is handed over.
_FIRST = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
#: How many descriptors a mount has kept, and under which name so many are given for a trial.
_NEEDED, _TRIAL = 2, "bucketfs-trial"
#: Seconds in which a service manager hears what it is told.
_PATIENCE = 10.0


class FdStore:
    """Implements `bucketfs.fuse.keeper.Keeper`."""

    def __init__(self, kept: dict[str, int], *, restarts: bool = False) -> None:
        self.kept = kept
        self.restarts = restarts

    def keep(self, name: str, descriptor: int) -> None:
        """Give it a descriptor, in place of others of that name."""
        self.drop(name)
        notify("FDSTORE=1", f"FDNAME={name}", descriptors=[descriptor])

    def drop(self, name: str) -> None:
        """Have it close what it has under a name."""
        notify("FDSTOREREMOVE=1", f"FDNAME={name}")

    def hears(self) -> bool:
        """Whether it is there, and has heard all that it was told."""
        return _has_heard(_PATIENCE)

    def takes_any(self, patience: float = _PATIENCE) -> bool:
        """Whether it keeps what it is given, as many descriptors as a mount needs.

        Args:
            patience: Seconds; who has not heard by then keeps nothing.
        """
        if self.kept:
            return True
        pipes = [os.pipe() for _ in range(_NEEDED)]
        try:
            for _, writing in pipes:
                notify("FDSTORE=1", f"FDNAME={_TRIAL}", descriptors=[writing])
                os.close(writing)
            return _has_heard(patience) and not any(_is_over(reading, 0) for reading, _ in pipes)
        finally:
            notify("FDSTOREREMOVE=1", f"FDNAME={_TRIAL}")
            for reading, _ in pipes:
                os.close(reading)


def _has_heard(patience: float) -> bool:
    """Wait until all that was told so far has been heard (sd_notify_barrier(3))."""
    reading, writing = os.pipe()
    try:
        sent = notify("BARRIER=1", descriptors=[writing])
        os.close(writing)
        return sent and _is_over(reading, patience)
    finally:
        os.close(reading)


def _is_over(reading: int, patience: float) -> bool:
    """Whether nobody has the other end of a pipe, within so many seconds."""
    poll = select.poll()
    poll.register(reading, select.POLLHUP)
    return bool(poll.poll(patience * 1000))


def offered(environment: MutableMapping[str, str], *, restarts: bool = False) -> FdStore | None:
    """The store of the service manager that has started this process, None without one.

    What it hands over is this process's alone: its children hear nothing of it. `restarts` as
    `Keeper` has it.
    """
    words = [environment.pop(name, "") for name in _VARIABLES]
    kept = _handed_over(*words)
    for number in kept.values():
        os.set_inheritable(number, False)
    return FdStore(kept, restarts=restarts) if environment.get("NOTIFY_SOCKET") else None


def _handed_over(pid: str, count: str, names: str) -> dict[str, int]:
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    numbers = range(_FIRST, _FIRST + int(count))
    return dict(zip(names.split(":"), numbers, strict=False))
