"""POSIX attributes and how they stand in an object's metadata. Pure.

The format is s3fs's (1.90 to 1.97), so that both tools can mount the same bucket::

    mode   decimal st_mode with or without the type bits      uid, gid   decimal
    mtime, atime, ctime   seconds, optionally with a decimal fraction
    xattr  urlencoded JSON object, name -> base64 of the value

and one name of ours: ``rdev``, the device number of a device node (s3fs loses it). Read besides:
rclone's octal ``mode`` and fractions, s3sync's ``permissions``, ``owner`` and ``group``, Google's
``goog-reserved-posix-*``, and the ``file-*`` of AWS DataSync and Amazon FSx for Lustre (octal mode
with its type, ids, times like ``1595002920000000000ns``; FSx for Lustre User Guide, "POSIX metadata
support for data repositories").
"""

from __future__ import annotations

import base64
import errno
import functools
import json
import mimetypes
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from urllib.parse import quote, unquote

from bucketfs.errors import FsError
from bucketfs.store.base import Headers

NANO = 1_000_000_000
DIRECTORY_TYPE = "application/x-directory"
#: S3's limit for user metadata of one object.
METADATA_MAX = 2048
#: Those of other tools, and of Swift's clients.
_DIRECTORY_TYPES = frozenset(
    {DIRECTORY_TYPE, "httpd/unix-directory", "application/directory", "text/directory"}
)
_OURS = frozenset({"mode", "uid", "gid", "mtime", "atime", "ctime", "xattr", "rdev"})
_UID_NAMES = ("uid", "owner", "goog-reserved-posix-uid", "file-owner")
_GID_NAMES = ("gid", "group", "goog-reserved-posix-gid", "file-group")
_MODE_NAMES = (
    ("mode", 10),
    ("permissions", 10),
    ("goog-reserved-posix-mode", 8),
    ("file-permissions", 8),
)
#: Types of what `mimetypes` calls encodings (RFC 6713, and what browsers and file(1) say).
_PACKED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}
#: Twelve digits of seconds reach beyond the year 30000 and fit every time_t.
_DECIMAL = re.compile(r"(-?\d{1,12})(?:\.(\d*))?", re.ASCII)
_NANOSECONDS = re.compile(r"(-?\d{1,21})ns", re.ASCII)
_NUMBER = re.compile(r"\d{1,20}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: Names of extended attributes as the system calls can pass them.
_XATTR_NAME = re.compile("[^\0\ud800-\udfff]+")
_KINDS = frozenset(
    {
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
        stat.S_IFCHR,
        stat.S_IFBLK,
    }
)


def is_ours(name: str) -> bool:
    """Whether a name of user metadata is one that `encode` writes."""
    return name in _OURS


#: Shared by the many that have none.
_NO_XATTRS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Posix:
    """Attributes of one file or directory, times in nanoseconds since 1970.

    `foreign` keeps what the object carries beside them (other metadata, cache-control …), so that
    rewriting the metadata loses nothing; its `metadata` holds no name of ours.

    Attributes:
        tagged: The object may have tags: it has, or nobody has told.
        partial: `foreign` lacks what only a HEAD tells: nothing may be stored before that.
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    rdev: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=lambda: _NO_XATTRS)
    foreign: Headers | None = None
    tagged: bool = field(default=False, compare=False)
    partial: bool = field(default=False, compare=False)

    def changed(self, now_ns: int, **values: object) -> Posix:
        """A copy with `values` replaced and ctime set to now."""
        return replace(self, ctime_ns=now_ns, **values)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What objects show that say nothing of themselves (mode includes no type bits)."""

    uid: int
    gid: int
    file_mode: int = 0o644
    directory_mode: int = 0o755


@functools.lru_cache(4096)
def without_set_ids(mode: int) -> int:
    """A mode after somebody wrote the file or gave it away; a directory's stays.

    As chmod(2) and Linux have it, a setgid bit without the right to execute means something else.
    """
    if stat.S_ISDIR(mode):
        return mode
    kept = mode & ~stat.S_ISUID
    return kept & ~stat.S_ISGID if mode & stat.S_IXGRP else kept


def plain(modified: int, directory: bool, defaults: Defaults) -> Posix:
    """Attributes of an object (or prefix) that carries none; one `Posix` for all that are alike."""
    return decode(None, size=0, modified=modified, directory=directory, defaults=defaults)


def decode(
    headers: Headers | None, *, size: int, modified: int, directory: bool, defaults: Defaults
) -> Posix:
    """Attributes of an object from its headers; None for an object (or prefix) known to have none.

    Args:
        headers: As HEAD or GET answered.
        size: Of the object in bytes.
        modified: Its Last-Modified in Unix seconds.
        directory: Whether the name alone says that it is one (``dir/``, a common prefix).
        defaults: For what is not said.
    """
    tagged = headers is not None and headers.tag_count != 0
    headers = headers or Headers()
    said = headers.metadata
    mode = _mode(said, headers.content_type, size, directory, defaults)
    fallback = modified * NANO
    mtime = _first_time(said, ("mtime", "goog-reserved-file-mtime", "file-mtime"), fallback)
    return Posix(
        mode=mode,
        uid=_number(said, _UID_NAMES, defaults.uid),
        gid=_number(said, _GID_NAMES, defaults.gid),
        mtime_ns=mtime,
        atime_ns=_first_time(said, ("atime", "file-atime"), mtime),
        ctime_ns=_first_time(said, ("ctime",), mtime),
        rdev=_number(said, ("rdev",), 0),
        xattrs=_decode_xattrs(said.get("xattr", "")),
        foreign=_foreign(headers),
        tagged=tagged,
        partial=headers.partial,
    )


def is_told(headers: Headers, size: int, *, directory: bool) -> bool:
    """Whether `decode` can tell the type of an object: not if a content type must say it."""
    if directory or size or not headers.partial:
        return True
    return stat.S_IFMT(_said_mode(headers.metadata) or 0) not in (0, stat.S_IFDIR)


def encode(posix: Posix, content_type: str) -> Headers:
    """The headers that keep `posix`; `content_type` counts when the object has none of its own."""
    metadata = {
        "mode": str(posix.mode),
        "uid": str(posix.uid),
        "gid": str(posix.gid),
        "mtime": format_time(posix.mtime_ns),
        "atime": format_time(posix.atime_ns),
        "ctime": format_time(posix.ctime_ns),
    }
    if posix.rdev:
        metadata["rdev"] = str(posix.rdev)
    if posix.xattrs:
        metadata["xattr"] = _encode_xattrs(posix.xattrs)
    foreign = posix.foreign or Headers()
    return Headers(
        metadata={**foreign.metadata, **metadata},
        content_type=foreign.content_type or content_type,
        other=foreign.other,
        essential=not (stat.S_ISREG(posix.mode) or stat.S_ISDIR(posix.mode)),
        keep_tags=posix.tagged,
    )


def content_type_of(name: str) -> str:
    """MIME type by extension, as s3fs sets it; of what is packed that of the packing.

    Content-Type with Content-Encoding would have browsers unpack ``a.tar.gz`` while they load it.
    """
    kind, packing = mimetypes.guess_type(name, strict=False)
    return (_PACKED.get(packing) if packing else kind) or "application/octet-stream"


def object_headers(posix: Posix, name: str, *, directory: bool) -> Headers:
    """What the object of a name is to carry.

    Raises:
        FsError: ENOSPC when the attributes (xattrs, above all) exceed what an object can carry.
    """
    headers = encode(posix, DIRECTORY_TYPE if directory else content_type_of(name))
    if metadata_size(headers) > METADATA_MAX:
        raise FsError(errno.ENOSPC, f"more than {METADATA_MAX} bytes of metadata")
    return headers


def with_times_of(posix: Posix, headers: Headers) -> Posix:
    """`posix` with the times that headers made by `encode` tell."""
    said = headers.metadata
    mtime, atime, ctime = (parse_time(said[name]) for name in ("mtime", "atime", "ctime"))
    if mtime is None or atime is None or ctime is None:
        return posix
    return replace(posix, mtime_ns=mtime, atime_ns=atime, ctime_ns=ctime)


def tagged_as(posix: Posix, headers: Headers) -> Posix:
    """`posix` with what an answer told of the tags, if it did."""
    tagged = posix.tagged if headers.tag_count is None else headers.tag_count != 0
    return posix if tagged == posix.tagged else replace(posix, tagged=tagged)


def metadata_size(headers: Headers) -> int:
    """Bytes that S3 counts against its 2 KB of user metadata: names and values."""
    return sum(len(name.encode()) + len(value.encode()) for name, value in headers.metadata.items())


def format_time(ns: int) -> str:
    """Nanoseconds as ``seconds.nnnnnnnnn``, as s3fs 1.97 writes them."""
    seconds, rest = divmod(ns, NANO)
    return f"{seconds}.{rest:09d}"


def parse_time(text: str) -> int | None:
    """Nanoseconds of a time as metadata has it; None for anything else.

    That is ``seconds``, ``seconds.fraction``, nanoseconds with ``ns`` behind them, or RFC 3339.

    The fraction is a decimal one (rclone strips trailing zeros), exact to the nanosecond. It counts
    forward from the whole seconds, also before 1970, as in a timespec.
    """
    text = text.strip()
    if match := _DECIMAL.fullmatch(text):
        whole, fraction = match.groups("")
        return int(whole) * NANO + int(fraction[:9].ljust(9, "0"))
    if match := _NANOSECONDS.fullmatch(text):
        return int(match[1])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment - _EPOCH) // _MICROSECOND * 1000 if moment.tzinfo else None


