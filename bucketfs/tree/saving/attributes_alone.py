"""Attributes without bytes into the bucket: a marker, or a copy of the object onto itself.

The caller holds the inode's lock.
"""

from __future__ import annotations

import logging
from typing import Final

from bucketfs import clock
from bucketfs.cache.pages import PageBody
from bucketfs.errors import NotFound, StoreError, Unseen, is_denied
from bucketfs.file.context import Version
from bucketfs.store.base import BytesBody, Headers, ObjectInfo
from bucketfs.tree.core.inode import NEVER, Directory, Inode, OpenState
from bucketfs.tree.core.state import TreeState

log = logging.getLogger(__name__)

#: What is not found when it is not the object.
NOT_THE_OBJECT: Final = frozenset({"NoSuchBucket", "NoSuchUpload"})
#: Bytes of a file that are stored once more for its attributes, where it may not be copied: what
#: one request takes within a second.
_AGAIN_MOST: Final = 64 << 20


class AttributesAlone:
    """Stores attributes of inodes whose bytes the bucket has."""

    def __init__(self, state: TreeState) -> None:
        self._state = state
        self._store = state.files.store

    async def store(
        self, inode: Inode, open_state: OpenState, headers: Headers
    ) -> ObjectInfo | None:
        """Have the object carry `headers`; None if there is none that could, and they are dropped.

        The inode stands for the version that has come of it.

        Raises:
            StoreError: It failed, nothing has changed.
        """
        if isinstance(inode, Directory) and not inode.size:
            return await self._put_marker(inode, open_state, headers)
        try:
            return await self._copy_onto_itself(inode, headers)
        except NotFound as error:
            if error.code in NOT_THE_OBJECT:
                raise
            self._drop(inode, open_state)
            return None

    async def _put_marker(
        self, directory: Directory, open_state: OpenState, headers: Headers
    ) -> ObjectInfo | None:
        key = self._state.prefix(directory)
        if not (key and self._store.capabilities.markers):
            # a whole bucket has no object for its root, and some endpoints have none at all
            open_state.attributes_dropped()
            return None
        info = await self._store.put(key, BytesBody(b""), headers)
        directory.markers = (directory.markers or frozenset()) | {"/"}
        directory.etag, directory.modified = info.etag, info.last_modified
        directory.checked = clock.monotonic()
        return info

    def _drop(self, inode: Inode, open_state: OpenState) -> None:
        """Others have removed the object whose attributes were changed here: they went with it."""
        log.warning(
            "%s was removed by someone else: the attributes set here are lost",
            self._state.shown(inode),
        )
        open_state.attributes_dropped()
        inode.checked = NEVER
        if inode.parent is not None:
            inode.parent.listed = NEVER

    async def _copy_onto_itself(self, inode: Inode, headers: Headers) -> ObjectInfo:
        key = self._state.prefix(inode) if isinstance(inode, Directory) else self._state.key(inode)
        condition = self._state.copy_condition(inode)
        old = Version(key, inode.etag, inode.size)
        try:
            info = await self._store.copy(
                key, key, size=inode.size, headers=headers, source_if_match=condition
            )
        except StoreError as error:
            cause = error.refusal if isinstance(error, Unseen) and not error.certain else error
            is_small_file = not isinstance(inode, Directory) and inode.size <= _AGAIN_MOST
            if not (is_small_file and is_denied(cause)):
                raise cause from None
            info = await self._put_again(inode, key, headers)
            condition = old.etag
        self._state.moved(inode, old, info, sure=bool(condition))
        return info

    async def _put_again(self, inode: Inode, key: str, headers: Headers) -> ObjectInfo:
        """Store a file's bytes once more, with its new attributes: a copy takes the right to read.

        Raises:
            StoreError: They are not all in the cache, and may not be read; or may not be stored.
        """
        content = self._state.content(inode)
        content.handles += 1
        content.hold()
        try:
            async with content.local.held(0, inode.size):
                body = PageBody(content.local.pages, 0, inode.size)
                return await self._store.put(key, body, headers, if_match=inode.etag)
        finally:
            content.unhold()
            content.handles -= 1
            if not content.handles:
                self._state.close_content(inode)
