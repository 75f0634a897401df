"""A mount whose requests go through a process of ours (`relay`), so that locks can be answered."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import trio

from bucketfs.fuse import descriptor, lock_requests, relay

#: Seconds that the process may take to end when it is killed.
_PATIENCE = 10.0


class Relay:
    """The process, and what we say to the kernel beside it.

    Attributes:
        kernel: The mount's descriptor of /dev/fuse.
    """

    def __init__(self, kernel: int, libfuse: socket.socket) -> None:
        """Start it.

        Args:
            kernel: See above; is closed at the end.
            libfuse: The other end of libfuse's socket. It stays open here: libfuse is told that the
                mount is gone in its own way.
        """
        self.kernel = kernel
        self._libfuse = libfuse
        self._notes, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._notes.setblocking(False)
        libfuse.setblocking(True)
        with its:
            numbers = (kernel, libfuse.fileno(), its.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", relay.__file__, *map(str, numbers)],
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def stands(self) -> bool:
        """Whether the kernel has the mount still."""
        return not descriptor.is_over(self.kernel)

    async def is_there(self) -> bool:
        """Wait for a note; False when the process has ended, mostly with the mount."""
        await trio.lowlevel.wait_readable(self._notes)
        try:
            return bool(self._notes.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True  # somebody has read it meanwhile
        except ConnectionError:
            return False

    def notes(self) -> list[bytes]:
        """The requests that have come since the last call, in their order."""
        found = []
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while note := self._notes.recv(lock_requests.LONGEST):
                found.append(note)
        return found

    def answer(self, answer: bytes) -> None:
        """Answer a request that came as a note."""
        with contextlib.suppress(OSError):  # it was interrupted, or the mount is gone
            os.write(self.kernel, answer)

    async def renewed(self, ino: int, size: int) -> None:
        """Have the kernel forget what it knows of a file, which has so many bytes now."""

        def tell() -> None:
            for message in lock_requests.forget(ino, size):
                with contextlib.suppress(OSError):  # it has forgotten the file already
                    os.write(self.kernel, message)

        # in a thread, as the kernel waits for reads that this loop has to answer
        await trio.to_thread.run_sync(tell)

    def end(self) -> None:
        """End the process, and with it the mount."""
        self._process.kill()
        self._process.wait(_PATIENCE)
        for each in (self._notes, self._libfuse):
            each.close()
        os.close(self.kernel)
