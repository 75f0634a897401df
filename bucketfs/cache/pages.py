"""One local sparse file that holds bytes of one file version, and knows which of them it holds.

The file is written and read with plain pread/pwrite from the event loop: the operating system's
page cache makes these memory copies, and a thread hop would cost more than it hides. Open are a
bounded number of them, whose longest unused is closed first: a process may have a thousand files
open here, under a limit of 256 descriptors that sockets need some of too. A page file opens again
at its next use (10 µs).

What an earlier process left is believed only once its checksum has been compared (`prove`): disks
and crashes change bytes, and what an upload carries or a program reads must not be one of those.

Invariants: positions in `valid` were written here; the sparse rest of the file reads as zeros and
means nothing. `seals` and `unproven` are disjoint and lie within `valid`. A page file is used by
one thread; only the bodies of uploads are read by others, too.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from crc32c import crc32c

from bucketfs.cache.extents import SPAN, Extent, Extents, Seals, spans
from bucketfs.errors import FsError

log = logging.getLogger(__name__)

#: Largest piece handed to the network at a time (one pread of a reused buffer).
CHUNK = SPAN
#: Buffers of that size kept for the next body: fresh memory costs more than the copy into it.
_KEPT = 32
_buffers: list[bytearray] = []
#: The extended attribute of a page file that waits for its upload.
_TAG: Final = "user.bucketfs.waits"
#: What the name of the file in its place ends in.
_BESIDE: Final = ".waits"
#: errnos of a file system that has no extended attributes, or no room for this one.
_NO_ATTRIBUTE: Final = frozenset(
    {errno.ENOTSUP, errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE}
)
#: Least number of descriptors for page files, whatever the limit says.
_LEAST: Final = 16
#: What the limit is taken for where there is none.
_MOST: Final = 1 << 20


class PageFile:
    """A sparse file with a set of valid extents.

    Attributes:
        path: Where it lives.
        valid: Which positions hold data.
        seals: Checksums of positions as they came, or as they left for the bucket.
        unproven: Checksums that an earlier process stored of what it left; None if there are none.
        size: Length of the object version the file belongs to.
        identity: (key, ETag) of that version, or None for bytes that are in no bucket yet.
        pins: How many users hold it; a pinned file is never evicted.
        used: Monotonic time of the last use, for eviction.
        changed: Whether the index knows less than `valid` tells.
    """

    __slots__ = (
        "_exists", "_fd", "_held", "changed", "identity", "path", "pins", "seals", "size",
        "unproven", "used", "valid",
    )  # fmt: skip

    def __init__(
        self,
        path: Path,
        *,
        size: int,
        identity: tuple[str, str] | None,
        left: Seals | None = None,
        exists: bool = False,
    ) -> None:
        """A new file, or one that `exists`, perhaps with the contents an earlier process `left`."""
        self.path = path
        self.size = size
        self.identity = identity
        self.unproven = left or None
        self.seals = Seals()
        self.valid = Extents((seal.start, seal.stop) for seal in left or ())
        self.pins = 0
        self.used = 0.0
        self.changed = False
        self._fd = -1
        self._exists = exists or bool(left)
        self._held = path.stat().st_blocks * 512 if self._exists else 0

    @property
    def held(self) -> int:
        """Bytes of disk it takes (a closed file: at its last close)."""
        if self._fd >= 0:
            self._held = os.fstat(self._fd).st_blocks * 512
        return self._held

    @property
    def fd(self) -> int:
        """Descriptor, opened at the first use, and again when it was closed for others' sake.

        It holds until the next descriptor of any page file is asked for.

        Raises:
            OSError: The file cannot be opened or created; EIO when it was there and is gone.
        """
        if self._fd >= 0:
            _descriptors.used(self)
            return self._fd
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = _descriptors.open(self, flags if self._exists else flags | os.O_CREAT)
        except FileNotFoundError as error:
            raise OSError(errno.EIO, "somebody removed a file of the cache", self.path) from error
        self._exists = True
        return self._fd

    @property
    def stored(self) -> int:
        """Length of the local file, which a hole may end before the last valid byte."""
        return os.fstat(self.fd).st_size

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)``.

        Holes and what lies past the end of the local file read as zeros.
        """
        return read_exactly(self.fd, start, stop)

    def read_into(self, view: memoryview, start: int) -> None:
        """As `read`, into a buffer of the length that is wanted."""
        got = os.preadv(self.fd, [view], start)
        if got < len(view):
            view[got:] = bytes(len(view) - got)

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Store `data` and mark it valid; answers how many bytes the disk had room for.

        Raises:
            OSError: Not one byte could be stored.
        """
        view = memoryview(data)
        self.changed = True  # even if nothing is stored: there is a file now
        self._break(offset, offset + len(view))
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(self.fd, view[done:], offset + done)
            except OSError:
                if not done:
                    raise
                break
        self.valid.add(offset, offset + done)
        return done

    def zero(self, start: int, stop: int) -> None:
        """Make ``[start, stop)`` valid zeros without using disk for them."""
        if start >= stop:
            return
        self._break(start, stop)
        end = os.fstat(self.fd).st_size
        if start < end:
            _punch(self.fd, start, min(stop, end) - start)
        self.valid.add(start, stop)
        self.changed = True

    def truncate(self, size: int) -> None:
        """Forget everything at and after `size`."""
        self._break(size, self.valid.end)
        if os.fstat(self.fd).st_size > size:
            os.ftruncate(self.fd, size)
        self.valid.remove(size, max(size, self.valid.end))
        self.changed = True

    def drop(self, start: int, stop: int) -> None:
        """Forget ``[start, stop)`` and give its disk space back."""
        if self.valid.overlaps(start, stop):
            self._break(start, stop)
            self.valid.remove(start, stop)
            _punch(self.fd, start, stop - start)
            self.changed = True

    def seal(self, offset: int, data: bytes | memoryview) -> None:
        """Remember the checksum of `data`, which is exactly what stands at `offset`."""
        view = memoryview(data)
        for start, stop in spans(offset, offset + len(view)):
            piece = view[start - offset : stop - offset]
            before = self.seals.ending_at(start) if start % SPAN else None
            if before is None:
                self.seals.add(start, stop, crc32c(piece))
            else:
                self.seals.add(before.start, stop, crc32c(piece, before.crc))
            self.changed = True

    def dump(self) -> bytes:
        """All seals, for `Seals.load` and the argument `left` of a later process."""
        return self.seals.dump() + (self.unproven.dump() if self.unproven is not None else b"")

    def prove(self, start: int, stop: int) -> list[Extent]:
        """Compare checksums that an earlier process left of ``[start, stop)`` and its surroundings.

        Returns:
            What is not as it was left, or cannot be read. It is not valid any more: a miss for what
            the bucket has, and a loss for what it has not, which only the caller can tell.
        """
        damaged = Extents()
        if self.unproven is None:
            return []
        for seal in self.unproven.overlapping(start, stop):
            self.unproven.remove(seal.start, seal.stop)
            if self._crc(seal.start, seal.stop) == seal.crc:
                self.seals.add(*seal)
            else:
                self.valid.remove(seal.start, seal.stop)
                damaged.add(seal.start, seal.stop)
                self.changed = True
        self.unproven = self.unproven or None
        if damaged:
            log.warning(
                "the cached copy of %r was damaged on the disk, its bytes %s are dropped",
                self.identity[0] if self.identity else self.path.name,
                ", ".join(f"{a}-{b - 1}" for a, b in damaged),
            )
        return list(damaged)

    def _crc(self, start: int, stop: int) -> int | None:
        try:
            with _buffer() as view:
                self.read_into(view[: stop - start], start)
                return crc32c(view[: stop - start])
        except OSError:
            return None

    def _break(self, start: int, stop: int) -> None:
        """``[start, stop)`` is about to change: what stays of a seal around it has to be proven."""
        if self.unproven is not None:
            for seal in self.unproven.overlapping(start, stop):
                if seal.start < start or stop < seal.stop:
                    self.prove(seal.start, seal.stop)
            if self.unproven is not None:
                self.unproven.remove(start, stop)
                self.unproven = self.unproven or None
        if self.seals:
            self.seals.remove(start, stop)

    def close(self) -> None:
        """Close the descriptor; the file stays and opens again at the next use."""
        if self._fd >= 0:
            self._held = self.held
            os.close(self._fd)
            self._fd = -1
            _descriptors.gone(self)

    def unlink(self) -> None:
        """Remove the file from the disk."""
        self.close()
        self.path.unlink(missing_ok=True)
        Tag.beside(self.path).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class PageBody:
    """Bytes ``[start, stop)`` of a page file as the body of an upload.

    Nothing is held in memory. What passes by is sealed on the way: it is what the bucket will have.
    """

    pages: PageFile
    start: int
    stop: int
    _thread: int = field(default_factory=threading.get_ident)

    def __len__(self) -> int:
        return self.stop - self.start

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes in pieces of at most `CHUNK`; a piece is valid until the next is asked for.

        Raises:
            FsError: The disk cannot be read.
        """
        # another thread may compute a signature, but must not touch the file's seals
        seals = self.pages.seals if threading.get_ident() == self._thread else None
        with _buffer() as view:
            for start in range(self.start, self.stop, CHUNK):
                piece = view[: min(CHUNK, self.stop - start)]
                try:
                    self.pages.read_into(piece, start)
                except OSError as error:
                    why = f"the cache cannot be read: {error}"
                    raise FsError(error.errno or errno.EIO, why) from error
                if seals is not None:
                    for a, b in seals.missing(start, start + len(piece)):
                        self.pages.seal(a, piece[a - start : b - start])
                yield piece


