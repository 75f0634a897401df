"""``bucketfs flush [PATH]``: wait until what was written is in the bucket."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from bucketfs.cli import mounts, show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client
from bucketfs.cli.socket.client import Daemon, NoDaemon

USAGE = """usage: bucketfs flush [PATH]

Waits until everything below PATH that is not in the bucket yet has been saved: uploads, attributes,
removals. PATH is a mount point, or a path in a mount. Without PATH: all mounts that you may ask.
Files that a program is still writing are left to their close. Ctrl-C ends only the waiting.

Exit code 0: all of it is in the bucket; 1: the files named could not be saved."""


def run(argv: Sequence[str]) -> int:
    """Flush one mount, one directory, or all mounts. Raises Failure."""
    found = Parser(USAGE).parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if len(found.rest) > 1:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    if found.rest:
        targets = [client.daemon_at(found.rest[0])]
    else:
        all_of_them = client.reachable(mounts.current())
        targets = [(daemon, "") for daemon in all_of_them if not daemon.draining]
    failed = 0
    for daemon, below in targets:
        failed += _flush(daemon, below)
    return ExitCode.FAILED if failed else ExitCode.OK


def _flush(daemon: Daemon, below: str) -> int:
    """Flush one mount; how many files failed. Raises Failure."""
    progress = show.Progress()
    done: dict[str, Any] = {}
    try:
        with client.ask(daemon, "flush", below) as talk:
            for answer in talk.answers():
                if "progress" in answer:
                    progress.tell(answer)
                else:
                    done = client.done_of(answer)
    except NoDaemon as error:
        raise Failure(ExitCode.FAILED, f"{daemon.mountpoint}: {error}; nothing is known") from None
    finally:
        progress.end()
    named = done["failed"]
    for one in named:
        print(f"bucketfs: {show.name(one['path'])}: {show.name(one['error'])}", file=sys.stderr)
    failures: int = done["failures"]
    if failures > len(named):
        print(f"bucketfs: and {failures - len(named)} more", file=sys.stderr)
    return failures
