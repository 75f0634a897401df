"""``bucketfs info [--json] PATH…``: what the store knows of a file, and what of it is here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bucketfs.cli import show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client

USAGE = """usage: bucketfs info [--json] PATH...

Shows the object of each PATH in a mount: its key, version, size and time, what is stored with it,
and how much of it is in the cache on this machine.

  --json   one JSON object for each PATH, one a line"""

_NAMED = ("version_id", "storage_class", "restore", "encryption")


def run(argv: Sequence[str]) -> int:
    """Show the objects. Raises Failure."""
    parser = Parser(USAGE)
    parser.add_argument("--json", action="store_true")
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if not found.rest:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    for at, path in enumerate(found.rest):
        told = client.ask_about(path, "info")
        if found.json:
            print(json.dumps(told))
            continue
        if at:
            print()
        print(show.name(path))
        for line in show.table(list(_rows(told)), indent="  "):
            print(show.name(line))
    return ExitCode.OK


def _rows(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "object", f"s3://{told['bucket']}/{told['key']}"
    if not told["exists"]:
        yield "", "not in the bucket"
    yield "size", f"{told['size']} ({show.size(told['size'])})"
    if told["modified"]:
        yield "stored", datetime.fromtimestamp(told["modified"], UTC).isoformat()
    if told["etag"]:
        yield "etag", told["etag"]
    for name in (*_NAMED, *sorted(name for name in told if name.startswith("checksum_"))):
        if told.get(name):
            yield name.replace("_", " "), str(told[name])
    if told["content_type"]:
        yield "content type", told["content_type"]
    yield from sorted(told["headers"].items())
    for name, value in sorted(told["metadata"].items()):
        yield f"metadata {name}", value
    yield "state", told["stage"]
    yield "in the cache", f"{show.size(told['cached'])}"
