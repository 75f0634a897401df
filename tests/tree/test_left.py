"""Page files of earlier mounts: none is looked at before it is needed, and all count."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest
import trio

from bucketfs.cache.pages import PageFile
from tests.tree.builder import MIB, Bucket, noise, planted
from tests.tree.test_cache import killed, on_disk, opened

pytestmark = pytest.mark.mock_clock

FILES = 1_000
#: Bytes of memory for a page file that was left and that nobody has used, on an average.
MOST_PER_FILE = 50


def found(directory: Path, pattern: str) -> list[Path]:
    """Files of a name anywhere below a directory."""
    return list(directory.rglob(pattern))


def fill(directory: Path, files: int = FILES) -> None:
    """Have an earlier mount leave page files, the first used longest ago."""
    cache = opened(directory)
    for number in range(files):
        file = cache.open(f"{number:04}", "e", 4)
        cache.write(file, 0, b"%04d" % number)
        file.seal(0, b"%04d" % number)
        cache.release(file)
    cache.close()


async def test_a_mount_looks_at_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    made: list[Path] = []
    init = PageFile.__init__

    def counting(self: PageFile, path: Path, **how: object) -> None:
        made.append(path)
        init(self, path, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(PageFile, "__init__", counting)
    gc.collect()
    tracemalloc.start()
    try:
        cache = opened(tmp_path)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.held == on_disk(tmp_path)
    assert held / FILES <= MOST_PER_FILE
    assert not made
    file = cache.open("0500", "e", 4)
    assert len(made) == 1
    assert not file.prove(0, 4)
    assert file.read(0, 4) == b"0500"
    assert cache.held == on_disk(tmp_path)
    cache.release(file)
    assert cache.holds("0501", "e", 4)
    assert cache.had("0502")
    assert not cache.holds("0502", "other", 4)
    assert not cache.had("other")
    cache.close()
    again = opened(tmp_path)
    assert again.held == on_disk(tmp_path)
    again.close()


async def test_they_leave_before_what_is_used_now(tmp_path: Path) -> None:
    fill(tmp_path, 100)
    cache = opened(tmp_path)
    cache.touch("0000", "e")
    one = cache.held // 100
    cache._pool.resize(40 * one)  # 5 more leave: an eighth of the limit
    assert cache.held == on_disk(tmp_path) == 35 * one
    assert [number for number in range(100) if cache.cached(f"{number:04}", "e")] == [
        0,
        *range(66, 100),
    ]
    cache.close()


async def test_bucketfs_evict_finds_them(tmp_path: Path) -> None:
    fill(tmp_path, 100)
    cache = opened(tmp_path)
    one = cache.held // 100
    assert cache.evict(lambda key: key.startswith("001")) == (10, 10 * one)
    assert cache.held == on_disk(tmp_path) == 90 * one
    assert not cache.holds("0011", "e", 4)
    cache.close()


async def test_one_that_somebody_has_removed_is_fetched_again(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", noise(MIB))
    async with planted(bucket, tmp_path) as mount:
        await mount.read("f")
    for path in found(tmp_path, "*.pages"):
        path.unlink()
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == noise(MIB)
        assert mount.cache.held == on_disk(tmp_path)


async def test_another_version_takes_the_place_of_one(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    cache = opened(tmp_path)
    cache.release(cache.open("0003", "e", 7))
    cache.relabel("0004", "e", "0005", "e")
    assert cache.cached("0003", "e") == 0
    assert cache.open("0005", "e", 4).read(0, 4) == b"0004"
    assert cache.held == on_disk(tmp_path)
    assert len(found(tmp_path, "*.pages")) == 8, "3 is empty, 5 is gone"
    cache.close()


@pytest.mark.parametrize("in_order", [True, False])
async def test_files_that_nobody_knows_go_after_a_crash(tmp_path: Path, in_order: bool) -> None:
    """An end in order leaves none, so that none is looked for."""
    fill(tmp_path / "first", 10)
    cache = opened(tmp_path / "first")
    left = tmp_path / "first"
    if not in_order:
        left = killed(tmp_path / "first", tmp_path / "killed")
    cache.close()
    stray = found(left, "*.pages")[0].with_name("0123456789abcdef.pages")
    stray.write_bytes(b"x")
    opened(left).close()
    assert stray.exists() == in_order


async def test_what_waits_is_looked_for_after_an_end_in_order(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.refuse("PutObject", "SlowDown")
    async with planted(bucket, tmp_path, writeback=True) as mount:
        await mount.save("f", noise(MIB))
    (journal,) = found(tmp_path, "journal.sqlite")
    for path in found(journal.parent, "journal.sqlite*"):
        path.unlink()
    bucket.fault = None
    async with planted(bucket, tmp_path):
        await trio.sleep(100)
    kept = [path.read_bytes() for path in found(tmp_path, "unsaved/*")]
    assert kept == [noise(MIB)]
