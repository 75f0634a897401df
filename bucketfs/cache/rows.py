"""What the journal's rows say, and how a pending file is written. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crc32c import crc32c

from bucketfs.cache.extents import Extent
from bucketfs.store.base import Headers

#: An upload by what its object is known by: size and user metadata.
Attempt = tuple[int, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload; `upload_id` is "" where the store's answer was not seen.

    `since` is the Unix time just before it was begun.
    """

    number: int
    key: str
    upload_id: str
    since: float


@dataclass(frozen=True, slots=True)
class Removal:
    """An object to be deleted: this version of it, or, with `etag` "", any."""

    key: str
    etag: str


@dataclass(frozen=True, slots=True)
class Rename:
    """A copy and the deletion of its original.

    Attributes:
        old, new: Keys; for a tree what its keys begin with, ending in "/".
        etag: Of the original; "" for a tree.
        replaced: ETag of what the new key had before, "" for nothing.
    """

    old: str
    new: str
    etag: str = ""
    replaced: str = ""

    @property
    def is_tree(self) -> bool:
        """Whether it is of all objects of a directory."""
        return self.old.endswith("/")


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A file that cannot be uploaded; its bytes are in `path`, below the cache's directory.

    `since` is the Unix time at which it was given up.
    """

    path: str
    key: str
    error: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRow:
    """A file whose bytes are not in the bucket yet: what its page file does not say itself.

    Attributes:
        file: Name of the page file.
        key: Where it is to be published.
        since: Unix time of the first promise.
        size: Bytes.
        valid: What of them the page file has.
        stored: Length of the page file; what is valid behind it are zeros.
        dirty: What differs from the base version.
        limit: How much of the base version is still part of the file.
        new, cut: As in `bucketfs.file.overlay.Overlay`.
        base: (key, ETag, size) of the version in the bucket that the other bytes are in.
        if_match: ETag the key must have when it is published, "" when it must be free.
        headers: To be stored with it.
        attempts: Size and user metadata of uploads that may have replaced that version already.
        ahead: The same of uploads of later states of the file, begun after its promise.
        seals: Of what is valid, for `bucketfs.cache.extents.Seals.load`; b"" when the bytes may
            change without another row.
        boot: The run of the machine (`clock.boot_id`) whose end the bytes may not have outlived; ""
            when they are on the disk.
        error: Why it cannot be uploaded at all; "" when it can.
        written: When the row was written, in nanoseconds of the Unix clock; 0 before version 0.1.
        unreadable: The row is not what was written: nothing but `file` says anything.
    """

    file: str
    key: str
    since: float
    size: int
    valid: tuple[Extent, ...]
    stored: int
    dirty: tuple[Extent, ...]
    limit: int
    new: bool
    cut: bool
    base: tuple[str, str, int] | None
    if_match: str
    headers: Headers
    attempts: tuple[Attempt, ...] = ()
    ahead: tuple[Attempt, ...] = ()
    seals: bytes = b""
    boot: str = ""
    error: str = ""
    written: int = 0
    unreadable: bool = False
    #: Fields that a later version may have written; kept as they are.
    more: Mapping[str, Any] = field(default_factory=dict)


_PLAIN = ("since", "size", "stored", "limit", "new", "cut", "if_match")
_OTHERS = ("valid", "dirty", "base", "headers", "attempts", "ahead", "written", "boot")


def encode(row: PendingRow) -> tuple[str, bytes, int]:
    """The columns ``state``, ``seals`` and ``sum`` of a row."""
    state: dict[str, Any] = {**row.more, **{name: getattr(row, name) for name in _PLAIN}}
    state |= {"valid": row.valid, "dirty": row.dirty, "base": row.base, "written": row.written}
    if row.boot:
        state["boot"] = row.boot
    headers = row.headers
    state["headers"] = [dict(headers.metadata), headers.content_type, dict(headers.other)]
    for name in ("attempts", "ahead"):
        state[name] = [(size, dict(metadata)) for size, metadata in getattr(row, name)]
    text = json.dumps(state)
    return text, row.seals, _sum(row.key, text, row.seals)


def decode(file: str, key: str, error: str, text: str, seals: bytes, total: int) -> PendingRow:
    """A row as it was given to `encode`; one that is not says so in its `error`, and nothing else.

    Raises nothing: the disk may have made anything of the columns.
    """
    if _sum(key, text, seals) != total:
        return _damaged(file, key)
    state = json.loads(text)
    metadata, content_type, other = state["headers"]
    base = state["base"]
    return PendingRow(
        file=file,
        key=key,
        error=error,
        valid=tuple((a, b) for a, b in state["valid"]),
        dirty=tuple((a, b) for a, b in state["dirty"]),
        base=None if base is None else (base[0], base[1], base[2]),
        attempts=tuple((size, said) for size, said in state["attempts"]),
        ahead=tuple((size, said) for size, said in state["ahead"]),
        headers=Headers(metadata=metadata, content_type=content_type, other=other),
        seals=seals,
        written=state.get("written", 0),
        boot=state.get("boot", ""),
        more={name: value for name, value in state.items() if name not in (*_PLAIN, *_OTHERS)},
        **{name: state[name] for name in _PLAIN},
    )


def _sum(key: object, text: object, seals: object) -> int:
    parts = (part if isinstance(part, bytes) else str(part).encode() for part in (key, text, seals))
    return crc32c(b"\0".join(parts))


def _damaged(file: str, key: object) -> PendingRow:
    return PendingRow(
        file=file, key=str(key), since=0.0, size=0, valid=(), stored=0, dirty=(), limit=0, new=True,
        cut=False, base=None, if_match="", headers=Headers(),
        error="the journal's row of it was damaged on the disk", unreadable=True,
    )  # fmt: skip
