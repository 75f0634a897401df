"""``bucketfs refresh PATH``: forget what is known, so that the next look asks the bucket."""

from __future__ import annotations

from collections.abc import Sequence

from bucketfs.cli import show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client
from bucketfs.cli.socket.client import NoDaemon

USAGE = """usage: bucketfs refresh PATH

Forgets what the mount knows of the file or directory PATH and of everything below it, so that the
next look at it shows what the bucket has now. Changes made here that are not in the bucket yet are
kept. PATH is a mount point, or a path in a mount; it need not have been seen before.

Exit code 0: it is forgotten; 1: there is no such file, or the bucket could not be asked."""


def run(argv: Sequence[str]) -> int:
    """Refresh one path. Raises Failure."""
    found = Parser(USAGE).parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if len(found.rest) != 1:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    (path,) = found.rest
    daemon, below = client.daemon_at(path)
    try:
        with show.waiting("refresh"), client.ask(daemon, "refresh", below) as talk:
            failed = str(talk.result()["failed"])
    except NoDaemon as error:
        raise Failure(ExitCode.FAILED, f"{daemon.mountpoint}: {error}") from None
    if failed:
        raise Failure(ExitCode.FAILED, f"{show.name(path)}: {show.name(failed)}")
    return ExitCode.OK
