"""What is done on each mount, when it counts as done, and how much faster bucketfs has to be.

A workload runs in a process of its own. Where it writes, it is over when the bucket, asked past
the mount, holds the result whole.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data import ARCHIVE, FULL, MIB, SMALL, Scale, noise
from tests.harness.witness import Witness

THREADS = 16
PAGE, BLOCK = 4096, 64 * 1024
RANDOM_READS, THREADED_READS = 200, 800
APPENDS, APPENDED = 10, 1000

#: Seconds between two looks into the bucket.
_GLANCE = 0.005


@dataclass(frozen=True, slots=True)
class Job:
    """Where a workload runs."""

    root: Path
    scale: Scale
    bucket: Witness
    archive: Path

    @property
    def big(self) -> Path:
        return self.root / "big"

    @property
    def dir(self) -> Path:
        return self.root / "dir"


def _read(path: Path) -> None:
    buffer = bytearray(MIB)
    fd = os.open(path, os.O_RDONLY)
    while os.readv(fd, [buffer]):
        pass
    os.close(fd)


def _write(path: Path, size: int) -> None:
    piece = noise(min(size, MIB))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for _ in range(0, size, MIB):
        os.write(fd, piece)
    os.close(fd)


def _each(action: Callable[[Path], None], paths: Iterable[Path], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(action, paths))


def _run(*command: object) -> None:
    """A real tool, its output read to the end."""
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE)


def _until(condition: Callable[[], bool]) -> None:
    """The caller's process is ended when it takes too long."""
    while not condition():
        time.sleep(_GLANCE)


def _whole(job: Job, key: str, size: int) -> None:
    def there() -> bool:
        head = job.bucket.head(key)
        return head is not None and head["ContentLength"] == size

    _until(there)


def _all_whole(job: Job, prefix: str, count: int) -> None:
    def there() -> bool:
        answer = job.bucket.client.list_objects_v2(Bucket=job.bucket.name, Prefix=prefix)
        sizes = [
            item["Size"] for item in answer.get("Contents", []) if not item["Key"].endswith("/")
        ]
        return sizes == [SMALL] * count

    _until(there)


def _first_byte(job: Job) -> None:
    fd = os.open(job.big, os.O_RDONLY)
    os.read(fd, 1)
    os.close(fd)


def _read_big(job: Job) -> None:
    _read(job.big)


def _read_and_drop(job: Job) -> None:
    _read(job.big)
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1\n")


def _read_streams(job: Job) -> None:
    _each(_read, [job.root / f"stream{n}" for n in range(job.scale.streams)], job.scale.streams)


def _offsets(job: Job, unit: int, count: int) -> list[int]:
    chance = random.Random(1)
    return [chance.randrange(job.scale.big // unit) * unit for _ in range(count)]


def _random_reads(job: Job) -> None:
    fd = os.open(job.big, os.O_RDONLY)
    for offset in _offsets(job, PAGE, RANDOM_READS):
        os.pread(fd, PAGE, offset)
    os.close(fd)


def _threaded_random_reads(job: Job) -> None:
    fd = os.open(job.big, os.O_RDONLY)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda at: os.pread(fd, BLOCK, at), _offsets(job, BLOCK, THREADED_READS)))
    os.close(fd)


def _write_big(job: Job) -> None:
    _write(job.big, job.scale.big)
    _whole(job, "big", job.scale.big)


def _create(job: Job) -> None:
    for number in range(job.scale.creates):
        _write(job.root / f"{number:05}", SMALL)
    _all_whole(job, "", job.scale.creates)


def _create_threaded(job: Job) -> None:
    count = job.scale.parallel_creates
    _each(lambda path: _write(path, SMALL), [job.root / f"{n:05}" for n in range(count)], THREADS)
    _all_whole(job, "", count)


def _untar(job: Job) -> None:
    _run("tar", "-xf", job.archive, "-C", job.root)
    _all_whole(job, "package/", ARCHIVE[0] * ARCHIVE[1])


