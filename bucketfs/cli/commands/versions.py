"""``bucketfs versions [--json] PATH``: the versions of a file that the bucket keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from bucketfs.cli import show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client

USAGE = """usage: bucketfs versions [--json] PATH

Lists the versions of a file that the bucket keeps, the newest first: when each was stored, its size
and its id. PATH may have been deleted. "bucketfs restore PATH --version ID" brings one back. A
mount with -o at=MOMENT shows all files as they were.

  --json   one JSON object with all of them"""


def run(argv: Sequence[str]) -> int:
    """List the versions. Raises Failure."""
    parser = Parser(USAGE)
    parser.add_argument("--json", action="store_true")
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if len(found.rest) != 1:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    told = client.ask_about(found.rest[0], "versions")
    if found.json:
        print(json.dumps(told))
        return ExitCode.OK
    rows = [
        (
            datetime.fromtimestamp(version["modified"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "deleted" if version["deleted"] else str(version["size"]),
            version["id"],
            "current" if version["latest"] else "",
        )
        for version in told["versions"]
    ]
    for line in show.table([("stored", "bytes", "version", ""), *rows]):
        print(show.name(line))
    return ExitCode.OK
