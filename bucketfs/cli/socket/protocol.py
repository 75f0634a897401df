r"""What is said over a control socket. Pure.

One request a connection, one JSON object a line, UTF-8::

    {"v": 1, "do": "status"}                  → {"v": 1, "done": {…}}
    {"v": 1, "do": "flush", "path": "a/b"}    → {"v": 1, "progress": {…}} … {"v": 1, "done": {…}}
    {"v": 1, "do": "refresh", "path": "a/b"}  → the same
    {"v": 1, "do": "warm", "path": "a/b"}     → the same
    {"v": 1, "do": "watch"}                   → the same, until the mount has ended
    {"v": 1, "do": "hello"}                   → {"v": 1, "done": {…}}: who answers
    {"v": 1, "do": "versions", "path": "a/b"} → {"v": 1, "done": {…}}; also top, set, evict, info,
                                                presign, restore, restart; some take ``"with": {…}``

or ``{"v": 1, "error": "one line"}``. Names that are not known are to be ignored by both sides; what
cannot be ignored gets another version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERSION = 1
#: Bytes of a request at most: a path of PATH_MAX, each of its bytes escaped.
LONGEST_REQUEST = 64 << 10
#: Files named in one answer at most; their number is always told.
MOST_NAMED = 1000
#: Seconds between two lines of progress; who waits may rely on one line in ten times that.
PACE = 0.5


class ProtocolError(Exception):
    """The other side says what makes no sense; one line."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted.

    Attributes:
        do: The command.
        path: Lies below the mount point, without slashes around it.
        words: What else the command is to know, by name.
    """

    do: str
    path: str = ""
    words: Mapping[str, str] = field(default_factory=dict)


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as a line; bytes of names that are not UTF-8 survive as in `os.fsdecode`."""
    return json.dumps({"v": VERSION, **message}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message of a line. Raises ProtocolError."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ProtocolError("not a JSON object") from None
    if not isinstance(message, dict):
        raise ProtocolError("not a JSON object")
    if message.get("v") != VERSION:
        raise ProtocolError(f"version {message.get('v')!r} is spoken; this is version {VERSION}")
    return message


def request_of(line: bytes) -> Request:
    """The request of a line. Raises ProtocolError."""
    message = decode(line)
    do, path, words = message.get("do"), message.get("path", ""), message.get("with", {})
    if not isinstance(do, str) or not isinstance(path, str):
        raise ProtocolError("do and path must be strings")
    if not isinstance(words, dict) or not all(isinstance(text, str) for text in words.values()):
        raise ProtocolError("with must be an object of strings")
    return Request(do, path.strip("/"), words)
