"""The page cache: its bound, its index, and what survives a crash."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from bucketfs.cache.cache import DiskCache, Pool
from bucketfs.errors import FsError
from tests.tree.builder import MIB, Bucket, noise, planted, said

pytestmark = pytest.mark.mock_clock


def opened(directory: Path, *, limit: int = 1 << 30, keep_free: int = 0) -> DiskCache:
    """A cache in a directory."""
    return DiskCache(directory, name="bucket", pool=Pool(limit, lambda disk: keep_free))


def on_disk(directory: Path) -> int:
    """Bytes the page files really take."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*.pages"))


def page_files(directory: Path) -> list[Path]:
    """All of them, those that nobody knows as well."""
    return list(directory.rglob("*.pages"))


def killed(directory: Path, copy: Path) -> Path:
    """The cache directory as a kill -9 leaves it now."""
    shutil.copytree(directory, copy)
    return copy


async def test_the_least_recently_read_leave_first(bucket: Bucket, tmp_path: Path) -> None:
    limit = 64 * MIB
    for number in range(20):
        bucket.poke(f"{number:02}", noise(8 * MIB, number))
    async with planted(bucket, tmp_path, cache_size=limit) as mount:
        for number in range(20):
            assert await mount.read(f"{number:02}") == noise(8 * MIB, number)
            await trio.sleep(1)
            assert mount.cache.held <= limit + 8 * MIB
        assert on_disk(tmp_path) <= limit + 16 * MIB
        bucket.requested()
        for number in (19, 18, 17):
            await mount.read(f"{number:02}")
        assert "GetObject" not in bucket.requested()
        await mount.read("00")
        assert bucket.requested()["GetObject"] > 0


async def test_an_open_file_larger_than_the_cache(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(150 * MIB)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path, cache_size=16 * MIB) as mount:
        reader = await mount.open("f")
        for start in range(0, len(data), MIB):
            assert await mount.pread(reader, start, MIB) == data[start : start + MIB]
            # what is near the reader stays: its window, and one check interval
            assert mount.cache.held <= (64 + 16 + 16) * MIB
        assert on_disk(tmp_path) <= 100 * MIB
        assert bucket.received <= len(data) + 16 * MIB
        await mount.close(reader)


async def test_dirty_pages_are_never_evicted(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(4):
        bucket.poke(f"{number}", noise(8 * MIB, number))
    async with planted(bucket, tmp_path, cache_size=8 * MIB) as mount:
        handle = await mount.create("new")
        data = noise(20 * MIB, 9)
        for start in range(0, len(data), MIB):
            await mount.write(handle, start, data[start : start + MIB])
        for number in range(4):
            await mount.read(f"{number}")
        assert await mount.pread(handle, 0, len(data)) == data
        await mount.close(handle)
        assert bucket.peek("new") == data


async def test_unlinking_an_open_file_larger_than_the_cache_ends(
    bucket: Bucket, tmp_path: Path
) -> None:
    """What unlink fetches for its reader must not be evicted while the rest is fetched."""
    data = noise(24 * MIB)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path, cache_size=8 * MIB) as mount:
        reader = await mount.open("f")
        with trio.fail_after(5):
            await mount.unlink("f")
        assert mount.stored() == []
        assert await mount.pread(reader, 20 * MIB, 4096) == data[20 * MIB : 20 * MIB + 4096]
        assert await mount.pread(reader, 0, 4096) == data[:4096]
        await mount.close(reader)


