"""Answers to a GET that are not what they say, made of a true one; see `Fault.lie` of the proxy.

The bytes in them are wrong, so that whoever believes one shows it.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.harness.http import Head


@dataclass(frozen=True)
class Truth:
    """What the endpoint answered to a GET, ``[start, stop)`` of an object of `size` bytes."""

    etag: str
    start: int
    stop: int
    size: int

    @classmethod
    def of(cls, head: Head) -> Truth:
        named = head.headers.get("content-range", "")
        length = int(head.headers["content-length"])
        if not named:
            return cls(head.headers["etag"], 0, length, length)
        span, _, size = named.removeprefix("bytes ").partition("/")
        start, _, last = span.partition("-")
        return cls(head.headers["etag"], int(start), int(last) + 1, int(size))


Lie = Callable[[Truth], bytes]


def message(truth: Truth, status: int, body: bytes, *headers: str, etag: str = "") -> bytes:
    lines = [
        f"HTTP/1.1 {status} Lie",
        f"ETag: {etag or truth.etag}",
        "Last-Modified: Sat, 21 Nov 2026 07:39:22 GMT",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def label(start: int, stop: int, size: int) -> str:
    return f"Content-Range: bytes {start}-{stop - 1}/{size}"


def _right(truth: Truth) -> str:
    return label(truth.start, truth.stop, truth.size)


def _junk(truth: Truth, more: int = 0) -> bytes:
    return b"\xee" * (truth.stop - truth.start + more)


def _packed(truth: Truth) -> bytes:
    return message(truth, 206, gzip.compress(_junk(truth)), _right(truth), "Content-Encoding: gzip")


#: By what is wrong with them.
LIES: Final[dict[str, Lie]] = {
    "another range": lambda truth: message(
        truth, 206, _junk(truth), label(truth.start + 1, truth.stop + 1, truth.size + 1)
    ),
    "a shorter range": lambda truth: message(
        truth, 206, _junk(truth, -1), label(truth.start, truth.stop - 1, truth.size)
    ),
    "a short body": lambda truth: message(truth, 206, _junk(truth, -1), _right(truth)),
    "a long body": lambda truth: message(truth, 206, _junk(truth, 9), _right(truth)),
    "no range": lambda truth: message(truth, 206, _junk(truth)),
    "nothing": lambda truth: message(truth, 206, b"", _right(truth)),
    "an empty whole": lambda truth: message(truth, 200, b""),
    "several ranges": lambda truth: message(
        truth, 206, _junk(truth), "Content-Type: multipart/byteranges; boundary=b"
    ),
    "encoded": _packed,
    "a whole of another size": lambda truth: message(truth, 200, b"\xee" * (truth.size + 1)),
    "the part as a whole": lambda truth: message(
        truth, 200, b"\xee" * (truth.stop - truth.start - 1)
    ),
    "another size": lambda truth: message(
        truth, 206, _junk(truth), label(truth.start, truth.stop, truth.size + 1)
    ),
    "another ETag": lambda truth: message(truth, 206, _junk(truth), _right(truth), etag='"other"'),
}