@dataclass(frozen=True, slots=True)
class Tag:
    """What a page file says of itself while it waits for its upload and the journal counts on it.

    The journal is one file, and SQLite ends its write-ahead log at the first damaged frame without
    an error: rows may be gone although their page files are there. The tag tells such a file from
    one that nobody needs. It is an extended attribute of the page file, or, where the file system
    has none, a small file beside it.

    Attributes:
        key: Where it is to be published.
        size: Bytes.
        whole: All of them are in the page file; otherwise the version in the bucket has the rest.
        written: When its row was written last, in nanoseconds of the Unix clock.
        since: When that row was first written of these bytes: later ones changed key or headers.
    """

    key: str
    size: int
    whole: bool
    written: int
    since: int

    def put(self, path: Path) -> None:
        """Tag a page file, in place of an older tag. Raises OSError: the disk refuses."""
        text = json.dumps(asdict(self)).encode()
        try:
            os.setxattr(path, _TAG, text)
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTE:
                raise
            self.beside(path).write_bytes(text)

    @classmethod
    def drop(cls, path: Path) -> None:
        """Take the tag away; a page file that has none, or is gone, is no error."""
        with suppress(OSError):
            os.removexattr(path, _TAG)
        with suppress(OSError):
            os.unlink(f"{path}{_BESIDE}")  # the path's own methods take longer than the call

    @classmethod
    def read(cls, path: Path) -> Tag | None:
        """The tag of a page file, with key "" if it is damaged; None if it has none."""
        try:
            text = os.getxattr(path, _TAG, follow_symlinks=False)
        except OSError:
            try:
                text = cls.beside(path).read_bytes()
            except OSError:
                return None
        try:
            said = json.loads(text)
            written = int(said["written"])
            since = int(said.get("since", written))  # none before version 0.1
            return cls(str(said["key"]), int(said["size"]), bool(said["whole"]), written, since)
        except (ValueError, KeyError, TypeError):
            return cls("", 0, whole=False, written=0, since=0)  # damaged as well: yet there was one

    @staticmethod
    def beside(path: Path) -> Path:
        """The file that stands for the extended attribute where there is none."""
        return path.with_name(path.name + _BESIDE)