def _read_small(job: Job) -> None:
    for name in sorted(os.listdir(job.dir)):
        _read(job.dir / name)


def _read_small_threaded(job: Job) -> None:
    _each(_read, [job.dir / name for name in sorted(os.listdir(job.dir))], THREADS)


def _remove(job: Job) -> None:
    _run("rm", "-r", job.dir)
    _until(lambda: not job.bucket.keys())


def _rename(job: Job) -> None:
    os.rename(job.big, job.root / "other")
    _whole(job, "other", job.scale.big)
    _until(lambda: not job.bucket.exists("big"))


def _append(job: Job) -> None:
    for _ in range(APPENDS):
        fd = os.open(job.big, os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"+" * APPENDED)
        os.close(fd)
    _whole(job, "big", job.scale.appended + APPENDS * APPENDED)


def _patch(job: Job) -> None:
    offset, patch = job.scale.big // 2 + 12345, b"p" * MIB
    fd = os.open(job.big, os.O_WRONLY)
    os.pwrite(fd, patch, offset)
    os.close(fd)

    def there() -> bool:
        where = {"Bucket": job.bucket.name, "Key": "big"}
        span = f"bytes={offset}-{offset + len(patch) - 1}"
        return bool(job.bucket.client.get_object(**where, Range=span)["Body"].read() == patch)

    _until(there)
    _whole(job, "big", job.scale.big)


@dataclass(frozen=True, slots=True)
class Bar:
    """How many times as fast as others bucketfs has to be.

    Attributes:
        near, far: The factor over loopback and over the network; None where nothing is asked.
        others: Compared is the fastest of these systems; of all that were measured, if none.
    """

    near: float | None
    far: float | None
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """The most a sample of bucketfs may use.

    Attributes:
        memory: Bytes resident.
        down: Bytes received.
        far: Seconds over the network.
        cpu: Seconds of its process.
    """

    memory: int | None = None
    down: int | None = None
    far: float | None = None
    cpu: float | None = None


