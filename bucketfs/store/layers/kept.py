"""What some endpoints take without a word and do not keep: user metadata, and keys that end in "/".

Looked at once an endpoint, after the first request that is of no use without it.
"""

from __future__ import annotations

import logging
from typing import Final

from bucketfs.errors import NotFound, StoreError, Unsupported
from bucketfs.store.base import ObjectInfo, Store, version_token
from bucketfs.store.capability import Provider
from bucketfs.store.refusal import is_refusal

_log = logging.getLogger("bucketfs.store.layers.kept")

#: What keys of markers end in: objects of no bytes that stand for directories.
MARKER: Final = "/"


class Kept:
    """Sees what becomes of the objects of one bucket.

    Args:
        inner: What is asked; no fallbacks.
        provider: Told what was seen.
    """

    def __init__(self, inner: Store, provider: Provider) -> None:
        self._inner = inner
        self._provider = provider

    def seen(self, info: ObjectInfo) -> ObjectInfo:
        """An object was asked for: one that has metadata shows that metadata is kept."""
        if info.headers is not None and info.headers.metadata:
            self._provider.confirm("user_metadata")
        return info

    async def metadata(self, stored: ObjectInfo) -> bool:
        """Whether an object that was just stored with metadata has it."""
        if not self._provider.is_unseen("user_metadata"):
            return self._provider.capabilities.user_metadata
        try:
            found = await self._inner.head(stored.key)
        except StoreError:
            return True  # somebody has deleted it, or it may not be looked at: the next one tells
        if found.etag != stored.etag:
            return True
        kept = found.headers is not None and bool(found.headers.metadata)
        if not kept:
            _log.warning(
                "%s keeps no user metadata: modes, owners, times and extended attributes cannot be"
                " changed, and there are no symbolic links", self._provider.name,
            )  # fmt: skip
        self._provider.learn(user_metadata=kept)
        return kept

    async def marker(self, key: str) -> bool:
        """Whether a marker that was just stored is there; if not, nothing of it is left."""
        if not self._provider.is_unseen("markers"):
            return self._provider.capabilities.markers
        try:
            kept = await self._is_there(key)
        except StoreError as exc:
            _log.info("whether a marker is kept is not known yet: %s", exc)
            return True
        if kept is None:
            return True
        if not kept:
            _log.warning(
                "%s keeps no objects whose keys end in a slash: a directory that is empty exists"
                " as long as this mount does", self._provider.name,
            )  # fmt: skip
            try:
                await self._inner.delete(key)
            except StoreError as exc:
                _log.warning("what became of %r stays in the bucket: %s", key, exc)
        self._provider.learn(markers=kept)
        return kept

    async def _is_there(self, key: str) -> bool | None:
        """Whether a listing shows a marker, or else a HEAD: some listings are late.

        None: it has got entries meanwhile, and nothing can be said.
        """
        page = await self._inner.list(key, delimiter="", limit=1)
        if page.objects or page.left_out:
            return True if page.objects and page.objects[0].key == key else None
        lost_its_slash = await self._is_found(key.rstrip(MARKER))
        return not lost_its_slash and await self._is_found(key)

    async def _is_found(self, key: str) -> bool:
        try:
            await self._inner.head(key)
        except StoreError as exc:
            if isinstance(exc, NotFound) or is_refusal(exc):
                return False
            raise
        return True


def is_marker(key: str, size: int) -> bool:
    """Whether an object is a directory's own."""
    return key.endswith(MARKER) and not size


def no_marker(key: str) -> ObjectInfo:
    """What stands for a marker where there are none."""
    return ObjectInfo(key, 0, version_token(0, 0), 0)


def not_kept(operation: str, key: str) -> Unsupported:
    """What a request has failed with whose metadata the endpoint does not keep."""
    why = "the endpoint keeps no user metadata"
    return Unsupported("NotImplemented", status=501, operation=operation, key=key, message=why)
