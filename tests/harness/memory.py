"""A bucket in memory: the `Store` that most tests run on, with faults and latency on demand.

It keeps the promises of `bucketfs.store.base` to the letter (conditions, part rules, byte order of
keys, pages) so that what passes here passes on a correct server. It never blocks except for the
latency it was told to have, and its state is changed between two awaits only, so that concurrent
callers see each request as one step, as they would on S3.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import parse_qsl

import trio
from sortedcontainers import SortedDict  # type: ignore[import-untyped]

from bucketfs import clock
from bucketfs.errors import (
    BrokenBody,
    KeyTaken,
    NoAnswer,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsupported,
)
from bucketfs.store.base import (
    NO_CONDITIONS,
    Body,
    Capabilities,
    Foreseen,
    Headers,
    ListPage,
    ObjectInfo,
    ObjectVersion,
    OnToken,
    Sink,
    UploadInfo,
    ignored,
    is_etag,
)
from bucketfs.tasks import gather

#: Sorts behind every key that starts with the string it is appended to.
_LAST: Final = "\U0010ffff"
_CHUNK: Final = 1 << 18
_KEY_BYTES: Final = 1024
_PAGE: Final = 1000
#: HEADs of one `heads` under way at once.
_TOGETHER: Final = 64


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request.

    Attributes:
        error: Raised to the caller; None with `hang`.
        after: The request is carried out before the error is raised: a lost answer.
        at_byte: GET only: this many bytes of the range are delivered first.
        hang: The request never returns; only cancellation ends it.
    """

    error: Exception | None = None
    after: bool = False
    at_byte: int | None = None
    hang: bool = False


