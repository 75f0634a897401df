"""Files larger than the cache, through the kernel."""

from __future__ import annotations

import os
import random

import pytest

from tests.harness.mounts import Mounts
from tests.harness.witness import Witness

MIB = 1 << 20
CACHE = 64
SIZE = 160


@pytest.mark.needs("hidden_parts")
def test_a_file_larger_than_the_cache(bucket: Witness, mount: Mounts) -> None:
    mounted = mount(bucket, f"cache_size={CACHE}")
    data = bytearray(random.Random(3).randbytes(SIZE * MIB))
    most = 0
    with (mounted.path / "f").open("x+b", buffering=0) as file:
        for start in range(0, len(data), MIB):
            file.write(data[start : start + MIB])
            most = max(most, mounted.cached() // MIB)
        # the limit or what one file may hold, one check interval, and the parts under way
        assert most <= CACHE + 64 + 16
        assert os.listdir(mounted.path) == ["f"]
        for place in (5, 70 * MIB - 7, 130 * MIB):
            assert os.pread(file.fileno(), 1000, place) == data[place : place + 1000]
        os.pwrite(file.fileno(), b"header", 3)
        data[3:9] = b"header"
        (mounted.path / "f").rename(mounted.path / "g")
        os.fsync(file.fileno())
        assert bucket.get("g") == bytes(data)
        tail = random.Random(4).randbytes(90 * MIB)
        file.seek(0, os.SEEK_END)
        for start in range(0, len(tail), MIB):
            file.write(tail[start : start + MIB])
    assert bucket.get("g") == bytes(data) + tail
    assert bucket.keys() == ["g"]