async def test_a_full_disk_is_enospc_for_writers(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", noise(32 * MIB))
    bucket.poke("link", b"f", said(stat.S_IFLNK | 0o777))
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("new")
        real = os.pwrite

        def full(*_args: object) -> int:
            raise OSError(28, "No space left on device")

        os.pwrite = full
        try:
            with pytest.raises(FsError, match="ENOSPC"):
                await mount.write(handle, 0, b"bytes")
            reader = await mount.open("f")
            assert await mount.pread(reader, 0, 4096) == noise(4096)
            assert await mount.tree.read_link(await mount.find("link")) == b"f"
        finally:
            os.pwrite = real
        await mount.write(handle, 0, b"bytes")
        await mount.close(handle)
        assert bucket.peek("new") == b"bytes"


async def test_what_could_not_be_stored_leaves_no_file_that_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No mount would find it, as long as each ends in order."""

    def full(*_args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = opened(tmp_path)
    file = cache.open("k", "e", 4)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(FsError, match="ENOSPC"):
            cache.write(file, 0, b"data")
    cache.release(file)
    cache.close()
    cache = opened(tmp_path)
    cache.evict(lambda _key: True)
    assert page_files(tmp_path) == []
    cache.close()


async def test_keeping_the_disk_free_costs_no_enospc(tmp_path: Path) -> None:
    """Everything is evicted at once; what was asked for is taken in all the same."""
    cache = opened(tmp_path, keep_free=1 << 60)
    for number in range(8):
        file = cache.open(f"{number}", "e", 4 * MIB)
        cache.admit(4 * MIB)
        file.write(0, bytes(4 * MIB))
        cache.release(file)
        assert cache.held <= 8 * MIB
    cache.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("told", [False, True])
async def test_what_can_leave_makes_room_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: bool
) -> None:
    """A small disk, or a quota, of which statvfs tells nothing; the last piece is taken in part."""
    limit, real = 20 * MIB, os.pwrite
    cache, data = opened(tmp_path), noise(MIB)

    def pwrite(fd: int, piece: bytes, offset: int, most: int = limit) -> int:
        room = max(0, most - cache.held) // 4096 * 4096
        if not room:
            raise OSError(code, os.strerror(code))
        return real(fd, memoryview(piece)[:room], offset)

    def statvfs(_path: Path) -> SimpleNamespace:
        free = limit - cache.held if told else limit << 10
        return SimpleNamespace(f_frsize=1, f_blocks=limit, f_bavail=free)

    for number in range(3):
        file = cache.open(f"{number}", "e", 4 * MIB)
        cache.write(file, 0, noise(4 * MIB, number))
        cache.release(file)
    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "statvfs", statvfs)
    new = cache.create()
    for number in range(16):
        assert cache.write(new, number * (MIB + 100), data) == MIB
    assert not any(cache.holds(f"{number}", "e", 4 * MIB) for number in range(3))
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", functools.partial(pwrite, most=0))
        with pytest.raises(FsError, match=r"ENOSPC|EDQUOT"):
            cache.write(new, 0, data)
    cache.release(new)
    cache.close()


async def test_making_room_for_a_copy_takes_pages_of_what_is_copied(tmp_path: Path) -> None:
    """Two have a version open, and one of them changes it: what went is not copied as zeros."""
    cache, data = opened(tmp_path, limit=40 * MIB), noise(32 * MIB)
    shared = cache.open("k", "e", len(data))
    assert cache.open("k", "e", len(data)) is shared

    def other(wanted: int) -> int:
        cache.shrink(shared, 4 * MIB, 28 * MIB)
        return wanted

    cache.write(shared, 0, data)
    cache.add_reclaimer(other)
    own = cache.own(shared)
    assert shared.valid.missing(0, len(data)) == [(4 * MIB, 28 * MIB)]
    assert own.valid.covers(28 * MIB, len(data))
    for start, stop in own.valid:
        assert own.read(start, stop) == data[start:stop]
    for file in (own, shared):
        cache.release(file)
    cache.close()


async def test_two_mounts_of_one_bucket_do_not_share(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    file = first.open("k", "e", 4)
    file.write(0, b"data")
    file.seal(0, b"data")
    first.release(file)
    assert not second.holds("k", "e", 4)
    first.close()
    second.close()
    third = opened(tmp_path)
    assert third.holds("k", "e", 4)
    third.close()


async def test_a_crash_leaves_what_was_read_and_nothing_else(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("read", noise(3 * MIB))
    bucket.poke("written", noise(3 * MIB, 2))
    live, dead = tmp_path / "live", tmp_path / "dead"
    async with planted(bucket, live) as mount:
        await mount.read("read")
        await mount.read("written")
        handle = await mount.open("written", os.O_RDWR)
        await mount.write(handle, 0, b"unsaved")
        killed(live, dead)
    async with planted(bucket, dead) as mount:
        await mount.names()
        assert await mount.read("read") == noise(3 * MIB)
        assert bucket.received == 6 * MIB
        assert await mount.read("written") == noise(3 * MIB, 2)
        assert len(list(dead.rglob("*.pages"))) == 2


async def test_pages_given_up_before_a_crash_are_not_served_as_zeros(
    bucket: Bucket, tmp_path: Path
) -> None:
    data = noise(100 * MIB)
    bucket.poke("f", data)
    live, dead = tmp_path / "live", tmp_path / "dead"
    async with planted(bucket, live, cache_size=200 * MIB) as mount:
        await mount.read("f")
    async with planted(bucket, live, cache_size=8 * MIB) as mount:
        reader = await mount.open("f")
        for start in range(0, len(data), MIB):
            await mount.pread(reader, start, MIB)
        assert mount.tree.state.files.cache.held < len(data)
        killed(live, dead)
    async with planted(bucket, dead) as mount:
        assert await mount.read("f") == data


async def test_a_cached_version_of_another_size_is_not_trusted(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    file = cache.open("k", "e", 4)
    file.write(0, b"data")
    cache.release(file)
    assert cache.open("k", "e", 5).valid.total == 0
    cache.close()


async def test_holes_cost_no_disk(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 30 * MIB, b"x")
        assert await mount.pread(handle, 29 * MIB, 2 * MIB) == bytes(MIB) + b"x"
        await mount.tree.opener.truncate(handle.inode, 10, publish=False)
        await mount.tree.opener.truncate(handle.inode, 40 * MIB, publish=False)
        assert await mount.pread(handle, 30 * MIB, 1) == b"\0"
        assert on_disk(tmp_path) <= 64 << 10
        await mount.close(handle)
        assert bucket.peek("f") == bytes(40 * MIB)


async def test_a_directory_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FsError, match="cannot use the cache directory"):
        opened(tmp_path / "file")


async def test_caches_share_a_budget(tmp_path: Path) -> None:
    """What was used least recently leaves, whichever of the caches it is in."""
    pool = Pool(64 << 20, lambda disk: 0)
    first = DiskCache(tmp_path, name="first", pool=pool)
    second = DiskCache(tmp_path, name="second", pool=pool)
    try:
        for cache in (first, second):
            for number in range(6):
                file = cache.open(f"f{number}", "e", 8 << 20)
                cache.write(file, 0, bytes(8 << 20))
                cache.release(file)
        assert pool.held <= 64 << 20
        assert not first.holds("f0", "e", 8 << 20)
        assert all(second.holds(f"f{number}", "e", 8 << 20) for number in range(6))
    finally:
        first.close()
        second.close()
