"""Two hosts and a third one on this machine, as network namespaces; root only.

The third one stands between the others and the rest of the machine, as a server in the same room
does: it is where a shared cache runs.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Groups of three networks in what RFC 2544 keeps for such tests; each process takes one.
_GROUPS = 80


@dataclass(frozen=True)
class Hosts:
    """Names of the namespaces.

    Attributes:
        readers: The two hosts.
        cache: The third one.
        cache_address: Its address, as all of them reach it.
        outside: This machine's address, as they reach it: where the bucket is.
    """

    readers: tuple[str, str]
    cache: str
    cache_address: str
    outside: str


def at(host: str, *command: object) -> list[str]:
    """A command line that runs there; mounts are this machine's."""
    return ["nsenter", f"--net=/run/netns/{host}", "--", *map(str, command)]


@contextmanager
def hosts() -> Iterator[Hosts]:
    """The three of them, for the length of the block."""
    mark = f"bfs{os.getpid() % 100_000}"
    networks = [f"198.18.{3 * (os.getpid() % _GROUPS) + number}" for number in range(3)]
    outer = networks.pop()
    made = Hosts((f"{mark}a", f"{mark}b"), f"{mark}c", f"{outer}.2", f"{outer}.1")
    names = (*made.readers, made.cache)
    try:
        for name in names:
            _run("ip", "netns", "add", name)
            _run(*at(name, "ip", "link", "set", "lo", "up"))
        for host, network in zip(made.readers, networks, strict=True):
            _run("ip", "link", "add", "name", "room", "netns", host, "type", "veth",
                 "peer", "name", host, "netns", made.cache)  # fmt: skip
            _address(host, "room", f"{network}.2")
            _address(made.cache, host, f"{network}.1")
            _run(*at(host, "ip", "route", "add", "default", "via", f"{network}.1"))
        _run("ip", "link", "add", mark, "type", "veth", "peer", "name", "out", "netns", made.cache)
        _run("ip", "address", "add", f"{made.outside}/24", "dev", mark)
        _run("ip", "link", "set", mark, "up")
        _address(made.cache, "out", made.cache_address)
        _run(*at(made.cache, "sysctl", "-q", "net.ipv4.ip_forward=1"))
        for network in networks:
            _run("ip", "route", "add", f"{network}.0/24", "via", made.cache_address)
        yield made
    finally:
        for name in names:  # and what hangs on them: their links, and routes over these
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", mark], check=False, capture_output=True)


def _address(host: str, link: str, address: str) -> None:
    _run(*at(host, "ip", "address", "add", f"{address}/24", "dev", link))
    _run(*at(host, "ip", "link", "set", link, "up"))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
