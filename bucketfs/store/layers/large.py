"""Large objects of Swift (SLO, DLO): an object whose bytes are those of others, its segments.

Ceph shows the same bucket through Swift's API, and serves such an object through S3's, in a way
that each program has to know about:

- A listing shows the object that stands there, with the size of its manifest or none and the ETag
  of nothing; HEAD and GET show size and ETag of the whole. So what HEAD said is remembered
  (`_Known`), and put in the place of what a listing says of the same version.
- Conditions are compared with that object's ETag, which says nothing of the segments. The token of
  such a version (`manifest_token`) is none that a request can name; a look takes the condition's
  place, as for any other (`bucketfs.store.layers.fallback`).
- CopyObject with new metadata drops the manifest, and leaves an empty object: all bytes would be
  lost. So would be those of a DLO whose segments are renamed along with it. Such a copy is made of
  the bytes, and is a plain object; within its directory, with its own metadata, the manifest is
  copied.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from bucketfs.errors import NotFound, PreconditionFailed, StoreError
from bucketfs.store.base import (
    NO_CONDITIONS,
    Body,
    BytesBody,
    Headers,
    ListPage,
    ObjectInfo,
    OnToken,
    Sink,
    Store,
    ignored,
    is_manifest,
)
from bucketfs.store.layers.wrapper import StoreWrapper
from bucketfs.tasks import gather

#: The ETag of nothing: what a manifest has.
EMPTY: Final = "d41d8cd98f00b204e9800998ecf8427e"
#: Bytes of an object that are in memory at once while it is copied: a part of this size, and so
#: many of them side by side.
_PIECE: Final = 16 << 20
_SIDE_BY_SIDE: Final = 4
#: Seconds for throwing away a copy that failed.
_CLEAN_UP: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Onto:
    """Where a copy goes, and what it may replace there."""

    key: str
    headers: Headers
    if_match: str
    if_none_match: bool


class LargeStore(StoreWrapper):
    """Treats large objects of Swift as what they are."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        #: Those that were looked at, as they were.
        self._known: dict[str, ObjectInfo] = {}
        #: Those that a listing has shown, which can do that of an SLO only: it has a size.
        self._shown: set[str] = set()

    async def head(self, key: str) -> ObjectInfo:
        return self._seen(await super().head(key))

    async def heads(
        self,
        keys: Sequence[str],
        told: Callable[[ObjectInfo], None],
        failed: Callable[[StoreError], None] = ignored,
    ) -> None:
        await super().heads(keys, lambda info: told(self._seen(info)), failed)

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
        return self._seen(
            await super().get(key, sink, start=start, stop=stop, if_match=if_match, size=size)
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
        page = await super().list(
            prefix,
            delimiter=delimiter,
            token=token,
            start_after=start_after,
            limit=limit,
            on_token=on_token,
        )
        self._shown.update(info.key for info in page.objects if info.etag == EMPTY and info.size)
        if not self._known:
            return page
        return dataclasses.replace(page, objects=[*map(self._listed, page.objects)])

    async def put(
        self,
        key: str,
        body: Body,
        headers: Headers,
        *,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        info = await super().put(key, body, headers, if_match=if_match, if_none_match=if_none_match)
        self._forget(key)
        return info

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
        found = await self._look(source, size)
        if found is not None and source_if_match not in ("", EMPTY, found.etag):
            raise _changed("CopyObject", source)
        if found is not None and (headers is not None or _directory(source) != _directory(target)):
            headers = headers or found.headers or Headers()
            if source == target:
                target_if_match = target_if_match or found.etag
            onto = _Onto(target, headers, target_if_match, target_if_none_match)
            return await self._copy_bytes(found, onto)
        info = await super().copy(
            source,
            target,
            size=size,
            headers=headers,
            source_if_match="" if found is not None else source_if_match,
            target_if_match=target_if_match,
            target_if_none_match=target_if_none_match,
        )
        self._forget(target)
        return info if found is None else await self.head(target)

    async def delete(self, key: str, *, if_match: str = "") -> None:
        if if_match == EMPTY and key in self._known:
            if_match = self._known[key].etag
        await super().delete(key, if_match=if_match)
        self._forget(key)

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        alone = [key for key in keys if key in self._known and key in if_match]
        stayed: dict[str, StoreError] = {}

        async def delete(key: str) -> None:
            try:
                await self.delete(key, if_match=if_match[key])
            except StoreError as exc:
                stayed[key] = exc

        await gather([functools.partial(delete, key) for key in alone], limit=_SIDE_BY_SIDE)
        others = [key for key in keys if key not in set(alone)] if alone else keys
        if others:
            told = {key: etag for key, etag in if_match.items() if key not in set(alone)}
            stayed.update(await super().delete_many(others, if_match=told))
        return stayed

    def _seen(self, info: ObjectInfo) -> ObjectInfo:
        if is_manifest(info.etag):
            self._known[info.key] = info
        else:
            self._forget(info.key)
        return info

    def _forget(self, key: str) -> None:
        """Something else has the key."""
        self._known.pop(key, None)
        self._shown.discard(key)

    def _listed(self, info: ObjectInfo) -> ObjectInfo:
        """What is known of an object that a listing shows."""
        known = self._known.get(info.key)
        if known is None or (info.etag, info.last_modified) != (EMPTY, known.last_modified):
            return info
        return dataclasses.replace(known, headers=None)

    async def _look(self, key: str, size: int) -> ObjectInfo | None:
        """The object, if it is a large one; what a listing shows as empty may be one."""
        may_be = not size and not key.endswith("/")
        if not (may_be or key in self._known or key in self._shown):
            return None
        try:
            found = await self.head(key)
        except NotFound:
            return None  # which the copy is going to say
        return found if is_manifest(found.etag) else None

    async def _copy_bytes(self, source: ObjectInfo, onto: _Onto) -> ObjectInfo:
        """Make a plain object of all bytes, by way of this machine."""
        if source.size <= _PIECE:
            body = await self._piece(source, 0, source.size)
            return await self.put(
                onto.key,
                body,
                onto.headers,
                if_match=onto.if_match,
                if_none_match=onto.if_none_match,
            )
        step = max(_PIECE, -(-source.size // self.capabilities.max_parts))
        upload_id = await self.create_upload(onto.key, onto.headers)

        async def send(number: int) -> tuple[int, str]:
            start = (number - 1) * step
            body = await self._piece(source, start, min(start + step, source.size))
            return number, await self.upload_part(onto.key, upload_id, number, body)

        count = -(-source.size // step)
        try:
            jobs = [functools.partial(send, number) for number in range(1, count + 1)]
            parts = await gather(jobs, limit=_SIDE_BY_SIDE)
            info = await self.complete(
                onto.key,
                upload_id,
                parts,
                size=source.size,
                if_match=onto.if_match,
                if_none_match=onto.if_none_match,
            )
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEAN_UP):
                await self.abort(onto.key, upload_id)
            raise
        self._forget(onto.key)
        return info

    async def _piece(self, source: ObjectInfo, start: int, stop: int) -> BytesBody:
        data = bytearray()
        await self.get(
            source.key, data.extend, start=start, stop=stop, if_match=source.etag, size=source.size
        )
        if len(data) != stop - start:
            raise _changed("GetObject", source.key)
        return BytesBody(bytes(data))


def _directory(key: str) -> str:
    return key.rpartition("/")[0]


def _changed(operation: str, key: str) -> PreconditionFailed:
    return PreconditionFailed("PreconditionFailed", status=412, operation=operation, key=key)
