"""``bucketfs evict [--json] PATH…``: drop what the cache has of the files below PATH."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bucketfs.cli import show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client
from bucketfs.units import count

USAGE = """usage: bucketfs evict [--json] PATH...

Drops what the cache has of the files at and below each PATH in a mount: the next read fetches it
again. What is not in the bucket yet stays, and so does what programs are just reading.

  --json   one JSON object for each PATH, one a line"""


def run(argv: Sequence[str]) -> int:
    """Evict the paths. Raises Failure."""
    parser = Parser(USAGE)
    parser.add_argument("--json", action="store_true")
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if not found.rest:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    for path in found.rest:
        told = client.ask_about(path, "evict")
        if found.json:
            print(json.dumps({"path": path, **told}))
            continue
        files, size = count(told["files"], "file"), show.size(told["bytes"])
        print(f"{show.name(path)}: {files}, {size} dropped from the cache")
    return ExitCode.OK
