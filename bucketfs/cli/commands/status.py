"""``bucketfs status [--json] [PATH]``: what mounts do, and what is not in the bucket yet."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bucketfs.cli import mounts, show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client, exposition
from bucketfs.cli.socket.client import Daemon, NoDaemon
from bucketfs.units import count

USAGE = """usage: bucketfs status [--json|--prometheus] [PATH]

Shows the mount that PATH is in, or all mounts that you may ask: requests, cache, open files, what
is not in the bucket yet and why, and what could not be saved.

  --json        one JSON object for each mount, one a line
  --prometheus  metrics in Prometheus's text format, for the textfile collector of node_exporter

Exit code 0: all is well; 1: something failed, is being retried, or one of the mounts does not
answer (with --prometheus, only the last counts); 3: no bucket is mounted at PATH, or its daemon
does not answer."""

#: Files named for people; --json names more.
_SHOWN = 20


def run(argv: Sequence[str]) -> int:
    """Show one mount or all. Raises Failure."""
    parser = Parser(USAGE)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prometheus", action="store_true")
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if len(found.rest) > 1 or (found.json and found.prometheus):
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    if found.rest:
        asked, silent = [client.daemon_at(found.rest[0])[0]], list[str]()
    else:
        asked, silent = _all()
    others = 0 if found.rest or found.json or found.prometheus else _others()
    statuses: list[dict[str, Any]] = []
    for daemon in asked:
        try:
            with client.ask(daemon, "status") as talk:
                statuses.append(talk.result())
        except NoDaemon as error:
            print(f"bucketfs: {show.name(daemon.mountpoint)}: {error}", file=sys.stderr)
            silent.append(daemon.mountpoint)
    if found.prometheus:
        print(exposition.text(statuses, silent), end="")
        return ExitCode.FAILED if silent else ExitCode.OK
    if found.json:
        for status in statuses:
            print(json.dumps(status))
    elif not asked and not silent and not others:
        print("no bucket is mounted")
    elif statuses:
        shown = ("\n".join(map(show.name, lines(each, time.time()))) for each in statuses)
        print("\n\n".join(shown))
    if others:
        whose = "another user is" if others == 1 else "other users are"
        print(f"{count(others, 'mount')} of {whose} not shown: only they and root may ask")
    return ExitCode.OK if not silent and all(map(is_well, statuses)) else ExitCode.FAILED


def _all() -> tuple[list[Daemon], list[str]]:
    """The daemons that can be asked, and the mount points that have none."""
    known = mounts.current()
    found = client.reachable(known)
    silent: list[str] = []
    devices = {daemon.device for daemon in found if not daemon.draining}
    for mount in known:
        if mount.type != mounts.TYPE or not client.may_ask(mount):
            continue
        if mount.device not in devices:
            print(f"bucketfs: {client.silent(mount)}", file=sys.stderr)
            silent.append(mount.target)
    return found, silent


def _others() -> int:
    """How many mounts there are that this user may not ask."""
    known = mounts.current()
    return sum(mount.type == mounts.TYPE and not client.may_ask(mount) for mount in known)


def is_well(status: Mapping[str, Any]) -> bool:
    """Whether nothing failed and nothing that waits has failed before."""
    return not status["failed"] and not _failing(status)


def _failing(status: Mapping[str, Any]) -> int:
    """How many that wait have failed before; an older daemon tells only of those it names."""
    waiting = status["waiting"]
    failing: int = waiting.get("failing", sum(bool(item["error"]) for item in waiting["items"]))
    return failing


def lines(status: Mapping[str, Any], now: float) -> Iterator[str]:
    """A status for people.

    Args:
        status: As the daemon sends it.
        now: Unix time.
    """
    yield f"{show.name(status['source'])} at {show.name(status['mountpoint'])}"
    yield from show.table([*_facts(status), *_feeds(status, now)], indent="  ")
    waiting = status["waiting"]
    items = waiting["items"][:_SHOWN]
    if items:
        rows = [("path", "size", "state", "since", "")]
        yield "  not in the bucket yet:"
        yield from show.table(rows + [_row(item, now) for item in items], indent="    ")
    more = waiting["files"] + waiting["being_written"] - len(items)
    if items and more > 0:
        yield f"    and {more} more"
    failed = status["failed"][-_SHOWN:]
    if failed:
        yield "  could not be saved:"
    for one in failed:
        where = f"; its bytes are in {show.name(one['where'])}" if one["where"] else ""
        yield f"    {show.name(one['path'])}: {show.name(one['error'])}{where}"


def _facts(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    cache, waiting = status["cache"], status["waiting"]
    tallies = status["requests"]
    sums = {name: sum(tally[name] for tally in tallies.values()) for name in ("sent", "received")}
    up = show.span(status["uptime"])
    yield "daemon", f"process {status['pid']}, {status['state']}, up {up}, {status['version']}"
    yield "endpoint", show.name(status["endpoint"])
    if at := status.get("at"):
        yield "shown at", show.name(at)
    directory = show.name(cache["directory"])
    yield "cache", f"{show.size(cache['held'])} of {show.size(cache['limit'])} in {directory}"
    yield "open files", f"{status['open_files']}, {waiting['being_written']} of them being written"
    if locks := status.get("locks"):
        lost = f", lost {count(locks['lost'], 'time')}" * bool(locks["lost"])
        yield "locks", f"in the bucket, on {count(locks['files'], 'file')} now{lost}"
    yield "requests", ", ".join(_tally(name, tally) for name, tally in tallies.items()) or "none"
    yield "bytes", f"{show.size(sums['sent'])} sent, {show.size(sums['received'])} received"
    yield "waiting", show.remaining(waiting)
    if failing := _failing(status):
        yield "failing", f"{failing} of what waits, tried again and again"


def _feeds(status: Mapping[str, Any], now: float) -> Iterator[tuple[str, str]]:
    """How it stands with what others change, for each bucket; an older daemon says nothing."""
    for feed in status.get("follow", ()):
        name = show.name(f"follow {feed['place']}".strip().removesuffix("/"))
        lasts = show.span(now - feed["since"])
        if feed["connected"]:
            yield name, f"connected for {lasts}"
        elif feed["next_try"]:
            soon = show.span(feed["next_try"] - now)
            yield name, f"down for {lasts}, next try in {soon}: {show.name(feed['error'])}"
        else:
            yield name, f"not offered by the endpoint: {show.name(feed['error'])}"


def _tally(name: str, tally: Mapping[str, Any]) -> str:
    notes = [(tally["failures"], "failed"), (tally.get("repeated", 0), "repeated")]
    shown = ", ".join(f"{number} {what}" for number, what in notes if number)
    return f"{name} {tally['requests']}" + (f" ({shown})" if shown else "")


def _row(item: Mapping[str, Any], now: float) -> tuple[str, str, str, str, str]:
    since = show.span(now - item["since"]) if item["since"] else ""
    trouble = ""
    if item["error"]:
        trouble = f"{count(item['tries'], 'try', 'tries')}: {show.name(item['error'])}"
    return show.name(item["path"]), show.size(item["size"]), item["state"], since, trouble
