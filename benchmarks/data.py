"""What lies in the buckets before a workload begins. All of it is foreign: without our metadata."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.harness.witness import Witness

MIB = 1 << 20

#: Bytes of a small file.
SMALL = 4096


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything; `touched` is memory that the machine is made to have at hand."""

    big: int = 256 * MIB
    streams: int = 8
    stream: int = 64 * MIB
    reads: int = 500
    creates: int = 200
    parallel_creates: int = 400
    entries: int = 5000
    directories: int = 100
    files: int = 30
    appended: int = 64 * MIB
    touched: int = 1024 * MIB


FULL = Scale()
#: A connection of 80 MB/s makes 256 MiB long.
FAR = Scale(big=192 * MIB)
QUICK = Scale(
    big=128 * MIB,
    stream=16 * MIB,
    creates=50,
    parallel_creates=100,
    reads=200,
    entries=1000,
    directories=20,
    appended=16 * MIB,
    touched=256 * MIB,
)


@cache
def noise(size: int) -> bytes:
    """Random bytes, one MiB of them repeated."""
    return (os.urandom(MIB) * (size // MIB + 1))[:size]


def _nothing(bucket: Witness, scale: Scale) -> None:
    """An empty bucket."""


def _big(bucket: Witness, scale: Scale) -> None:
    bucket.put("big", noise(scale.big))


def _streams(bucket: Witness, scale: Scale) -> None:
    for number in range(scale.streams):
        bucket.put(f"stream{number}", noise(scale.stream))


def _small(bucket: Witness, scale: Scale) -> None:
    bucket.put_many({f"dir/{n:05}": noise(SMALL) for n in range(scale.reads)})


def _removable(bucket: Witness, scale: Scale) -> None:
    bucket.put_many({f"dir/{n:05}": noise(SMALL) for n in range(scale.creates)})


def _flat(bucket: Witness, scale: Scale) -> None:
    bucket.put_many({f"dir/{n:05}": b"x" for n in range(scale.entries)})


def _tree(bucket: Witness, scale: Scale) -> None:
    every = ((d, f) for d in range(scale.directories) for f in range(scale.files))
    bucket.put_many({f"tree/{d:03}/{f:03}": b"x" for d, f in every})


def _appended(bucket: Witness, scale: Scale) -> None:
    bucket.put("big", noise(scale.appended))


DATA: dict[str, Callable[[Witness, Scale], None]] = {
    "nothing": _nothing,
    "big": _big,
    "streams": _streams,
    "small": _small,
    "removable": _removable,
    "flat": _flat,
    "tree": _tree,
    "appended": _appended,
}

#: What `write_archive` packs: directories, and files in each.
ARCHIVE = (10, 30)


def write_archive(path: Path) -> None:
    """A tar file of small files, as a source distribution has them."""
    with tarfile.open(path, "w") as archive:
        for directory in range(ARCHIVE[0]):
            for file in range(ARCHIVE[1]):
                member = tarfile.TarInfo(f"package/{directory:02}/{file:03}")
                member.size, member.mtime = SMALL, 1_600_000_000 + file
                archive.addfile(member, io.BytesIO(noise(SMALL)))
