"""Readers on two hosts, with and without a shared cache: ``python -m tests.scale.readers`` as root.

Prints the table of docs/shared-cache.md. The bucket is that of ``BUCKETFS_TEST_URL``, or Ceph's
(`benchmarks.server`), 20 ms away; the cache is SeaweedFS in the hosts' own network.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.__main__ import RATE, RTT
from benchmarks.server import Network, Traffic, compile_network, network, server
from tests.harness.endpoint import Endpoint
from tests.harness.hosts import Hosts, at, hosts
from tests.harness.mounts import Mount
from tests.harness.shared_cache import SharedCache, shared_cache
from tests.harness.witness import Witness

#: What is read: so many files of so many bytes.
SMALL, LARGE = (100, 64 << 10), (4, 8 << 20)
READERS = (1, 2, 4)


@dataclass
class HostMount(Mount):
    """A mount whose daemon runs on one of the hosts."""

    host: str = ""

    def command(self) -> list[str]:
        return at(self.host, *super().command())


def fill(bucket: Witness) -> str:
    """Put the files into a bucket; the sum of their bytes in the order of their names."""
    files = {}
    for name, (count, size) in (("l", LARGE), ("s", SMALL)):
        files |= {f"{name}/{number:03}": os.urandom(size) for number in range(count)}
    bucket.put_many(files)
    return hashlib.sha256(b"".join(files.values())).hexdigest()


@contextmanager
def mounted(
    bucket: Witness, endpoint: Endpoint, where: Hosts, readers: int, *options: str
) -> Iterator[Sequence[HostMount]]:
    """So many mounts with caches of their own, on one host after the other."""
    with tempfile.TemporaryDirectory(prefix="bucketfs-readers-") as base, ExitStack() as stack:
        made = []
        for number in range(readers):
            scratch = Path(base, str(number))
            scratch.mkdir()
            mount = HostMount(
                bucket, endpoint.url, "", options, scratch, host=where.readers[number % 2]
            )
            stack.callback(mount.down)
            mount.start()
            made.append(mount)
        yield made


def read_all(mounts: Sequence[Mount], expected: str) -> float:
    """Have all of them read everything at the same time; the seconds until the last is done."""
    began = time.monotonic()
    readers = [
        subprocess.Popen("cat */* | sha256sum", shell=True, cwd=mount.path, stdout=subprocess.PIPE)
        for mount in mounts
    ]
    answers = [reader.communicate()[0].decode().split()[0] for reader in readers]
    seconds = time.monotonic() - began
    assert answers == [expected] * len(mounts)
    return seconds


@dataclass
class Figure:
    """What some readers took, by rounds."""

    seconds: list[float]
    traffic: list[Traffic]

    def text(self) -> str:
        """For a cell: seconds, requests of the bucket, and bytes from it."""
        requests = statistics.median(sum(t.requests.values()) for t in self.traffic)
        down = statistics.median(t.down for t in self.traffic)
        return f"{statistics.median(self.seconds):.1f} s, {requests:.0f}, {down / 1e6:.0f} MB"


def measure(
    bucket: Witness, far: Network, cache: SharedCache, where: Hosts, expected: str, rounds: int
) -> dict[tuple[int, str], Figure]:
    """Take all rounds; those with and without the cache take turns."""
    figures: dict[tuple[int, str], Figure] = {}
    ways: dict[str, tuple[Endpoint, Callable[[], None]]] = {
        "without": (far.endpoint, lambda: None),
        "empty": (cache.endpoint, lambda: cache.empty(bucket.name)),
        "filled": (cache.endpoint, lambda: None),  # by those who read just before
    }
    for _ in range(rounds):
        for readers in READERS:
            for way, (endpoint, prepare) in ways.items():
                prepare()
                with mounted(bucket, endpoint, where, readers, "ro", "metadata=list") as mounts:
                    before = far.traffic()
                    seconds = read_all(mounts, expected)
                    taken = far.traffic().since(before)
                figure = figures.setdefault((readers, way), Figure([], []))
                figure.seconds.append(seconds)
                figure.traffic.append(taken)
                print(readers, way, f"{seconds:.1f} s", taken, file=sys.stderr, flush=True)
    return figures


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale.readers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="bucketfs-readers-") as name, ExitStack() as stack:
        root = Path(name)
        behind, _ = stack.enter_context(server())
        where = stack.enter_context(hosts())
        far = stack.enter_context(
            network(compile_network(root), behind, rtt=RTT, rate=RATE, address=where.outside)
        )
        bucket = Witness.create(behind)
        expected = fill(bucket)
        cache = stack.enter_context(shared_cache(where, root))
        cache.stand_before(bucket.name, far.endpoint)
        figures = measure(bucket, far, cache, where, expected, rounds)
    print("| readers | without a cache | through an empty cache | through a filled cache |")
    print("| --- | --- | --- | --- |")
    for readers in READERS:
        cells = [figures[readers, way].text() for way in ("without", "empty", "filled")]
        print(f"| {readers} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
