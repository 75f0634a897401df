"""Reads what stands in an answer that is an error (S3 API Reference, "Error responses").

botocore's reader believes the server: a code that stands there twice, a word where an element
belongs, or elements within elements end in exceptions of all kinds. This one answers for any bytes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from xml.etree import ElementTree as ET

#: What a code looks like; it stands bare in the log.
_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")
#: Characters kept of what a server says in words.
_WORDS: Final = 500


def parse_error(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """An error as botocore's parsers answer it; its code is the status where none can be read."""
    said = error_fields(body)
    return {
        "Error": {
            **said,
            "Code": error_code(said.get("Code"), str(status)),
            "Message": said.get("Message", "") if said else _phrase(status),
        },
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }


def error_code(said: str | None, otherwise: str) -> str:
    """A server's error code, or something else where it names none that looks like one."""
    return said if said and _CODE.fullmatch(said) else otherwise


def words(text: str) -> str:
    """As much of a server's words as anybody reads in a log."""
    return text if len(text) <= _WORDS else f"{text[:_WORDS]}..."


def error_fields(body: bytes) -> dict[str, str]:
    """What stands in the ``Error`` element of a body, by name; of a body cut short, what is whole.

    Of names that stand there twice the first counts.
    """
    said: dict[str, str] = {}
    path: list[str] = []
    parser: Any = ET.XMLPullParser(("start", "end"))
    with contextlib.suppress(ET.ParseError, LookupError, ValueError):
        parser.feed(body)
        for event, element in parser.read_events():
            name = element.tag.rpartition("}")[2]
            if event == "start":
                path.append(name)
                continue
            if path[-2:-1] == ["Error"] and len(path) <= 3:
                said.setdefault(name, words((element.text or "").strip()))
            path.pop()
    return said


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
