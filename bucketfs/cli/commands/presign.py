"""``bucketfs presign [--expires TIME] PATH``: an address at which anybody can read a file."""

from __future__ import annotations

from collections.abc import Sequence

from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client
from bucketfs.units import parse_duration

USAGE = """usage: bucketfs presign [--expires TIME] PATH

Prints an address (a presigned URL) at which anybody can read the file, without keys, until it
expires. It ends sooner if the keys that the mount uses do.

  --expires TIME   60s, 15m, 1h (without this), 7d at most"""

#: Seconds that Signature Version 4 allows (S3 User Guide, "Sharing objects with presigned URLs").
_MOST = 7 * 86400


def run(argv: Sequence[str]) -> int:
    """Print the address. Raises Failure."""
    parser = Parser(USAGE)
    parser.add_argument("--expires", type=_seconds, default="1h")
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if len(found.rest) != 1:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    print(client.ask_about(found.rest[0], "presign", seconds=found.expires)["url"])
    return ExitCode.OK


def _seconds(text: str) -> str:
    seconds = round(parse_duration(text))
    if not 1 <= seconds <= _MOST:
        raise ValueError(text)
    return str(seconds)
