"""The process between the kernel and libfuse in a mount that shares its locks (`relayed`).

It hands each request of the kernel on, and each answer back, as they are. Requests about locks,
which libfuse has no handlers for, go to bucketfs by a socket of their own, and bucketfs answers
them by itself; so does a copy of each FLUSH, which says whose locks a close ends.

A process of its own, not threads: pyfuse3 writes its answers while it holds Python's lock. If the
socket were full then, the thread that empties it could not run. It is started with this file alone,
and ends with the mount or with bucketfs, whichever is first. Sockets are SOCK_SEQPACKET: one
message, one request.

Invariants: a note about a request is sent before the request; messages of the kernel for a lock
request are never seen by libfuse; nobody waits for a notification but other notifications, as the
kernel takes one only when a lock is free that a request under way may have.
"""

from __future__ import annotations

import errno
import os
import queue
import signal
import socket
import struct
import sys
import threading
from collections import OrderedDict

#: Of include/uapi/linux/fuse.h.
_FLUSH, _INTERRUPT = 25, 36
_LOCKS = (31, 32, 33)
_HEADER = struct.Struct("=IIQ")
_HEADER_SIZE = 40
#: The answer's header, and where its number stands.
_UNIQUE_AT = 8
#: Above what one message may have.
_ROOM = 1 << 21
#: Lock requests whose interruption is known to be one of theirs.
_KEPT = 10_000
#: What a write to the kernel says of an answer nobody waits for, or of a name it does not know.
_HARMLESS = {errno.ENOENT, errno.EINVAL, errno.ENOTDIR, errno.ENOTEMPTY, errno.ESTALE, errno.EBUSY}


def requests(kernel: int, libfuse: socket.socket, notes: socket.socket) -> None:
    """Hand on what the kernel asks, until the mount is gone."""
    room = memoryview(bytearray(_ROOM))
    asked: OrderedDict[int, None] = OrderedDict()
    while True:
        try:
            request = room[: os.readv(kernel, [room])]
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                continue
            return
        if not request:
            return
        _, opcode, unique = _HEADER.unpack_from(request)
        if opcode in _LOCKS:
            asked[unique] = None
            if len(asked) > _KEPT:
                asked.popitem(last=False)
            notes.send(request)
            continue
        if opcode == _INTERRUPT:
            (target,) = struct.unpack_from("=Q", request, _HEADER_SIZE)
            if target in asked:
                notes.send(request)
                continue
        elif opcode == _FLUSH:
            notes.send(request)
        libfuse.send(request)


def answers(kernel: int, libfuse: socket.socket, told: queue.SimpleQueue[bytes]) -> None:
    """Hand on what libfuse answers, until bucketfs has ended or the mount is gone."""
    room = memoryview(bytearray(_ROOM))
    while length := libfuse.recv_into(room):
        answer = room[:length]
        if not any(answer[_UNIQUE_AT : _UNIQUE_AT + 8]):
            told.put(bytes(answer))
        elif not tell(kernel, answer):
            return


def tell(kernel: int, message: bytes | memoryview) -> bool:
    """Whether the mount stands still."""
    try:
        os.write(kernel, message)
    except OSError as error:
        return error.errno in _HARMLESS
    return True


def notifications(kernel: int, told: queue.SimpleQueue[bytes]) -> None:
    """Tell the kernel what is not as it was, one after the other."""
    while tell(kernel, told.get()):
        pass


def main() -> None:
    """Relay between the descriptors that are named: /dev/fuse, libfuse, notes."""
    # a terminal and systemd tell all of a group; this one ends after bucketfs has drained
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    kernel, libfuse, notes = int(sys.argv[1]), *(socket.socket(fileno=int(n)) for n in sys.argv[2:])
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    ended = threading.Event()

    def until_ended(work: object, *args: object) -> None:
        try:
            work(*args)  # type: ignore[operator]
        except OSError:
            return  # the other end is gone
        finally:
            ended.set()

    for work in (
        (requests, kernel, libfuse, notes), (answers, kernel, libfuse, told),
        (notifications, kernel, told),
    ):  # fmt: skip
        threading.Thread(target=until_ended, args=work, daemon=True).start()
    ended.wait()
    os._exit(0)  # the others wait in the kernel


if __name__ == "__main__":
    main()
