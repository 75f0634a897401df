"""Reading: any range, many readers, and never bytes of two versions in one open file."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import Folder
from tests.harness.mounts import Mount, Mounts
from tests.harness.posix import refused
from tests.harness.witness import Witness

MIB = 1 << 20


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def read_or_errno(fd: int, size: int) -> bytes | int:
    try:
        return os.read(fd, size)
    except OSError as exc:
        return exc.errno or 0


@pytest.fixture(scope="module")
def big(module_bucket: Witness) -> tuple[str, bytes]:
    """A multipart object of 12 MiB and a bit, put there by boto3."""
    body = noise(12 * MIB + 12345)
    module_bucket.multipart("big", [body[: 7 * MIB], body[7 * MIB :]])
    return "big", body


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 131_072, MIB + 1])
def test_whole_files(foreign: Folder, module_bucket: Witness, size: int) -> None:
    body = noise(size, size)
    module_bucket.put(foreign.prefix + "f", body)
    assert (foreign / "f").read_bytes() == body
    assert (foreign / "f").stat().st_size == size


def test_a_big_file_in_one_go(
    mount: Mounts, module_bucket: Witness, big: tuple[str, bytes]
) -> None:
    path = mount(module_bucket).path / big[0]
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(big[1]).digest()
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(big[1]).digest()


def test_ranges_in_any_order(mount: Mounts, module_bucket: Witness, big: tuple[str, bytes]) -> None:
    path, body = mount(module_bucket).path / big[0], big[1]
    rng = random.Random(7)
    fd = os.open(path, os.O_RDONLY)
    try:
        for _ in range(60):
            start = rng.randrange(len(body))
            length = rng.choice([1, 100, 4096, 65_536, 300_000])
            assert os.pread(fd, length, start) == body[start : start + length]
        assert os.pread(fd, 100, len(body)) == b""
        assert os.pread(fd, 100, len(body) + MIB) == b""
        assert os.pread(fd, 1000, len(body) - 10) == body[-10:]
        os.lseek(fd, -5, os.SEEK_END)
        assert os.read(fd, 100) == body[-5:]
    finally:
        os.close(fd)


def test_parallel_readers(mount: Mounts, module_bucket: Witness, big: tuple[str, bytes]) -> None:
    path, body = mount(module_bucket).path / big[0], big[1]

    def read(seed: int) -> bool:
        rng = random.Random(seed)
        with open(path, "rb", 0) as file:
            if seed % 2:
                return file.read() == body
            for _ in range(20):
                start = rng.randrange(len(body))
                file.seek(start)
                if file.read(50_000) != body[start : start + 50_000]:
                    return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(6)))


def test_direct_io(mount: Mounts, module_bucket: Witness, big: tuple[str, bytes]) -> None:
    path, body = mount(module_bucket).path / big[0], big[1]
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, MIB)
    try:
        assert os.preadv(fd, [buffer], 5 * MIB) == MIB
        assert buffer[:] == body[5 * MIB : 6 * MIB]
    finally:
        os.close(fd)


def test_a_second_mount_of_the_cache_directory_reads_right(
    mount: Mounts, module_bucket: Witness, big: tuple[str, bytes]
) -> None:
    """The cache on disk survives a remount, and is believed only for the same version."""
    mounted = mount(module_bucket)
    assert (mounted.path / big[0]).read_bytes() == big[1]
    mounted.remount()
    assert (mounted.path / big[0]).read_bytes() == big[1]


def test_a_file_that_others_made_longer_is_read_to_its_new_end(
    bucket: Witness, mount: Mounts
) -> None:
    """The kernel still believes the size that it was told a moment ago."""
    mounted = mount(bucket, "open_ttl=0")
    bucket.put("f", b"short")
    assert (mounted.path / "f").read_bytes() == b"short"
    bucket.put("f", b"a good deal longer")
    assert (mounted.path / "f").read_bytes() == b"a good deal longer"
    assert (mounted.path / "f").stat().st_size == 18


def test_a_replaced_object_is_new_at_the_next_open(foreign: Folder, module_bucket: Witness) -> None:
    key, path = foreign.prefix + "f", foreign / "f"
    for body in (b"first", b"2nd version, longer", b"3rd", b"3rD", b""):
        module_bucket.put(key, body)
        assert path.read_bytes() == body
        assert path.stat().st_size == len(body)


def test_an_open_file_is_one_version(foreign: Folder, module_bucket: Witness) -> None:
    """Old bytes or ESTALE, never a mixture; the next open has the new ones."""
    key, path = foreign.prefix + "f", foreign / "f"
    old, new = noise(6 * MIB, 1), noise(6 * MIB, 2)
    module_bucket.put(key, old)
    with open(path, "rb", 0) as file:
        assert file.read(100) == old[:100]
        module_bucket.put(key, new)
        for start in (3 * MIB, 5 * MIB, 100):
            file.seek(start)
            got = read_or_errno(file.fileno(), 200_000)
            assert got == errno.ESTALE or got == old[start : start + 200_000]
    assert path.read_bytes() == new


def test_a_deleted_object(foreign: Folder, module_bucket: Witness) -> None:
    key, path = foreign.prefix + "f", foreign / "f"
    old = noise(3 * MIB)
    module_bucket.put(key, old)
    with open(path, "rb", 0) as file:
        assert file.read(10) == old[:10]
        module_bucket.delete(key)
        file.seek(2 * MIB)
        got = read_or_errno(file.fileno(), 10)
        assert got in (old[2 * MIB : 2 * MIB + 10], errno.ESTALE, errno.ENOENT)
    with refused(errno.ENOENT):
        path.read_bytes()


def test_many_small_files(mount: Mounts, bucket: Witness) -> None:
    bodies = {f"d/{number:03}": noise(number * 37, number) for number in range(60)}
    bucket.put_many(bodies)
    path = mount(bucket).path
    with ThreadPoolExecutor(8) as pool:
        got = dict(zip(bodies, pool.map(lambda k: (path / k).read_bytes(), bodies), strict=True))
    assert got == bodies


def test_reading_refusals(folder: Folder) -> None:
    (folder / "f").write_text("x")
    with refused(errno.ENOENT):
        (folder / "absent").read_bytes()
    directory = os.open(folder.path, os.O_RDONLY)
    with refused(errno.EISDIR):
        os.read(directory, 1)
    os.close(directory)
    with open(folder / "f", "wb") as file, refused(errno.EBADF):
        os.read(file.fileno(), 1)


def test_statvfs(mounted: Mount) -> None:
    info = os.statvfs(mounted.path)
    assert info.f_namemax == 255
    assert min(info.f_bsize, info.f_bavail, info.f_files) > 0
    assert info.f_blocks * info.f_frsize >= 1 << 40


def test_bucket_size_is_what_df_shows(mount: Mounts, bucket: Witness) -> None:
    info = os.statvfs(mount(bucket, "bucket_size=10GiB").path)
    assert info.f_blocks * info.f_frsize == 10 << 30
