"""A connected socket, plain or TLS, under trio: non-blocking calls, bounded waits, no copies.

TLS is the standard library's SSLSocket, whose reads decrypt straight into the caller's buffer;
trio's SSLStream goes through two more copies and some thirty microseconds a 16 KiB record.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

#: Bytes worth waking up for in the middle of a body: 2 ms at 70 MB/s.
_GATHER: Final = 128 * 1024
#: More than a TLS record takes on the wire.
_TLS_HELD: Final = 20 * 1024


class Wire:
    """A connected socket whose calls wait under trio.

    Args:
        sock: Non-blocking socket.
        timeout: Longest silence in seconds; raises TimeoutError when it is exceeded.

    Attributes:
        expires: Time of the trio clock after which an idle connection is not used again.
    """

    __slots__ = ("_wakes_at", "expires", "sock", "timeout")

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self.sock = sock
        self.timeout = timeout
        self.expires = 0.0
        self._wakes_at = 1

    async def read_into(self, buffer: memoryview) -> int:
        """Fill the start of `buffer` with what has arrived, 0 bytes at the end of the stream."""
        count = int(await self._retry(self.sock.recv_into, buffer))
        if count and isinstance(self.sock, ssl.SSLSocket):
            # One call decrypts one record of 16 KiB; collect those that are here already.
            with contextlib.suppress(ssl.SSLError):
                while count < len(buffer) and (more := self.sock.recv_into(buffer[count:])):
                    count += more
        return count

    async def arrival(self) -> None:
        """Wait for the first bytes of an answer; a connection at rest before has none inside.

        Gives way to other tasks even if they are here, so that no request goes without doing so.
        """
        await self._wait(trio.lowlevel.wait_readable)

    async def gather_into(self, buffer: memoryview, coming: int) -> int:
        """As `read_into`, where `coming` bytes are sure to come: waits for a good piece of them.

        Whoever follows a network packet by packet wakes for each 28 KiB at 70 MB/s, which takes
        more CPU than all the rest. `wake_at_first_byte` goes before any other read.
        """
        # OpenSSL may hold a record in part: that much less is sure to come through the socket.
        held = _TLS_HELD if isinstance(self.sock, ssl.SSLSocket) else 0
        self._wake_at(max(1, min(_GATHER, coming - held)))
        try:
            return await self.read_into(buffer[:coming])
        except TimeoutError:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                return self.sock.recv_into(buffer[:coming])  # slow, not silent
            raise

    def wake_at_first_byte(self) -> None:
        """Wake for the first byte again."""
        self._wake_at(1)

    async def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            sent = await self._retry(self.sock.send, view)
            view = view[sent:]

    async def handshake(self, context: ssl.SSLContext, host: str) -> None:
        """Turn the plain connection into a TLS connection to `host`."""
        self.sock = context.wrap_socket(
            self.sock, server_hostname=host, do_handshake_on_connect=False
        )
        await self._retry(self.sock.do_handshake)

    def _wake_at(self, count: int) -> None:
        if count != self._wakes_at:
            self._wakes_at = count
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def is_stale(self) -> bool:
        """Whether the peer closed or spoke out of turn while the connection was idle."""
        if trio.current_time() > self.expires:
            return True
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return True  # decrypted along with the end of the last answer
        try:
            # SSLSocket refuses flags, hence the class's own method: any byte here, even an
            # encrypted one, means the connection is not at rest.
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        trio.lowlevel.notify_closing(self.sock)
        self.sock.close()

    async def _retry(self, call: Callable[..., Any], *args: Any) -> Any:
        while True:
            try:
                return call(*args)
            except (BlockingIOError, ssl.SSLWantReadError):
                # A plain send that would block asks for room, all else for bytes.
                wants_room = call == self.sock.send and not isinstance(self.sock, ssl.SSLSocket)
                wait = trio.lowlevel.wait_writable if wants_room else trio.lowlevel.wait_readable
            except ssl.SSLWantWriteError:
                wait = trio.lowlevel.wait_writable
            except ssl.SSLError as exc:
                # Only a handshake can fail for a reason that lasts, such as a certificate.
                if call == getattr(self.sock, "do_handshake", None):
                    raise
                raise ConnectionResetError(errno.ECONNRESET, f"TLS broke: {exc}") from exc
            await self._wait(wait)

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        with trio.move_on_after(self.timeout) as scope:
            await wait(self.sock)
        if scope.cancelled_caught:
            raise TimeoutError(errno.ETIMEDOUT, f"nothing moved for {self.timeout:g} s")


async def open_wire(host: str, port: int, silence: float) -> Wire:
    """Connect to the first of the host's addresses that answers; `silence` is the wire's bound."""
    stream = await trio.open_tcp_stream(host, port)
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Wire(sock, silence)


def discard(wire: Wire | None) -> None:
    """Close a connection if there is one."""
    if wire is not None:
        wire.close()
