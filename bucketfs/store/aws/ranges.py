"""Whether the answer to a GET is what was asked for, before any of its bytes is used.

A gateway, a cache or a portal in between may answer another range than the one asked for, a whole
object, several ranges, or an encoded body, and a wrong label puts wrong bytes into files. An answer
is used only where its status, its labels and its length agree with each other and with the request;
everything else is a failed try. Three answers that do not agree are let through all the same:

- *200 with the whole object*, from a server that ignores Range: `Window` cuts the range out.
- *200 with a part that is labelled as one* (``rclone serve s3``): taken for 206.
- *Ceph labels ranges of large Swift objects (DLO, SLO) as beginning at 0*: a request of bytes
  100-199 is answered with these, ``Content-Length: 100`` and ``Content-Range: bytes 0-199/1000``
  (Ceph 16). A label that ends where it should, begins at 0 and is too long for a body which is
  exactly as long as was asked for is taken for that (`_is_ceph_large`).

Nothing here does I/O, or knows whose version an ETag names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from bucketfs.errors import NoAnswer
from bucketfs.store.aws.error_body import words
from bucketfs.store.base import Sink

#: RFC 9110, 14.4. ``*`` is a size that the server does not know.
_CONTENT_RANGE: Final = re.compile(
    r"bytes +(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII | re.IGNORECASE
)
#: RFC 9110, 8.6. No file has more bytes than off_t counts.
_LENGTH: Final = re.compile(r"\d{1,19}", re.ASCII)
_TOO_LARGE: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Asked:
    """A GET.

    Attributes:
        key: Object key.
        start / stop: The bytes asked for, ``[start, stop)``; without a `stop` to the end.
        etag: The version that is wanted, "" for any.
        size: Bytes of the whole object, None if they are not known.
    """

    key: str
    start: int = 0
    stop: int | None = None
    etag: str = ""
    size: int | None = None

    @property
    def header(self) -> str | None:
        """The value of Range; None for a whole object, of which no range is asked for."""
        if not self.start and self.stop is None:
            return None
        return f"bytes={self.start}-{'' if self.stop is None else self.stop - 1}"

    def wrong(self, why: str) -> NoAnswer:
        """The failure that an answer is which does not agree with this."""
        wanted = self.header or "the whole"
        why = f"{why}; asked for {wanted}"
        return NoAnswer("BadAnswer", operation="GetObject", key=self.key, message=why)


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer says that can be believed.

    Attributes:
        at: Where in the object its body begins.
        count: How many bytes of the body were asked for; 0 too if the object ends before them.
        size: Bytes of the whole object.
        cut: The body has others as well, which are not passed on.
        encoded: The object has a Content-Encoding, or somebody on the way has encoded it.
    """

    at: int
    count: int
    size: int
    cut: bool
    encoded: bool


def length_of(came: Mapping[str, str]) -> int | None:
    """The Content-Length of an answer, None if it has none. Raises ValueError for no number."""
    named = came.get("content-length")
    if named is None:
        return None
    if not _LENGTH.fullmatch(named) or int(named) >= _TOO_LARGE:
        raise ValueError(f"the Content-Length is {words(named)!r}")
    return int(named)


def believed(asked: Asked, status: int, came: Mapping[str, str]) -> Told:
    """What a successful answer with these headers brings.

    Whether the object is the right version, and `asked.size` its size, is not looked at.

    Raises:
        NoAnswer: It is not what was asked for.
    """
    try:
        length = length_of(came)
    except ValueError as exc:
        raise asked.wrong(str(exc)) from None
    encoded = came.get("content-encoding", "").strip().lower() not in ("", "identity")
    if encoded and length is None:
        raise asked.wrong("the body is encoded")
    label = came.get("content-range", "")
    if status == HTTPStatus.OK and not _is_part(asked, length, label):
        return _whole(asked, length, encoded)
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        raise asked.wrong(f"the status is {status}")
    if came.get("content-type", "").strip().lower().startswith("multipart/byteranges"):
        raise asked.wrong("the answer has several ranges")
    return _part(asked, length, label, encoded)


def _is_part(asked: Asked, length: int | None, label: str) -> bool:
    """Whether an answer says by its label that it brings the very part of an object asked for."""
    match = _CONTENT_RANGE.fullmatch(label.strip())
    if match is None or match[3] == "*" or asked.header is None:
        return False
    first, last, size = int(match[1]), int(match[2]), int(match[3])
    count = last - first + 1
    return first == asked.start and count == length and count < size


def _whole(asked: Asked, length: int | None, encoded: bool) -> Told:
    if length is None:
        raise asked.wrong("the answer is a whole object of unknown length")
    count = max(0, _end(asked, length) - asked.start)
    return Told(0, count, length, count < length, encoded)


def _part(asked: Asked, length: int | None, label: str, encoded: bool) -> Told:
    match = _CONTENT_RANGE.fullmatch(label.strip())
    if match is None:
        raise asked.wrong(f"the Content-Range is {words(label)!r}")
    first, last = int(match[1]), int(match[2])
    size = asked.size if match[3] == "*" else int(match[3])
    if size is None or size >= _TOO_LARGE:
        raise asked.wrong(f"the Content-Range {words(label)!r} has no size")
    end = _end(asked, size)
    count = end - asked.start
    if count <= 0 or last != end - 1:
        raise asked.wrong(f"the Content-Range is {words(label)!r}")
    if first != asked.start and not _is_ceph_large(first, length, count):
        raise asked.wrong(f"the Content-Range is {words(label)!r}")
    if length not in (None, count):
        raise asked.wrong(f"the Content-Length is {length}, the Content-Range {words(label)!r}")
    return Told(asked.start, count, size, False, encoded)


def _is_ceph_large(first: int, length: int | None, count: int) -> bool:
    """Whether a label that is wrong in its beginning is Ceph's of a large Swift object."""
    return first == 0 and length == count


def _end(asked: Asked, size: int) -> int:
    return size if asked.stop is None else min(asked.stop, size)


class Surplus(Exception):
    """More of a body came than was asked for; all that was has been passed on."""


class Window:
    """Passes on `left` bytes after the first `skip`, and raises Surplus at any others.

    Attributes:
        left: How many are still to come.
    """

    def __init__(self, sink: Sink, skip: int, left: int) -> None:
        self._sink = sink
        self._skip = skip
        self.left = left

    def __call__(self, piece: bytes | memoryview) -> None:
        view = memoryview(piece)[self._skip :]
        self._skip = max(0, self._skip - len(piece))
        wanted = view[: self.left]
        if wanted:
            self.left -= len(wanted)
            self._sink(wanted)
        if len(view) > len(wanted):
            raise Surplus
