"""Full disks, few descriptors, many files, silent endpoints: an errno or a wait, never the end."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.scenario import noise
from tests.harness.mounts import Mount, Mounts
from tests.harness.posix import refused
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

pytestmark = pytest.mark.time_limit(240)

MIB = 1 << 20
ALL = bool(os.environ.get("BUCKETFS_TEST_FAULTS"))
FILES = 1000 if ALL else 300
LIMIT = 256 if ALL else 100


@pytest.fixture
def disk(tmp_path: Path, outlives: ExitStack) -> Path:
    """A disk of 128 MiB."""
    if os.getuid():
        pytest.skip("only root mounts disks")
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=128m", "disk", str(directory)]
    subprocess.run(mounted, check=True)
    outlives.callback(subprocess.run, ["umount", "-l", str(directory)], check=True)
    return directory


def cached_on(mount: Mounts, bucket: Witness, disk: Path, *options: str, url: str = "") -> Mount:
    """A mount with its cache on a disk."""
    mounted = mount(bucket, *options, url=url, start=False)
    (mounted.scratch / "cache").symlink_to(disk)
    mounted.expected.append("No space left|ENOSPC|no space left|is the disk full")
    mounted.start()
    return mounted


def test_a_file_larger_than_the_disk(mount: Mounts, bucket: Witness, disk: Path) -> None:
    mounted = cached_on(mount, bucket, disk, "multipart_size=5", "free_space_ratio=0")
    body = noise(150 * MIB, 1)
    (mounted.path / "f").write_bytes(body)
    assert bucket.get("f") == body
    assert (mounted.path / "f").read_bytes() == body


def test_a_disk_that_others_have_filled(mount: Mounts, bucket: Witness, disk: Path) -> None:
    """From the start, or in the middle: errnos, and all is well when there is room again."""
    bucket.put("old", noise(3 * MIB, 2))
    mounted = cached_on(mount, bucket, disk, "free_space_ratio=0")
    with (mounted.path / "written").open("wb", buffering=0) as file:
        file.write(noise(MIB, 3))
        fill(disk)
        with refused(errno.ENOSPC):
            for _ in range(8):
                file.write(noise(MIB, 4))
        assert sorted(os.listdir(mounted.path)) == ["old", "written"]
        assert (mounted.path / "old").read_bytes() == noise(3 * MIB, 2), "reading needs no disk"
    assert bucket.get("written")[:MIB] == noise(MIB, 3), "what was taken is stored"
    os.truncate(disk / "others", (disk / "others").stat().st_size - MIB // 2)
    mounted.remount()
    (mounted.path / "d").mkdir()
    (disk / "others").unlink()
    (mounted.path / "new").write_bytes(noise(MIB, 5))
    assert bucket.get("new") == noise(MIB, 5)
    assert (mounted.path / "old").read_bytes() == noise(3 * MIB, 2)


def test_what_was_read_gives_way_on_a_disk_that_others_have_filled(
    mount: Mounts, bucket: Witness, disk: Path
) -> None:
    """It is less than would be welcome, and enough for what is written."""
    bucket.put("old", noise(3 * MIB, 2))
    mounted = cached_on(mount, bucket, disk, "free_space_ratio=0")
    mounted.expected.clear()
    assert (mounted.path / "old").read_bytes() == noise(3 * MIB, 2)
    with (mounted.path / "written").open("wb", buffering=0) as file:
        fill(disk)
        assert file.write(noise(MIB, 3)) == MIB
    assert bucket.get("written") == noise(MIB, 3)


def test_a_disk_that_was_full_before(mount: Mounts, bucket: Witness, disk: Path) -> None:
    """No room for the journal: one line and no mount, and the journal is not taken for damaged."""
    mounted = cached_on(mount, bucket, disk, "free_space_ratio=0")
    (mounted.path / "f").write_text("text")
    assert mounted.stop() == 0
    for index in disk.glob("*/index.sqlite*"):
        index.unlink()  # it gives way to the journal when there is no room for both
    fill(disk)
    with pytest.raises(AssertionError, match=r"cannot be opened: .* is the disk full\?"):
        mounted.start()
    assert not mounted.path.is_mount()
    assert not list(disk.glob("*/*.damaged*"))
    os.truncate(disk / "others", (disk / "others").stat().st_size - MIB // 2)
    mounted.start()
    assert (mounted.path / "f").read_text() == "text"


def fill(disk: Path) -> None:
    with (disk / "others").open("ab", buffering=0) as file, refused(errno.ENOSPC):
        while True:
            file.write(bytes(MIB) if os.statvfs(disk).f_bavail > 256 else bytes(4096))


def test_more_open_files_than_descriptors(mount: Mounts, bucket: Witness) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    mounted = mount(bucket)
    resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    names = [mounted.path / f"{number:04}" for number in range(FILES)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(FILES + 200, hard)), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        opened = [stack.enter_context(name.open("w+b", buffering=0)) for name in names]
        with ThreadPoolExecutor(16) as pool:
            for turn in range(2):
                piece = b"%d" % turn * 5000
                list(pool.map(lambda file, piece=piece: file.write(piece), opened))
            list(pool.map(lambda file: os.fsync(file.fileno()), opened))
            wanted = b"0" * 5000 + b"1" * 5000
            read = pool.map(lambda file: os.pread(file.fileno(), 20000, 0), opened)
            assert all(data == wanted for data in read)
        assert len(os.listdir(f"/proc/{mounted.pid}/fd")) <= LIMIT
    assert len(bucket.keys()) == FILES


@pytest.mark.time_limit(600)
def test_many_writers_in_bounded_memory(mount: Mounts, bucket: Witness) -> None:
    """64 files of 64 MiB at once; by default less of it."""
    writers, size = (64, 64) if ALL else (24, 12)
    mounted = mount(bucket, "cache_size=512", "enable_unsigned_payload")
    piece = noise(MIB, 6)

    def write(number: int) -> None:
        with (mounted.path / f"{number}").open("wb", buffering=0) as file:
            for _ in range(size):
                file.write(piece)

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))
    status = Path(f"/proc/{mounted.pid}/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]
    print(f"{writers} writers of {size} MiB: {peak:.0f} MiB at most")
    assert peak <= 300
    for number in range(0, writers, 8):
        assert bucket.get(f"{number}") == piece * size


def test_an_endpoint_that_says_nothing(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    """Who waits gets an errno within op_timeout; who needs nothing of it goes on."""
    mounted = mount(bucket, "op_timeout=4", "readwrite_timeout=60", "open_ttl=600", url=counted.url)
    mounted.expected.append("ReadTimeout|has not answered|op_timeout|saved|are in|given up")
    bucket.put_many({"d/read": b"read", "cold": b"cold", "e/f": b""})
    assert (mounted.path / "d/read").read_bytes() == b"read"
    assert sorted(os.listdir(mounted.path)) == ["cold", "d", "e"]
    with counted.fault(stall=True):
        waits: list[tuple[str, int, float]] = []
        threads = [
            threading.Thread(target=timed, args=(waits, name, work))
            for name, work in {
                "read": (mounted.path / "cold").read_bytes,
                "write": lambda: (mounted.path / "new").write_bytes(b"new"),
                "mkdir": (mounted.path / "made").mkdir,
                "list": lambda: os.listdir(mounted.path / "e"),
                "rename": lambda: (mounted.path / "d/read").rename(mounted.path / "d/x"),
            }.items()
        ]
        for thread in threads:
            thread.start()
        until(lambda: len(counted.requests) >= 3, "they wait")
        assert (mounted.path / "d/read").read_bytes() == b"read"
        assert sorted(os.listdir(mounted.path)) >= ["cold", "d", "e"]
        for thread in threads:
            thread.join(150)
    assert {number for _, number, _ in waits} <= {errno.ETIMEDOUT, errno.EIO, errno.EHOSTUNREACH}, (
        waits
    )
    assert len(waits) == len(threads), waits
    assert all(took >= 1 for _, _, took in waits)
    # far below what the time-outs of single requests would add up to
    assert all(took <= 120 for _, _, took in waits), waits
    until(lambda: is_written(mounted.path / "after", b"after"), "the endpoint is back")
    assert bucket.get("after") == b"after"


def is_written(path: Path, body: bytes) -> bool:
    try:
        path.write_bytes(body)
    except OSError:
        return False
    return True


def timed(waits: list[tuple[str, int, float]], name: str, work: object) -> None:
    began = time.monotonic()
    try:
        work()  # type: ignore[operator]
    except OSError as error:
        waits.append((name, error.errno or 0, time.monotonic() - began))


def test_one_object_that_stalls(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    """Everything else is as fast as ever."""
    mounted = mount(bucket, "op_timeout=20", "max_thread_count=4", url=counted.url)
    mounted.expected.append("stuck|ReadTimeout|op_timeout")
    bucket.put_many({"stuck": bytes(30 * MIB), "good": noise(3 * MIB, 7)})
    with counted.fault("GetObject", key="stuck", stall=True) as fault:
        waits: list[tuple[str, int, float]] = []
        work = (mounted.path / "stuck").read_bytes
        threads = [threading.Thread(target=timed, args=(waits, "", work)) for _ in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: fault.struck, "it stalls")
        assert (mounted.path / "good").read_bytes() == noise(3 * MIB, 7)
        (mounted.path / "large").write_bytes(noise(3 * MIB, 8))
        assert bucket.get("large") == noise(3 * MIB, 8)
        assert sorted(os.listdir(mounted.path)) == ["good", "large", "stuck"]
        assert not waits
    for thread in threads:
        thread.join(150)
    assert not any(thread.is_alive() for thread in threads)
