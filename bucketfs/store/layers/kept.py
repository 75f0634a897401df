"""What some endpoints take without a word and do not keep: user metadata, and keys that end in "/".

Looked at once an endpoint: before the first request that is of no use without it, as far as reading
can tell, and else after it.
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
#: Keys among which there is mostly one of an object that has bytes.
_SOME: Final = 100


class Kept:
    """Sees what becomes of the objects of one bucket.

    Args:
        inner: What is asked; no fallbacks.
        provider: Told what was seen.
        prefix: What keys of the mount begin with.
    """

    def __init__(self, inner: Store, provider: Provider, prefix: str) -> None:
        self._inner = inner
        self._provider = provider
        self._prefix = prefix
        #: What was stored last, with metadata.
        self._sample: ObjectInfo | None = None

    def stored(self, info: ObjectInfo) -> None:
        """An object was stored, with metadata if it has any in `info`."""
        if info.size and info.headers is not None and info.headers.metadata:
            self._sample = info

    def seen(self, info: ObjectInfo) -> ObjectInfo:
        """An object was asked for: one that has metadata shows that metadata is kept."""
        if info.headers is not None and info.headers.metadata:
            self._provider.confirm("user_metadata")
        return info

    async def keeps_metadata(self) -> bool:
        """Whether metadata is kept, as far as it can be told without storing anything."""
        if self._provider.is_unseen("user_metadata") and self._sample is not None:
            await self.metadata(self._sample)
        return self._provider.capabilities.user_metadata

    def not_copied_onto_itself(self, found: ObjectInfo) -> bool:
        """An object was not copied onto itself, which changes nothing but its metadata.

        Returns:
            Whether that is no loss: it has no metadata, and nobody has seen any.
        """
        self.seen(found)
        if self._provider.is_unseen("user_metadata"):
            self._lack_metadata()
        return not self._provider.capabilities.user_metadata

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
        if kept:
            self._provider.confirm("user_metadata")
        else:
            self._lack_metadata()
        return kept

    def _lack_metadata(self) -> None:
        _log.warning(
            "%s keeps no user metadata: modes, owners, times and extended attributes cannot be"
            " changed, and there are no symbolic links", self._provider.name,
        )  # fmt: skip
        self._provider.learn(user_metadata=False)

    async def keeps_markers(self, key: str) -> bool:
        """Whether a marker would be kept, as far as it can be told without storing anything.

        Args:
            key: Of a marker that is to be stored.
        """
        if self._provider.is_unseen("markers"):
            try:
                await self._look_for_markers(key)
            except StoreError as exc:
                _log.info("whether markers are kept is not known yet: %s", exc)
        return self._provider.capabilities.markers

    async def _look_for_markers(self, key: str) -> None:
        page = await self._inner.list(self._prefix, delimiter="", limit=_SOME)
        # all objects of no bytes have the same ETag
        sample = next((info for info in page.objects if info.size), None)
        if any(info.key.endswith(MARKER) for info in page.objects):
            self._provider.confirm("markers")
        elif await self._is_no_key(key) or (sample and await self._is_without_slash(sample)):
            self._lack_markers()

    async def is_for_its_slash(self, key: str) -> bool:
        """Whether a HEAD of a marker was refused for the slash that its key ends in.

        To a HEAD, S3 says with 400 as well that the keys have expired.
        """
        if not self._provider.is_unseen("markers"):
            return not self._provider.capabilities.markers
        try:
            await self._is_found(key.rstrip(MARKER), refused=False)
        except StoreError:
            return False
        return True

    async def _is_no_key(self, key: str) -> bool:
        """Whether a HEAD is refused for the slash that a key ends in, and for nothing else."""
        try:
            await self._inner.head(key)
        except NotFound:
            return False
        except StoreError as exc:
            if not is_refusal(exc):
                raise
            await self._is_found(key.rstrip(MARKER), refused=False)
            return True
        return False

    async def _is_without_slash(self, sample: ObjectInfo) -> bool:
        """Whether an object is found under its key with a slash behind it, too."""
        try:
            found = await self._inner.head(sample.key + MARKER)
        except StoreError as exc:
            # some say of a file that it is no directory
            if isinstance(exc, NotFound) or is_refusal(exc):
                return False
            raise
        return found.etag == sample.etag

    def _lack_markers(self) -> None:
        _log.warning(
            "%s keeps no objects whose keys end in a slash: a directory that is empty exists"
            " as long as this mount does", self._provider.name,
        )  # fmt: skip
        self._provider.learn(markers=False)

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
        if kept:
            self._provider.confirm("markers")
            return True
        self._lack_markers()
        try:
            await self._inner.delete(key)
        except StoreError as exc:
            _log.warning("what became of %r stays in the bucket: %s", key, exc)
        return False

    async def _is_there(self, key: str) -> bool | None:
        """Whether a listing shows a marker, or else a HEAD: some listings are late.

        None: it has got entries meanwhile, and nothing can be said.
        """
        page = await self._inner.list(key, delimiter="", limit=1)
        if page.objects or page.left_out:
            return True if page.objects and page.objects[0].key == key else None
        lost_its_slash = await self._is_found(key.rstrip(MARKER))
        return not lost_its_slash and await self._is_found(key)

    async def _is_found(self, key: str, *, refused: bool = True) -> bool:
        """Whether there is such an object; a HEAD that is `refused` may count for none."""
        try:
            await self._inner.head(key)
        except StoreError as exc:
            if isinstance(exc, NotFound) or (refused and is_refusal(exc)):
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
