"""Answers ``GET /metrics`` and ``GET /healthz`` over HTTP: what ``-o metrics=ADDR:PORT`` asks for.

Just as much of HTTP as Prometheus, curl and a load balancer need: one request a connection, which
is closed after the answer. Bounded in every direction, as the control socket is: how many are
served at once, the length of a request, the time that a client may take. A failure in here never
reaches the mount. Nothing can be changed in this way, and no name of a file is told.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import trio

from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.socket import exposition
from bucketfs.option_row import Address

log = logging.getLogger("bucketfs.scrape")

#: Clients served at once; more get 503.
_MOST_CLIENTS: Final = 16
#: Bytes of a request at most, its headers included.
_LONGEST_REQUEST: Final = 8 << 10
#: Seconds from the first byte to the last one of the answer.
_PATIENCE: Final = 5.0
_END: Final = b"\r\n\r\n"
_PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets."""

    status: HTTPStatus
    text: str = ""
    content_type: str = _PLAIN

    def encode(self) -> bytes:
        """As HTTP/1.1."""
        status = self.status
        body = (self.text or f"{status.value} {status.phrase}\n").encode()
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(["Allow: GET"] if status is HTTPStatus.METHOD_NOT_ALLOWED else []),
        ]
        return "\r\n".join(lines).encode() + _END + body


#: Makes the answer for a path.
Page = Callable[[], Awaitable[Answer]]


def listen(address: Address) -> socket.socket:
    """A socket that listens there. Raises Failure."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # a daemon that is started again must not wait for the connections of the last one
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise Failure(ExitCode.FAILED, f"metrics={address}: {error.strerror}") from None
    port = listener.getsockname()[1]
    log.info("metrics are at http://%s/metrics", Address(address.host, port))
    return listener


def wanted(head: bytes) -> str | HTTPStatus:
    """The path that a request asks for, or why it is refused. Pure."""
    line = head.partition(b"\r\n")[0].decode("latin-1")
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return HTTPStatus.BAD_REQUEST
    method, target, _ = words
    if method != "GET":
        return HTTPStatus.METHOD_NOT_ALLOWED
    return target.partition("?")[0]


def metrics(status: Mapping[str, Any]) -> Answer:
    """The exposition of one mount, of what `bucketfs status` tells."""
    return Answer(HTTPStatus.OK, exposition.text([status]), exposition.CONTENT_TYPE)


class Server:
    """The pages of one mount."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._clients = 0

    async def serve(self, listener: socket.socket) -> None:
        """Answer until cancelled."""
        stream = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        try:
            await trio.serve_listeners(self._talk, [stream])
        except Exception:  # whatever it is, files matter more than figures about them
            log.exception("the metrics are not served any more; the mount goes on")

    async def _talk(self, stream: trio.SocketStream) -> None:
        self._clients += 1
        try:
            async with stream:
                with trio.fail_after(_PATIENCE):
                    await stream.send_all((await self._answer(stream)).encode())
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            log.debug("a client of the metrics went away")
        except* Exception:
            log.exception("a request for metrics failed; the mount goes on")
        finally:
            self._clients -= 1

    async def _answer(self, stream: trio.SocketStream) -> Answer:
        if self._clients > _MOST_CLIENTS:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE)
        head = bytearray()
        while _END not in head:
            piece = await stream.receive_some(_LONGEST_REQUEST)
            head += piece
            if len(head) > _LONGEST_REQUEST:
                return Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            if not piece:
                return Answer(HTTPStatus.BAD_REQUEST)
        path = wanted(bytes(head))
        if isinstance(path, HTTPStatus):
            return Answer(path)
        page = self._pages.get(path)
        return Answer(HTTPStatus.NOT_FOUND) if page is None else await page()
