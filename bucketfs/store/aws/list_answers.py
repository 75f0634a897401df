"""Reads listings (S3 API Reference: ListBucketResult, ListVersionsResult, and so on).

botocore takes some forty milliseconds for a page of a thousand keys; this takes a sixth. The
grammar is left to the same expat that botocore uses. An entry that says what cannot be, such as a
size that is no number, is left out and counted; the others are none the worse for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET
from xml.sax.saxutils import unescape

from bucketfs.store.aws.answers import storage_class, stored_headers, unix_time, unquote
from bucketfs.store.base import (
    Headers,
    ListPage,
    ObjectInfo,
    ObjectVersion,
    UploadInfo,
    VersionPage,
)

T = TypeVar("T")

_FIELDS: Final = ("Key", "Size", "ETag", "LastModified", "StorageClass")
#: What MinIO and RustFS put into an entry that was asked for with ``metadata=true``: an element for
#: each stored header, named like it (minio/minio, cmd/api-response.go).
_STORED: Final = "UserMetadata"
#: What Tigris and Yandex put into an entry: an element for each user metadata (tigrisdata/tigrisfs,
#: core/backend_s3.go).
_PAIR, _NAME, _VALUE = "Metadata", "Name", "Value"
_META: Final = "x-amz-meta-"
#: How they say that an object has no Expires.
_NO_EXPIRES: Final = "Mon, 01 Jan 0001 00:00:00 GMT"
_UPLOAD_FIELDS: Final = ("Key", "UploadId", "Initiated")
_VERSION_FIELDS: Final = (*_FIELDS, "VersionId", "IsLatest")
_ROOTS: Final = (b"ListBucketResult", b"ListVersionsResult", b"ListMultipartUploadsResult")
#: No file is as long as this (off_t).
_TOO_LARGE: Final = 1 << 63

#: The root element stands within the first bytes.
_ROOT: Final = 1024
#: Bytes up to which a page is parsed whatever is in it, and the elements and attributes, counted by
#: their ``<`` and ``=``, up to which a longer one is: eight bytes of these become two hundred.
_SHORT: Final = 1 << 20
_MARKUP: Final = 600_000
_TOKEN: Final = b"<NextContinuationToken>"
_QUOTES: Final = {"&quot;": '"', "&apos;": "'"}
_TRUNCATED: Final = b"<IsTruncated>true<"

#: What XML 1.0 forbids (section 2.2), bare or as references, and bytes that are no UTF-8, as
#: Python's "surrogateescape" has them. Ceph 16 encodes keys as it is asked to, and puts such
#: characters into prefix, marker and token; other servers encode nothing.
_FORBIDDEN: Final = re.compile(
    "&#(?:x0{0,8}([0-9A-Fa-f]{1,6})|0{0,8}([0-9]{1,7}));"
    "|[\0-\x08\x0b\x0c\x0e-\x1f\udc80-\udcff\ufffe\uffff]"
)
#: Those that a name can have all the same, and what expat reads in their place: characters of the
#: last private use area of Unicode.
_STAND_INS: Final = {
    code: 0x10F000 + at
    for at, code in enumerate([*range(32), 0xFFFE, 0xFFFF, *range(0xDC80, 0xDD00)])
}
_BACK: Final = {stand_in: code for code, stand_in in _STAND_INS.items()}
#: Stands for all others: a name that has it cannot be told.
_UNKNOWN: Final = chr(_STAND_INS[0xDC80])


@dataclass(frozen=True, slots=True)
class Listing:
    """One page as the endpoint sent it.

    Attributes:
        objects / prefixes: Its keys, decoded.
        truncated: Whether there is more.
        next_token: Where version 2 goes on, "" where it is not told.
        next_marker: Where version 1 goes on, "" where it is not told.
        left_out: How many entries could not be read.
        version_1: It has what answers of version 1 have, and lacks what those of version 2 have.
    """

    objects: list[ObjectInfo]
    prefixes: list[str]
    truncated: bool
    next_token: str
    next_marker: str
    left_out: int = 0
    version_1: bool = False

    def answer(self, prefix: str, delimiter: str, next_token: str | None) -> ListPage:
        """What of it answers a question for the keys behind `prefix` as far as `delimiter`."""
        cut = len(prefix)
        objects = [
            info
            for info in self.objects
            if info.key.startswith(prefix) and not (delimiter and delimiter in info.key[cut:])
        ]
        prefixes = [
            common
            for common in self.prefixes
            if common.startswith(prefix) and common.find(delimiter, cut) == len(common) - 1
        ]
        fitting = len(objects) + len(prefixes)
        left_out = self.left_out + len(self.objects) + len(self.prefixes) - fitting
        return ListPage(objects, prefixes, next_token, left_out)


@dataclass(frozen=True, slots=True)
class Uploads:
    """One page of unfinished uploads; what is truncated goes on behind the two markers."""

    uploads: list[UploadInfo]
    truncated: bool
    key_marker: str
    id_marker: str
    left_out: int


def is_listing(body: bytes) -> bool:
    """Whether a body that came with 200 is a listing, and not an error or some other page."""
    return any(root in body[:_ROOT] for root in _ROOTS)


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
    read = _document(body)
    if read is None or read.root == "Error":
        return None
    objects, bad_objects = read.entries(("Contents",), _FIELDS, _object)
    prefixes, bad_prefixes = read.entries(("CommonPrefixes",), ("Prefix",), _prefix)
    try:
        return Listing(
            objects,
            prefixes,
            read.text("IsTruncated") == "true",
            _sendable(read.restore(read.text("NextContinuationToken"))),
            _sendable(read.name(read.text("NextMarker"))),
            bad_objects + bad_prefixes,
            read.has("Marker") and not (read.has("KeyCount") or read.has("NextContinuationToken")),
        )
    except ValueError:
        return None


def parse_uploads(body: bytes) -> Uploads | None:
    """The unfinished uploads in a response body, None when there is something else in it."""
    read = _document(body)
    if read is None or read.root == "Error":
        return None
    uploads, left_out = read.entries(("Upload",), _UPLOAD_FIELDS, _upload)
    try:
        return Uploads(
            uploads,
            read.text("IsTruncated") == "true",
            _sendable(read.name(read.text("NextKeyMarker"))),
            _sendable(read.restore(read.text("NextUploadIdMarker"))),
            left_out,
        )
    except ValueError:
        return None


def parse_versions(body: bytes) -> VersionPage | None:
    """The versions in a response body, None when there is something else in it."""
    read = _document(body)
    if read is None or read.root == "Error":
        return None
    versions, bad_versions = read.entries(("Version", "DeleteMarker"), _VERSION_FIELDS, _version)
    markers = None
    try:
        if read.text("IsTruncated") == "true":
            key = _sendable(read.name(read.text("NextKeyMarker")))
            told = _sendable(read.restore(read.text("NextVersionIdMarker")))
            markers = key, _version_marker(told, [v for v in versions if v.info.key == key])
    except ValueError:
        return None
    # Amazon has them in this order; moto shows all delete markers behind all versions
    versions.sort(key=lambda one: (one.info.key, not one.latest, -one.info.last_modified))
    prefixes, bad_prefixes = read.entries(("CommonPrefixes",), ("Prefix",), _prefix)
    return VersionPage(versions, prefixes, markers, bad_versions + bad_prefixes)


_Name = Callable[[str], str]


class _Document:
    """A parsed listing.

    Attributes:
        root: Name of the root element.
        restore: Gives a text back what XML could not carry.
        name: The same for what is encoded as `EncodingType` says; raises ValueError where that
            cannot be undone.
    """

    def __init__(self, root: ET.Element, restore: _Name) -> None:
        self._root = root
        self._space = root.tag[: root.tag.find("}") + 1]
        self._top = {child.tag: child.text or "" for child in root}
        self.root = root.tag[len(self._space) :]
        self.restore = restore
        decode = _decode if self.text("EncodingType") == "url" else str
        self.name = decode if restore is str else lambda text: _sendable(decode(restore(text)))

    def text(self, name: str) -> str:
        """Of a child of the root, "" if there is none."""
        return self._top.get(self._space + name, "")

    def has(self, name: str) -> bool:
        """Whether the root has such a child."""
        return self._space + name in self._top

    def entries(
        self,
        kinds: tuple[str, ...],
        fields: tuple[str, ...],
        read: Callable[[list[str | None], _Name, Headers | None], T],
    ) -> tuple[list[T], int]:
        """What `read` makes of all entries of some kinds, and of how many it made nothing.

        Args:
            kinds: Names of their elements.
            fields: Names of the children whose texts it is given.
            read: Raises ValueError for texts that make no sense. Its last argument is what was
                stored with the object, where the entry says that.
        """
        names = [self._space + field for field in fields]
        stored_name, pair_name = self._space + _STORED, self._space + _PAIR
        found: list[T] = []
        bad = 0
        tags = {self._space + kind for kind in kinds}
        for entry in self._root:
            if entry.tag not in tags:
                continue
            texts = {field.tag: field.text for field in entry}
            try:
                stored = None
                if stored_name in texts:
                    stored = self._stored(entry)
                elif pair_name in texts:
                    stored = self._pairs(entry)
                found.append(read([texts.get(name) for name in names], self.name, stored))
            except ValueError:
                bad += 1
        return found, bad

    def _pairs(self, entry: ET.Element) -> Headers:
        space = self._space
        told = {
            pair.findtext(space + _NAME, "").lower().removeprefix(_META): self.restore(
                pair.findtext(space + _VALUE, "")
            )
            for pair in entry.iterfind(space + _PAIR)
        }
        return Headers({name: value for name, value in told.items() if name}, partial=True)

    def _stored(self, entry: ET.Element) -> Headers:
        cut = len(self._space)
        came = {
            child.tag[cut:].lower(): self.restore(child.text or "")
            for child in entry.iterfind(f"{self._space}{_STORED}/*")
        }
        if came.get("expires") == _NO_EXPIRES:
            del came["expires"]
        return stored_headers(came)


def _document(body: bytes) -> _Document | None:
    if len(body) > _SHORT and body.count(b"<") + body.count(b"=") > _MARKUP:
        return None
    root = _root(body)
    if root is not None:
        return _Document(root, str)
    root = _root(_FORBIDDEN.sub(_stand_in, body.decode(errors="surrogateescape")))
    return None if root is None else _Document(root, _restore)


def _root(body: bytes | str) -> ET.Element | None:
    try:
        # expat loads nothing and bounds what entities become
        return ET.fromstring(body, ET.XMLParser(encoding="utf-8"))  # noqa: S314
    except (ET.ParseError, ValueError):
        return None


def _stand_in(found: re.Match[str]) -> str:
    if not (found[1] or found[2]):
        return chr(_STAND_INS[ord(found[0])])
    code = int(found[1], 16) if found[1] else int(found[2])
    if code in _STAND_INS:
        return chr(_STAND_INS[code])
    return _UNKNOWN if code > 0x10FFFF or 0xD800 <= code < 0xE000 else found[0]


def _restore(text: str) -> str:
    return text.translate(_BACK)


def _sendable(text: str) -> str:
    """The text itself. Raises ValueError when it is none: no request can name it."""
    text.encode()
    return text


def _object(texts: list[str | None], name: _Name, stored: Headers | None) -> ObjectInfo:
    key, size, etag, modified, kept = texts
    if not key or (etag and not etag.isprintable()):
        raise ValueError(key)
    # s3proxy tells only the key of a marker
    is_bare = size is None and key.endswith("/")
    return ObjectInfo(
        name(key),
        0 if is_bare else _size(size),
        unquote(etag),
        unix_time(modified or ""),
        stored,
        storage_class(kept),
    )


def _version_marker(told: str, listed: Sequence[ObjectVersion]) -> str:
    """Where the next page begins: as told, but Swift's s3api 2.30 always says "null".

    Args:
        told: The id of the answer.
        listed: The page's versions of the key at which it ends, in the answer's order.
    """
    ids = [version.version_id for version in listed]
    return ids[-1] if told == "null" and ids and told not in ids else told


def _version(texts: list[str | None], name: _Name, stored: Headers | None) -> ObjectVersion:
    *told, version_id, latest = texts
    key, size, etag, modified, _ = told
    deleted = size is None and etag is None
    if not deleted:
        info = _object(told, name, stored)
    elif key:
        info = ObjectInfo(name(key), 0, "", unix_time(modified or ""))
    else:
        raise ValueError(key)
    return ObjectVersion(info, _sendable(version_id or "null"), deleted, latest == "true")


def _size(text: str | None) -> int:
    if not text or not text.isdecimal() or (size := int(text)) >= _TOO_LARGE:
        raise ValueError(text)
    return size


def _prefix(texts: list[str | None], name: _Name, _stored: Headers | None) -> str:
    if not texts[0]:
        raise ValueError
    return name(texts[0])


def _upload(texts: list[str | None], name: _Name, _stored: Headers | None) -> UploadInfo:
    key, upload_id, initiated = texts
    if not key or not upload_id:
        raise ValueError(key)
    return UploadInfo(name(key), upload_id, unix_time(initiated or ""))


def _decode(text: str) -> str:
    """Undo ``encoding-type=url``; the slashes first, which mostly are all there is to undo."""
    text = text.replace("%2F", "/")
    return unquote_plus(text, errors="strict") if "%" in text or "+" in text else text
