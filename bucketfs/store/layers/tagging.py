"""Keeps the tags of objects.

An upload replaces an object with all it has, and its tags with it. A copy keeps them, but for the
copies of some servers that give the object new headers (Ceph 16), and uploads in parts lose even
the tags that they are begun with there. Whoever stores an object asks for its tags to be kept
(`Headers.keep_tags`) unless it is known to have none: so what has none costs no request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import parse_qsl

from bucketfs.errors import NotFound, StoreError
from bucketfs.store.base import Body, Headers, ObjectInfo, Store, tag_query
from bucketfs.store.capability import Provider
from bucketfs.store.layers.wrapper import StoreWrapper
from bucketfs.store.refusal import is_refusal, unsupported

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Providers whose copies keep tags, whatever headers they bring: Amazon's documentation, MinIO's
#: source (cmd/object-handlers.go). Of others the first copy of a tagged object tells.
_COPIES_KEEP: Final = frozenset({"Amazon S3", "MinIO"})


async def with_tags_of(store: Store, provider: Provider, key: str, headers: Headers) -> Headers:
    """Headers that bring the tags of an object, where they ask for tags to be kept.

    Raises:
        StoreError: The tags could not be asked for, though they may be read.
    """
    if headers.tags or not headers.keep_tags:
        return headers
    tags = await _tags(store, provider, key) if provider.capabilities.tags else ""
    return replace(headers, keep_tags=False, tags=tags)


async def _tags(store: Store, provider: Provider, key: str) -> str:
    try:
        return tag_query(await store.tags(key))
    except NotFound:
        return ""
    except StoreError as exc:
        if exc.status == HTTPStatus.FORBIDDEN:
            log.warning("the tags of an object may not be read, and are not kept: %s", exc)
        elif is_refusal(exc):
            provider.learn(tags=False)
        elif _is_no_answer_of_s3(exc):
            provider.learn(remember=False, tags=False)
        else:
            raise
        return ""


def _is_no_answer_of_s3(exc: StoreError) -> bool:
    """Whether a request has failed again and again without a word of S3.

    ``rclone serve s3`` answers so to GetObjectTagging: it does not know it, and reads the object.
    """
    return exc.status == HTTPStatus.INTERNAL_SERVER_ERROR and exc.code == str(exc.status)


class TagStore(StoreWrapper):
    """See the module.

    Args:
        provider: What is known of the endpoint.
    """

    def __init__(self, inner: Store, provider: Provider) -> None:
        super().__init__(inner)
        self._provider = provider
        #: Tags of uploads under way, by upload id.
        self._uploads: dict[str, str] = {}
        #: Whether a copy with new headers keeps tags, None while nobody knows.
        self._copies_keep: bool | None = None
        #: Tags of an object have been read.
        self._read = False

    async def tags(self, key: str) -> Mapping[str, str]:
        try:
            tags = await self.inner.tags(key)
        except StoreError as exc:
            if not _is_no_answer_of_s3(exc):
                raise
            raise unsupported(exc) from exc
        self._read = True
        return tags

    async def set_tags(self, key: str, tags: Mapping[str, str]) -> None:
        """As `Store.set_tags`, where tags can be read.

        What does not know these requests may take the tags for new bytes of the object, as
        ``rclone serve s3`` does, and their deletion for that of the object.
        """
        if not self._read:
            try:
                await self.tags(key)
            except StoreError as exc:
                if exc.status != HTTPStatus.FORBIDDEN:
                    raise
        await self.inner.set_tags(key, tags)

    async def put(
        self,
        key: str,
        body: Body,
        headers: Headers,
        *,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        sent = await self._with_tags(key, headers, new=if_none_match)
        info = await self._as_allowed(
            sent,
            lambda given: self.inner.put(
                key, body, given, if_match=if_match, if_none_match=if_none_match
            ),
        )
        return info if sent is headers else _told(info, sent)

    async def create_upload(self, key: str, headers: Headers, *, copies: bool = False) -> str:
        sent = await self._with_tags(key, headers)
        upload_id = await self._as_allowed(
            sent, lambda given: self.inner.create_upload(key, given, copies=copies)
        )
        if sent.tags:
            self._uploads[upload_id] = sent.tags
        return upload_id

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
        info = await self.inner.complete(
            key, upload_id, parts, size=size, if_match=if_match, if_none_match=if_none_match
        )
        tags = self._uploads.pop(upload_id, "")
        if tags and not (info.headers and info.headers.tag_count):
            return await self._tag(key, info, tags)
        return info

    async def abort(self, key: str, upload_id: str) -> None:
        await self.inner.abort(key, upload_id)
        self._uploads.pop(upload_id, None)

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
        tags = ""
        if headers is not None and headers.keep_tags and not self._keeps():
            headers = await self._with_tags(source, headers)
            tags = headers.tags
        info = await self.inner.copy(
            source,
            target,
            size=size,
            headers=headers,
            source_if_match=source_if_match,
            target_if_match=target_if_match,
            target_if_none_match=target_if_none_match,
        )
        if not tags:
            return info
        if self._copies_keep is None:
            found = await self.inner.head(target)
            self._copies_keep = bool(found.headers and found.headers.tag_count)
        return info if self._copies_keep else await self._tag(target, info, tags)

    def _keeps(self) -> bool:
        return bool(self._copies_keep) or self._provider.name in _COPIES_KEEP

    async def _with_tags(self, key: str, headers: Headers, *, new: bool = False) -> Headers:
        """As `with_tags_of`; `new`: nothing may be there."""
        if new:
            return headers
        return await with_tags_of(self.inner, self._provider, key, headers)

    async def _as_allowed(self, headers: Headers, send: Callable[[Headers], Awaitable[T]]) -> T:
        """Send with the tags; where only these are refused, without them: bytes come first."""
        if not headers.tags:
            return await send(headers)
        try:
            return await send(headers)
        except StoreError as exc:
            if exc.status != HTTPStatus.FORBIDDEN and not is_refusal(exc):
                raise
            refused = exc
        answer = await send(replace(headers, tags=""))
        log.warning("an object is stored without its tags, which are refused: %s", refused)
        return answer

    async def _tag(self, key: str, info: ObjectInfo, tags: str) -> ObjectInfo:
        """Give an object the tags that it was to be stored with."""
        try:
            await self.inner.set_tags(key, dict(parse_qsl(tags, keep_blank_values=True)))
        except StoreError as exc:
            log.warning("an object is stored without its tags: %s", exc)
            return info
        return _told(info, replace(info.headers or Headers(), tags=tags))


def _told(info: ObjectInfo, sent: Headers) -> ObjectInfo:
    """The answer to an upload, with how many tags the object has now."""
    count = len(parse_qsl(sent.tags, keep_blank_values=True))
    return replace(info, headers=replace(sent, tag_count=count))
