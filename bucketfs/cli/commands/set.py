"""``bucketfs set OPTION=VALUE… [PATH]``: change options of a mount that stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bucketfs.cli import mounts, show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import live
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.socket import client
from bucketfs.cli.socket.client import Daemon, NoDaemon

USAGE = """usage: bucketfs set OPTION=VALUE... [PATH]

Changes options of the mount that PATH is in, until it ends: dbglevel, stat_cache_expire, open_ttl
and cache_size. Without PATH: of the one mount that there is. Others need a new mount.
What the kernel has been told already holds for the time it was told with. A smaller cache_size
drops at once what is over it."""


def run(argv: Sequence[str]) -> int:
    """Change the options. Raises Failure."""
    found = Parser(USAGE).parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    settings = [word for word in found.rest if _is_setting(word)]
    paths = [word for word in found.rest if not _is_setting(word)]
    if not settings or len(paths) > 1:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    words = dict(word.split("=", 1) for word in settings)
    change(words, *paths)
    return ExitCode.OK


def _is_setting(word: str) -> bool:
    return "=" in word and word.partition("=")[0].replace("_", "").isalnum()


def change(words: Mapping[str, str], path: str = "") -> None:
    """Have a daemon change options, given as texts by name. Raises Failure."""
    try:
        live.parse(words)
    except ValueError as error:
        raise Failure(ExitCode.USAGE, show.name(str(error))) from None
    daemon = client.daemon_at(path)[0] if path else only()
    try:
        with client.ask(daemon, "set", words=words) as talk:
            talk.result()
    except NoDaemon as error:
        raise Failure(ExitCode.FAILED, f"{daemon.mountpoint}: {error}") from None


def only() -> Daemon:
    """The daemon of the one mount there is. Raises Failure."""
    found = [daemon for daemon in client.reachable(mounts.current()) if not daemon.draining]
    if len(found) == 1:
        return found[0]
    if not found:
        raise Failure(ExitCode.MOUNTPOINT, "no bucket is mounted that you may ask")
    names = ", ".join(show.name(daemon.mountpoint) for daemon in found)
    raise Failure(ExitCode.USAGE, f"several buckets are mounted, name one of {names}")
