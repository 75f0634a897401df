"""The S3 server that is measured against, and the network in front of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.harness.endpoint import Endpoint, configured
from tests.harness.stores.ceph import Ceph
from tests.harness.stores.seaweedfs import SeaweedFS
from tests.harness.stores.server import Server

#: The servers that are measured against.
SERVERS: dict[str, Server] = {"ceph": Ceph(), "seaweedfs": SeaweedFS()}

_SOURCE = Path(__file__).with_name("network.c")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went through a network: requests by kind and bytes each way."""

    requests: dict[str, int]
    up: int
    down: int

    def since(self, before: Traffic) -> Traffic:
        """What was added after `before`; kinds that were not are left out."""
        added = {kind: n - before.requests[kind] for kind, n in self.requests.items()}
        return Traffic(
            {kind: n for kind, n in added.items() if n},
            self.up - before.up,
            self.down - before.down,
        )


class Network:
    """A running ``network``: the endpoint at a distance."""

    def __init__(self, process: subprocess.Popen[str], endpoint: Endpoint) -> None:
        self._process = process
        self.endpoint = endpoint
        self.pid = process.pid

    def traffic(self) -> Traffic:
        """All traffic so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        return Traffic(**json.loads(self._process.stdout.readline()))


def compile_network(scratch: Path) -> Path:
    """The simulator's program, made with the system's C compiler."""
    program = scratch / "network"
    subprocess.run(["cc", "-O2", "-o", program, _SOURCE], check=True)
    return program


@contextmanager
def network(
    program: Path, endpoint: Endpoint, *, rtt: float, rate: float, address: str = "127.0.0.1"
) -> Iterator[Network]:
    """`endpoint` seen through `rtt` milliseconds and `rate` MB/s a connection (0: unlimited).

    It stands at an address of this machine.
    """
    port = urlsplit(endpoint.url).port
    process = subprocess.Popen(
        [str(program), str(port), str(rtt), str(rate), address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        own = process.stdout.readline().strip()
        yield Network(process, endpoint.at(f"http://{address}:{own}"))
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that answers.

    Attributes:
        title: Its name and version, for people.
        pids: The processes behind it, as far as they are ours.
    """

    endpoint: Endpoint
    title: str
    pids: list[int]
    ceph: bool


@contextmanager
def server(name: str, scratch: Path) -> Iterator[Serving]:
    """The server of this name with its data below `scratch`, or the one the environment names."""
    named = configured()
    if named:
        yield Serving(named, "a server that the environment names", [], ceph=True)
        return
    kind = SERVERS[name]
    missing = kind.missing()
    if missing:
        raise SystemExit(f"benchmarks: {kind.title} needs {missing}")
    root = scratch / "server"
    root.mkdir()
    with kind.serve(root) as endpoint:
        title = f"{kind.title} {kind.version()}"
        yield Serving(endpoint, title, _processes_of(root), ceph=name == "ceph")


def _processes_of(root: Path) -> list[int]:
    """Whose command line names a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end meanwhile
            if os.fsencode(f"{root}/") in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found
