"""Random reads of one file: what they fetch at first, and when they have all of it fetched."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest
import trio

from bucketfs.errors import FsError
from bucketfs.file.rent import FEWEST, REST_PIECE
from bucketfs.store.base import ObjectInfo, Sink
from tests.tree.builder import MIB, Bucket, Mount, noise, planted

pytestmark = pytest.mark.mock_clock

SIZE = 48 * MIB
#: Bytes of a random read.
SOME = 4096


class Linked(Bucket):
    """A bucket whose large answers share a link of `rate` bytes a second."""

    def __init__(self, rate: float, **more: Any) -> None:
        super().__init__(latency=0.02, **more)
        self.rate = rate
        self._free_at = 0.0
        self.pieces = 0

    async def get(
        self, key: str, sink: Sink, *, start: int = 0, stop: int | None = None, **more: Any
    ) -> ObjectInfo:
        count = (stop or SIZE) - start
        if count > MIB:
            self.pieces += 1
            self._free_at = max(self._free_at, trio.current_time()) + count / self.rate
            await trio.sleep_until(self._free_at)
        return await super().get(key, sink, start=start, stop=stop, **more)


async def read_at_random(mount: Mount, data: bytes, reads: int, *, seed: int = 1) -> list[float]:
    """Read a file at random; how long each read took."""
    handle = await mount.open("f")
    chance, times = random.Random(seed), []
    for _ in range(reads):
        at, began = chance.randrange(len(data) // SOME) * SOME, trio.current_time()
        assert await mount.pread(handle, at, SOME) == data[at : at + SOME]
        times.append(trio.current_time() - began)
    await mount.close(handle)
    return times


async def test_a_few_random_reads_fetch_what_they_ask_for(tmp_path: Path) -> None:
    bucket, data = Linked(rate=1e12), noise(SIZE)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path) as mount:
        await read_at_random(mount, data, FEWEST - 1)
        await trio.sleep(10)
        assert bucket.received <= FEWEST * SOME


async def test_many_random_reads_have_all_fetched_behind_them(tmp_path: Path) -> None:
    bucket, data = Linked(rate=300e6), noise(SIZE)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path) as mount:
        times = await read_at_random(mount, data, 200)
    assert sum(times) < 2 * (0.02 * FEWEST + SIZE / 300e6)
    assert times[-1] == 0.0
    assert max(times) <= 0.021, "no read waits for what is fetched behind it"
    assert bucket.received < 1.2 * SIZE


async def test_a_slow_link_is_left_to_the_reads(tmp_path: Path) -> None:
    """What the first pieces show ends it: the rest would take longer than the reads do."""
    bucket, data = Linked(rate=1e6), noise(SIZE)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path) as mount:
        times = await read_at_random(mount, data, 200)
        await trio.sleep(600)
    assert max(times) <= 0.021
    assert 0 < bucket.pieces <= 8
    assert bucket.received < SIZE / 2


async def test_a_small_cache_is_not_filled_with_one_file(tmp_path: Path) -> None:
    bucket, data = Linked(rate=1e12), noise(SIZE)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path, cache_size=SIZE) as mount:
        await read_at_random(mount, data, 100)
    assert bucket.pieces == 0


async def test_the_last_close_ends_it(tmp_path: Path) -> None:
    bucket, data = Linked(rate=20e6), noise(SIZE)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path) as mount:
        await read_at_random(mount, data, FEWEST + 10)
        began, bucket.pieces = bucket.pieces, 0
        await trio.sleep(60)
    assert began
    assert not bucket.pieces
    assert bucket.received < SIZE / 2


async def test_no_more_is_asked_of_a_version_that_is_gone(tmp_path: Path) -> None:
    bucket, data = Linked(rate=100e6), noise(SIZE)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f")
        for number in range(20):
            at = number * 2 * MIB + MIB
            assert await mount.pread(handle, at, SOME) == data[at : at + SOME]
        bucket.poke("f", noise(SIZE, 2))
        await trio.sleep(5)
        asked = bucket.pieces
        for number in range(8):
            with pytest.raises(FsError) as caught:
                await mount.pread(handle, SIZE - (number + 1) * MIB, SOME)
            assert caught.value.errno == errno.ESTALE
        assert 0 < asked == bucket.pieces < SIZE // REST_PIECE
        await mount.close(handle)
