"""``bucketfs recover``: what mounts that died left on this machine, and what to do about it.

Listing, saving and discarding ask no bucket: it may be gone. Applying does what the next mount
would do, and takes the same options.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bucketfs.cache import places
from bucketfs.cache.journal import Journal
from bucketfs.cli import show
from bucketfs.cli.commands import leftovers as left
from bucketfs.cli.commands.leftovers import Entry, Kind, Leftovers
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import arguments, complete
from bucketfs.cli.options.parser import Parser
from bucketfs.errors import FsError

USAGE = """usage: bucketfs recover [BUCKET] [--cache DIR] [--json]
       bucketfs recover [BUCKET] [--cache DIR] --save DIR
       bucketfs recover [BUCKET] [--cache DIR] --discard NAME… | --discard --all
       bucketfs recover BUCKET --apply [-o NAME[=VALUE],…]…

Lists what mounts left in the cache directories of this machine because they were killed, or could
not save it. BUCKET chooses the mounts of that bucket. Only --apply asks the bucket.

  --cache DIR      the directory of -o use_cache=DIR, or one of the directories in it
  --json           one JSON object for each cache directory, one a line
  --apply          do what the next mount would do: upload files (under conditions, as always),
                   delete and rename what was deleted and renamed, abort unfinished multipart
                   uploads; needs the -o options of the mount
  --save DIR       copy the bytes of files that were not saved to DIR
  --discard NAME…  forget the entries of these names, as listed, and delete their bytes
  --all            with --discard: everything

