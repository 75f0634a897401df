"""Objects that change under open readers: what one open file shows is of one version.

Each version of an object is noise of its own. A reader keeps the set of versions that explain every
byte it has got; when none is left, versions were mixed. Changes come when a reader has made a
random number of steps, from another thread, so that they meet reads and read-ahead under way.

BUCKETFS_TEST_ROUNDS sets the number of rounds, BUCKETFS_TEST_SEED repeats a run.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.mounts import Mount, Mounts
from tests.harness.witness import Witness

ROUNDS = int(os.environ.get("BUCKETFS_TEST_ROUNDS", "40"))
SEED = int(os.environ.get("BUCKETFS_TEST_SEED", "0")) or random.randrange(1 << 32)
LIMIT = 60 + 3 * ROUNDS

KIB, MIB = 1 << 10, 1 << 20
SIZES = (0, 1, 4095, 4096, 4097, 50 * KIB, 64 * KIB, 300 * KIB, MIB, MIB + 1, 3 * MIB, 9 * MIB)

#: What an open file may answer when its version is gone, and an open when the object is.
GONE = {errno.ESTALE}
AWAY = {errno.ESTALE, errno.ENOENT}

#: Reads a mapping page by page and says the sum of each: a fault that fails kills the process.
MAPPED = """
import mmap, os, sys, zlib
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
if size:
    pages = mmap.mmap(fd, size, prot=mmap.PROT_READ)
    for at in range(0, size, 4096):
        print(at, min(4096, size - at), zlib.crc32(pages[at : at + 4096]), flush=True)
"""


class Versions:
    """All bodies a key has had or is about to have; None stands for "no object"."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.bodies: dict[int, bytes] = {}
        self.last: int | None = None

    def make(self, size: int) -> bytes:
        """A new version, which is the newest as soon as it is stored."""
        self.last = len(self.bodies)
        self.bodies[self.last] = self._rng.randbytes(size)
        return self.bodies[self.last]


class Torn(AssertionError):
    """No version explains what was read."""


