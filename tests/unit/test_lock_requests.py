"""What the kernel asks about locks, byte for byte; and which way each request goes."""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import socket
import struct
import threading

import pytest

from bucketfs.fuse import lock_requests, relay
from bucketfs.fuse.lock_requests import Note, Opcode
from bucketfs.locks.table import LAST, Kind, Mode, Row


def request(opcode: int, body: bytes, unique: int = 7) -> bytes:
    head = struct.pack("=IIQQIIII", 40 + len(body), opcode, unique, 3, 0, 0, 99, 0)
    return head + body


def lock(opcode: int, kind: int, *, flags: int = 0, unique: int = 7) -> bytes:
    return request(opcode, struct.pack("=QQQQIIII", 5, 0xABC, 10, 19, kind, 42, flags, 0), unique)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(fcntl.F_RDLCK, Mode.SHARED), (fcntl.F_WRLCK, Mode.EXCLUSIVE), (fcntl.F_UNLCK, None)],
)
def test_fcntl(kind: int, mode: Mode | None) -> None:
    note = lock_requests.decode(lock(33, kind))
    assert note == Note(Opcode.SETLKW, 7, 5, 0xABC, False, mode, 10, 19, 42)
    assert note.row("m") == Row("m", 0xABC, Kind.POSIX, mode or Mode.SHARED, 10, 19, 42)


def test_flock_is_of_the_whole_file() -> None:
    note = lock_requests.decode(lock(32, fcntl.F_WRLCK, flags=1))
    assert note.row("m") == Row("m", 0xABC, Kind.FLOCK, Mode.EXCLUSIVE, 0, LAST, 42)


def test_what_ends_locks() -> None:
    flush = request(25, struct.pack("=QIIQ", 5, 0, 0, 0xABC))
    assert lock_requests.decode(flush) == Note(Opcode.FLUSH, 7, 5, 0xABC)
    interrupt = request(36, struct.pack("=Q", 6))
    assert lock_requests.decode(interrupt) == Note(Opcode.INTERRUPT, 6)


def test_answers() -> None:
    assert lock_requests.answer(7, errno.EAGAIN) == struct.pack("=IiQ", 16, -errno.EAGAIN, 7)
    row = Row("m", 1, Kind.POSIX, Mode.EXCLUSIVE, 10, 19, 42)
    for ours, pid in ((True, 42), (False, 0)):
        body = lock_requests.found(row, ours=ours)
        assert struct.unpack("=QQII", body) == (10, 19, fcntl.F_WRLCK, pid)
    free = lock_requests.found(None, ours=False)
    assert lock_requests.answer(7, 0, free) == struct.pack(
        "=IiQQQII", 40, 0, 7, 0, 0, fcntl.F_UNLCK, 0
    )


def pair() -> tuple[socket.socket, socket.socket]:
    made = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in made:
        end.settimeout(10)
    return made


def test_which_way_requests_go() -> None:
    """A socket stands for /dev/fuse: one message, one request, too."""
    (kernel, device), (libfuse, its), (notes, ours) = pair(), pair(), pair()
    for end in (device, libfuse, notes):
        end.settimeout(None)
    work = threading.Thread(
        target=relay.requests, args=(device.fileno(), libfuse, notes), daemon=True
    )
    work.start()
    setlk = lock(33, fcntl.F_WRLCK, unique=8)
    flush = request(25, struct.pack("=QIIQ", 5, 0, 0, 1))
    release = request(18, struct.pack("=QIIQ", 5, 0, 2, 1))
    getattr_ = request(3, bytes(16))
    of_lock, of_other = (request(36, struct.pack("=Q", number)) for number in (8, 9))
    for each in (getattr_, setlk, flush, release, of_lock, of_other):
        kernel.send(each)
    assert [its.recv(4096) for _ in range(4)] == [
        getattr_, flush, release, of_other,
    ]  # fmt: skip
    assert [ours.recv(4096) for _ in range(3)] == [setlk, flush, of_lock]
    kernel.shutdown(socket.SHUT_RDWR)
    work.join(10)
    for end in (kernel, device, libfuse, its, notes, ours):
        end.close()


def test_notifications_do_not_stand_before_answers() -> None:
    (kernel, device), (libfuse, its) = pair(), pair()
    libfuse.settimeout(None)
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    notification, answer = struct.pack("=IiQ", 16, 2, 0), struct.pack("=IiQ", 16, 0, 7)
    its.send(notification)
    its.send(answer)
    its.close()
    relay.answers(device.fileno(), libfuse, told)
    assert kernel.recv(4096) == answer
    assert told.get_nowait() == notification
    for end in (kernel, device, libfuse):
        end.close()


def test_an_answer_that_nobody_waits_for_ends_nothing() -> None:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    try:
        assert not relay.tell(descriptor, b"x")  # EBADF: it is not the kernel any more
    finally:
        os.close(descriptor)
