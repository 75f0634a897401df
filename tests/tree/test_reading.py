"""Reading: revalidation at open, one version for one open file, and no byte fetched twice."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest
import trio

from bucketfs.errors import FsError, StoreError
from bucketfs.file.context import Version
from bucketfs.store.base import ObjectInfo
from tests.harness.memory import Fault
from tests.tree.builder import MIB, TTL, Bucket, Mount, noise, planted, said

pytestmark = pytest.mark.mock_clock

#: What a byte takes on disk.
BLOCK = 4096


async def test_a_small_file_is_one_get(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"bytes")
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        await trio.sleep(2)  # older than open_ttl
        bucket.requested()
        assert await mount.read("f") == b"bytes"
        assert bucket.requested() == {"GetObject": 1}
        assert await mount.read("f") == b"bytes"
        assert bucket.requested() == {}
        assert await mount.find("f") is inode


async def test_open_trusts_what_is_younger_than_open_ttl(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"bytes")
    async with planted(bucket, tmp_path, open_ttl=10) as mount:
        assert await mount.read("f") == b"bytes"
        bucket.requested()
        await trio.sleep(5)
        assert await mount.read("f") == b"bytes"
        assert bucket.requested() == {}
        await trio.sleep(6)
        assert await mount.read("f") == b"bytes"
        assert bucket.requested() == {"HeadObject": 1}, "cached whole: a HEAD says it is current"


@pytest.mark.parametrize("size", [5, 3 * MIB])
async def test_close_to_open(bucket: Bucket, tmp_path: Path, size: int) -> None:
    """What another client finished before our open is what we read."""
    bucket.poke("f", bytes(size))
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == bytes(size)
        for seed in range(3):
            await trio.sleep(2)
            bucket.poke("f", noise(size + seed, seed))
            assert await mount.read("f") == noise(size + seed, seed)


async def test_open_of_a_replaced_file_that_is_in_use_is_a_new_inode(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", b"old bytes")
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        assert await mount.pread(reader, 0, 100) == b"old bytes"
        bucket.poke("f", b"new bytes!")
        await trio.sleep(2)
        with pytest.raises(FsError) as caught:  # makes the kernel look the name up again
            await mount.open("f")
        assert caught.value.errno == errno.ESTALE
        assert await mount.find("f") is not reader.inode
        assert await mount.read("f") == b"new bytes!"
        assert await mount.pread(reader, 0, 100) == b"old bytes"
        await mount.close(reader)


@pytest.mark.parametrize("replaced", [True, False])
async def test_reads_never_mix_versions(bucket: Bucket, tmp_path: Path, replaced: bool) -> None:
    size = 40 * MIB
    old, new = noise(size), noise(size, 2)
    bucket.poke("f", old)
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        assert await mount.pread(reader, 0, 4096) == old[:4096]
        await trio.sleep(1)
        if replaced:
            bucket.poke("f", new)
        else:
            del bucket.objects["f"]
        stale = 0
        for start in range(0, size, MIB):
            try:
                assert await mount.pread(reader, start, MIB) == old[start : start + MIB]
            except FsError as error:
                assert error.errno == errno.ESTALE  # noqa: PT017 - or it gives old bytes
                stale += 1
        assert stale
        await mount.close(reader)


async def test_two_readers_of_one_range_are_one_get(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(4 * MIB)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path) as mount:
        handles = [await mount.open("f") for _ in range(5)]
        bucket.requested()
        answers = []

        async def read(number: int) -> None:
            answers.append(await mount.pread(handles[number], 2 * MIB, 4096))

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(read, number)
        assert answers == [data[2 * MIB : 2 * MIB + 4096]] * 5
        assert bucket.requested() == {"GetObject": 1}
        assert bucket.received == 4096


async def test_a_sequential_reader_gets_each_byte_once(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(48 * MIB)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        got = b"".join(
            [await mount.pread(reader, at, 128 << 10) for at in range(0, len(data), 128 << 10)]
        )
        assert got == data
        assert bucket.received == len(data)
        assert bucket.requested()["GetObject"] <= 16
        await mount.close(reader)


async def test_random_reads_fetch_little(bucket: Bucket, tmp_path: Path) -> None:
    """At most 64 KiB fetched a cold 4 KiB read, even where jumps land near each other.

    Each costs so little here that they are never worth the whole file (test_random.py).
    """
    bucket.latency = 0.001
    data = noise(64 * MIB)
    bucket.poke("f", data)
    rng = random.Random(4)
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        for _ in range(200):
            start = rng.randrange(len(data) // 4096) * 4096
            assert await mount.pread(reader, start, 4096) == data[start : start + 4096]
        assert bucket.received / 200 <= 64 << 10, f"{bucket.received / 200 / 1024:.0f} KiB a read"
        await mount.close(reader)


async def test_a_failed_fetch_fails_all_who_wait_for_it(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", bytes(4 * MIB))
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        bucket.refuse("GetObject")
        failures = []

        async def read() -> None:
            try:
                await mount.pread(reader, MIB, 4096)
            except StoreError as error:
                failures.append(error.code)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(read)
        assert failures == ["AccessDenied"] * 5
        assert bucket.requested()["GetObject"] == 1
        bucket.fault = None
        assert await mount.pread(reader, MIB, 4096) == bytes(4096)
        await mount.close(reader)


async def test_a_get_cut_short_leaves_what_came(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(4 * MIB)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        bucket.fault = lambda _op, _key, _n: Fault(at_byte=MIB)
        with pytest.raises(StoreError):
            await mount.pread(reader, 0, 2 * MIB)
        bucket.fault = None
        assert await mount.pread(reader, 0, 4 * MIB) == data
        assert bucket.received == 4 * MIB
        await mount.close(reader)


async def test_failing_read_ahead_is_not_asked_for_at_every_read(
    bucket: Bucket, tmp_path: Path
) -> None:
    """A range ahead of the reader fails at once: the reader goes on, the requests stay few."""
    bucket.poke("f", bytes(64 * MIB))
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        for at in range(0, 24 * MIB, MIB):
            await mount.pread(reader, at, MIB)
        await trio.sleep(1)
        bucket.requested()
        position = 24 * MIB
        reader.content.local.pages.drop(position, 64 * MIB)
        real = bucket.get

        async def get(key: str, sink: object, *, start: int = 0, **rest: object) -> object:
            if start >= position + 8 * MIB:
                bucket.requests["GetObject"] += 1
                await trio.sleep(0.001)
                raise StoreError("AccessDenied", status=403)
            await trio.sleep(0.5)
            return await real(key, sink, start=start, **rest)  # type: ignore[arg-type]

        bucket.get = get  # type: ignore[assignment, method-assign]
        assert await mount.pread(reader, position, MIB) == bytes(MIB)
        assert bucket.requested()["GetObject"] <= 20
        del bucket.get
        await mount.close(reader)


async def test_a_reader_that_goes_away_leaves_no_fetch(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", bytes(32 * MIB))
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        bucket.fault = lambda operation, _key, _n: (
            Fault(hang=True) if operation == "GetObject" else None
        )
        with trio.move_on_after(5):
            await mount.pread(reader, 0, MIB)
        await mount.close(reader)
        bucket.fault = None
        with trio.fail_after(5):
            assert await mount.read("f") == bytes(32 * MIB)


async def test_the_kernel_keeps_pages_while_the_version_is_the_same(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", b"bytes")
    async with planted(bucket, tmp_path) as mount:
        kept = []
        for _ in range(3):
            handle = await mount.open("f")
            kept.append(handle.keep_cache)
            await mount.close(handle)
            await trio.sleep(2)
        bucket.poke("f", b"other")
        handle = await mount.open("f")
        kept.append(handle.keep_cache)
        assert kept == [False, True, True, False]
        await mount.close(handle)


async def test_the_cache_and_the_headers_outlive_the_mount(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", noise(2 * MIB), said(0o100611))
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        await mount.read("f")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        inode = await mount.find("f")
        assert mount.tree.posix(inode).mode == 0o100611
        assert await mount.read("f") == noise(2 * MIB)
        assert bucket.requested() == {"ListObjectsV2": 1}
    bucket.poke("f", b"other", said(0o100622))
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        assert mount.tree.posix(await mount.find("f")).mode == 0o100622
        assert await mount.read("f") == b"other"


async def test_the_headers_of_own_files_outlive_the_mount(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.save("f", b"bytes")
        await trio.sleep(TTL + 1)
        await mount.names()
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        await mount.find("f")
        assert bucket.requested() == {"ListObjectsV2": 1}


async def test_listed_attributes_never_cost_a_head(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(20):
        bucket.poke(f"d/{number}", b"x", said(0o100600))
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.find("d")
        bucket.requested()
        for name in await mount.names("d"):
            posix = mount.tree.posix(await mount.find(f"d/{name}"))
            assert (posix.mode, posix.mtime_ns > 0) == (0o100644, True)
        assert bucket.requested() == {"ListObjectsV2": 1}


async def _read_links(mount: Mount, name: str) -> bytes:
    return await mount.tree.read_link(await mount.find(name))


async def test_links(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("l", b"some/target", said(0o120777))
    async with planted(bucket, tmp_path) as mount:
        assert await _read_links(mount, "l") == b"some/target"
        assert await _read_links(mount, "l") == b"some/target"
        assert bucket.requested() == {"HeadObject": 1, "ListObjectsV2": 1, "GetObject": 1}
        assert not mount.tree.state.open_inodes


async def test_nothing_is_left_open(bucket: Bucket, tmp_path: Path) -> None:
    """Inodes at rest carry no open state, the cache no pin."""
    bucket.poke("f", b"x")
    async with planted(bucket, tmp_path) as mount:
        for _ in range(3):
            await mount.read("f")
            handle = await mount.open("f", os.O_RDWR)
            await mount.write(handle, 1, b"y")
            await mount.close(handle)
            await trio.sleep(2)
        assert not mount.tree.state.open_inodes
        assert mount.cache.held <= BLOCK, "the versions before are gone"


async def test_an_open_file_never_moves_on_to_a_shorter_version(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The kernel would read up to the old end, and put zeros behind the new one."""
    bucket.poke("f", b"a long version")
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f")
        bucket.poke("f", b"short")
        with pytest.raises(FsError) as caught:
            await mount.pread(handle, 0, 100)
        assert caught.value.errno == errno.ESTALE
        await mount.close(handle)
        assert await mount.read("f") == b"short"
        handle = await mount.open("f")
        bucket.poke("f", b"as long or longer")
        assert await mount.pread(handle, 0, 5) in (b"short", b"as lo")
        await mount.close(handle)


