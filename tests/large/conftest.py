"""Runs only when asked for by path, and a sink to run against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.endpoint import REPOSITORY, Endpoint
from tests.harness.mounts import Mount
from tests.harness.waiting import until
from tests.harness.witness import Witness


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Collect nothing here unless the command line names this directory."""
    return None if any("large" in Path(arg).parts for arg in config.args) else True


@dataclass
class Sink:
    """The server as the tests see it."""

    url: str

    def account(self) -> dict[str, Any]:
        """What it has: objects, uploads, parts, requests, problems, received, sent."""
        with urllib.request.urlopen(f"{self.url}/sink") as answer:
            account: dict[str, Any] = json.load(answer)
        return account

    def make(self, key: str, blocks: int) -> None:
        """An object of the first so many blocks."""
        request = urllib.request.Request(f"{self.url}/sink?key={key}&blocks={blocks}", method="PUT")
        urllib.request.urlopen(request).close()

    @property
    def bucket(self) -> Witness:
        """Its bucket, for the factory of mounts."""
        endpoint = Endpoint(self.url)
        return Witness(endpoint, "bucket", endpoint.client())


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    """A sink in a process of its own."""
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "tests.large.sink", str(port_file)]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        until(lambda: port_file.exists() or process.poll() is not None, "the sink listens")
        assert process.poll() is None
        yield Sink(f"http://127.0.0.1:{port_file.read_text()}")
    finally:
        process.kill()
        process.wait()


@dataclass
class Footprint:
    """What a mount used: at most so many MiB, and seconds of CPU."""

    memory: int = 0
    disk: int = 0
    cpu: float = 0


@contextmanager
def footprint(mount: Mount) -> Iterator[Footprint]:
    """Measures the daemon's peak memory and its cache's peak disk space during the block."""
    found = Footprint()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.25):
            found.disk = max(found.disk, _disk(mount.scratch / "cache") >> 20)

    thread = threading.Thread(target=watch)
    before = _cpu(mount.pid)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
        status = Path(f"/proc/{mount.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        found.memory = int(line.split()[1]) >> 10
        found.cpu = _cpu(mount.pid) - before


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _disk(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # evicted meanwhile
    return total
