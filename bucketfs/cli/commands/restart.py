"""``bucketfs restart [PATH]``: a new daemon goes on with a mount that stands."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bucketfs.cli import mounts, show
from bucketfs.cli.commands.set import only
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client
from bucketfs.cli.socket.client import Daemon, NoDaemon
from bucketfs.units import parse_duration

USAGE = """usage: bucketfs restart [--timeout TIME] [PATH]

Has the daemon of the mount that PATH is in end, and the program as it is installed now go on with
the mount: calls wait meanwhile, and open files go on. For mounts with -o restart; those of a unit
are restarted by systemctl restart. Without PATH: the one mount that there is.

  --timeout TIME   wait no longer than this for the new daemon [5m]

Exit code 0: the new daemon serves; 1: it does not, or not in time."""

_TIMEOUT = "5m"
#: Seconds between two looks whether it serves.
_PACE = 0.2


def run(argv: Sequence[str]) -> int:
    """Restart one daemon. Raises Failure."""
    parser = Parser(USAGE)
    parser.add_argument("--timeout", default=_TIMEOUT)
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if len(found.rest) > 1:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    try:
        timeout = parse_duration(found.timeout)
    except ValueError as error:
        raise Failure(ExitCode.USAGE, f"--timeout={found.timeout}: {error}") from None
    daemon = client.daemon_at(found.rest[0])[0] if found.rest else only()
    deadline = time.monotonic() + timeout
    where = show.name(daemon.mountpoint)
    try:
        with client.ask(daemon, "restart") as talk:
            talk.result()
            pid = talk.pid
    except NoDaemon as error:
        raise Failure(ExitCode.FAILED, f"{where}: {error}") from None
    with show.waiting("the new daemon"):
        client.await_exit(pid, timeout)
        while not _is_served(daemon):
            if time.monotonic() > deadline:
                raise Failure(
                    ExitCode.FAILED, f"{where}: no new daemon after {timeout:.0f} s; see its log"
                )
            if all(mount.device != daemon.device for mount in mounts.current()):
                raise Failure(ExitCode.FAILED, f"{where}: was unmounted meanwhile; see its log")
            time.sleep(_PACE)
    return ExitCode.OK


def _is_served(mount: Daemon) -> bool:
    """Whether a daemon answers for what another one has served."""
    return any(
        daemon.device == mount.device and not daemon.draining
        for daemon in client.daemons([mount.uid])
    )
