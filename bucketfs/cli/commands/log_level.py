"""``bucketfs log-level LEVEL [PATH]``: how much a mount that stands logs."""

from __future__ import annotations

from collections.abc import Sequence

from bucketfs.cli.commands import set as setting
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser

USAGE = """usage: bucketfs log-level LEVEL [PATH]

Has the mount that PATH is in log messages of this severity and above, until it ends: crit, err,
warn, info or dbg. Without PATH: the one mount that there is."""


def run(argv: Sequence[str]) -> int:
    """Change the level. Raises Failure."""
    found = Parser(USAGE).parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if not 1 <= len(found.rest) <= 2:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    level, *path = found.rest
    setting.change({"dbglevel": level}, *path)
    return ExitCode.OK
