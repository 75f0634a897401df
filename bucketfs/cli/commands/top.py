"""``bucketfs top [--once] [--json] [PATH]``: what mounts are doing now, second by second."""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from bucketfs.cli import mounts, show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client
from bucketfs.cli.socket.client import Daemon, NoDaemon
from bucketfs.units import count

USAGE = """usage: bucketfs top [--once] [--json] [PATH]

Shows what the mount that PATH is in does now, or all mounts that you may ask: calls of the kernel
and requests to the endpoint a second with the time they take, bytes, how much of what programs read
was in the cache, what waits for the bucket, and the slowest calls under way. q or Ctrl-C ends it.

  --once   show one second and end; also what happens if the output is no terminal
  --json   one JSON object for each mount a second, one a line"""

#: Seconds between two frames.
PACE: Final = 1.0
#: Kinds of calls and of requests shown.
_KINDS: Final = 8
#: xterm's control sequences: another screen without a cursor, and back; home; to the line's end;
#: to the screen's.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _LINE_END, _REST = "\x1b[H", "\x1b[K", "\x1b[J"

Snapshot = Mapping[str, Any]


def run(argv: Sequence[str]) -> int:
    """Show one mount or all. Raises Failure."""
    parser = Parser(USAGE)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--json", action="store_true")
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if len(found.rest) > 1:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    asked = [client.daemon_at(found.rest[0])[0]] if found.rest else _all()
    if found.json:
        _stream(asked, once=found.once)
    elif found.once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        before = look(asked)
        time.sleep(PACE)
        print("\n".join(frame(before, look(asked))))
    else:
        _live(asked)
    return ExitCode.OK


def _all() -> list[Daemon]:
    found = [daemon for daemon in client.reachable(mounts.current()) if not daemon.draining]
    if not found:
        raise Failure(ExitCode.MOUNTPOINT, "no bucket is mounted that you may ask")
    return found


def look(asked: Sequence[Daemon]) -> list[Snapshot]:
    """What each daemon counts now. Raises Failure."""
    looks: list[Snapshot] = []
    for daemon in asked:
        try:
            with client.ask(daemon, "top") as talk:
                looks.append(talk.result())
        except NoDaemon as error:
            line = f"{show.name(daemon.mountpoint)}: {error}"
            raise Failure(ExitCode.FAILED, line) from None
    return looks


def _stream(asked: Sequence[Daemon], *, once: bool) -> None:
    before = look(asked)
    while True:
        time.sleep(PACE)
        after = look(asked)
        for earlier, later in zip(before, after, strict=True):
            print(json.dumps(figures(earlier, later)), flush=True)
        if once:
            return
        before = after


def _live(asked: Sequence[Daemon]) -> None:
    """Frames in place until q or Ctrl-C."""
    with _screen() as key_within:
        before = look(asked)
        while not key_within(PACE):
            after = look(asked)
            width, height = shutil.get_terminal_size()
            lines = [line[: width - 1] for line in frame(before, after)[: height - 1]]
            text = "".join(f"{line}{_LINE_END}\n" for line in lines)
            sys.stdout.write(f"{_HOME}{text}{_REST}")
            sys.stdout.flush()
            before = after