async def test_a_full_disk_is_read_past(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has room is read from the cache, the rest straight from the bucket; nothing mixes."""
    body = noise(3 * MIB)
    bucket.poke("f", body)
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if offset >= MIB:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[: MIB - offset], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 10, b"new")
        body = body[:10] + b"new" + body[13:]
        for start in (0, MIB - 7, 2 * MIB, 3 * MIB - 5):
            assert await mount.pread(handle, start, 10_000) == body[start : start + 10_000]
        bucket.poke("f", noise(3 * MIB, 2))
        with pytest.raises(FsError) as caught:
            await mount.pread(handle, MIB + 5, 10)
        assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("full", [False, True])
async def test_a_reader_whose_bytes_have_come_as_the_version_changes_gets_the_new_one(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """Nothing was served yet: another reader has found the old version gone in that very moment."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    old, new = noise(3 * MIB), noise(3 * MIB, 2)
    bucket.poke("f", old)
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        get = bucket.get

        async def last_of_the_old(*args: Any, **kwargs: Any) -> ObjectInfo:
            info = await get(*args, **kwargs)
            if bucket.peek("f") == old:
                other = bucket.poke("f", new)
                reader.content.renew(Version("f", other.etag, other.size))
                reader.inode.etag = other.etag
            return info

        monkeypatch.setattr(bucket, "get", last_of_the_old)
        if full:  # the first GET ends at the disk, the second goes past it
            monkeypatch.setattr(os, "pwrite", refuse)
        assert await mount.pread(reader, MIB, 4096) == new[MIB : MIB + 4096]
        await mount.close(reader)


async def test_a_bug_in_a_fetch_ends_the_read(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.poke("f", noise(100_000))
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f")
        bucket.requested()
        bucket.fault = lambda operation, *_: (
            Fault(RuntimeError("made up")) if operation == "GetObject" else None
        )
        with trio.fail_after(60), pytest.raises(RuntimeError, match="made up"):
            await mount.pread(handle, 0, 100_000)
        assert bucket.requested() == {"GetObject": 2}  # the second one past the cache
        bucket.fault = None
        assert await mount.pread(handle, 0, 100_000) == noise(100_000)
    caplog.clear()
