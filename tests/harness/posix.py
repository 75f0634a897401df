"""System calls Python's os module lacks, and assertions about errno."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
AT_FDCWD = -100

PROT_READ, PROT_WRITE = 1, 2
MAP_SHARED = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.opendir.restype = ctypes.c_void_p
_libc.telldir.argtypes = [ctypes.c_void_p]
_libc.telldir.restype = ctypes.c_long
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
_libc.rewinddir.argtypes = [ctypes.c_void_p]
_libc.closedir.argtypes = [ctypes.c_void_p]


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_uint16),
        ("d_type", ctypes.c_uint8),
        ("d_name", ctypes.c_char * 256),
    )


_libc.readdir.argtypes = [ctypes.c_void_p]
_libc.readdir.restype = ctypes.POINTER(_Dirent)


@contextmanager
def refused(*errnos: int) -> Iterator[None]:
    """The block must raise OSError with one of these errnos."""
    names = [errno.errorcode[number] for number in errnos]
    try:
        yield
    except OSError as exc:
        got = exc.errno or 0
    else:
        raise AssertionError(f"expected {names}, but it worked")
    assert got in errnos, f"expected {names}, got {errno.errorcode.get(got, got)}"


def is_gone(path: Path) -> bool:
    """Whether a name is free; other errors are raised, unlike by `Path.exists`."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    return False


def renameat2(old: Path, new: Path, flags: int) -> None:
    """rename(2) with flags."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fsync_path(path: Path) -> None:
    """Sync a file or directory: pending changes of its metadata are in the bucket afterwards."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Mapping:
    """A shared writable mapping that keeps no descriptor open, as C programs have it."""

    def __init__(self, path: Path, length: int) -> None:
        fd = os.open(path, os.O_RDWR)
        address = _libc.mmap(None, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        os.close(fd)
        assert address not in (None, ctypes.c_void_p(-1).value)
        self._address = address
        self._length = length

    def store(self, offset: int, data: bytes) -> None:
        ctypes.memmove(self._address + offset, data, len(data))

    def unmap(self) -> None:
        assert _libc.munmap(self._address, self._length) == 0


class DirectoryStream:
    """opendir(3) with its positions."""

    def __init__(self, path: Path) -> None:
        self._stream = _libc.opendir(os.fsencode(path))
        assert self._stream

    def read(self) -> str | None:
        """The next name, without ``.`` and ``..``; None at the end."""
        while True:
            entry = _libc.readdir(self._stream)
            if not entry:
                return None
            name = os.fsdecode(entry.contents.d_name)
            if name not in (".", ".."):
                return name

    def rest(self) -> list[str]:
        """All further names."""
        names = []
        while (name := self.read()) is not None:
            names.append(name)
        return names

    def tell(self) -> int:
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        _libc.seekdir(self._stream, position)

    def rewind(self) -> None:
        _libc.rewinddir(self._stream)

    def close(self) -> None:
        _libc.closedir(self._stream)
