"""``bucketfs gc SPEC [--older TIME] [--dry-run] [-o …]``: removes what nobody will finish."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from bucketfs.cli import show
from bucketfs.cli.commands import offline
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.errors import StoreError
from bucketfs.options import Options
from bucketfs.store.base import LOCKS, PROBE, ObjectInfo, Store
from bucketfs.tasks import gather
from bucketfs.units import count, parse_duration

USAGE = """usage: bucketfs gc [--older TIME] [--dry-run] [--json] BUCKET[:/PREFIX]
                   [-o NAME[=VALUE],...]...

Aborts unfinished multipart uploads below a prefix, of whatever program, and removes objects that
bucketfs has tried out the endpoint on and could not delete, and those of locks (locks=bucket) that
no mount has renewed. It asks nothing and lists what it has done. An upload that still goes on after
--older fails, and a lock is lost; choose it longer than your longest upload, and than lock_lease.

  --older TIME   only what is older: 30m, 12h, 7d [1d]
  --dry-run      only list it
  --json         one JSON object for each, one a line

Exit code 0: all of it has gone; 1: something could not be removed."""

_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that is to go.

    Attributes:
        kind: ``upload`` or ``object``.
        key: Its key.
        age: Seconds.
        upload_id: Of an upload.
    """

    kind: str
    key: str
    age: float
    upload_id: str = ""


def run(argv: Sequence[str]) -> int:
    """Collect and remove. Raises Failure."""
    parser = offline.parser(USAGE)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--older")
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    try:
        older = _DAY if found.older is None else parse_duration(found.older)
    except ValueError as error:
        raise Failure(ExitCode.USAGE, f"--older {show.name(found.older)}: {error}") from None
    options = offline.options_of(found.rest, found.options, USAGE)
    done = offline.ask(
        options, lambda store: collect(store, options, older=older, dry_run=found.dry_run)
    )
    for one, why in done:
        _tell(one, why, as_json=found.json, dry_run=found.dry_run)
    gone = [one for one, why in done if not why]
    if not found.json:
        verb = "would go" if found.dry_run else "removed"
        uploads = count(sum(one.kind == "upload" for one in gone), "upload")
        objects = count(sum(one.kind == "object" for one in gone), "object")
        print(f"{show.name(options.source)}: {uploads}, {objects} {verb}")
    return ExitCode.OK if len(gone) == len(done) else ExitCode.FAILED


def _tell(one: Garbage, error: str, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(one), "removed": not (error or dry_run), "error": error}))
        return
    line = f"{one.kind} {show.name(one.key)}, {show.span(one.age)} old"
    if error:
        print(f"bucketfs: {line}: {show.name(error)}", file=sys.stderr)
    else:
        print(line)


async def collect(
    store: Store, options: Options, *, older: float, dry_run: bool
) -> list[tuple[Garbage, str]]:
    """Find what is older than so many seconds, and remove it; with the error of what stays."""
    found = await find(store, options.prefix, older, time.time())
    if dry_run:
        return [(one, "") for one in found]
    jobs = [functools.partial(_remove, store, one) for one in found]
    return list(zip(found, await gather(jobs, limit=options.max_thread_count), strict=True))


async def find(store: Store, prefix: str, older: float, now: float) -> list[Garbage]:
    """What is below a prefix and older than so many seconds, the oldest first."""
    found: list[Garbage] = []

    def add(info: ObjectInfo) -> None:
        *above, name = info.key.split("/")
        if name.startswith(PROBE) or above[-1:] == [LOCKS]:
            found.append(Garbage("object", info.key, now - info.last_modified))

    await offline.scan(store, prefix, add)
    if store.capabilities.multipart:
        found += [
            Garbage("upload", one.key, now - one.initiated, one.upload_id)
            for one in await store.list_uploads(prefix)
        ]
    return sorted((one for one in found if one.age >= older), key=lambda one: -one.age)


async def _remove(store: Store, one: Garbage) -> str:
    """Remove it; why that could not be."""
    try:
        if one.kind == "upload":
            await store.abort(one.key, one.upload_id)
        else:
            await store.delete(one.key)
    except StoreError as error:
        return str(error)
    return ""
