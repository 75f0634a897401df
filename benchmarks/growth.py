"""How cost grows: ``python -m benchmarks --growth``.

Against the server of `benchmarks.generator`, whose objects cost nothing to make, so that sizes can
be reached that no real server of this machine could hold. Each point is a fresh mount with an empty
cache, over loopback but for the readers: what they share is the wait for the network.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from benchmarks.bare import Bare, Request
from benchmarks.child import Child, WorkError
from benchmarks.data import FULL, MIB, noise
from benchmarks.generator import key_of
from benchmarks.mounting import Mounted, MountError, cpu_seconds
from benchmarks.server import compile_network, network
from benchmarks.slopes import Axis, Goal, Point
from benchmarks.systems import Bucketfs, Place
from bucketfs.cache.cache import DiskCache, Pool
from bucketfs.cache.places import name_of
from tests.harness.endpoint import REPOSITORY, Endpoint
from tests.harness.waiting import until
from tests.harness.witness import Witness

_BUCKET = "made"
_BLOCK = 64 * 1024
_MB = 1_000_000

#: What readers at random read from; far more than is ever fetched.
_HUGE = 8000 * _MB
#: The cache of the mounts, which the largest files exceed.
_CACHE = "cache_size=1G"
#: A round trip (ms) and what a connection carries (MB/s), for the readers.
_RTT, _RATE = 20.0, 80.0
#: Seconds for one point.
_PATIENCE = 1800.0
#: A file of the cache in `_caches`: small, as what is measured is their number.
_BODY = b"x" * 100

#: What a point's work has found, by the names of `benchmarks.slopes.MEASURES`.
Found = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How far each axis goes."""

    names: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)
    megabytes: tuple[int, ...] = (1, 10, 100, 1000, 10_000, 50_000)
    threads: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    reads: int = 512
    files: tuple[int, ...] = (1, 10, 100, 1000, 10_000)
    pages: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)


LARGE = Sizes()
LITTLE = Sizes(
    names=(1000, 3000, 10_000),
    megabytes=(1, 10, 50),
    threads=(1, 4, 16),
    reads=128,
    files=(1, 10, 100),
    pages=(100, 1000, 5000),
)


def names_served(sizes: Sizes) -> list[str]:
    """What the generator has to have."""
    counts = {*sizes.names, max(sizes.files)}
    lengths = {*(number * _MB for number in sizes.megabytes), _HUGE}
    return [f"names-{n}" for n in sorted(counts)] + [f"bytes-{n}" for n in sorted(lengths)]


@contextmanager
def generator(scratch: Path, names: Sequence[str]) -> Iterator[tuple[Endpoint, int]]:
    """The server that makes up its objects, and its process, for the length of the block."""
    port_file, log = scratch / "generator-port", scratch / "generator-log"
    command = [sys.executable, "-m", "benchmarks.generator", str(port_file), *names]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output)
    try:
        until(lambda: port_file.exists() or process.poll() is not None, "the generator listens")
        assert process.poll() is None, log.read_text()
        yield Endpoint(f"http://127.0.0.1:{port_file.read_text()}", moto=False), process.pid
    finally:
        process.kill()
        process.wait()
        port_file.unlink(missing_ok=True)


class Bench:
    """Mounts what the generator serves, and takes points."""

    def __init__(self, endpoint: Endpoint, server: int, scratch: Path, sizes: Sizes) -> None:
        self.endpoint, self._server, self.scratch, self.sizes = endpoint, server, scratch, sizes
        passwd = scratch / "growth-passwd"
        passwd.touch(0o600)
        passwd.write_text(f"{endpoint.access_key}:{endpoint.secret_key}\n")
        self.place = Place(endpoint, _BUCKET, passwd, scratch / "cache", scratch / "mnt")

    @property
    def root(self) -> Path:
        return self.place.mountpoint

    def point(
        self,
        size: float,
        work: Callable[[], Found],
        *,
        before: Callable[[], object] = lambda: None,
        endpoint: Endpoint | None = None,
    ) -> Point:
        """What `work` takes on a fresh mount.

        Raises:
            WorkError: It fails.
            MountError: There is no mount.
        """
        place = replace(self.place, endpoint=endpoint or self.endpoint)
        log = self.scratch / "log"
        with ExitStack() as stack:
            mounted = stack.enter_context(Mounted(Bucketfs("bucketfs", _CACHE), place, log))
            stack.callback(mounted.forget)
            child = stack.enter_context(Child(before, work, patience=_PATIENCE))
            child.wait_ready()
            cpu, served = cpu_seconds([mounted.pid]), cpu_seconds([self._server])
            found = child.work()
            found["cpu"] = cpu_seconds([mounted.pid]) - cpu
            found["served"] = cpu_seconds([self._server]) - served
            found["memory"] = mounted.peak_memory() / MIB
            return Point(size, found)