#: Systems that have all that is written in the bucket when close() returns.
WAITING = ("s3fs", "mount-s3")
#: Shown beside each other. geesefs uploads at the release of a file, which comes after close().
SOON = ("s3fs", "geesefs", "mount-s3")
#: Those that return before, and upload later.
LATER = ("rclone", "geesefs-later")
#: Those that show the times that a program stored, which costs a request an object.
EXACT = ("s3fs", "rclone")
#: Those that show what a listing tells.
LISTED = ("rclone-modtime", "geesefs", "mount-s3")
#: All, in the variant that promises most.
EACH = ("s3fs", "rclone", "geesefs", "mount-s3")


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table.

    Attributes:
        data: What is in the bucket, a name of `data.DATA`.
        changes: Whether it alters the data, so that every sample needs a bucket of its own.
        before: Done on the mount before the clock starts.
        again: Whether the whole is done once and measured on a second mount with the same cache.
        own: Which variant of bucketfs is measured.
        peers: The systems it is compared with, at most one variant of each: those that promise
            as much.
    """

    name: str
    title: str
    data: str
    run: Callable[[Job], None]
    bars: tuple[Bar, ...] = (Bar(1, 1),)
    changes: bool = False
    before: Callable[[Job], None] | None = None
    again: bool = False
    limit: Limit = Limit()
    own: str = "bucketfs"
    peers: tuple[str, ...] = EACH

    @property
    def systems(self) -> tuple[str, ...]:
        """All that is measured, as far as it is there."""
        return (self.own, "floor", *self.peers)


_WRITEBACK, _LIST = "bucketfs-writeback", "bucketfs-list"
_MEMORY = 100 * MIB


def _ls_l(job: Job) -> None:
    _run("ls", "-l", job.dir)


def _find(job: Job) -> None:
    _run("find", job.root, "-size", "+1k")


#: The rows, in the order of the table. The bars are the goals of the project; over loopback, where
#: what is measured is CPU alone, the best peer is aimed at.
WORKLOADS: tuple[Workload, ...] = (
    Workload(
        "first-byte", "first byte of a big object", "big", _first_byte, limit=Limit(far=0.055)
    ),
    Workload(
        "read", "sequential read", "big", _read_big, (Bar(1, 1.2),), limit=Limit(memory=_MEMORY)
    ),
    Workload(
        "read-8", "8 sequential reads at once", "streams", _read_streams, (Bar(1, 1.1),),
        limit=Limit(memory=_MEMORY),
    ),
    Workload(
        "read-warm", "sequential read, in the cache", "big", _read_big, before=_read_and_drop
    ),
    Workload(
        "random", f"random 4 KiB × {RANDOM_READS}", "big", _random_reads,
        # all of it once, where that takes less time
        limit=Limit(down=FULL.big * 17 // 16, far=2.0),
    ),
    Workload(
        "random-16", f"random 64 KiB × {THREADED_READS}, {THREADS} threads", "big",
        _threaded_random_reads,
    ),
    Workload(
        "write", "sequential write", "nothing", _write_big, (Bar(1, 1.2),), changes=True,
        limit=Limit(memory=_MEMORY),
    ),
    Workload(
        "create", "create small files", "nothing", _create, (Bar(1, 1, WAITING),), changes=True,
        peers=SOON,
    ),
    Workload(
        "create-later", "create small files, writeback", "nothing", _create, (Bar(1, 1.2),),
        changes=True, own=_WRITEBACK, peers=LATER,
    ),
    Workload(
        "create-16", f"create small files, {THREADS} threads", "nothing", _create_threaded,
        (Bar(1, 1, WAITING),), changes=True, peers=SOON,
    ),
    Workload(
        "create-16-later", f"create small files, {THREADS} threads, writeback", "nothing",
        _create_threaded, changes=True, own=_WRITEBACK, peers=LATER,
    ),
    Workload(
        "untar", f"untar {ARCHIVE[0] * ARCHIVE[1]} small files", "nothing", _untar,
        # one and a fifth of the time of its PUTs
        (Bar(1, 1, WAITING), Bar(None, 1 / 1.2, ("floor",))), changes=True, peers=SOON,
    ),
    Workload(
        "untar-later", f"untar {ARCHIVE[0] * ARCHIVE[1]} small files, writeback", "nothing",
        _untar, (Bar(1, 1.2),), changes=True, own=_WRITEBACK, peers=LATER,
        limit=Limit(cpu=0.002 * ARCHIVE[0] * ARCHIVE[1]),
    ),
    Workload("small", "read small files", "small", _read_small, (Bar(1, 8),)),
    Workload(
        "small-16", f"read small files, {THREADS} threads", "small", _read_small_threaded,
        limit=Limit(cpu=0.6),
    ),
    Workload("ls", "ls", "flat", lambda job: _run("ls", job.dir)),
    Workload("ls-l", "ls -l", "flat", _ls_l, peers=EXACT, limit=Limit(far=2.5, cpu=1.25)),
    Workload(
        "ls-l-again", "ls -l, on the next mount", "flat", _ls_l, again=True, peers=EXACT
    ),
    Workload("ls-l-list", "ls -l, metadata=list", "flat", _ls_l, own=_LIST, peers=LISTED),
    Workload("find", "find -size in a tree", "tree", _find, peers=EXACT, limit=Limit(far=1.5)),
    Workload(
        "find-list", "find -size in a tree, metadata=list", "tree", _find, own=_LIST, peers=LISTED
    ),
    Workload("rm", "rm -r", "removable", _remove, changes=True),
    Workload(
        "rm-later", "rm -r, writeback", "removable", _remove, changes=True, own=_WRITEBACK,
        peers=LATER,
    ),
    Workload("rename", "rename a big object", "big", _rename, changes=True),
    Workload(
        "append", f"append 1 kB, {APPENDS} times", "appended", _append,
        (Bar(1, 1, ("s3fs", "rclone")), Bar(2, 2, ("s3fs",))), changes=True,
    ),
    Workload("patch", "change 1 MiB inside", "big", _patch, changes=True),
)  # fmt: skip
