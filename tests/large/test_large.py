"""50 GiB written through a mount, 60 GiB read: what it costs in memory and on disk, and every byte.

Sizes can be scaled down with BUCKETFS_TEST_LARGE_GIB while working on this.
"""

from __future__ import annotations

import errno
import os
import random
import time
from pathlib import Path

import pytest

from bucketfs.file.plan import part_at
from bucketfs.store.capability import UNKNOWN
from tests.harness.mounts import Mounts
from tests.harness.posix import refused
from tests.large.conftest import Sink, footprint
from tests.large.pattern import BLOCK, Blocks, block, span

GIB = 1 << 30
WRITTEN = int(os.environ.get("BUCKETFS_TEST_LARGE_GIB", "50")) * GIB
READ = 60 * GIB
#: What bucketfs takes the sink for.
LIMITS = UNKNOWN.capabilities
#: The promise of the README, in MiB.
MEMORY = 300
#: What a cache may exceed its size by, in MiB: one check interval and the parts under way.
SLACK = 256


def write(path: Path, size: int) -> float:
    """Write the pattern; answers the seconds until it is durable."""
    began = time.monotonic()
    blocks = Blocks()
    with path.open("xb", buffering=0) as file:
        for number in range(size // BLOCK):
            assert file.write(blocks.of(number)) == BLOCK
    return time.monotonic() - began


def schedule(size: int) -> list[int]:
    """Sizes of the parts that a file written from its start to its end leaves in."""
    parts: list[int] = []
    while (position := sum(parts)) < size:
        parts.append(min(part_at(position, LIMITS), size - position))
    return parts


@pytest.mark.time_limit(1800)
@pytest.mark.parametrize("cache", [1024, None], ids=["small-cache", "defaults"])
def test_writing(sink: Sink, mount: Mounts, cache: int | None) -> None:
    mounted = mount(sink.bucket, *([f"cache_size={cache}"] if cache else []))
    with footprint(mounted) as used:
        seconds = write(mounted.path / "f", WRITTEN)
    account = sink.account()
    print(
        f"\n{WRITTEN >> 20} MiB in {seconds:.0f} s, {WRITTEN / seconds / 1e6:.0f} MB/s;"
        f" peak memory {used.memory} MiB, cache {used.disk} MiB, CPU {used.cpu:.0f} s;"
        f" {account['received'] >> 20} MiB sent in {account['requests']}"
    )
    assert account["problems"] == []
    assert account["objects"] == {"f": [WRITTEN, [[0, WRITTEN // BLOCK]]]}, "and nothing else"
    assert account["uploads"] == []
    assert account["parts"]["f"] == schedule(WRITTEN)
    assert used.memory <= MEMORY
    assert used.disk <= (cache or 10 * 1024) + SLACK
    assert account["received"] <= WRITTEN + GIB, "hardly a byte travels twice"


@pytest.mark.time_limit(1800)
def test_a_part_size_that_cannot_reach(sink: Sink, mount: Mounts) -> None:
    """10,000 parts of 5 MiB end at 48.8 GiB: the write that goes beyond fails at once."""
    mounted = mount(sink.bucket, "multipart_size=5", "cache_size=1024", "dbglevel=info")
    reach = 10_000 * 5 << 20
    path = mounted.path / "f"
    with footprint(mounted) as used, path.open("xb", buffering=0) as file:
        blocks = Blocks()
        for number in range(reach // BLOCK):
            assert file.write(blocks.of(number)) == BLOCK
        with refused(errno.EFBIG):
            file.write(b"x")
        path.unlink()
    _nothing_left(sink)
    assert "raise multipart_size" in mounted.log.read_text()
    assert used.memory <= MEMORY
    assert used.disk <= 1024 + SLACK


def _nothing_left(sink: Sink) -> None:
    deadline = time.monotonic() + 60
    while (account := sink.account())["objects"] or account["uploads"]:
        assert time.monotonic() < deadline, (list(account["objects"]), account["uploads"])
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["truncate", "write"])
def test_a_length_that_cannot_be_reached(sink: Sink, mount: Mounts, how: str) -> None:
    mounted = mount(sink.bucket, "multipart_size=5", "dbglevel=info")
    reach = 10_000 * 5 << 20
    with (mounted.path / "f").open("xb") as file, refused(errno.EFBIG):
        if how == "truncate":
            os.ftruncate(file.fileno(), reach + 1)
        else:
            os.pwrite(file.fileno(), b"x", reach)
    assert "raise multipart_size" in mounted.log.read_text()


@pytest.mark.time_limit(600)
def test_reading_at_random(sink: Sink, mount: Mounts) -> None:
    sink.make("f", READ // BLOCK)
    mounted = mount(sink.bucket, "cache_size=1024")
    places = [random.Random(5).randrange(READ - 4096) for _ in range(200)]
    places += [48 * GIB, 10_000 * 5 << 20, READ - 4096, READ - 5, 0]
    with footprint(mounted) as used, (mounted.path / "f").open("rb", buffering=0) as file:
        assert os.fstat(file.fileno()).st_size == READ
        for place in places:
            wanted = span(place, min(place + 4096, READ))
            assert os.pread(file.fileno(), 4096, place) == wanted, place
    sent = sink.account()["sent"]
    print(f"\n{sent >> 10} KiB for {len(places)} reads; peak memory {used.memory} MiB")
    # one read is at the start of the file, where a program usually goes on
    assert sent <= len(places) * (64 << 10) + (8 << 20)
    assert used.memory <= MEMORY


@pytest.mark.time_limit(600)
def test_reading_in_order(sink: Sink, mount: Mounts) -> None:
    sink.make("f", READ // BLOCK)
    mounted = mount(sink.bucket, "cache_size=1024")
    began = time.monotonic()
    with footprint(mounted) as used, (mounted.path / "f").open("rb", buffering=0) as file:
        file.seek(42 * GIB)
        for number in range(42 * 1024, 50 * 1024):
            data = file.read(BLOCK)
            while len(data) < BLOCK:
                data += file.read(BLOCK - len(data))
            assert data == block(number)
    seconds = time.monotonic() - began
    print(
        f"\n{8 * GIB / seconds / 1e6:.0f} MB/s; peak memory {used.memory} MiB,"
        f" cache {used.disk} MiB, CPU {used.cpu:.0f} s"
    )
    assert used.memory <= MEMORY
    assert used.disk <= 1024 + SLACK
    assert sink.account()["sent"] <= 8 * GIB + (256 << 20)
