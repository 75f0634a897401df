"""One local sparse file that holds bytes of one file version, and knows which of them it holds.

The file is written and read with plain pread/pwrite from the event loop: the operating system's
page cache makes these memory copies, and a thread hop would cost more than it hides.

Invariant: positions in `valid` were written here; the sparse rest of the file reads as zeros and
means nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bucketfs.cache.extents import Extents

#: Largest piece handed to the network at a time (one pread of a reused buffer).
CHUNK = 1 << 20
#: Buffers of that size kept for the next body: fresh memory costs more than the copy into it.
_KEPT = 32
_buffers: list[bytearray] = []


class PageFile:
    """A sparse file with a set of valid extents.

    Attributes:
        path: Where it lives.
        valid: Which positions hold data.
        size: Length of the object version the file belongs to.
        identity: (key, ETag) of that version, or None for bytes that are in no bucket yet.
        pins: How many users hold it; a pinned file is never evicted.
        used: Monotonic time of the last use, for eviction.
        changed: Whether the index knows less than `valid` tells.
    """

    __slots__ = ("_fd", "_held", "changed", "identity", "path", "pins", "size", "used", "valid")

    def __init__(
        self,
        path: Path,
        *,
        size: int,
        identity: tuple[str, str] | None,
        valid: Extents | None = None,
    ) -> None:
        self.path = path
        self.size = size
        self.identity = identity
        self.valid = Extents() if valid is None else valid
        self.pins = 0
        self.used = 0.0
        self.changed = False
        self._fd = -1
        self._held = self.valid.total

    @property
    def held(self) -> int:
        """Bytes of disk it takes (a closed file: at its last close)."""
        if self._fd >= 0:
            self._held = os.fstat(self._fd).st_blocks * 512
        return self._held

    @property
    def fd(self) -> int:
        """Descriptor, opened at the first use.

        Raises:
            OSError: The file cannot be opened or created.
        """
        if self._fd < 0:
            self._fd = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        return self._fd

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``.

        Holes and what lies past the end of the local file read as zeros.
        """
        data = os.pread(self.fd, stop - start, start)
        short = stop - start - len(data)
        return data + bytes(short) if short else data

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Store `data` and mark it valid; answers how many bytes the disk had room for.

        Raises:
            OSError: Not one byte could be stored.
        """
        view = memoryview(data)
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(self.fd, view[done:], offset + done)
            except OSError:
                if not done:
                    raise
                break
        self.valid.add(offset, offset + done)
        self.changed = True
        return done

    def zero(self, start: int, stop: int) -> None:
        """Make ``[start, stop)`` valid zeros without using disk for them."""
        if start >= stop:
            return
        end = os.fstat(self.fd).st_size
        if start < end:
            _punch(self.fd, start, min(stop, end) - start)
        self.valid.add(start, stop)
        self.changed = True

    def truncate(self, size: int) -> None:
        """Forget everything at and after `size`."""
        if os.fstat(self.fd).st_size > size:
            os.ftruncate(self.fd, size)
        self.valid.remove(size, max(size, self.valid.end))
        self.changed = True

    def drop(self, start: int, stop: int) -> None:
        """Forget ``[start, stop)`` and give its disk space back."""
        if self.valid.overlaps(start, stop):
            self.valid.remove(start, stop)
            _punch(self.fd, start, stop - start)
            self.changed = True

    def close(self) -> None:
        """Close the descriptor; the file stays and opens again at the next use."""
        if self._fd >= 0:
            self._held = self.held
            os.close(self._fd)
            self._fd = -1

    def unlink(self) -> None:
        """Remove the file from the disk."""
        self.close()
        self.path.unlink(missing_ok=True)


_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def _punch(fd: int, offset: int, length: int) -> None:
    """Deallocate a range so that it reads as zeros (fallocate(2)).

    Python's os module has no way to punch holes.
    """
    if _fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length) == 0:
        return
    code = ctypes.get_errno()
    if code != errno.EOPNOTSUPP:
        raise OSError(code, os.strerror(code))
    # a file system without holes (vfat, some overlays): write the zeros
    zeros = bytes(min(length, CHUNK))
    while length:
        length -= (done := os.pwrite(fd, zeros[:length], offset))
        offset += done


@dataclass(frozen=True, slots=True)
class PageBody:
    """Bytes ``[start, stop)`` of a page file as the body of an upload.

    Nothing is held in memory.
    """

    pages: PageFile
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes in pieces of at most `CHUNK`; a piece is valid until the next is asked for."""
        buffer = _buffers.pop() if _buffers else bytearray(CHUNK)
        try:
            with memoryview(buffer) as view:
                yield from self._pieces(view)
        finally:
            if len(_buffers) < _KEPT:
                _buffers.append(buffer)

    def _pieces(self, view: memoryview) -> Iterator[memoryview]:
        position = self.start
        while position < self.stop:
            want = min(CHUNK, self.stop - position)
            got = os.preadv(self.pages.fd, [view[:want]], position)
            # past the end of the local file lie zeros that a truncate made
            if got < want:
                view[got:want] = bytes(want - got)
            yield view[:want]
            position += want
