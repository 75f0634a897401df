"""Reads the answers of ListObjects and ListObjectsV2 (S3 API Reference, "ListBucketResult").

botocore takes some forty milliseconds for a page of a thousand keys; this takes a sixth. The
grammar is left to the same expat that botocore uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET
from xml.sax.saxutils import unescape

from bucketfs.store.answers import storage_class, unix_time, unquote
from bucketfs.store.base import ObjectInfo

_FIELDS: Final = ("Key", "Size", "ETag", "LastModified", "StorageClass")

#: The root element stands within the first bytes.
_ROOT: Final = 1024
#: Bytes up to which a page is parsed whatever is in it, and the elements and attributes, counted by
#: their ``<`` and ``=``, up to which a longer one is: eight bytes of these become two hundred.
_SHORT: Final = 1 << 20
_MARKUP: Final = 600_000
_TOKEN: Final = b"<NextContinuationToken>"
_QUOTES: Final = {"&quot;": '"', "&apos;": "'"}
_TRUNCATED: Final = b"<IsTruncated>true<"

#: References to characters that XML 1.0 forbids (section 2.2). Ceph 16 encodes keys as it is asked
#: to, and puts the same characters bare into prefix, marker and token.
_FORBIDDEN: Final = re.compile(rb"&#(?:x([01]?[0-9A-Fa-f])|([12]?[0-9]|3[01]));")
#: What expat reads in their place, of Unicode's private use area, and the way back.
_STAND_IN: Final = 0xE000
_BACK: Final = {_STAND_IN + code: code for code in range(32)}


@dataclass(frozen=True, slots=True)
class Listing:
    """One page as the endpoint sent it.

    Attributes:
        objects / prefixes: Its keys, decoded.
        truncated: Whether there is more.
        next_token: Where version 2 goes on, "" where it is not told.
        next_marker: Where version 1 goes on, "" where it is not told.
    """

    objects: list[ObjectInfo]
    prefixes: list[str]
    truncated: bool
    next_token: str
    next_marker: str


def is_listing(body: bytes) -> bool:
    """Whether a body that came with 200 is a listing, and not an error or some other page."""
    return b"ListBucketResult" in body[:_ROOT]


def token_ahead(body: bytes) -> str:
    """What `Listing.next_token` is going to be, found without parsing; "" where that is not sure.

    Text between tags cannot look like a tag, so that this finds no token in a key.
    """
    start = body.find(_TOKEN)
    end = body.find(b"<", start + 1)
    if start < 0 or end < 0 or body.find(_TRUNCATED) < 0:
        return ""
    token = body[start + len(_TOKEN) : end]
    try:
        return "" if b"&#" in token else unescape(token.decode(), _QUOTES)
    except UnicodeDecodeError:
        return ""


def parse_listing(body: bytes) -> Listing | None:
    """The listing in a response body, None when there is something else in it."""
    if len(body) > _SHORT and body.count(b"<") + body.count(b"=") > _MARKUP:
        return None
    root = _root(body)
    restore: Callable[[str], str] = str
    if root is None:
        root = _root(_FORBIDDEN.sub(_stand_in, body))
        restore = _restore
    if root is None:
        return None
    space = root.tag[: root.tag.find("}") + 1]
    if root.tag == f"{space}Error":
        return None
    top = {child.tag: child.text or "" for child in root}
    decode = _decode if top.get(f"{space}EncodingType") == "url" else str
    names = tuple(f"{space}{name}" for name in _FIELDS)
    return Listing(
        [_object(entry, names, decode) for entry in root.iterfind(f"{space}Contents")],
        [
            decode(entry.findtext(f"{space}Prefix") or "")
            for entry in root.iterfind(f"{space}CommonPrefixes")
        ],
        top.get(f"{space}IsTruncated") == "true",
        restore(top.get(f"{space}NextContinuationToken", "")),
        restore(decode(top.get(f"{space}NextMarker", ""))),
    )


def _root(body: bytes) -> ET.Element | None:
    try:
        return ET.fromstring(body)  # noqa: S314 - expat loads nothing and bounds what entities become
    except ET.ParseError:
        return None


def _stand_in(reference: re.Match[bytes]) -> bytes:
    code = int(reference[1], 16) if reference[1] else int(reference[2])
    return chr(_STAND_IN + code).encode()


def _restore(text: str) -> str:
    return text.translate(_BACK)


def _object(entry: ET.Element, names: tuple[str, ...], decode: Callable[[str], str]) -> ObjectInfo:
    texts = {field.tag: field.text for field in entry}
    key, size, etag, modified, kept = map(texts.get, names)
    return ObjectInfo(
        decode(key or ""),
        int(size or 0),
        unquote(etag),
        unix_time(modified or ""),
        None,
        storage_class(kept),
    )


def _decode(text: str) -> str:
    """Undo ``encoding-type=url``; the slashes first, which mostly are all there is to undo."""
    text = text.replace("%2F", "/")
    return unquote_plus(text) if "%" in text or "+" in text else text
