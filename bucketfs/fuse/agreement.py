"""What the kernel and libfuse agree on when a mount begins, and what bucketfs adds to it.

The kernel's first request, INIT, offers abilities; the answer takes some of them and sets limits.
pyfuse3 leaves the answer to libfuse, which takes less than it could. Pure: bytes in, bytes out.

Source of the formats: include/uapi/linux/fuse.h (struct fuse_in_header, fuse_init_in,
fuse_out_header, fuse_init_out), which only ever grows at the end; read at version 7.45. Numbers are
in the machine's byte order.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

#: FUSE_INIT, among `enum fuse_opcode`.
_INIT: Final = 26
#: length, opcode, unique; the numbers of who asks follow and are 0 here.
_IN_HEADER: Final = struct.Struct("=IIQ")
_IN_HEADER_SIZE: Final = 40
#: major, minor, max_readahead, flags.
_INIT_IN: Final = struct.Struct("=IIII")
#: length, error, unique.
_OUT_HEADER: Final = struct.Struct("=IiQ")
#: major, minor, max_readahead, flags, flags2 (of kernels that know INIT_EXT).
_INIT_IN_EXT: Final = struct.Struct("=IIIII")
#: major, minor, max_readahead, flags, max_background, congestion_threshold.
_INIT_OUT: Final = struct.Struct("=IIIIHH")
#: Where flags2 stands in struct fuse_init_out.
_FLAGS2: Final = struct.Struct("=I")
_FLAGS2_AT: Final = 32
#: The version of the protocol that reads the limits (process_init_limits in fs/fuse/inode.c).
_MAJOR, _MINOR_WITH_LIMITS = 7, 13

#: Lookups and listings of one directory come side by side. Without it each waits for the one
#: before, at 20 ms of network that is 50 names a second. libfuse takes it from 3.17 on.
PARALLEL_DIROPS: Final = 1 << 18
#: Who writes or cuts a file, or gives it away, takes its set-id bits in the same request, and
#: the kernel remembers that a file has no capabilities: it asks for `security.capability` before
#: the first write after an open, not before each.
HANDLE_KILLPRIV_V2: Final = 1 << 28
WANTED: Final = PARALLEL_DIROPS | HANDLE_KILLPRIV_V2
#: The kernel asks for locks, of fcntl and of flock, and does not keep them by itself.
LOCKS: Final = 1 << 1 | 1 << 10
#: Bytes of a read or write that goes through a socket, whose message must fit into its buffer:
#: Linux gives 208 KiB without a right to more.
RELAYED: Final = 128 << 10
#: Where max_write and max_pages stand in struct fuse_init_out.
_MAX_WRITE_AT, _MAX_PAGES_AT = 20, 28
_PAGE: Final = 4096

#: FUSE_INIT_EXT: there are flags2.
_INIT_EXT: Final = 1 << 30
#: FUSE_HAS_RESEND, of flags2, and what asks for it (FUSE_NOTIFY_RESEND): from Linux 6.9 on.
_HAS_RESEND: Final = 1 << (39 - 32)
_NOTIFY_RESEND: Final = 7

#: Background requests (read-ahead) that the kernel may have open at once; by itself 12.
MAX_BACKGROUND: Final = 64
#: From so many on, it counts the mount as busy and reads ahead less.
CONGESTION: Final = MAX_BACKGROUND * 3 // 4


def is_init(request: bytes) -> bool:
    """Whether these bytes are the request that begins a mount."""
    if len(request) < _IN_HEADER_SIZE + _INIT_IN.size:
        return False
    length, opcode, _ = _IN_HEADER.unpack_from(request)
    return bool(length == len(request) and opcode == _INIT)


def with_locks(request: bytes, answer: bytes) -> bytes:
    """The answer to INIT with which the kernel asks for locks, and for less at a time.

    Raises:
        ValueError: It does not offer that, or the answer is an error.
    """
    _, _, _, offered = _INIT_IN.unpack_from(request, _IN_HEADER_SIZE)
    if len(answer) < _OUT_HEADER.size + _MAX_PAGES_AT + 4 or offered & LOCKS != LOCKS:
        raise ValueError("the kernel does not ask for locks")
    changed = bytearray(answer)
    major, minor, readahead, taken, background, congestion = _INIT_OUT.unpack_from(
        answer, _OUT_HEADER.size
    )
    _INIT_OUT.pack_into(
        changed,
        _OUT_HEADER.size,
        *(major, minor, readahead, taken | LOCKS, background, congestion),
    )
    for code, at, most in (
        ("=I", _MAX_WRITE_AT, RELAYED),
        ("=H", _MAX_PAGES_AT, RELAYED // _PAGE),
    ):
        (before,) = struct.unpack_from(code, answer, _OUT_HEADER.size + at)
        struct.pack_into(code, changed, _OUT_HEADER.size + at, min(before, most) or most)
    return bytes(changed)


def refusal(request: bytes) -> bytes:
    """The answer EIO to a request; b"" to what is none."""
    if len(request) < _IN_HEADER_SIZE:
        return b""
    _, _, unique = _IN_HEADER.unpack_from(request)
    return _OUT_HEADER.pack(_OUT_HEADER.size, -errno.EIO, unique)


def offers_resend(request: bytes) -> bool:
    """Whether the kernel of an INIT can be told to send again what nobody has answered."""
    _, offered = _offered(request)
    return bool(offered & _HAS_RESEND)


def resend() -> bytes:
    """Tells the kernel to send again all that was read from it and is not answered."""
    return _OUT_HEADER.pack(_OUT_HEADER.size, _NOTIFY_RESEND, 0)


def repeated(request: bytes, answer: bytes) -> bytes:
    """INIT for a libfuse that is to agree on what was agreed on before.

    It offers what the kernel has been told is taken, and nothing else.

    Args:
        request: The kernel's.
        answer: What the kernel got.
    """
    changed = bytearray(request)
    flags, more = _offered(request)
    _, _, _, taken, _, _ = _INIT_OUT.unpack_from(answer, _OUT_HEADER.size)
    at = _OUT_HEADER.size + _FLAGS2_AT
    taken_more = _FLAGS2.unpack_from(answer, at)[0] if len(answer) >= at + _FLAGS2.size else 0
    major, minor, readahead, _ = _INIT_IN.unpack_from(request, _IN_HEADER_SIZE)
    _INIT_IN.pack_into(changed, _IN_HEADER_SIZE, major, minor, readahead, flags & taken)
    if flags & _INIT_EXT:
        _INIT_IN_EXT.pack_into(
            changed,
            _IN_HEADER_SIZE,
            *(major, minor, readahead, flags & taken, more & taken_more),
        )
    return bytes(changed)


def _offered(request: bytes) -> tuple[int, int]:
    """The flags of an INIT, and its flags2."""
    _, _, _, flags = _INIT_IN.unpack_from(request, _IN_HEADER_SIZE)
    if not flags & _INIT_EXT or len(request) < _IN_HEADER_SIZE + _INIT_IN_EXT.size:
        return flags, 0
    *_, more = _INIT_IN_EXT.unpack_from(request, _IN_HEADER_SIZE)
    return flags, more


def amended(request: bytes, answer: bytes) -> bytes:
    """The answer to INIT as libfuse gives it, with what bucketfs wants and the kernel offers.

    An answer that is an error, or of a version of the protocol that has no room for the limits,
    stays as it is.

    Args:
        request: INIT (see `is_init`).
        answer: With its header.
    """
    if len(answer) < _OUT_HEADER.size + _INIT_OUT.size:
        return answer
    _, error, _ = _OUT_HEADER.unpack_from(answer)
    major, minor, readahead, taken, _, _ = _INIT_OUT.unpack_from(answer, _OUT_HEADER.size)
    if error or major != _MAJOR or minor < _MINOR_WITH_LIMITS:
        return answer
    _, _, _, offered = _INIT_IN.unpack_from(request, _IN_HEADER_SIZE)
    changed = bytearray(answer)
    _INIT_OUT.pack_into(
        changed,
        _OUT_HEADER.size,
        *(major, minor, readahead, taken | (offered & WANTED), MAX_BACKGROUND, CONGESTION),
    )
    return bytes(changed)