class Descriptors:
    """The page files that have a descriptor, in the order of their last use.

    Args:
        limit: How many there may be; asked whenever one more is opened.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._open: OrderedDict[PageFile, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, owner: PageFile, flags: int) -> int:
        """A descriptor of the owner's file, mode 600 where it is made; raises OSError."""
        while len(self._open) >= self._limit() and self._close_one():
            pass
        while True:
            try:
                fd = os.open(owner.path, flags, 0o600)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._close_one():
                    raise
            else:
                self._open[owner] = None
                return fd

    def used(self, owner: PageFile) -> None:
        """The owner's descriptor is used now."""
        self._open.move_to_end(owner)

    def gone(self, owner: PageFile) -> None:
        """The owner has closed its descriptor."""
        self._open.pop(owner, None)

    def _close_one(self) -> bool:
        if not self._open:
            return False
        next(iter(self._open)).close()
        return True


def share() -> int:
    """Descriptors that page files may take: half of what this process may have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(_LEAST, (_MOST if limit == resource.RLIM_INFINITY else limit) // 2)


_descriptors = Descriptors(share)


def read_exactly(fd: int, start: int, stop: int) -> bytes:
    """Bytes ``[start, stop)`` of a file; what lies past its end reads as zeros. Raises OSError."""
    data = os.pread(fd, stop - start, start)
    short = stop - start - len(data)
    return data + bytes(short) if short else data


def sync_directory(path: Path) -> None:
    """Have the names in a directory survive a power cut; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _buffer() -> Iterator[memoryview]:
    """`CHUNK` bytes to read into."""
    buffer = _buffers.pop() if _buffers else bytearray(CHUNK)
    try:
        with memoryview(buffer) as view:
            yield view
    finally:
        if len(_buffers) < _KEPT:
            _buffers.append(buffer)


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
