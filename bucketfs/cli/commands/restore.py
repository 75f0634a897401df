"""``bucketfs restore PATH``: an old version made current, an archived object made readable."""

from __future__ import annotations

from collections.abc import Sequence

from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client

USAGE = """usage: bucketfs restore PATH --version ID | --from-archive [--days N] [--tier TIER]

  --version ID     make this version of the file the current one, in a bucket that keeps versions;
                   PATH may have been deleted ("bucketfs versions PATH" lists the ids)
  --from-archive   have an archived object (S3 Glacier) made readable, which takes minutes to hours
  --days N         for so many days, 7 without this
  --tier TIER      Standard, Bulk (slower and cheaper) or Expedited (in minutes)"""

_TIERS = ("Standard", "Bulk", "Expedited")


def run(argv: Sequence[str]) -> int:
    """Restore one file. Raises Failure."""
    parser = Parser(USAGE)
    parser.add_argument("--version")
    parser.add_argument("--from-archive", action="store_true")
    parser.add_argument("--days", type=_days, default="7")
    parser.add_argument("--tier", choices=_TIERS, default=_TIERS[0])
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if len(found.rest) != 1 or bool(found.version) == found.from_archive:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    path = found.rest[0]
    if found.version:
        client.ask_about(path, "restore", version=found.version)
    else:
        client.ask_about(path, "restore", days=found.days, tier=found.tier)
        print(f'{path}: asked for; "bucketfs info" shows "restore" when it can be read')
    return ExitCode.OK


def _days(text: str) -> str:
    if not text.isdecimal() or not 0 < int(text) < 10_000:
        raise ValueError(text)
    return str(int(text))