@contextmanager
def _screen() -> Iterator[Any]:
    """A screen of its own; yields who waits for q for some seconds and says whether it came."""
    terminal = sys.stdin.fileno()
    settings = termios.tcgetattr(terminal)

    def key_within(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([terminal], [], [], left)[0] and os.read(terminal, 16) in (b"q", b""):
                return True
        return False

    try:
        tty.setcbreak(terminal)
        sys.stdout.write(_ENTER)
        yield key_within
    except KeyboardInterrupt:
        pass  # the usual way to end it
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(terminal, termios.TCSADRAIN, settings)


# ---- figures, pure -------------------------------------------------------------------------------


def figures(before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """What happened between two looks, a second; times in seconds, sizes in bytes."""
    seconds = max(after["clock"] - before["clock"], 1e-3)
    requests = _rates(before["requests"], after["requests"], "requests", seconds)
    here, fetched = (
        after["cache"][name] - before["cache"][name] for name in ("read_here", "read_fetched")
    )
    return {
        "source": after["source"],
        "mountpoint": after["mountpoint"],
        "uptime": after["uptime"],
        "calls": _rates(before["calls"], after["calls"], "count", seconds),
        "requests": requests,
        "received": sum(one["received"] for one in requests.values()),
        "sent": sum(one["sent"] for one in requests.values()),
        "read": (here + fetched) / seconds,
        "hit_rate": here / (here + fetched) if here + fetched else None,
        "cache": {name: after["cache"][name] for name in ("held", "limit")},
        "waiting": after["waiting"],
        "open_files": after["open_files"],
        "in_progress": after["in_progress"],
        "failed": after["failed"],
        "slowest": after["slowest"],
    }


def _rates(
    before: Mapping[str, Any], after: Mapping[str, Any], counter: str, seconds: float
) -> dict[str, dict[str, float]]:
    """Each kind's counters a second, and the mean time; kinds that did not happen are missing."""
    rates = {}
    for name, now in after.items():
        was = before.get(name, {})
        grown = {
            key: value - was.get(key, 0)
            for key, value in now.items()
            if isinstance(value, int | float)
        }
        times = grown.pop(counter)
        spent = grown.pop("seconds")
        if times or any(grown.values()):
            rates[name] = {
                "rate": times / seconds,
                "mean": spent / times if times else 0.0,
                **{key: value / seconds for key, value in grown.items()},
            }
    return rates


def frame(before: Sequence[Snapshot], after: Sequence[Snapshot]) -> list[str]:
    """What is shown of all mounts."""
    lines: list[str] = []
    for earlier, later in zip(before, after, strict=True):
        lines += ["", *_mount(figures(earlier, later))]
    return lines[1:]


def _mount(told: Mapping[str, Any]) -> Iterator[str]:
    source, place = show.name(told["source"]), show.name(told["mountpoint"])
    yield f"{source} at {place}, up {show.span(told['uptime'])}"
    yield ""
    calls = [("calls of the kernel", "a second", "mean")]
    calls += [
        (name, f"{one['rate']:.1f}", show.short(one["mean"])) for name, one in _top(told, "calls")
    ]
    requests = [("requests", "a second", "mean", "failed", "again")]
    requests += [
        (
            name, f"{one['rate']:.1f}", show.short(one["mean"]),
            f"{one['failures']:.1f}" if one["failures"] else "",
            f"{one['repeated']:.1f}" if one["repeated"] else "",
        )
        for name, one in _top(told, "requests")
    ]  # fmt: skip
    for rows in (calls, requests):
        yield from show.table(rows, indent="  ", right=range(1, len(rows[0])))
        if len(rows) == 1:
            yield "  none"
        yield ""
    yield from show.table(list(_facts(told)), indent="  ")
    if told["slowest"]:
        yield ""
        yield "  slowest calls under way"
        rows = [
            (show.short(one["seconds"]), one["call"], show.name(one["path"]))
            for one in told["slowest"]
        ]
        yield from show.table(rows, indent="  ", right=[0])


def _top(told: Mapping[str, Any], what: str) -> list[tuple[str, Mapping[str, float]]]:
    return sorted(told[what].items(), key=lambda item: (-item[1]["rate"], item[0]))[:_KINDS]


def _facts(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    cache, waiting = told["cache"], told["waiting"]
    yield "in", f"{show.size(told['received'])}/s"
    yield "out", f"{show.size(told['sent'])}/s"
    rate = f", {told['hit_rate']:.0%} of it from the cache" if told["hit_rate"] is not None else ""
    yield "read", f"{show.size(told['read'])}/s by programs{rate}"
    yield "cache", f"{show.size(cache['held'])} of {show.size(cache['limit'])}"
    yield "waiting", show.remaining(waiting)
    yield (
        "uploads",
        ", ".join(f"{n} {stage}" for stage, n in waiting["stages"].items() if n) or "none",
    )
    yield "open", count(told["open_files"], "file")
    if told["failed"]:
        yield "lost", f"{count(told['failed'], 'file')} could not be saved: bucketfs status"
