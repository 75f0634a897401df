"""What `fallback`, `retry`, `limit` and `trace` have in common: a `Store` around a `Store`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from bucketfs.errors import StoreError
from bucketfs.store.base import (
    NO_CONDITIONS,
    Body,
    Capabilities,
    Foreseen,
    Headers,
    Hear,
    ListPage,
    ObjectInfo,
    ObjectVersion,
    OnToken,
    Sink,
    Store,
    UploadInfo,
    VersionPage,
    ignored,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a `Store` method.

    Attributes:
        operation: The S3 operation it stands for.
        key: Object key or prefix.
        size: Body bytes it is about to move, as far as known before.
    """

    operation: str
    key: str
    size: int = 0


def get_call(key: str, start: int, stop: int | None) -> Call:
    """The call of a `Store.get`; without an end it may move any number of bytes."""
    return Call("GetObject", key, 1 << 62 if stop is None else stop - start)


class VersionedStore(Store, Protocol):
    """A store that can tell of versions; see `bucketfs.store.aws.s3.S3Store`."""

    async def head(self, key: str, *, version: str = "") -> ObjectInfo: ...

    async def get(
        self,
        key: str,
        sink: Sink,
        *,
        start: int = 0,
        stop: int | None = None,
        if_match: str = "",
        size: int | None = None,
        version: str = "",
    ) -> ObjectInfo: ...

    async def details(self, key: str, *, version: str = "") -> Mapping[str, str]: ...

    async def tags(self, key: str, *, version: str = "") -> Mapping[str, str]: ...

    async def presigned_url(self, key: str, seconds: int, *, version: str = "") -> str: ...

    async def list_versions(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        markers: tuple[str, str] | None = None,
        limit: int = 1000,
    ) -> VersionPage: ...

    async def keeps_versions(self) -> bool: ...


class StoreWrapper:
    """Passes each call through `around`, which subclasses override; changes nothing itself."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:  # noqa: ARG002
        """Make the call: `send` sends the request, as often as it is called."""
        return await send()

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def head(self, key: str) -> ObjectInfo:
        return await self.around(Call("HeadObject", key), lambda: self.inner.head(key))

    async def heads(
        self,
        keys: Sequence[str],
        told: Callable[[ObjectInfo], None],
        failed: Callable[[StoreError], None] = ignored,
    ) -> None:
        """As that of `Store`; does not go through `around`."""
        await self.inner.heads(keys, told, failed)

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
        return await self.around(
            get_call(key, start, stop),
            lambda: self.inner.get(key, sink, start=start, stop=stop, if_match=if_match, size=size),
        )

    async def put(
        self,
        key: str,
        body: Body,
        headers: Headers,
        *,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        return await self.around(
            Call("PutObject", key, len(body)),
            lambda: self.inner.put(
                key, body, headers, if_match=if_match, if_none_match=if_none_match
            ),
        )

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
        return await self.around(
            Call("CopyObject", target),
            lambda: self.inner.copy(
                source,
                target,
                size=size,
                headers=headers,
                source_if_match=source_if_match,
                target_if_match=target_if_match,
                target_if_none_match=target_if_none_match,
            ),
        )

    async def delete(self, key: str, *, if_match: str = "") -> None:
        await self.around(
            Call("DeleteObject", key), lambda: self.inner.delete(key, if_match=if_match)
        )

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        first = keys[0] if keys else ""
        return await self.around(
            Call("DeleteObjects", first), lambda: self.inner.delete_many(keys, if_match=if_match)
        )

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
        return await self.around(
            Call("ListObjectsV2", prefix),
            lambda: self.inner.list(
                prefix,
                delimiter=delimiter,
                token=token,
                start_after=start_after,
                limit=limit,
                on_token=on_token,
            ),
        )

    async def create_upload(self, key: str, headers: Headers, *, copies: bool = False) -> str:
        return await self.around(
            Call("CreateMultipartUpload", key),
            lambda: self.inner.create_upload(key, headers, copies=copies),
        )

    async def upload_part(self, key: str, upload_id: str, number: int, body: Body) -> str:
        return await self.around(
            Call("UploadPart", key, len(body)),
            lambda: self.inner.upload_part(key, upload_id, number, body),
        )

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
        return await self.around(
            Call("UploadPartCopy", key),
            lambda: self.inner.copy_part(
                key,
                upload_id,
                number,
                source=source,
                start=start,
                stop=stop,
                source_if_match=source_if_match,
            ),
        )

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
        return await self.around(
            Call("CompleteMultipartUpload", key),
            lambda: self.inner.complete(
                key, upload_id, parts, size=size, if_match=if_match, if_none_match=if_none_match
            ),
        )

    async def abort(self, key: str, upload_id: str) -> None:
        await self.around(
            Call("AbortMultipartUpload", key), lambda: self.inner.abort(key, upload_id)
        )

    async def list_uploads(self, prefix: str) -> Sequence[UploadInfo]:
        return await self.around(
            Call("ListMultipartUploads", prefix), lambda: self.inner.list_uploads(prefix)
        )

    async def foresee(self, operation: Foreseen, key: str) -> None:
        await self.inner.foresee(operation, key)

    async def follow(self, prefix: str, hear: Hear) -> None:
        await self.inner.follow(prefix, hear)

    async def check(self) -> bool:
        return await self.around(Call("Check", ""), self.inner.check)

    async def details(self, key: str) -> Mapping[str, str]:
        return await self.around(Call("HeadObject", key), lambda: self.inner.details(key))

    async def tags(self, key: str) -> Mapping[str, str]:
        return await self.around(Call("GetObjectTagging", key), lambda: self.inner.tags(key))

    async def set_tags(self, key: str, tags: Mapping[str, str]) -> None:
        await self.around(Call("PutObjectTagging", key), lambda: self.inner.set_tags(key, tags))

    async def presigned_url(self, key: str, seconds: int) -> str:
        return await self.inner.presigned_url(key, seconds)

    async def versions(self, key: str) -> Sequence[ObjectVersion]:
        return await self.around(Call("ListObjectVersions", key), lambda: self.inner.versions(key))

    async def restore_version(self, key: str, version_id: str) -> ObjectInfo:
        return await self.around(
            Call("CopyObject", key), lambda: self.inner.restore_version(key, version_id)
        )

    async def restore_archived(self, key: str, *, days: int, tier: str) -> None:
        await self.around(
            Call("RestoreObject", key),
            lambda: self.inner.restore_archived(key, days=days, tier=tier),
        )

    async def settle(self, *conditions: str) -> Capabilities:
        return await self.inner.settle(*conditions)