#: Asked before each request with the S3 operation name, the key and how many requests of that
#: operation there were including this one (from 1).
FaultHook = Callable[[str, str, int], Fault | None]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the bucket holds it."""

    data: bytes
    etag: str
    last_modified: int
    headers: Headers
    tags: Mapping[str, str] = field(default_factory=dict)

    def info(self, key: str, *, listed: bool = False) -> ObjectInfo:
        headers = None if listed else replace(self.headers, tag_count=len(self.tags))
        return ObjectInfo(key, len(self.data), self.etag, self.last_modified, headers)


@dataclass(slots=True)
class _Upload:
    key: str
    headers: Headers
    initiated: int
    parts: dict[int, tuple[bytes, str]] = field(default_factory=dict)


class MemoryStore:
    """One bucket in memory.

    Args:
        capabilities: Limits and abilities to imitate; a condition the record says is not
            supported is ignored, as such servers do, and a missing request raises Unsupported.
        latency: Seconds each request takes (virtual under trio's MockClock).
        fault: Hook that picks the requests that fail.
        page: Keys a listing page holds at most.

    Attributes:
        objects: Key to object, in key order. Tests may read it and use `poke` to change it.
        requests: How many requests of each S3 operation arrived.
        sent / received: Body bytes that reached the bucket and left it.
    """

    def __init__(
        self,
        *,
        capabilities: Capabilities | None = None,
        latency: float = 0.0,
        fault: FaultHook | None = None,
        page: int = _PAGE,
    ) -> None:
        self._capabilities = capabilities or Capabilities()
        self.latency = latency
        self.fault = fault
        self.page = page
        self.objects: SortedDict[str, StoredObject] = SortedDict()
        self.uploads: dict[str, _Upload] = {}
        self.requests: Counter[str] = Counter()
        self.sent = 0
        self.received = 0
        self._serial = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def poke(self, key: str, data: bytes, headers: Headers | None = None) -> ObjectInfo:
        """Store an object behind everyone's back, uncounted, as another client would."""
        return self._store(key, data, headers or Headers(), _md5(data))

    def peek(self, key: str) -> bytes:
        """The bytes of an object, uncounted. Raises KeyError."""
        found: StoredObject = self.objects[key]
        return found.data

    async def head(self, key: str) -> ObjectInfo:
        fault = await self._request("HeadObject", key)
        info = self._find(key, "HeadObject").info(key)
        _lose_answer(fault)
        return info

    async def heads(
        self,
        keys: Sequence[str],
        told: Callable[[ObjectInfo], None],
        failed: Callable[[StoreError], None] = ignored,
    ) -> None:
        async def ask(key: str) -> None:
            try:
                told(await self.head(key))
            except StoreError as error:
                failed(error)

        await gather([functools.partial(ask, key) for key in keys], limit=_TOGETHER)

    async def get(
        self,
        key: str,
        sink: Sink,
        *,
        start: int = 0,
        stop: int | None = None,
        if_match: str = "",
        size: int | None = None,
    ) -> ObjectInfo:
        fault = await self._request("GetObject", key)
        found = self._find(key, "GetObject")
        if if_match and if_match != found.etag:
            raise PreconditionFailed("PreconditionFailed", status=412, key=key)
        if start >= len(found.data) and start > 0:
            raise StoreError("InvalidRange", status=416, operation="GetObject", key=key)
        view = memoryview(found.data)[start:stop]
        cut = len(view) if fault is None else fault.at_byte or 0
        for at in range(0, min(cut, len(view)), _CHUNK):
            await trio.lowlevel.checkpoint()
            piece = view[at : min(at + _CHUNK, cut)]
            self.received += len(piece)
            sink(piece)
        if fault is not None:
            if cut:
                raise BrokenBody("IncompleteBody", key=key, operation="GetObject", etag=found.etag)
            raise fault.error or NoAnswer("ConnectionClosed", key=key, operation="GetObject")
        return found.info(key)

    async def put(
        self,
        key: str,
        body: Body,
        headers: Headers,
        *,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        fault = await self._request("PutObject", key)
        data = await self._receive(body)
        can = self._capabilities
        if len(data) > can.max_put:
            raise StoreError("EntityTooLarge", status=400, operation="PutObject", key=key)
        self._check_target(
            key,
            if_match if can.put_if_match else "",
            if_none_match and can.put_if_none_match,
        )
        info = self._store(key, data, headers, _md5(data))
        _lose_answer(fault)
        return replace(info, last_modified=0)

    async def copy(
        self,
        source: str,
        target: str,
        *,
        size: int,
        headers: Headers | None = None,
        source_if_match: str = "",
        target_if_match: str = "",
        target_if_none_match: bool = False,
    ) -> ObjectInfo:
        fault = await self._request("CopyObject", source)
        found = self._find(source, "CopyObject")
        if source_if_match and self._capabilities.copy_if_match and source_if_match != found.etag:
            raise PreconditionFailed("PreconditionFailed", status=412, key=source)
        _check_key(target)
        can = self._capabilities
        self._check_target(
            target,
            target_if_match if can.target_if_match else "",
            target_if_none_match and can.target_if_none_match,
        )
        if size != len(found.data):
            raise AssertionError(f"copy of {source!r}: {size} bytes announced")
        info = self._store(target, found.data, headers or found.headers, found.etag)
        self.objects[target] = replace(self.objects[target], tags=found.tags)
        _lose_answer(fault)
        return replace(info, headers=headers or found.headers)

    async def delete(self, key: str, *, if_match: str = "") -> None:
        fault = await self._request("DeleteObject", key)
        self._delete(key, if_match if self._capabilities.delete_if_match else "")
        _lose_answer(fault)

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        able = self._capabilities.delete_many_if_match
        stayed: dict[str, StoreError] = {}
        for at in range(0, len(keys), _PAGE):
            fault = await self._request("DeleteObjects", keys[at])
            for key in keys[at : at + _PAGE]:
                try:
                    self._delete(key, if_match.get(key, "") if able else "")
                except PreconditionFailed as exc:
                    stayed[key] = exc
            _lose_answer(fault)
        return stayed

    def _delete(self, key: str, if_match: str) -> None:
        found = self.objects.get(key)
        if if_match and found is not None and found.etag != if_match:
            raise PreconditionFailed("PreconditionFailed", status=412, key=key)
        self.objects.pop(key, None)

    async def list(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        token: str | None = None,
        start_after: str = "",
        limit: int = 1000,
        on_token: OnToken | None = None,
    ) -> ListPage:
        _lose_answer(await self._request("ListObjectsV2", prefix))
        after = token if token is not None else start_after
        if delimiter and after.endswith(delimiter) and len(after) > len(prefix):
            after += _LAST
        room = min(limit, self.page)
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        last = ""
        while (key := self._next_key(prefix, after)) is not None:
            if len(objects) + len(prefixes) == room:
                return ListPage(objects, prefixes, last)
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                last = key[: cut + len(delimiter)]
                prefixes.append(last)
                after = last + _LAST
            else:
                last = after = key
                objects.append(self.objects[key].info(key, listed=True))
        return ListPage(objects, prefixes, None)

    async def create_upload(
        self,
        key: str,
        headers: Headers,
        *,
        copies: bool = False,
    ) -> str:
        fault = await self._request("CreateMultipartUpload", key)
        self._serial += 1
        upload_id = f"upload-{self._serial}"
        self.uploads[upload_id] = _Upload(key, headers, _now())
        _lose_answer(fault)
        return upload_id

    async def upload_part(self, key: str, upload_id: str, number: int, body: Body) -> str:
        fault = await self._request("UploadPart", key)
        data = await self._receive(body)
        etag = self._store_part(key, upload_id, number, data)
        _lose_answer(fault)
        return etag

    async def copy_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        *,
        source: str,
        start: int,
        stop: int,
        source_if_match: str = "",
    ) -> str:
        fault = await self._request("UploadPartCopy", key)
        found = self._find(source, "UploadPartCopy")
        if source_if_match and self._capabilities.copy_if_match and source_if_match != found.etag:
            raise PreconditionFailed("PreconditionFailed", status=412, key=source)
        if stop > len(found.data):
            raise StoreError("InvalidRange", status=416, operation="UploadPartCopy", key=key)
        etag = self._store_part(key, upload_id, number, found.data[start:stop])
        _lose_answer(fault)
        return etag

    async def complete(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        *,
        size: int,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        fault = await self._request("CompleteMultipartUpload", key)
        upload = self._find_upload(key, upload_id)
        can = self._capabilities
        self._check_target(
            key,
            if_match if can.complete_if_match else "",
            if_none_match and can.complete_if_none_match,
        )
        pieces = self._check_parts(upload, parts)
        data = b"".join(pieces)
        if len(data) != size:
            raise StoreError("IncompleteBody", status=400, key=key)
        digests = b"".join(bytes.fromhex(etag) for _, etag in parts)
        etag = f"{_md5(digests)}-{len(parts)}"
        info = self._store(key, data, upload.headers, etag)
        del self.uploads[upload_id]
        _lose_answer(fault)
        return info

    async def abort(self, key: str, upload_id: str) -> None:
        fault = await self._request("AbortMultipartUpload", key)
        self.uploads.pop(upload_id, None)
        _lose_answer(fault)

    async def list_uploads(self, prefix: str) -> Sequence[UploadInfo]:
        _lose_answer(await self._request("ListMultipartUploads", prefix))
        return [
            UploadInfo(upload.key, upload_id, upload.initiated)
            for upload_id, upload in self.uploads.items()
            if upload.key.startswith(prefix)
        ]

    async def details(self, key: str) -> Mapping[str, str]:
        await self.head(key)
        return {"storage_class": "STANDARD"}

    async def tags(self, key: str) -> Mapping[str, str]:
        _lose_answer(await self._request("GetObjectTagging", key))
        return self._find(key, "GetObjectTagging").tags

    async def set_tags(self, key: str, tags: Mapping[str, str]) -> None:
        _lose_answer(await self._request("PutObjectTagging", key))
        self.objects[key] = replace(self._find(key, "PutObjectTagging"), tags=tags)

    async def presigned_url(self, key: str, seconds: int) -> str:
        return f"memory:{key}?{seconds}"

    async def versions(self, key: str) -> Sequence[ObjectVersion]:
        raise Unsupported("NotImplemented", operation="ListObjectVersions", key=key)

    async def restore_version(self, key: str, version_id: str) -> ObjectInfo:
        raise NotFound("NoSuchVersion", status=404, operation="CopyObject", key=key)

    async def restore_archived(self, key: str, *, days: int, tier: str) -> None:
        raise StoreError("InvalidObjectState", status=403, operation="RestoreObject", key=key)

    async def foresee(self, operation: Foreseen, key: str) -> None:
        return

    async def check(self) -> bool:
        await self._request("ListObjectsV2", "")
        return True

    async def settle(self, *_conditions: str) -> Capabilities:
        return self.capabilities

    async def _request(self, operation: str, key: str) -> Fault | None:
        """Count a request, spend its latency, fail it if it is to fail before it is carried out.

        Returns the fault that the caller has to apply later, if any.
        """
        _check_key(key)
        self.requests[operation] += 1
        fault = self.fault and self.fault(operation, key, self.requests[operation])
        if fault and fault.hang:
            await trio.sleep_forever()
        await trio.sleep(self.latency)
        if not fault or fault.after or fault.at_byte is not None:
            return fault or None
        raise fault.error or NoAnswer("ConnectionClosed", operation=operation, key=key)

    async def _receive(self, body: Body) -> bytes:
        data = bytearray()
        for piece in body.chunks():
            data += piece
            await trio.lowlevel.checkpoint()
        if len(data) != len(body):
            raise StoreError("IncompleteBody", status=400)
        self.sent += len(data)
        return bytes(data)

    def _find(self, key: str, operation: str) -> StoredObject:
        found: StoredObject | None = self.objects.get(key)
        if found is None:
            raise NotFound("NoSuchKey", status=404, operation=operation, key=key)
        return found

    def _find_upload(self, key: str, upload_id: str) -> _Upload:
        upload = self.uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise NotFound("NoSuchUpload", status=404, key=key)
        return upload

    def _store(self, key: str, data: bytes, headers: Headers, etag: str) -> ObjectInfo:
        tags = dict(parse_qsl(headers.tags, keep_blank_values=True))
        kept = replace(headers, keep_tags=False, tags="")
        self.objects[key] = stored = StoredObject(data, etag, _now(), kept, tags)
        return stored.info(key)

    def _store_part(self, key: str, upload_id: str, number: int, data: bytes) -> str:
        upload = self._find_upload(key, upload_id)
        if not 1 <= number <= self._capabilities.max_parts:
            raise StoreError("InvalidArgument", status=400, operation="UploadPart", key=key)
        if len(data) > self._capabilities.max_part:
            raise StoreError("EntityTooLarge", status=400, operation="UploadPart", key=key)
        etag = _md5(data)
        upload.parts[number] = (data, etag)
        return etag

    def _check_target(self, key: str, if_match: str, if_none_match: bool) -> None:
        found = self.objects.get(key)
        if not is_etag(if_match):
            if_match = ""  # a token of ours, which no request carries
        if if_match and found is None:
            raise NotFound("NoSuchKey", status=404, key=key)
        if if_match and found.etag != if_match:
            raise PreconditionFailed("PreconditionFailed", status=412, key=key)
        if if_none_match and found is not None:
            raise KeyTaken("PreconditionFailed", status=412, key=key)

    def _check_parts(self, upload: _Upload, parts: Sequence[tuple[int, str]]) -> Sequence[bytes]:
        """The bytes of the named parts. Raises what S3 raises for a list it does not accept."""
        can = self._capabilities
        numbers = [number for number, _ in parts]
        if numbers != sorted(set(numbers)) or not parts:
            raise StoreError("InvalidPartOrder", status=400, key=upload.key)
        for number, etag in parts:
            if upload.parts.get(number, (b"", None))[1] != etag:
                raise StoreError("InvalidPart", status=400, key=upload.key)
        pieces = [upload.parts[number][0] for number in numbers]
        if any(len(piece) < can.min_part for piece in pieces[:-1]):
            raise StoreError("EntityTooSmall", status=400, key=upload.key)
        if can.equal_parts and len({len(piece) for piece in pieces[:-1]}) > 1:
            raise StoreError("InvalidPart", status=400, key=upload.key)
        return pieces

    def _next_key(self, prefix: str, after: str) -> str | None:
        """The first key behind `after` that starts with `prefix`."""
        if after >= prefix and after:
            at = self.objects.bisect_right(after)
        else:
            at = self.objects.bisect_left(prefix)
        if at == len(self.objects):
            return None
        key: str = self.objects.keys()[at]
        return key if key.startswith(prefix) else None


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _now() -> int:
    return math.floor(clock.wall_ns() / 1e9)


def _check_key(key: str) -> None:
    """Refuse what S3 refuses as a key."""
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise StoreError("InvalidUtf8", key=key) from None
    if length > _KEY_BYTES:
        raise StoreError("KeyTooLongError", status=400, key=key)


def _lose_answer(fault: Fault | None) -> None:
    if fault is not None:
        raise fault.error or NoAnswer("ConnectionClosed")
