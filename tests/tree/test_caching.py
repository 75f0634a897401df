"""Warming and evicting beside programs: what they save is saved, what they read is right."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, NoAnswer
from bucketfs.file.window import FETCH
from bucketfs.tree.namespace.caching import Warming
from tests.harness.memory import Fault
from tests.tree.builder import MIB, Bucket, Mount, noise, planted

pytestmark = pytest.mark.mock_clock


async def warm(mount: Mount, path: str = "", *, since: float = 0.0) -> Warming:
    told = Warming()
    await mount.tree.caching.warm(path, since or trio.current_time(), told)
    return told


async def test_small_files_take_one_request_each(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(20):
        bucket.poke(f"d/{number}", noise(1000, number))
    async with planted(bucket, tmp_path, open_ttl=60.0) as mount:
        told = await warm(mount, "d")
        assert (told.files, told.bytes, told.fetched) == (20, 20_000, 20_000)
        requests = bucket.requested()
        assert requests["GetObject"] == 20
        assert sum(requests.values()) <= 20 + 3  # to find the directory, and to list it
        for number in range(20):
            assert await mount.read(f"d/{number}") == noise(1000, number)
        assert bucket.requested() == {}


async def test_a_large_file_comes_in_pieces(bucket: Bucket, tmp_path: Path) -> None:
    body = noise(2 * FETCH + 5)
    bucket.poke("f", body)
    async with planted(bucket, tmp_path, open_ttl=60.0) as mount:
        handle = await mount.open("f")
        await mount.pread(handle, 0, 100)
        await mount.close(handle)
        bucket.requested()
        told = await warm(mount, "f")
        assert (told.files, told.bytes) == (1, len(body))
        assert told.fetched < len(body)
        assert bucket.requested().keys() == {"GetObject"}
        assert await mount.read("f") == body
        assert bucket.requested() == {}


async def test_directories_that_go_meanwhile_are_left_out(bucket: Bucket, tmp_path: Path) -> None:
    """Others have removed them, and their parent is listed anew by another program."""
    for number in range(4):
        bucket.poke(f"a/{number}/f", b"x")
    async with planted(bucket, tmp_path) as mount:

        async def remove() -> None:
            await trio.sleep(0.03)
            for number in range(1, 4):
                del bucket.objects[f"a/{number}/f"]
            mount.expire()
            await mount.names("a")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(remove)
            told = await warm(mount, "a")
        assert told.listed
        assert (told.files, told.failed) == (1, [])


async def test_a_file_that_a_program_writes_meanwhile(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", bytes(2 * FETCH))
    async with planted(bucket, tmp_path) as mount:
        bucket.latency = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(warm, mount)
            await trio.sleep(2.5)  # it is being fetched
            handle = await mount.open("f", os.O_WRONLY)
            await mount.write(handle, 10, b"ours")
            await mount.close(handle)
        assert bucket.peek("f")[:15] == bytes(10) + b"ours" + bytes(1)
        assert not mount.tree.state.open_inodes


async def test_what_waits_is_left_alone(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"ours")
        told = await warm(mount)
        assert (told.files, told.skipped) == (0, 1)
        assert mount.tree.caching.evict("") == (0, 0)
        await mount.close(handle)
        assert bucket.peek("f") == b"ours"
        assert mount.tree.caching.evict("")[0] == 1


async def test_giving_up_leaves_nothing_open(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(10):
        bucket.poke(f"f{number}", bytes(FETCH + 1))
    async with planted(bucket, tmp_path) as mount:
        bucket.latency = 1.0
        with trio.move_on_after(3.5) as scope:
            await warm(mount)
        assert scope.cancelled_caught
        assert not mount.tree.state.open_inodes
        bucket.requested()
        await trio.sleep(100)
        assert bucket.requested() == {}


async def test_replaced_by_others_meanwhile(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", noise(3 * FETCH))
    bucket.poke("g", b"1")
    async with planted(bucket, tmp_path) as mount:
        bucket.latency = 1.0
        told = Warming()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.tree.caching.warm, "", trio.current_time(), told)
            await trio.sleep(1.5)
            bucket.poke("f", noise(3 * FETCH, 2))
        assert [path for path, _ in told.failed] in ([], ["f"])
        assert told.files == 2 - len(told.failed)
        assert await mount.read("f") == noise(3 * FETCH, 2)


async def test_a_directory_that_may_not_be_listed(bucket: Bucket, tmp_path: Path) -> None:
    for key in ("open/f", "shut/f"):
        bucket.poke(key, b"1")
    async with planted(bucket, tmp_path) as mount:
        await mount.root_listed()
        bucket.refuse("ListObjectsV2", key="shut/")
        told = await warm(mount)
        assert told.files == 1
        assert [path for path, _ in told.failed] == ["shut/"]


async def test_an_endpoint_that_is_silent_ends_it(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(50):
        bucket.poke(f"{number}", b"1")
    async with planted(bucket, tmp_path) as mount:
        await mount.root_listed()

        def hook(operation: str, key: str, _count: int) -> Fault | None:
            failed = operation == "GetObject"
            return Fault(NoAnswer("Timeout", operation=operation, key=key)) if failed else None

        bucket.fault = hook
        with pytest.raises(NoAnswer):
            await warm(mount)
        assert bucket.requested()["GetObject"] < 20


async def test_what_is_not_there(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        with pytest.raises(FsError) as raised:
            await warm(mount, "absent/f")
        assert raised.value.errno == errno.ENOENT


async def test_nothing_that_is_wanted_is_pushed_out(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(40):
        bucket.poke(f"d/{number:02}", noise(MIB, number))
    async with planted(bucket, tmp_path, cache_size=32 * MIB) as mount:
        before = trio.current_time()
        await trio.sleep(1)
        bucket.poke("used", noise(2 * MIB))
        assert await mount.read("used") == noise(2 * MIB)
        told = await warm(mount, "d", since=before)
        assert told.full == f"d/{told.files:02}"
        assert 24 <= told.files <= 27  # an eighth stays free, 2 MiB are used
        bucket.requested()
        assert await mount.read("used") == noise(2 * MIB)
        for number in range(told.files):
            assert mount.tree.attributes.is_here(await mount.find(f"d/{number:02}"))
        assert "GetObject" not in bucket.requested()
