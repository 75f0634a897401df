"""What the kernel remembers is taken back so that a daemon can be killed at any moment."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from tests.harness.endpoint import REPOSITORY
from tests.harness.mounts import Mounts
from tests.harness.posix import refused
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

SIZE = 40 << 20


def waits_in_the_kernel(pid: int) -> bool:
    """Whether a thread of a process is where no signal reaches it."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended
            if (task / "stat").read_text().rpartition(")")[2].split()[0] == "D":
                return True
    return False


def mostly_waits_in_the_kernel(pid: int) -> None:
    """Give a thread the time to get there. No failure if none does: that is what is wanted."""
    with suppress(AssertionError):
        until(lambda: waits_in_the_kernel(pid), "a thread", timeout=2)


def test_who_is_killed_while_a_directory_is_busy_leaves_nothing_that_hangs(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    """The kernel lets nobody take a name back whose directory waits for an answer of ours."""
    mounted = mount(bucket, "open_ttl=60,stat_cache_expire=60", url=counted.url)
    directory = mounted.path / "d"
    directory.mkdir()
    assert not (directory / "missing").exists()  # a name that the kernel remembers

    def make() -> None:
        with suppress(OSError):  # the daemon is killed
            (directory / "new").mkdir()

    asks = Thread(target=make)
    with counted.fault("PutObject", stall=True) as fault:
        asks.start()
        until(lambda: fault.struck, "the request that has the directory's lock")
        command = [sys.executable, "-m", "bucketfs", "refresh", str(directory)]
        refresh = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
        mostly_waits_in_the_kernel(mounted.pid)
        mounted.die()
    asks.join(10)
    assert not asks.is_alive()
    assert refresh.wait(10) != 0
    with refused(errno.ENOTCONN, errno.ECONNABORTED):
        os.listdir(directory)


@pytest.mark.needs("conditions")
def test_who_is_killed_while_a_locked_file_is_read_leaves_nothing_that_hangs(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    """Nor does it let anybody take back pages that wait for an answer of ours."""
    bucket.put("f", bytes(SIZE))
    mounted = mount(bucket, "locks=bucket", url=counted.url)
    path = mounted.path / "f"

    fd = os.open(path, os.O_RDONLY)

    def read() -> None:
        with suppress(OSError):  # the daemon is killed
            os.pread(fd, 4096, SIZE // 2)

    reads = Thread(target=read)
    with counted.fault("GetObject", key="f", stall=True) as fault:
        reads.start()
        until(lambda: fault.struck, "the request that has the page's lock")
        bucket.put("f", bytes(SIZE + 1))
        locks = subprocess.Popen(["flock", path, "true"], stderr=subprocess.DEVNULL)
        until(lambda: any(r.operation == "HeadObject" for r in counted.requests), "a look")
        mostly_waits_in_the_kernel(mounted.pid)
        mounted.die()
    reads.join(10)
    assert not reads.is_alive()
    locks.wait(10)  # with or without the lock
    with refused(errno.ENOTCONN, errno.ECONNABORTED):
        os.close(fd)
