"""``bucketfs warm [--json] PATH…``: fetch all bytes below PATH into the cache."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bucketfs.cli import mounts, show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client
from bucketfs.cli.socket.client import NoDaemon
from bucketfs.units import count

USAGE = """usage: bucketfs warm [--json] PATH...

Fetches all bytes of the files at and below each PATH in a mount into the cache, so that reading
them later takes no request for data. It takes the place of what was used before it began, and stops
when only what it has fetched itself could leave the cache (cache_size). Ctrl-C ends it; what has
come by then stays.

  --json   one JSON object for each PATH, one a line

Exit code 0: all of it is in the cache; 1: something failed, or the cache is full."""


def run(argv: Sequence[str]) -> int:
    """Warm the paths. Raises Failure."""
    parser = Parser(USAGE)
    parser.add_argument("--json", action="store_true")
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if not found.rest:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    began = time.monotonic()
    well = True
    for path in found.rest:
        at = time.monotonic()
        told = _warm(path, at - began)
        if found.json:
            print(json.dumps({"path": path, **told}))
        else:
            print(f"{show.name(path)}: {summary(told, time.monotonic() - at)}")
            _complain(path, told)
        well = well and not (told["failures"] or told["full"] or told["error"])
        if told["full"]:
            break
    return ExitCode.OK if well else ExitCode.FAILED


def _warm(path: str, ago: float) -> dict[str, Any]:
    """Warm one path; what came of it. Raises Failure."""
    daemon, below = client.daemon_at(path)
    progress, rate = show.Progress(), show.Rate()
    try:
        with client.ask(daemon, "warm", below, {"ago": f"{ago:.3f}"}) as talk:
            for answer in talk.answers():
                if "progress" not in answer:
                    return client.done_of(answer)
                told = answer["progress"]
                progress.show(line(told, rate.at(told["fetched"], time.monotonic())))
    except NoDaemon as error:
        raise Failure(ExitCode.FAILED, f"{daemon.mountpoint}: {error}") from None
    finally:
        progress.end()
    raise AssertionError("unreachable")


def line(told: Mapping[str, Any], rate: float) -> str:
    """How far it is, in one line; `rate` in bytes a second."""
    if not told["listed"]:
        return f"{count(told['found_files'], 'file')}, {show.size(told['found_bytes'])} found"
    left = told["found_bytes"] - told["bytes"]
    words = [
        f"{told['files']} of {count(told['found_files'], 'file')}",
        f"{show.size(told['bytes'])} of {show.size(told['found_bytes'])}",
    ]
    if rate:
        words += [f"{show.size(rate)}/s", f"{show.span(left / rate)} left"]
    return ", ".join(words)


def summary(told: Mapping[str, Any], seconds: float) -> str:
    """What was done, in one line."""
    text = f"{count(told['files'], 'file')}, {show.size(told['bytes'])} in the cache"
    if told["fetched"]:
        pace = show.size(told["fetched"] / max(seconds, 0.001))
        text += f"; {show.size(told['fetched'])} fetched in {seconds:.1f} s ({pace}/s)"
    else:
        text += "; nothing was missing" if not told["failures"] else "; nothing was fetched"
    if told["skipped"]:
        text += f"; {count(told['skipped'], 'file')} not saved yet left alone"
    return text


def _complain(path: str, told: Mapping[str, Any]) -> None:
    """Say what is not in the cache, and why."""
    mountpoint = _mountpoint_of(path)
    for one in told["failed"]:
        where = show.name(f"{mountpoint}/{one['path']}")
        print(f"bucketfs: {where}: {show.name(one['error'])}", file=sys.stderr)
    if told["failures"] > len(told["failed"]):
        print(f"bucketfs: and {told['failures'] - len(told['failed'])} more", file=sys.stderr)
    if told["error"]:
        print(f"bucketfs: {show.name(path)}: {show.name(told['error'])}", file=sys.stderr)
    if told["full"]:
        left = told["found_files"] - told["files"] - told["skipped"] - told["failures"]
        print(
            f"bucketfs: the cache is full ({show.size(told['limit'])}): stopped at"
            f" {show.name(told['full'])}, {count(left, 'file')} not warmed; raise cache_size",
            file=sys.stderr,
        )


def _mountpoint_of(path: str) -> str:
    """The mount point that a path is in."""
    return client.locate(path, mounts.current())[0].target
