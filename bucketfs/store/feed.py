"""The lines of a feed of changes, as MinIO and RustFS send them (ListenBucketNotification). Pure.

Sources: minio/minio, cmd/listen-notification-handlers.go and cmd/event-notification.go;
rustfs/rustfs, rustfs/src/admin/router.rs and crates/notify/src/event.rs. A line is a JSON object
with ``Records``, null or empty in a ping; older servers ping with blanks. MinIO writes keys as they
are, RustFS as in a query (``a+b%2Fc``), and no field says which: both readings count as changed,
as knowing less costs one question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from bucketfs.store.base import Change

#: What is asked for. Changed tags, legal holds and retentions come along with ``ObjectCreated``.
EVENTS: Final = ("s3:ObjectCreated:*", "s3:ObjectRemoved:*")
#: Seconds between two pings. MinIO sends the head of its answer with the first of them.
PING: Final = 2
#: Seconds without a byte after which the connection counts as dead.
SILENCE: Final = 3.0 * PING
#: Longest line: minio-go takes 4 MiB, for what proxies hold back; a record has 2 KiB of metadata.
LINE_LIMIT: Final = 4 << 20
#: Prefixes that both take at their word: MinIO refuses backslashes and takes ``*`` for a pattern,
#: RustFS compares with keys in which ``+`` stands for a blank.
_SAFE_PREFIX: Final = re.compile(r"[A-Za-z0-9_./-]{0,1024}")
#: What signatures want as it is, beside letters and digits.
_PLAIN: Final = "-_.~"


class NoFeed(ValueError):
    """What came is not a line of a feed."""


def query(prefix: str) -> str:
    """The query that asks for the changes below a prefix, in the order that signatures want."""
    dots = {".", ".."} & set(prefix.split("/"))
    # what is not filtered there is filtered here
    filtered = prefix if _SAFE_PREFIX.fullmatch(prefix) and not dots else ""
    pairs = [("events", event) for event in EVENTS]
    pairs += [("ping", str(PING)), ("prefix", filtered), ("suffix", "")]
    return "&".join(f"{name}={quote(value, safe=_PLAIN)}" for name, value in pairs)


def parse(line: bytes, prefix: str) -> list[Change]:
    """The changes below a prefix that a line tells of; none for a ping.

    Records that cannot be read are left out: a feed may say more than was asked for.

    Raises:
        NoFeed: It is no line of a feed.
    """
    if not line.strip():
        return []
    try:
        records = json.loads(line)["Records"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise NoFeed(f"{line[:80]!r} is no line of a feed") from error
    if records is not None and not isinstance(records, list):
        raise NoFeed(f"{line[:80]!r} has no list of records")
    found = (_change(record, prefix) for record in records or ())
    return [change for change in found if change is not None]


def _change(record: Any, prefix: str) -> Change | None:
    try:
        event, told = record["eventName"], record["s3"]["object"]
        key, etag = told["key"], told.get("eTag") or ""
    except (LookupError, TypeError, AttributeError):
        return None
    if not (isinstance(event, str) and isinstance(key, str) and isinstance(etag, str)):
        return None
    keys = tuple(dict.fromkeys(key for key in _readings(key) if key.startswith(prefix)))
    kind = event.removeprefix("s3:").partition(":")[0]
    if not keys or kind not in ("ObjectCreated", "ObjectRemoved"):
        return None
    return Change(keys, removed=kind == "ObjectRemoved", etag=etag.strip('"'))


def _readings(key: str) -> Iterator[str]:
    """What a key in an event may stand for."""
    for raw in (key.encode(errors="surrogatepass"), unquote_to_bytes(key.replace("+", " "))):
        try:
            yield raw.decode()
        except UnicodeDecodeError:
            continue


class Lines:
    """Cuts what arrives into lines."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def add(self, piece: bytes | memoryview) -> list[bytes]:
        """The lines that a piece completes.

        Raises:
            NoFeed: What has begun like no line of a feed, or does not end.
        """
        self._begun += piece
        *lines, rest = self._begun.split(b"\n")
        self._begun = rest.lstrip()  # blanks are pings
        if len(self._begun) > LINE_LIMIT or (self._begun and self._begun[0] != ord("{")):
            raise NoFeed(f"{bytes(self._begun[:80])!r} is no line of a feed")
        return [bytes(line) for line in lines]