def _timed(work: Callable[[], object]) -> Callable[[], Found]:
    def timed() -> Found:
        start = time.perf_counter()
        work()
        return {"seconds": time.perf_counter() - start}

    return timed


def _listed(directory: Path) -> Found:
    start = time.perf_counter()
    first = number = 0.0
    with os.scandir(directory) as entries:
        for _ in entries:
            first = first or time.perf_counter() - start
            number += 1
    assert directory.name == f"names-{number:.0f}", f"{number:.0f} in {directory.name}"
    return {"first": first, "seconds": time.perf_counter() - start}


def _pages_alone(bench: Bench, count: int) -> float:
    """Seconds that a bare socket takes for the pages of a listing of so many names."""
    where = f"{bench.endpoint.url}/{_BUCKET}?list-type=2&delimiter=%2F&prefix=names-{count}%2F"
    last = (key_of(f"names-{count}", number - 1) for number in range(1000, count, 1000))
    pages = [Request("GET", where), *(Request("GET", f"{where}&start-after={k}") for k in last)]
    bare = Bare(Witness(bench.endpoint, _BUCKET, None), FULL, 1)
    with Child(bare.connect, _timed(lambda: bare.one_by_one(pages))) as child:
        child.wait_ready()
        return child.work()["seconds"]


def _names(bench: Bench) -> Iterator[Point]:
    for count in bench.sizes.names:
        directory = bench.root / f"names-{count}"
        point = bench.point(count, partial(_listed, directory))
        yield Point(count, {**point.values, "alone": _pages_alone(bench, count)})


def _read(path: Path, size: int) -> None:
    buffer = bytearray(MIB)
    fd, done = os.open(path, os.O_RDONLY), 0
    while got := os.readv(fd, [buffer]):
        done += got
    os.close(fd)
    assert done == size, f"{done} bytes of {size}"


def _write(path: Path, size: int) -> None:
    piece = memoryview(noise(MIB))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for at in range(0, size, MIB):
        os.write(fd, piece[: min(MIB, size - at)])
    os.close(fd)


def _reads(bench: Bench) -> Iterator[Point]:
    for number in bench.sizes.megabytes:
        size = number * _MB
        path = bench.root / f"bytes-{size}"
        yield bench.point(number, _timed(partial(_read, path, size)))


def _writes(bench: Bench) -> Iterator[Point]:
    for number in bench.sizes.megabytes:
        path = bench.root / f"written-{number}"
        yield bench.point(number, _timed(partial(_write, path, number * _MB)))


