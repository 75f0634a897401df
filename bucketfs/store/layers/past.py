"""A bucket as it was at a moment: of each object the version that stood under its key then.

A versioned bucket keeps old versions and the marks of deletions (Amazon S3 User Guide, "Working
with object versions"). What was deleted for good since (by a lifecycle rule, say) cannot be shown.
Nothing can be written: every other call is refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from cachetools import LRUCache

from bucketfs.errors import NoAnswer, NotFound, StoreError, is_denied
from bucketfs.store.base import (
    ListPage,
    ObjectInfo,
    ObjectVersion,
    OnToken,
    Sink,
    UploadInfo,
    VersionPage,
    ignored,
)
from bucketfs.store.layers.wrapper import Call, StoreWrapper, VersionedStore
from bucketfs.store.long_listing import Repeats
from bucketfs.tasks import gather

log = logging.getLogger("bucketfs.store.past")

T = TypeVar("T")

#: Versions that are remembered, so that a file that was listed is read without a look for its id.
_REMEMBERED: Final = 200_000
#: Versions that are asked for when one key is looked for: most have fewer.
_FEW: Final = 20
#: Directories that are looked into at once, whether they had anything in them.
_AT_ONCE: Final = 8


def as_of(
    versions: Iterable[ObjectVersion], at: float, decided: str
) -> tuple[list[ObjectVersion], str]:
    """Of each key what stood under it at Unix time `at`.

    Args:
        versions: By key, the newest of each first; a part of a listing.
        at: The moment; what was stored in its second counts.
        decided: The key that the part before was sure of last, "" for none.

    Returns:
        Versions that are no deletions, and the key that is decided last now.
    """
    found = []
    for version in versions:
        if version.info.key == decided or version.info.last_modified > at:
            continue
        decided = version.info.key
        if not version.deleted:
            found.append(version)
    return found, decided


class PastStore(StoreWrapper):
    """See the module.

    Args:
        inner: The bucket.
        at: The moment in Unix seconds, not later than now; or key and id of a version that was
            stored then, which `check` asks for.
    """

    def __init__(self, inner: VersionedStore, at: float | tuple[str, str]) -> None:
        super().__init__(inner)
        self._bucket = inner
        self._version = at if isinstance(at, tuple) else None
        self._at = 0.0 if isinstance(at, tuple) else at
        self._ids: LRUCache[str, str] = LRUCache(_REMEMBERED)
        self._existed: LRUCache[str, bool] = LRUCache(_REMEMBERED)

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:  # noqa: ARG002
        raise StoreError(
            "AccessDenied", status=403, operation=call.operation, key=call.key,
            message="the past cannot be changed",
        )  # fmt: skip

    async def head(self, key: str) -> ObjectInfo:
        return await self._bucket.head(key, version=await self._id_of(key, "HeadObject"))

    async def heads(
        self,
        keys: Sequence[str],
        told: Callable[[ObjectInfo], None],
        failed: Callable[[StoreError], None] = ignored,
    ) -> None:
        """Tells nothing: which version each had then takes questions of its own."""

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
        version = await self._id_of(key, "GetObject")
        return await self._bucket.get(
            key, sink, start=start, stop=stop, if_match=if_match, size=size, version=version
        )

    async def details(self, key: str) -> Mapping[str, str]:
        return await self._bucket.details(key, version=await self._id_of(key, "HeadObject"))

    async def tags(self, key: str) -> Mapping[str, str]:
        return await self._bucket.tags(key, version=await self._id_of(key, "GetObjectTagging"))

    async def presigned_url(self, key: str, seconds: int) -> str:
        version = await self._id_of(key, "GetObject")
        return await self._bucket.presigned_url(key, seconds, version=version)

    async def versions(self, key: str) -> Sequence[ObjectVersion]:
        """All of them, later ones, too."""
        return await self._bucket.versions(key)

    async def list(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        token: str | None = None,
        start_after: str = "",
        limit: int = 1000,
        on_token: OnToken | None = None,  # noqa: ARG002 - what comes next is decided by this page
    ) -> ListPage:
        key, version_id, decided = json.loads(token) if token else (start_after, "", "")
        markers, repeats = (key, version_id) if key else None, Repeats()
        left_out = 0
        while True:
            page = await self._bucket.list_versions(
                prefix, delimiter=delimiter, markers=markers, limit=max(limit, _FEW)
            )
            left_out += page.left_out
            found, decided = as_of(page.versions, self._at, decided)
            prefixes = await self._that_existed(page.prefixes)
            markers = page.markers
            if found or prefixes or markers is None:
                break
            check_repeats(repeats, prefix, page)
        for version in found:
            self._ids[version.info.key] = version.version_id
        following = json.dumps((*markers, decided)) if markers else None
        return ListPage([version.info for version in found], prefixes, following, left_out)

    async def _that_existed(self, prefixes: Sequence[str]) -> Sequence[str]:
        jobs = [partial(self._has_any, prefix) for prefix in prefixes]
        answers = await gather(jobs, limit=_AT_ONCE)
        return [prefix for prefix, existed in zip(prefixes, answers, strict=True) if existed]

    async def list_uploads(self, prefix: str) -> Sequence[UploadInfo]:  # noqa: ARG002
        return []

    async def check(self) -> bool:
        await self._bucket.list_versions("", limit=1)
        if self._version is not None:
            await self._find_moment(*self._version)
            self._version = None
        if not await self._may_keep_versions():
            log.warning(
                "the bucket keeps no versions: objects that were replaced or deleted since are"
                " not shown"
            )
        return True  # what was below the prefix then was not asked

    async def _may_keep_versions(self) -> bool:
        try:
            return await self._bucket.keeps_versions()
        except StoreError as error:
            if not is_denied(error):
                raise
            return True  # nobody tells us

    async def _find_moment(self, key: str, version_id: str) -> None:
        """Look when a version was stored. Raises StoreError: there is none."""
        for version in await self._bucket.versions(key):
            if version.version_id == version_id:
                self._at = version.info.last_modified
                return
        raise StoreError(
            "NoSuchVersion", status=404, operation="ListObjectVersions", key=key,
            message=f"{key} has no version {version_id}: bucketfs versions PATH lists them",
        )  # fmt: skip

    async def _id_of(self, key: str, operation: str) -> str:
        if (known := self._ids.get(key)) is not None:
            return known
        found = await self._first(key, key, _FEW)
        if found is None:
            raise NotFound("NoSuchKey", status=404, operation=operation, key=key)
        return found.version_id

    async def _has_any(self, prefix: str) -> bool:
        """Whether there was any object below a prefix."""
        if (known := self._existed.get(prefix)) is not None:
            return known
        self._existed[prefix] = answer = await self._first(prefix, None, 1000) is not None
        return answer

    async def _first(self, prefix: str, key: str | None, limit: int) -> ObjectVersion | None:
        """The first object there was below a prefix, or, with a key, of that key alone."""
        markers, decided, repeats = None, "", Repeats()
        while True:
            page = await self._bucket.list_versions(
                prefix, delimiter="", markers=markers, limit=limit
            )
            asked = [v for v in page.versions if key is None or v.info.key == key]
            found, decided = as_of(asked, self._at, decided)
            if found:
                self._ids[found[0].info.key] = found[0].version_id
                return found[0]
            passed = key is not None and len(asked) < len(page.versions)
            if page.markers is None or passed or (key is not None and decided == key):
                return None
            markers = page.markers
            check_repeats(repeats, prefix, page)


def check_repeats(repeats: Repeats, prefix: str, page: VersionPage) -> None:
    """Raise NoAnswer where a listing does not come to an end."""
    if page.markers is not None:
        why = repeats.seen("\0".join(page.markers), empty=not (page.versions or page.prefixes))
        if why:
            raise NoAnswer("BadAnswer", operation="ListObjectVersions", key=prefix, message=why)
