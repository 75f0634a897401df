"""The messages of HTTP/1.1 (RFC 9112): heads of requests are written, responses read.

Reading is left to llhttp, the parser of Node.js, by way of httptools; what is added here is what a
client must know beside the grammar: which answers are interim, and where a body ends. Nothing here
touches a socket.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

#: Longest head of a response in bytes, and beside a chunked body all that is not body.
_HEAD_LIMIT: Final = 100 * 1024
#: More of that is due for each byte of a body: six bytes carry one in the smallest of chunks.
_FRAMING: Final = 16
#: No file has so many bytes (off_t); the parser goes up to twice that.
_TOO_LARGE: Final = 1 << 63


class Malformed(Exception):
    """What came, or should be sent, is no HTTP/1.1."""


class HeaderMap(dict[str, str]):
    """Response headers by lower-case name; lookups ignore case.

    botocore's own class builds an object a lookup, and a parser looks up some forty names.
    """

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and dict.__contains__(self, name.lower())

    def __getitem__(self, name: str) -> str:
        return dict.__getitem__(self, name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return dict.get(self, name.lower(), default)


def request_head(
    method: str, target: str, host: str, headers: Iterable[tuple[str, str | bytes]]
) -> bytes:
    """The head of a request. Raises Malformed where a value would end its line."""
    lines = [f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: identity\r\n"]
    for name, value in headers:
        text = value.decode() if isinstance(value, bytes) else value
        lines.append(f"{name}: {text}\r\n")
    head = "".join(lines)
    ends = len(lines) + 2
    if head.count("\r") != ends or head.count("\n") != ends or "\0" in head:
        raise Malformed("a header with a line break")
    return f"{head}\r\n".encode()


class Answer:
    """One response as it arrives.

    Args:
        method: Of the request, which decides whether a body follows.

    Attributes:
        status: Status code, 0 until the head is here.
        headers: The last of those that stand there twice.
        keeps_alive: Whether the server leaves the connection open for another request.
        length: Bytes of the body; None when only the body itself tells.
        complete: The body has ended. Without a length this is for the parser to say, or for the
            end of the connection where `ends_with_connection`.
    """

    __slots__ = (
        "_bodiless", "_body", "_here", "_parser", "_pieces",
        "complete", "ends_with_connection", "headers", "keeps_alive", "length", "status",
    )  # fmt: skip

    def __init__(self, method: str) -> None:
        self._bodiless = method in ("HEAD", "CONNECT")
        self._here = 0
        self._body = 0
        self._pieces: list[bytes] = []
        self.status = 0
        self.headers = HeaderMap()
        self.keeps_alive = False
        self.length: int | None = None
        self.complete = False
        self.ends_with_connection = False
        self._parser = HttpResponseParser(self)

    def feed(self, data: memoryview) -> None:
        """Take what came from the connection. Raises Malformed."""
        self._here += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as exc:
            raise Malformed(f"no HTTP: {exc!r}") from exc
        if self._here - self._body > _HEAD_LIMIT + _FRAMING * self._body:
            raise Malformed("more head, chunk extensions or trailers than any server needs")

    def taken(self) -> bytes:
        """What came of the body since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # What follows is called by the parser.

    def on_message_begin(self) -> None:
        if self.status:
            self.keeps_alive = False  # somebody speaks out of turn

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        try:
            self.headers[name.decode("ascii").lower()] = value.decode().rstrip(" \t")
        except UnicodeDecodeError:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").rstrip(" \t")

    def on_headers_complete(self) -> None:
        if self.status:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()  # an interim response: the real one follows
            return
        self.status = status
        if self._parser.get_http_version() >= "1.1":
            self.keeps_alive = "close" not in self.headers.get("connection", "").lower()
        named = self.headers.get("content-length")
        if named is not None and int(named) >= _TOO_LARGE:
            raise Malformed(named)
        if self._bodiless or status in (204, 304):
            self.length = 0
        elif "transfer-encoding" in self.headers:
            self.ends_with_connection = not self._is_chunked()
        elif named is not None:
            self.length = int(named)
        else:
            self.ends_with_connection = True
        self.keeps_alive = self.keeps_alive and not self.ends_with_connection

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        if self.length == 0 or self.complete:
            self.keeps_alive = False  # a body where none belongs
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        self.complete = bool(self.status)

    def _is_chunked(self) -> bool:
        return self.headers["transfer-encoding"].lower().endswith("chunked")