def _read_at_random(path: Path, threads: int, reads: int) -> None:
    chance = random.Random(threads)
    offsets = [chance.randrange(_HUGE // _BLOCK) * _BLOCK for _ in range(reads)]
    fd = os.open(path, os.O_RDONLY)
    with ThreadPoolExecutor(threads) as pool:
        for data in pool.map(lambda at: os.pread(fd, _BLOCK, at), offsets):
            assert len(data) == _BLOCK
    os.close(fd)


def _threads(bench: Bench) -> Iterator[Point]:
    path, reads = bench.root / f"bytes-{_HUGE}", bench.sizes.reads
    program = compile_network(bench.scratch)
    with network(program, bench.endpoint, rtt=_RTT, rate=_RATE) as far:
        for threads in bench.sizes.threads:
            yield bench.point(
                threads,
                _timed(partial(_read_at_random, path, threads, reads)),
                endpoint=far.endpoint,
            )


def _open_all(paths: Sequence[Path]) -> None:
    # closed by the end of the process: that they are open is what is measured
    for path in paths:
        os.open(path, os.O_RDONLY)


def _files(bench: Bench) -> Iterator[Point]:
    directory = f"names-{max(bench.sizes.files)}"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        os.listdir(bench.root / directory)

    for count in bench.sizes.files:
        if count > most - 100:
            raise WorkError(f"a process may have {most} open files")
        paths = [bench.root / key_of(directory, number) for number in range(count)]
        yield bench.point(count, _timed(partial(_open_all, paths)), before=before)


async def _fill(root: Path, url: str, count: int) -> None:
    """Leave a cache of `count` files, as a mount would have left it; its clock is trio's."""
    pool = Pool(1 << 50, lambda _: 0)
    cache = DiskCache(root, name=name_of(url, _BUCKET), pool=pool)
    for number in range(count):
        file = cache.open(f"cached/{number:07}", f"{number:032x}", len(_BODY))
        cache.write(file, 0, _BODY)
        file.seal(0, _BODY)
        cache.release(file)
    cache.close()


def _mount(bench: Bench) -> Found:
    """Until the first answer of a mount that finds the cache."""
    system = Bucketfs("bucketfs", "cache_size=1T")
    start = time.perf_counter()
    with Mounted(system, bench.place, bench.scratch / "log", patience=_PATIENCE) as mounted:
        os.stat(bench.root)
        seconds = time.perf_counter() - start
        cpu = cpu_seconds([mounted.pid])
        return {"seconds": seconds, "cpu": cpu, "memory": mounted.peak_memory() / MIB}


def _caches(bench: Bench) -> Iterator[Point]:
    for count in bench.sizes.pages:
        bench.place.cache.mkdir(exist_ok=True)
        fill = partial(trio.run, _fill, bench.place.cache, bench.endpoint.url, count)
        try:
            # in a process of its own, as a million files take a gigabyte of memory here
            with Child(fill, lambda: None, patience=_PATIENCE) as child:
                child.wait_ready()
            yield Point(count, _mount(bench))
        finally:
            shutil.rmtree(bench.place.cache, ignore_errors=True)


AXES: tuple[tuple[Axis, Callable[[Bench], Iterator[Point]]], ...] = (
    (
        Axis(
            "names", "names of a directory, listed", "name",
            (Goal("first", 1, size=1_000_000), Goal("memory", 500, each=True)),
        ),
        _names,
    ),
    (Axis("read", "MB of a file, read in order", "MB"), _reads),
    (Axis("write", "MB of a file, written in order", "MB"), _writes),
    (Axis("threads", "readers at once, of 64 KiB each, 20 ms away", "reader"), _threads),
    (Axis("files", "files open at once", "file"), _files),
    (
        Axis(
            "cache", "files in the cache, and a mount that finds them", "file",
            (Goal("seconds", 2, size=1_000_000),),
        ),
        _caches,
    ),
)  # fmt: skip


def measure(axes: Sequence[str], scratch: Path, sizes: Sizes) -> Iterator[Axis]:
    """Each axis as soon as its points are taken; those of these names."""
    with generator(scratch, names_served(sizes)) as (endpoint, pid):
        bench = Bench(endpoint, pid, scratch, sizes)
        for axis, points in AXES:
            if axis.name not in axes:
                continue
            taken, failed = [], ""
            try:
                for point in points(bench):
                    _tell(axis, point)
                    taken.append(point)
            except (WorkError, MountError) as exc:
                failed = str(exc)
            yield replace(axis, points=taken, failed=failed)


def _tell(axis: Axis, point: Point) -> None:
    values = "  ".join(f"{name} {value:.3f}" for name, value in point.values.items())
    print(f"growth   {axis.name:11}{point.size:<16,.0f}{values}", file=sys.stderr, flush=True)