def _mode(
    said: Mapping[str, str], content_type: str, size: int, directory: bool, defaults: Defaults
) -> int:
    mode = _said_mode(said)
    slashless = (
        not directory
        and size == 0
        and content_type.split(";", maxsplit=1)[0].strip() in _DIRECTORY_TYPES
        and (mode is None or stat.S_IFMT(mode) in (0, stat.S_IFDIR))
    )
    if directory or slashless:
        bits = defaults.directory_mode if mode is None else stat.S_IMODE(mode)
        return stat.S_IFDIR | bits
    if mode is None:
        return stat.S_IFREG | defaults.file_mode
    return mode if stat.S_IFMT(mode) else stat.S_IFREG | mode


def _said_mode(said: Mapping[str, str]) -> int | None:
    for name, base in _MODE_NAMES:
        text = said.get(name, "").strip()
        if not (text.isascii() and text.isdigit()) or len(text) > 8:
            continue
        # rclone writes "mode" in octal: then the decimal reading has an impossible type
        for radix in (base, 8):
            try:
                mode = int(text, radix)
            except ValueError:
                continue
            if mode < 1 << 16 and (stat.S_IFMT(mode) in _KINDS or not stat.S_IFMT(mode)):
                return mode
    return None


def _number(said: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    for name in names:
        text = said.get(name, "").strip()
        if _NUMBER.fullmatch(text) and int(text) < 1 << 32:
            return int(text)
    return default


def _first_time(said: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    for name in names:
        if name in said and (ns := parse_time(said[name])) is not None:
            return ns
    return default


def _foreign(headers: Headers) -> Headers | None:
    metadata = {name: value for name, value in headers.metadata.items() if name not in _OURS}
    if not metadata and not headers.other:
        return _only_typed(headers.content_type)
    return Headers(metadata=metadata, content_type=headers.content_type, other=headers.other)


@functools.lru_cache(1024)
def _only_typed(content_type: str) -> Headers | None:
    """One for all objects of a type: a listing may bring the headers of a million objects."""
    return Headers(content_type=content_type) if content_type else None


def _decode_xattrs(text: str) -> Mapping[str, bytes]:
    if not text:
        return _NO_XATTRS
    try:
        pairs = json.loads(unquote(text)).items()
    except (ValueError, AttributeError, RecursionError):
        # another tool's attribute of the same name: it stays unread and is replaced at the next
        # setxattr
        return {}
    read = ((name, _xattr_value(value)) for name, value in pairs if _XATTR_NAME.fullmatch(name))
    return {name: value for name, value in read if value is not None}


def _xattr_value(said: object) -> bytes | None:
    try:
        return base64.b64decode(said) if isinstance(said, str) else None
    except ValueError:
        return None


def _encode_xattrs(xattrs: Mapping[str, bytes]) -> str:
    pairs = {name: base64.b64encode(value).decode() for name, value in sorted(xattrs.items())}
    return quote(json.dumps(pairs, separators=(",", ":")), safe="")