Exit code 0: nothing is left, or everything asked for has been done; 1: something is left, or could
not be done."""

_HINT = "upload it with --apply, copy it out with --save DIR, or mount the bucket again"


def run(argv: Sequence[str]) -> int:
    """List, save, discard or apply. Raises Failure."""
    found = _parser().parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    buckets, names = _buckets_and_names(argv, found)
    _check(found, buckets, names)
    text, root = "".join(buckets), found.cache
    if found.apply:
        return _apply(text, found.options, root)
    chosen = list(_directories(root, _bucket(text)))
    if found.save is not None:
        place = Path(found.save)
        return _each(chosen, lambda one, where, journal: _save(one, where, journal, place))
    if found.discard:
        wanted = None if found.all else set(names)
        return _discard(chosen, wanted)
    return _list(chosen, as_json=found.json)


def _parser() -> Parser:
    parser = Parser(USAGE)
    for switch in ("--json", "--apply", "--discard", "--all"):
        parser.add_argument(switch, action="store_true")
    parser.add_argument("--cache")
    parser.add_argument("--save")
    parser.add_argument("-o", dest="options", action="append", default=[])
    return parser


def _buckets_and_names(argv: Sequence[str], found: Namespace) -> tuple[list[str], list[str]]:
    """What stands before --discard chooses the bucket, what stands behind it is to go."""
    if not found.discard:
        return found.rest, []
    buckets = _parser().parse(argv[: list(argv).index("--discard")]).rest
    return buckets, found.rest[len(buckets) :]


def _check(found: Namespace, buckets: Sequence[str], names: Sequence[str]) -> None:
    """Raise Failure unless the words go together."""
    given = {
        "--apply": found.apply,
        "--discard": found.discard,
        "--save": found.save is not None,
    }
    actions = [name for name, is_given in given.items() if is_given]
    wrong = ""
    if len(actions) > 1:
        wrong = f"{' and '.join(actions)} exclude each other"
    elif found.discard and bool(names) == found.all:
        wrong = "--discard needs names, or --all"
    elif found.all and not found.discard:
        wrong = "--all goes with --discard"
    elif len(buckets) > 1:
        wrong = f"{buckets[1]}: one argument too many"
    elif found.apply and not buckets:
        wrong = "--apply needs the bucket"
    elif found.options and not found.apply:
        wrong = "-o goes with --apply; --cache DIR names the cache"
    if wrong:
        raise Failure(ExitCode.USAGE, f"{wrong}; bucketfs recover --help tells more")


def _directories(cache: str | None, bucket: str) -> Iterator[Path]:
    """The cache directories meant.

    Raises:
        Failure: There is no such directory.
    """
    root = places.cache_root(os.path.abspath(os.path.expanduser(cache)) if cache else None)
    if cache and not root.is_dir():
        raise Failure(ExitCode.FAILED, f"{root}: no such directory")
    found = list(places.directories(root))
    if cache and not found and (root / places.JOURNAL).exists():
        found = [root]
    for directory in found:
        if not bucket or places.whose(directory)[1] in ("", bucket):
            yield directory


Action = Callable[[Entry, Leftovers, Journal | None], bool]


def _each(chosen: Sequence[Path], action: Action) -> int:
    """Do something to each thing that is left; it says whether it could."""
    well = True
    for directory in chosen:
        try:
            with left.opened(directory) as (found, journal):
                if found.in_use:
                    print(f"bucketfs: {directory}: a mount uses it; left alone", file=sys.stderr)
                    continue
                for entry in found.entries:
                    well = action(entry, found, journal) and well
        except FsError as error:
            print(f"bucketfs: {error.why}", file=sys.stderr)
            well = False
    return ExitCode.OK if well else ExitCode.FAILED


def _save(entry: Entry, found: Leftovers, journal: Journal | None, target: Path) -> bool:
    if entry.kind not in (Kind.FILE, Kind.RESCUED):
        return True
    try:
        with show.waiting(f"{show.name(entry.name)}, {show.size(entry.size)}"):
            path = left.save(entry, found, journal, target)
    except OSError as error:
        print(f"bucketfs: {show.name(entry.name)}: {error.strerror}", file=sys.stderr)
        return False
    note = f" ({show.name(entry.note)})" if entry.note else ""
    print(f"{show.name(entry.name)} -> {show.name(str(path))}{note}")
    return not entry.damaged


def _discard(chosen: Sequence[Path], wanted: set[str] | None) -> int:
    """Discard what has these names, or everything (None)."""
    met: set[str] = set()

    def action(entry: Entry, found: Leftovers, journal: Journal | None) -> bool:
        if wanted is not None and entry.name not in wanted:
            return True
        met.add(entry.name)
        try:
            left.discard(entry, found, journal)
        except OSError as error:
            print(f"bucketfs: {show.name(entry.name)}: {error.strerror}", file=sys.stderr)
            return False
        size = f", {show.size(entry.size)}" if entry.size else ""
        print(f"discarded: {entry.kind} {show.name(entry.name)}{size}")
        return True

    code = _each(chosen, action)
    for name in sorted((wanted or set()) - met):
        print(f"bucketfs: {show.name(name)}: nothing of this name is left", file=sys.stderr)
        code = ExitCode.FAILED
    return code


def _list(chosen: Sequence[Path], *, as_json: bool) -> int:
    something = False
    for directory in chosen:
        try:
            with left.opened(directory) as (found, _):
                pass
        except FsError as error:
            print(f"bucketfs: {error.why}", file=sys.stderr)
            something = True
            continue
        something = something or bool(found.entries)
        if as_json:
            print(json.dumps(as_data(found)))
        elif found.entries or found.in_use:
            print("\n".join(lines(found, time.time())))
    if not as_json:
        print(_HINT if something else "nothing is left", file=sys.stderr if something else None)
    return ExitCode.FAILED if something else ExitCode.OK


def as_data(found: Leftovers) -> Mapping[str, Any]:
    """A directory for JSON."""
    return {
        "directory": str(found.directory),
        "url": found.url,
        "bucket": found.bucket,
        "in_use": found.in_use,
        "left": [
            {
                "kind": entry.kind,
                "name": entry.name,
                "size": entry.size,
                "since": entry.since,
                "damaged": entry.damaged,
                "note": entry.note,
            }
            for entry in found.entries
        ],
    }


def lines(found: Leftovers, now: float) -> Iterator[str]:
    """A directory for people.

    Args:
        found: What is left in it.
        now: Unix time.
    """
    bucket = f"bucket {show.name(found.bucket)}" if found.bucket else "a bucket"
    where = f"{show.name(str(found.directory))} ({bucket} at {show.name(found.url) or 'AWS'})"
    if found.in_use:
        yield f"{where}: a mount uses it; see bucketfs status"
        return
    yield f"{where}:"
    rows = [_row(entry, now) for entry in found.entries]
    yield from show.table(rows, indent="  ")


def _row(entry: Entry, now: float) -> tuple[str, ...]:
    size = show.size(entry.size) if entry.kind in (Kind.FILE, Kind.RESCUED) else ""
    since = show.span(now - entry.since) if entry.since else ""
    state = "damaged: " if entry.damaged else ""
    return entry.kind, show.name(entry.name), size, since, state + show.name(entry.note)


def _bucket(text: str) -> str:
    try:
        return complete.bucket_of(text, os.environ) if text else ""
    except arguments.ParseError as error:
        raise Failure(ExitCode.USAGE, str(error)) from None


def _apply(bucket: str, given: Sequence[str], cache: str | None) -> int:
    """Do what the next mount of a bucket with these options would do. Raises Failure."""
    # Listing needs neither FUSE nor a bucket.
    from bucketfs.cli.commands import apply  # noqa: PLC0415

    only = Path(cache).absolute() if cache and Path(cache, places.JOURNAL).exists() else None
    line = [bucket, "/", "-f"]
    for words_of_one in given:
        line += ["-o", words_of_one]
    try:
        options = complete.build(arguments.tokenise(line), os.environ, expand=False)
    except arguments.ParseError as error:
        raise Failure(ExitCode.USAGE, str(error)) from None
    return apply.apply(replace(options, use_cache=cache) if cache else options, only)
