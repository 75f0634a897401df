"""Writing one inode's object: its bytes, its attributes, or both.

The caller holds the inode's lock. On a conflict nothing is lost: the bucket's object keeps the
name, and what was written here is stored beside it (`conflict`). Where the mount was asked to
overwrite, our version takes the name, if it is whole: bytes of others' version are never mixed into
it.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from bucketfs import clock
from bucketfs.cache.pages import PageBody
from bucketfs.errors import FsError, NotFound, PreconditionFailed, StoreError, Unseen, is_denied
from bucketfs.file import upload
from bucketfs.file.content import Content
from bucketfs.file.context import Version
from bucketfs.file.target import Target
from bucketfs.store.base import BytesBody, Headers, ObjectInfo
from bucketfs.tree.core.inode import NEVER, Directory, Inode, OpenState
from bucketfs.tree.core.posix import tagged_as, with_times_of
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.saving.conflict import Conflicts, Published
from bucketfs.tree.saving.lost_answers import find_arrived
from bucketfs.tree.saving.promises import Promises

log = logging.getLogger(__name__)

#: What is not found when it is not the object.
_NOT_THE_OBJECT = frozenset({"NoSuchBucket", "NoSuchUpload"})
#: Bytes of a file that are stored once more for its attributes, where it may not be copied: what
#: one request takes within a second.
_AGAIN_MOST = 64 << 20


@dataclass(frozen=True, slots=True)
class Saved:
    """What publishing has come to.

    Attributes:
        attributes_left: They changed while they were being saved: the bucket has older ones.
        conflict: The bytes are in a conflict copy: ESTALE, or EEXIST for a file made with O_EXCL.
    """

    attributes_left: bool
    conflict: FsError | None = None


class Publisher:
    """Writes objects."""

    def __init__(self, state: TreeState, promises: Promises) -> None:
        self._state = state
        self._store = state.files.store
        self._index = state.files.cache.index
        self._promises = promises
        self._conflicts = Conflicts(state)

    async def content(self, inode: Inode, open_state: OpenState) -> Saved:
        """Store bytes and attributes.

        Raises:
            FsError: EFBIG, ENOSPC, ENAMETOOLONG; EIO, where a conflict would lose bytes.
            StoreError: The upload failed, nothing has changed.
            bucketfs.file.upload.Interrupted: Somebody needs the inode's lock.
        """
        content = open_state.content
        assert content is not None
        with _attempt(open_state):
            content.hold()  # what a refusal leads to is done with the same bytes
            try:
                published = await self._store_bytes(inode, open_state, content)
            finally:
                content.unhold()
            if published.conflict is None:
                open_state.exclusive = False
                self._state.retain(published.target.key)
            left = self._note_saved(inode, open_state, published.info, published.target)
        content.conflicts += published.conflict is not None
        return Saved(left, published.conflict)

    async def _store_bytes(
        self, inode: Inode, open_state: OpenState, content: Content
    ) -> Published:
        lost = open_state.lost
        if lost is not None and not self._conflicts.take_name_back(inode, lost):
            open_state.overtaken()
            return await self._conflicts.keep_ours_beside(inode, open_state, content, None)
        target = self._state.target(inode)
        try:
            return await self._publish_noted(inode, target, content)
        except PreconditionFailed as error:
            found = await find_arrived(self._store, target, content)
            if found is None:
                open_state.overtaken()
                return await self._conflicts.resolve(inode, open_state, target, error)
            info, target = found
            return await self._publish(target, content) if info is None else Published(info, target)
        except FsError as error:
            if error.errno != errno.ESTALE or content.early_upload.has_upload_only:
                raise
            open_state.overtaken()
            return await self._conflicts.resolve(inode, open_state, target, error)

    async def _publish_noted(self, inode: Inode, target: Target, content: Content) -> Published:
        """Publish, and remember an upload whose outcome is not known."""
        if content.promise is not None:
            self._promises.attempting(content, target.headers)
        try:
            return await self._publish(target, content)
        except PreconditionFailed:
            raise
        except (Exception, trio.Cancelled) as error:
            refused = isinstance(error, StoreError) and 400 <= error.status < 500
            content.may_have_arrived = content.may_have_arrived or not refused
            self._promises.attempted(inode, content, target.headers)
            raise

    async def _publish(self, target: Target, content: Content) -> Published:
        try:
            return Published(*await upload.publish(self._state.files, content, target))
        except NotFound as error:
            if error.code in _NOT_THE_OBJECT:
                raise
            if content.early_upload.has_upload_only:
                raise PreconditionFailed(error.code, status=error.status, key=error.key) from error
            await content.prove()
            if content.local.missing(0, content.size):
                raise FsError(errno.ESTALE, f"{target.key!r} was removed by others") from error
        # others removed the object, and all of it is here: it becomes the file again
        content.drop_base()
        again = dataclasses.replace(target, if_match="", if_none_match=True)
        return Published(*await upload.publish(self._state.files, content, again))

    async def attributes(self, inode: Inode, open_state: OpenState) -> Saved:
        """Store attributes alone: a marker, or a copy of the object onto itself.

        Raises:
            StoreError: It failed, nothing has changed.
        """
        with _attempt(open_state):
            return await self._attributes(inode, open_state)

    async def _attributes(self, inode: Inode, open_state: OpenState) -> Saved:
        target = Target("", inode.headers(), changes=open_state.attribute_changes)
        if isinstance(inode, Directory) and not inode.size:
            key = self._state.prefix(inode)
            if not (key and self._store.capabilities.markers):
                # a whole bucket has no object for its root, and some endpoints have none at all
                open_state.attributes_dropped()
                return Saved(attributes_left=False)
            info = await self._store.put(key, BytesBody(b""), target.headers)
            inode.markers = (inode.markers or frozenset()) | {"/"}
            theirs = False
        else:
            try:
                info = await self._copy_onto_itself(inode, target.headers)
            except NotFound as error:
                if error.code in _NOT_THE_OBJECT:
                    raise
                self._drop_attributes(inode, open_state)
                return Saved(attributes_left=False)
            theirs = inode.checked == NEVER  # it may be of a version that we have not seen
        left = self._note_saved(inode, open_state, info, target)
        if theirs:
            inode.checked, inode.opened = NEVER, ""
        return Saved(left)

    def _drop_attributes(self, inode: Inode, open_state: OpenState) -> None:
        """Others have removed the object whose attributes were changed here: they went with it."""
        log.warning("%s was removed by someone else, with its new attributes", inode.name)
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

    def _note_saved(
        self, inode: Inode, open_state: OpenState, info: ObjectInfo, target: Target
    ) -> bool:
        """The bucket has the inode as `target` says; whether its attributes changed meanwhile."""
        content = open_state.content
        whole = content is not None and not content.unsaved
        if content is not None and whole:
            if content.promise is not None:
                self._promises.kept(content)
            inode.size = content.size
        inode.etag = inode.opened = info.etag
        inode.modified = info.last_modified
        inode.checked = clock.monotonic()
        self._state.note_change(inode)
        self._index.put_headers(info.key, info.etag, info.last_modified, target.headers)
        open_state.attributes_stored(target.changes)
        if inode.posix is not None and info.headers is not None:
            inode.posix = tagged_as(inode.posix, info.headers)
        left = open_state.attributes_unsaved
        if not left and inode.posix is not None:
            # a streamed upload carries the times of its beginning: what is shown stays what is
            # stored
            inode.posix = with_times_of(inode.posix, target.headers)
        return left


@contextmanager
def _attempt(open_state: OpenState) -> Iterator[None]:
    """The block brings what is unsaved to the bucket; what it comes to moves the inode on."""
    open_state.begin()
    try:
        yield
    except upload.Interrupted:
        open_state.interrupted()
        raise
    except Exception as error:
        open_state.failed(error)
        raise
    except BaseException:  # cancelled
        open_state.interrupted()
        raise
    open_state.saved()