class Reader:
    """One open file's reads, and the versions that explain them all."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._excluded: set[int] = set()
        self._seen: list[str] = []

    def saw(self, start: int, wanted: int, data: bytes) -> None:
        """A read of so many bytes was answered; nothing means that the file ends there."""
        self._note(
            f"{start}+{wanted}: {len(data)}",
            lambda v: v[start : start + len(data)] == data and (data or start >= len(v)),
        )

    def saw_sum(self, start: int, length: int, crc: int) -> None:
        """A page of a mapping, by its CRC-32."""
        self._note(
            f"{start}+{length} mapped",
            lambda v: len(v) >= start + length and zlib.crc32(v[start : start + length]) == crc,
        )

    def _note(self, what: str, explains: Callable[[bytes], object]) -> None:
        bodies = dict(self._versions.bodies)
        self._seen.append(what)
        self._excluded |= {n for n, body in bodies.items() if not explains(body)}
        if self.versions == set():
            raise Torn(f"{self._seen[-5:]} of sizes {[len(b) for b in bodies.values()]}")

    @property
    def versions(self) -> set[int]:
        """Those that explain everything so far."""
        return set(self._versions.bodies) - self._excluded


Steps = Iterator[None]


def sequential(path: Path, reader: Reader, rng: random.Random) -> Steps:
    step = rng.choice([4 * KIB, 64 * KIB, MIB])
    fd = os.open(path, os.O_RDONLY)
    try:
        yield
        start, data = 0, b"more"
        while data:
            data = os.read(fd, step)
            reader.saw(start, step, data)
            start += len(data)
            yield
    finally:
        os.close(fd)


def at_random(path: Path, reader: Reader, rng: random.Random) -> Steps:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield
        for _ in range(12):
            size = max(len(body) for body in reader._versions.bodies.values())
            start, length = rng.randrange(size + 10), rng.choice([1, 100, 4096, 70_000])
            reader.saw(start, length, os.pread(fd, length, start))
            yield
    finally:
        os.close(fd)


def twice(path: Path, reader: Reader, rng: random.Random) -> Steps:
    """One open file is read to its end, and once more: the second time mostly from memory."""
    with open(path, "rb", 0) as file:
        for _ in range(2):
            file.seek(0)
            yield
            data = file.read()
            reader.saw(0, len(data), data)
            reader.saw(len(data), 1, b"")


def mapped(path: Path, reader: Reader, rng: random.Random) -> Steps:
    command = [sys.executable, "-S", "-c", MAPPED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield
        for line in process.stdout:
            reader.saw_sum(*map(int, line.split()))
            yield


READERS = (sequential, at_random, twice, mapped)


class Changer:
    """Changes one key as other tools do.

    Attributes:
        gone: There is no object now.
        was_away: There was none once.
    """

    gone = was_away = False

    def __init__(self, bucket: Witness, key: str, versions: Versions, rng: random.Random) -> None:
        self._bucket, self._key, self._versions, self._rng = bucket, key, versions, rng
        self.put(rng.choice(SIZES))

    def put(self, size: int) -> None:
        self._bucket.put(self._key, self._versions.make(size))

    def change(self) -> None:
        """Replace, shorten, delete, or delete and make anew."""
        assert self._versions.last is not None
        size = len(self._versions.bodies[self._versions.last])
        kind = self._rng.choice(["replace", "resize", "cut", "delete", "recreate"])
        if kind in ("delete", "recreate"):
            self._bucket.delete(self._key)
            self.was_away = True
        if kind == "replace":
            self.put(size)
        elif kind == "cut":
            self.put(self._rng.randrange(size + 1))
        elif kind in ("resize", "recreate"):
            self.put(self._rng.choice(SIZES))
        self.gone = kind == "delete"


def run(steps: Steps, moments: Counter[int], change: Callable[[], None]) -> int:
    """Read on; at these steps changes begin in a thread. Answers the errno that ended it, or 0."""
    threads: list[threading.Thread] = []
    try:
        for step, _ in enumerate(steps):
            for _ in range(moments.pop(step, 0)):
                for thread in threads:
                    thread.join()  # changes of one key do not overtake each other
                threads.append(threading.Thread(target=change))
                threads[-1].start()
        return 0
    except OSError as error:
        return error.errno or -1
    finally:
        for thread in threads:
            thread.join()
        for _ in range(moments.total()):
            change()


def newest(path: Path, changer: Changer, versions: Versions, *, at_once: bool) -> None:
    """A file opened after the last change is its version: close-to-open."""
    assert versions.last is not None
    if changer.gone:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
            path.read_bytes()
        assert caught.value.errno in AWAY
        return
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        # that a name is free may be remembered for a while
        assert changer.was_away
        assert not at_once
    else:
        assert data == versions.bodies[versions.last], _which(data, versions)


def _which(data: bytes, versions: Versions) -> str:
    known = [n for n, body in versions.bodies.items() if body == data]
    return f"{len(data)} bytes, which is version {known} and not {versions.last}"


@pytest.mark.time_limit(LIMIT)
@pytest.mark.parametrize("at_once", [False, True])
def test_no_read_mixes_versions(bucket: Witness, mount: Mounts, at_once: bool) -> None:
    """`at_once`: names are asked for anew each time, not remembered for a minute."""
    if not at_once:
        bucket.put_many({f"{number}": b"" for number in range(ROUNDS // 2)})
    mounted = mount(bucket, "open_ttl=0", *(["stat_cache_expire=0"] if at_once else []))
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    counts: Counter[str] = Counter()
    for number in range(ROUNDS // 2):
        # names come again, with what is remembered of them
        key = f"{number % 40 if at_once else number}"
        versions = Versions(rng)
        changer = Changer(bucket, key, versions, rng)
        path, kind = mounted.path / key, rng.choice(READERS)
        if rng.random() < 0.5:
            newest(path, changer, versions, at_once=at_once)
            counts["warm"] += 1
        reader = Reader(versions)
        moments = Counter(rng.choice([0, 1, 2, 3, 5, 9]) for _ in range(rng.choice([1, 1, 2])))
        try:
            failure = run(kind(path, reader, rng), moments, changer.change)
            assert failure in AWAY | {0}, errno.errorcode.get(failure, failure)
            newest(path, changer, versions, at_once=at_once)
        except AssertionError as error:
            raise AssertionError(
                f"round {number}, {kind.__name__}, seed {SEED}: {error}"
            ) from error
        counts[kind.__name__] += 1
        counts[f"ended with {errno.errorcode[failure]}" if failure else "read to the end"] += 1
    print(f"torn reads: 0 in {ROUNDS // 2} rounds: {dict(counts)}")


def overwrite(path: Path, versions: Versions, rng: random.Random) -> None:
    """A program on another machine: a new body, a patch, or a tail; closed."""
    assert versions.last is not None
    old = versions.bodies[versions.last]
    kind = rng.choice(["new", "patch", "append", "replace"])
    if kind == "new":
        body = versions.make(rng.choice(SIZES))
        path.write_bytes(body)
        return
    if kind == "replace":
        body = versions.make(rng.choice(SIZES))
        beside = path.with_name(f".{path.name}.new")
        beside.write_bytes(body)
        beside.replace(path)
        return
    piece = rng.randbytes(rng.choice([1, 5000, 100_000]))
    start = len(old) if kind == "append" else rng.randrange(len(old) + 1)
    versions.make(0)
    versions.bodies[versions.last] = old[:start] + piece + old[start + len(piece) :]
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, piece, start)
    finally:
        os.close(fd)


@pytest.mark.time_limit(LIMIT)
def test_one_mount_writes_while_the_other_reads(bucket: Witness, mount: Mounts) -> None:
    writer, other = (mount(bucket, "open_ttl=0", "stat_cache_expire=0") for _ in range(2))
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    counts: Counter[str] = Counter()
    rounds = max(15, ROUNDS // 3)
    for number in range(rounds):
        versions = Versions(rng)
        name = f"{number % 20}"
        (writer.path / name).write_bytes(versions.make(rng.choice(SIZES)))
        reader, kind = Reader(versions), rng.choice(READERS)
        moments = Counter(rng.choice([0, 1, 2, 3, 5]) for _ in range(2))
        try:
            failure = run(
                kind(other.path / name, reader, rng),
                moments,
                lambda v=versions, n=name: overwrite(writer.path / n, v, rng),  # type: ignore[misc]
            )
            assert failure in GONE | {0}, errno.errorcode.get(failure, failure)
            for path in (other.path, writer.path):
                data = (path / name).read_bytes()
                assert versions.last is not None
                assert data == versions.bodies[versions.last], _which(data, versions)
        except AssertionError as error:
            raise AssertionError(
                f"round {number}, {kind.__name__}, seed {SEED}: {error}"
            ) from error
        counts[kind.__name__] += 1
        counts[f"ended with {errno.errorcode[failure]}" if failure else "read to the end"] += 1
    print(f"torn reads across two mounts: 0 in {rounds} rounds: {dict(counts)}")


def _patched(mounted: Mount, name: str, body: bytes, rng: random.Random) -> tuple[int, bytes]:
    """Open a file, read a little, write a little; the descriptor and what it stands for now."""
    fd = os.open(mounted.path / name, os.O_RDWR)
    assert os.pread(fd, 10, 0) == body[:10]
    ours = bytearray(body)
    for _ in range(rng.randrange(1, 4)):
        piece = rng.randbytes(rng.choice([1, 3000, 200_000]))
        start = rng.randrange(len(ours) + 1)
        os.pwrite(fd, piece, start)
        ours[start : start + len(piece)] = piece
    return fd, bytes(ours)


@pytest.mark.time_limit(LIMIT)
def test_replaced_while_it_is_written(bucket: Witness, mount: Mounts) -> None:
    """Both versions live on, or the one that came last was meant to replace the other."""
    mounted = mount(bucket, "open_ttl=0", "stat_cache_expire=0")
    mounted.expected.append("was changed by someone else")
    rng = random.Random(SEED)
    counts: Counter[str] = Counter()
    rounds = max(15, ROUNDS // 3)
    for number in range(rounds):
        name = f"f{number}"
        body = rng.randbytes(rng.choice([10, 5000, MIB]))
        bucket.put(name, body)
        fd, ours = _patched(mounted, name, body, rng)
        theirs, during = rng.randbytes(rng.choice([0, 100, MIB])), rng.random() < 0.5
        thread = threading.Thread(target=bucket.put, args=(name, theirs))
        thread.start()
        if not during:
            thread.join()
        try:
            os.close(fd)
            failure = 0
        except OSError as error:
            failure = error.errno or -1
        thread.join()
        stored = {key: bucket.get(key) for key in bucket.keys(name)}
        beside = [v for key, v in stored.items() if key.startswith(f"{name}.conflict-")]
        if failure:
            assert failure == errno.ESTALE
            assert (stored[name], beside) == (theirs, [ours]), f"round {number}, seed {SEED}"
        else:
            assert during, "nobody was told"
            # Ceph 16 may answer 200 to two PUTs under way at once, and keep the one whose If-Match
            # was true when it began
            may = [theirs] if bucket.endpoint.moto else [theirs, ours]
            assert stored[name] in may, f"round {number}, seed {SEED}"
            assert beside == []
        assert (mounted.path / name).read_bytes() == stored[name]
        bucket.delete(*stored)
        counts["conflict" if failure else "ours came first"] += 1
    print(f"replaced while written: 0 versions lost in {rounds} rounds: {dict(counts)}")
