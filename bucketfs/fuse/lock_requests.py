"""What the kernel asks about locks, and how it is answered. Pure: bytes in, bytes out.

Source of the formats: include/uapi/linux/fuse.h (struct fuse_lk_in, fuse_lk_out, fuse_flush_in,
fuse_interrupt_in, fuse_notify_inval_inode_out, fuse_notify_store_out). Numbers are
in the machine's byte order.
"""

from __future__ import annotations

import fcntl
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bucketfs.locks.table import LAST, Kind, Mode, Row

#: Requests that come as notes are shorter.
LONGEST: Final = 4096

#: length, opcode, unique, nodeid.
_IN_HEADER: Final = struct.Struct("=IIQQ")
_IN_HEADER_SIZE: Final = 40
_OUT_HEADER: Final = struct.Struct("=IiQ")
#: fh, owner, start, end, type, pid, flags.
_LK_IN: Final = struct.Struct("=QQQQIIII")
_LK_OUT: Final = struct.Struct("=QQII")
#: fh, unused, padding, lock_owner.
_FLUSH_IN: Final = struct.Struct("=QIIQ")
_FLOCK: Final = 1 << 0
#: FUSE_NOTIFY_INVAL_INODE, FUSE_NOTIFY_STORE.
_INVAL_INODE, _STORE = 2, 4


class Opcode(IntEnum):
    """Of the requests that come as notes."""

    FLUSH = 25
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    INTERRUPT = 36


@dataclass(frozen=True, slots=True)
class Note:
    """A request.

    Attributes:
        unique: Its number; of an interruption, that of the request it interrupts.
        handle: Of the open file.
        owner: Who has locks: the process, of `flock` the open file.
        flock: They are those of `flock`.
        mode: What is asked for; None: to give up.
        start, end, pid: As `Row` has them.
    """

    opcode: Opcode
    unique: int
    handle: int = 0
    owner: int = 0
    flock: bool = False
    mode: Mode | None = None
    start: int = 0
    end: int = LAST
    pid: int = 0

    def row(self, mount: str) -> Row:
        """The lock, or the span of locks to be given up."""
        kind = Kind.FLOCK if self.flock else Kind.POSIX
        mode = self.mode or Mode.SHARED
        return Row(mount, self.owner, kind, mode, self.start, self.end, self.pid)


def decode(request: bytes) -> Note:
    """A request that came as a note."""
    _, number, unique, _ = _IN_HEADER.unpack_from(request)
    opcode = Opcode(number)
    if opcode is Opcode.INTERRUPT:
        (target,) = struct.unpack_from("=Q", request, _IN_HEADER_SIZE)
        return Note(opcode, target)
    if opcode is Opcode.FLUSH:
        handle, _, _, owner = _FLUSH_IN.unpack_from(request, _IN_HEADER_SIZE)
        return Note(opcode, unique, handle, owner)
    handle, owner, start, end, kind, pid, flags = _LK_IN.unpack_from(request, _IN_HEADER_SIZE)[:7]
    flock = bool(flags & _FLOCK)
    if flock:
        start, end = 0, LAST
    modes = {fcntl.F_RDLCK: Mode.SHARED, fcntl.F_WRLCK: Mode.EXCLUSIVE}
    mode = modes.get(kind)
    return Note(opcode, unique, handle, owner, flock, mode, min(start, LAST), min(end, LAST), pid)


def answer(unique: int, error: int, body: bytes = b"") -> bytes:
    """The answer to a request: an errno, or 0."""
    body = b"" if error else body
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), -error, unique) + body


def found(row: Row | None, *, ours: bool) -> bytes:
    """What GETLK is answered: the lock in the way, if there is one. Others' pids say nothing."""
    if row is None:
        return _LK_OUT.pack(0, 0, fcntl.F_UNLCK, 0)
    kind = fcntl.F_WRLCK if row.mode is Mode.EXCLUSIVE else fcntl.F_RDLCK
    return _LK_OUT.pack(row.start, row.end, kind, row.pid if ours else 0)


def forget(ino: int, size: int) -> list[bytes]:
    """Has the kernel drop the pages and attributes of a file, which has so many bytes now.

    A write to the end of a file (O_APPEND) goes where the kernel believes the end to be, and
    dropping the attributes alone leaves that where it was. Storing a byte before the new end moves
    it, if the file has become longer; then the page with that byte goes as well.
    """
    told = [(_STORE, struct.pack("=QQIIx", ino, size - 1, 1, 0))] if size else []
    told.append((_INVAL_INODE, struct.pack("=Qqq", ino, 0, 0)))
    return [_OUT_HEADER.pack(_OUT_HEADER.size + len(body), code, 0) + body for code, body in told]
