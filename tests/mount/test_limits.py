"""What docs/limits.md says that a program gets, where no other test looks at it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Callable

import pytest

from tests.conftest import Folder
from tests.harness.posix import refused
from tests.harness.waiting import until
from tests.harness.witness import Witness

#: ioctl_ficlone(2), and ext4's flags (ioctl_iflags(2)) on 64 bits.
FICLONE = 0x40049409
FS_IOC_GETFLAGS = 0x80086601
KEEP_SIZE, PUNCH_HOLE = 1, 2


def fallocate(fd: int, mode: int) -> None:
    """The system call alone: glibc's posix_fallocate writes zeros where there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_long(0), ctypes.c_long(4096)):
        raise OSError(ctypes.get_errno(), "fallocate")


def clone(fd: int) -> None:
    source = os.open("/proc/self/fd/" + str(fd), os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FICLONE, source)
    finally:
        os.close(source)


@pytest.mark.parametrize(
    ("name", "call", "code"),
    [
        ("reserve", lambda fd: fallocate(fd, 0), errno.ENOTSUP),
        ("punch a hole", lambda fd: fallocate(fd, KEEP_SIZE | PUNCH_HOLE), errno.ENOTSUP),
        ("clone", clone, errno.ENOTSUP),
        ("chattr", lambda fd: fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)), errno.ENOTTY),
    ],
)
def test_of_a_file(here: Folder, name: str, call: Callable[[int], object], code: int) -> None:
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    try:
        os.write(fd, bytes(8192))
        with refused(code):
            call(fd)
    finally:
        os.close(fd)
    assert (here / "f").read_bytes() == bytes(8192), name


def test_unnamed_files(here: Folder) -> None:
    with refused(errno.ENOTSUP):
        os.open(here.path, os.O_TMPFILE | os.O_RDWR)


def test_sparse_files_are_stored_in_full(here: Folder) -> None:
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    try:
        os.pwrite(fd, b"x", 1 << 20)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 0, os.SEEK_HOLE) == (1 << 20) + 1
    finally:
        os.close(fd)
    assert os.stat(here / "f").st_blocks * 512 > 1 << 20


def test_reading_leaves_atime(here: Folder) -> None:
    (here / "f").write_bytes(b"x")
    os.utime(here / "f", (5, 6))
    assert (here / "f").read_bytes() == b"x"
    assert os.stat(here / "f").st_atime == 5


@pytest.mark.needs("full_metadata")
def test_attributes_have_room_for_so_much(here: Folder) -> None:
    (here / "f").write_bytes(b"")
    os.setxattr(here / "f", "user.a", b"x" * 1400)
    with refused(errno.ENOSPC):
        os.setxattr(here / "f", "user.b", b"x" * 200)


def test_a_mapping_that_outlives_the_descriptor(here: Folder, module_bucket: Witness) -> None:
    (here / "f").write_bytes(b"a" * 8192)
    fd = os.open(here / "f", os.O_RDWR)
    with mmap.mmap(fd, 8192) as mapped:
        os.close(fd)
        mapped[0:3] = b"new"
    until(lambda: module_bucket.get(here.prefix + "f")[:3] == b"new", "the bucket has it")
