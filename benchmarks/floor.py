"""``python -m benchmarks.floor``: what the server alone takes for the requests of a workload.

No file system can be faster than the requests it must make. Here they are made over loopback by
bare sockets that read answers and throw them away, with URLs signed beforehand. What a row of
``python -m benchmarks`` takes beyond its floor is the client's; a bar below the floor is out of
reach on this machine with these requests, whatever the client is written in.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.data import DATA, FULL, MIB, SMALL, noise
from benchmarks.measure import cpu_seconds
from benchmarks.server import server
from benchmarks.workloads import THREADS
from tests.harness.witness import Witness

_ROUNDS = 5
_PAGE, _BLOCK, _FETCH, _KEYS = 4096, 64 * 1024, 8 * MIB, 1000


@dataclass(frozen=True, slots=True)
class Request:
    """One request, signed; `start` and `length` name the range of a GET (0: all)."""

    method: str
    url: str
    start: int = 0
    length: int = 0
    body: bytes = b""


def _send(connection: socket.socket, request: Request) -> None:
    """Make a request and read its answer to the end."""
    parts = urlsplit(request.url)
    last = request.start + request.length - 1
    span = f"Range: bytes={request.start}-{last}\r\n" if request.length else ""
    head = (
        f"{request.method} {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"{span}Content-Length: {len(request.body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + request.body)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(_PAGE)
    text, _, early = answer.partition(b"\r\n\r\n")
    if not text.startswith(b"HTTP/1.1 2"):
        raise RuntimeError(f"{request.method} {parts.path}: {text.decode()} {early.decode()}")
    if request.method == "HEAD":
        return
    fields = dict(line.lower().split(b": ", 1) for line in text.split(b"\r\n")[1:])
    if b"transfer-encoding" in fields:
        while not early.endswith(b"\r\n0\r\n\r\n"):
            early += connection.recv(_BLOCK)
        return
    left = int(fields[b"content-length"]) - len(early)
    buffer = memoryview(bytearray(MIB))
    while left > 0:
        left -= connection.recv_into(buffer[: min(left, MIB)])


def _work(address: tuple[str, int], requests: Iterator[Request]) -> None:
    with socket.create_connection(address) as connection:
        for request in requests:
            _send(connection, request)


class Signer:
    """Makes signed requests to one bucket."""

    def __init__(self, bucket: Witness) -> None:
        self._bucket = bucket

    def __call__(
        self,
        operation: str,
        method: str,
        *,
        start: int = 0,
        length: int = 0,
        body: bytes = b"",
        **params: object,
    ) -> Request:
        url = self._bucket.client.generate_presigned_url(
            operation, Params={"Bucket": self._bucket.name, **params}
        )
        return Request(method, url, start, length, body)

    def gets(self, size: int, length: int, count: int = 0) -> list[Request]:
        """GETs of ranges of ``big``: all of it in order, or `count` spread over it."""
        one = self("get_object", "GET", Key="big")
        step = length if not count else (size - length) // count
        return [
            Request("GET", one.url, start, length)
            for start in range(0, step * (count or size // length), step)
        ]

    def each(self, operation: str, method: str, keys: Sequence[str], body: bytes) -> list[Request]:
        """One request a key."""
        return [self(operation, method, Key=key, body=body) for key in keys]

    def listing(self, keys: Sequence[str]) -> list[Request]:
        """The pages of a listing whose keys are known."""
        after = [{"StartAfter": key} for key in keys[_KEYS - 1 :: _KEYS]]
        return [self("list_objects_v2", "GET", **where) for where in ({}, *after)]


@dataclass(frozen=True, slots=True)
class Floor:
    """A workload's requests, and on how many connections they can be made."""

    title: str
    data: str
    connections: int
    requests: Callable[[Signer, Sequence[str]], list[Request]]


_NEW = [f"new{number:05}" for number in range(FULL.parallel_creates)]
FLOORS: tuple[Floor, ...] = (
    Floor("sequential read", "big", 8, lambda sign, _: sign.gets(FULL.big, _FETCH)),
    Floor("random 4 KiB × 200", "big", 1, lambda sign, _: sign.gets(FULL.big, _PAGE, 200)),
    Floor(
        "random 64 KiB × 800", "big", THREADS, lambda sign, _: sign.gets(FULL.big, _BLOCK, 800)
    ),
    Floor(
        "create small files", "nothing", 1,
        lambda sign, _: sign.each("put_object", "PUT", _NEW[: FULL.creates], noise(SMALL)),
    ),
    Floor(
        "create small files, 16 threads", "nothing", THREADS,
        lambda sign, _: sign.each("put_object", "PUT", _NEW, noise(SMALL)),
    ),
    Floor(
        "read small files", "small", THREADS,
        lambda sign, keys: sign.each("get_object", "GET", keys, b""),
    ),
    Floor("ls", "flat", 1, lambda sign, keys: sign.listing(keys)),
    Floor(
        "HEADs of ls -l", "flat", THREADS,
        lambda sign, keys: sign.each("head_object", "HEAD", keys, b""),
    ),
    Floor(
        "HEADs of find", "tree", THREADS,
        lambda sign, keys: sign.each("head_object", "HEAD", keys, b""),
    ),
)  # fmt: skip


def _measure(floor: Floor, bucket: Witness, servers: Sequence[int]) -> tuple[float, float]:
    """Median seconds of the requests, and of the server's CPU."""
    requests = floor.requests(Signer(bucket), bucket.keys())
    parts = urlsplit(bucket.endpoint.url)
    address = (parts.hostname or "", parts.port or 80)
    seconds, cpu = [], []
    for _ in range(_ROUNDS):
        waiting, before = iter(requests), cpu_seconds(servers)
        began = time.monotonic()
        with ThreadPoolExecutor(floor.connections) as pool:
            for done in [pool.submit(_work, address, waiting) for _ in range(floor.connections)]:
                done.result()
        seconds.append(time.monotonic() - began)
        cpu.append(cpu_seconds(servers) - before)
    return statistics.median(seconds), statistics.median(cpu)


def main() -> int:
    """Print the table."""
    print("| requests of | number | connections | seconds | server CPU s |\n|---|---|---|---|---|")
    with server() as (endpoint, servers):
        for floor in FLOORS:
            bucket = Witness.create(endpoint)
            DATA[floor.data](bucket, FULL)
            seconds, cpu = _measure(floor, bucket, servers)
            number = len(floor.requests(Signer(bucket), bucket.keys()))
            print(f"| {floor.title} | {number} | {floor.connections} | {seconds:.3f} | {cpu:.2f} |")
            bucket.destroy()
    return 0


if __name__ == "__main__":
    sys.exit(main())
