"""O_APPEND to a file that others have made longer or shorter: nothing of theirs is overwritten.

The kernel takes the end to be where it was when it asked last, and asks no more before it writes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.mounts import Mounts
from tests.harness.waiting import until
from tests.harness.witness import Witness

Append = Callable[[Path, bytes], object]


def by_call(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        assert os.write(fd, data) == len(data)
    finally:
        os.close(fd)


def having_read(path: Path, data: bytes) -> None:
    with path.open("a+b", buffering=0) as file:
        file.seek(0)
        file.read()
        file.write(data)


def by_shell(path: Path, data: bytes) -> None:
    command = ["sh", "-c", 'exec cat >> "$0"', str(path)]
    subprocess.run(command, input=data, check=True)


def listed(path: Path, data: bytes) -> None:
    os.listdir(path.parent)
    by_call(path, data)


def looked_at(path: Path, data: bytes) -> None:
    path.stat()
    by_call(path, data)


def listed_with_attributes(path: Path, data: bytes) -> None:
    subprocess.run(["ls", "-l", str(path.parent)], stdout=subprocess.DEVNULL, check=True)
    by_call(path, data)


@pytest.mark.parametrize(
    "append", [by_call, having_read, by_shell, listed, looked_at, listed_with_attributes]
)
@pytest.mark.parametrize(
    ("options", "before", "now"),
    [
        pytest.param(("open_ttl=0",), 10, 15, id="longer"),
        pytest.param(("open_ttl=0",), 15, 10, id="shorter"),
        pytest.param(("open_ttl=0",), 10, 300_000, id="much longer"),
        pytest.param(("open_ttl=0", "stat_cache_expire=0"), 10, 15, id="nothing is remembered"),
        pytest.param(("open_ttl=0", "metadata=list"), 10, 15, id="as it is listed"),
        pytest.param(("open_ttl=0", "writeback"), 10, 15, id="later"),
    ],
)
def test_what_others_have_made_of_it_stays(
    bucket: Witness, mount: Mounts, append: Append, options: tuple[str, ...], before: int, now: int
) -> None:
    bucket.put("d/f", b"b" * before)
    path = mount(bucket, *options).path / "d" / "f"
    assert path.stat().st_size == before
    ours = os.urandom(400_000)
    for turn in range(2):
        theirs = b"%d" % turn * now
        bucket.put("d/f", theirs)
        append(path, ours)
        until(lambda: len(bucket.get("d/f")) == now + len(ours), "it is stored")
        assert bucket.get("d/f") == theirs + ours
        assert path.read_bytes() == theirs + ours
    assert not [key for key in sorted(bucket.keys()) if "conflict" in key]


def test_a_path_that_nobody_looks_up(bucket: Witness, mount: Mounts) -> None:
    """Who opens by a path to what is open already may get an error once."""
    bucket.put("f", b"b" * 10)
    path = mount(bucket, "open_ttl=0").path / "f"
    fd = os.open(path, os.O_PATH)
    path.stat()
    bucket.put("f", b"theirs" * 10)
    for _ in range(2):
        try:
            by_call(Path(f"/proc/self/fd/{fd}"), b"x")
        except OSError:
            continue
        break
    os.close(fd)
    assert bucket.get("f") == b"theirs" * 10 + b"x"
