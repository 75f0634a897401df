"""Writing one inode's object: its bytes, its attributes, and what happens when others wrote it too.

The caller holds the inode's lock. On a conflict nothing is lost: the bucket's object keeps the
name, and what was written here is stored beside it. Where the mount was asked to overwrite, our
version takes the name, if it is whole: bytes of others' version are never mixed into it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import logging
import mimetypes
import socket
import time
from collections.abc import Callable
from typing import NoReturn

import trio

from bucketfs import clock
from bucketfs.cache.pages import PageBody
from bucketfs.errors import FsError, NotFound, PreconditionFailed, StoreError
from bucketfs.file import upload
from bucketfs.file.content import Content
from bucketfs.file.context import Version
from bucketfs.file.plan import SINGLE_PUT
from bucketfs.file.target import Target
from bucketfs.store.base import BytesBody, Headers, ObjectInfo
from bucketfs.tree.core.inode import NEVER, Directory, Inode, OpenState
from bucketfs.tree.core.names import NAME_MAX
from bucketfs.tree.core.posix import DIRECTORY_TYPE, NANO, encode, metadata_size, with_times_of
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.saving.promises import Promises

log = logging.getLogger(__name__)

#: S3's limit for user metadata of one object.
METADATA_MAX = 2048
#: What is not found when it is not the object.
_NOT_THE_OBJECT = frozenset({"NoSuchBucket", "NoSuchUpload"})
#: How often others may replace an object while ours is to take its place.
CONFLICT_TRIES = 5
#: How many names for the copy of one version are tried, one of each second from now on.
CONFLICT_NAMES = 5


def content_type(name: str) -> str:
    """MIME type by extension, as s3fs sets it."""
    return mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"


class Publisher:
    """Writes objects.

    Args:
        state: The tree.
        save_later: Called with an inode whose attributes changed while they were being saved.
        promises: What the journal knows of files that are not saved yet.
    """

    def __init__(
        self, state: TreeState, save_later: Callable[[Inode], None], promises: Promises
    ) -> None:
        self._state = state
        self._save_later = save_later
        self.promises = promises
        promises.target = self.target

    def headers(self, inode: Inode) -> Headers:
        """What the inode's object is to carry.

        Raises:
            FsError: ENOSPC when the attributes (xattrs, above all) exceed what an object can carry.
        """
        assert inode.posix is not None, "attributes are known before anything is saved"
        kind = DIRECTORY_TYPE if isinstance(inode, Directory) else content_type(inode.name)
        headers = encode(inode.posix, kind)
        if metadata_size(headers) > METADATA_MAX:
            raise FsError(errno.ENOSPC, f"more than {METADATA_MAX} bytes of metadata")
        return headers

    async def content(self, inode: Inode, open_state: OpenState) -> None:
        """Store bytes and attributes.

        Raises:
            FsError: ESTALE on a conflict (EEXIST for a file created with O_EXCL), with our bytes
                kept beside; EFBIG, ENOSPC, ENAMETOOLONG.
            StoreError: The upload failed, nothing has changed.
            bucketfs.file.upload.Interrupted: Somebody needs the inode's lock.
        """
        content = open_state.content
        assert content is not None
        content.hold()  # what a refusal leads to is done with the same bytes
        try:
            await self._store(inode, open_state, content)
        finally:
            content.unhold()

    async def _store(self, inode: Inode, open_state: OpenState, content: Content) -> None:
        if open_state.lost is not None and not self._take_name_back(inode, open_state.lost):
            await self._keep_ours_beside(inode, open_state, content, None)
        target = self.target(inode, open_state)
        try:
            info, target = await self._publish_ours(inode, target, content)
        except PreconditionFailed as error:
            found = await self._arrived(target, content)
            if found is not None:
                info, target = found
            elif content.early_upload.has_upload_only:
                info, target = await self._replace_theirs(inode, target, content)
            else:
                info, target = await self._resolve_conflict(inode, open_state, target, error)
        except FsError as error:
            if error.errno != errno.ESTALE or content.early_upload.has_upload_only:
                raise
            info, target = await self._resolve_conflict(inode, open_state, target, error)
        open_state.exclusive = False
        self._state.retain(target.key)
        self._saved(inode, open_state, info, target.headers, target.changes)

    async def finish_upload(self, inode: Inode, open_state: OpenState) -> None:
        """Have nothing of a file in an unfinished upload only; raises as `content` does."""
        while open_state.content is not None and open_state.content.early_upload.has_upload_only:
            with contextlib.suppress(upload.Interrupted):
                await self.content(inode, open_state)

    def target(self, inode: Inode, open_state: OpenState) -> Target:
        """Where the inode's bytes go now.

        Raises:
            FsError: ENOSPC, ENAMETOOLONG; ESTALE for an inode without a name.
        """
        key = self._state.key(inode)
        replaced = self._state.deferred.get(key)
        etag = inode.etag or (replaced.etag if replaced else "")
        return Target(
            key,
            self.headers(inode),
            changes=open_state.attribute_changes,
            if_match=etag,
            if_none_match=not etag,
        )

    async def attributes(self, inode: Inode, open_state: OpenState) -> None:
        """Store attributes alone: a marker, or a copy of the object onto itself.

        Raises:
            StoreError: It failed, nothing has changed.
        """
        changes = open_state.attribute_changes
        headers = self.headers(inode)
        if isinstance(inode, Directory) and not inode.size:
            key = self._state.prefix(inode)
            if not key:
                open_state.attributes_unsaved = False  # a whole bucket has no object for its root
                return
            info = await self._state.store.put(key, BytesBody(b""), headers)
            inode.markers = (inode.markers or frozenset()) | {"/"}
            theirs = False
        else:
            try:
                info = await self._copy_onto_itself(inode, headers)
            except NotFound as error:
                if error.code in _NOT_THE_OBJECT:
                    raise
                self._drop_attributes(inode, open_state)
                return
            theirs = inode.checked == NEVER  # it may be of a version that we have not seen
        self._saved(inode, open_state, info, headers, changes)
        if theirs:
            inode.checked, inode.opened = NEVER, ""

    def _drop_attributes(self, inode: Inode, open_state: OpenState) -> None:
        """Others have removed the object whose attributes were changed here: they went with it."""
        log.warning("%s was removed by someone else, with its new attributes", inode.name)
        open_state.attributes_unsaved = False
        inode.checked = NEVER
        if inode.parent is not None:
            inode.parent.listed = NEVER

    async def _copy_onto_itself(self, inode: Inode, headers: Headers) -> ObjectInfo:
        key = self._state.prefix(inode) if isinstance(inode, Directory) else self._state.key(inode)
        condition = self._state.copy_condition(inode)
        info = await self._state.store.copy(
            key, key, size=inode.size, headers=headers, source_if_match=condition
        )
        old = Version(key, inode.etag, inode.size)
        self._state.moved(inode, old, info, sure=bool(condition))
        return info

    async def _publish(self, target: Target, content: Content) -> tuple[ObjectInfo, Target]:
        try:
            return await upload.publish(self._state.files, content, target)
        except NotFound as error:
            if error.code in _NOT_THE_OBJECT:
                raise
            if content.early_upload.has_upload_only:
                raise PreconditionFailed(error.code, status=error.status, key=error.key) from error
            await content.prove()
            if content.fetcher.missing(0, content.size):
                raise FsError(errno.ESTALE, f"{target.key!r} was removed by others") from error
        # others removed the object, and all of it is here: it becomes the file again
        content.drop_base()
        again = dataclasses.replace(target, if_match="", if_none_match=True)
        return await upload.publish(self._state.files, content, again)

    async def _publish_ours(
        self, inode: Inode, target: Target, content: Content
    ) -> tuple[ObjectInfo, Target]:
        """Publish, and remember an upload whose outcome is not known."""
        self.promises.attempting(content, target.headers)
        try:
            return await self._publish(target, content)
        except PreconditionFailed:
            raise
        except (Exception, trio.Cancelled) as error:
            refused = isinstance(error, StoreError) and 400 <= error.status < 500
            content.may_have_arrived = content.may_have_arrived or not refused
            self.promises.attempted(inode, content, target.headers)
            raise

    async def delete_attempt(self, key: str, content: Content) -> None:
        """Delete what an upload of unknown outcome has made of a key that the file is to lose.

        Raises:
            StoreError: A request failed.
        """
        if not content.may_have_arrived:
            return
        with contextlib.suppress(NotFound):
            found = await self._state.store.head(key)
            if self._is_attempt(found, content):
                await self._state.store.delete(key, if_match=found.etag)
        content.may_have_arrived = False

    def _is_attempt(self, found: ObjectInfo, content: Content) -> bool:
        """Whether an object is of an upload of ours that is said to have failed."""
        said = found.size, dict(found.headers.metadata if found.headers is not None else {})
        # times of a nanosecond are among it
        named = self._state.store.capabilities.user_metadata
        return named and said in [(size, dict(sent)) for size, sent in content.attempts]

    async def _arrived(self, target: Target, content: Content) -> tuple[ObjectInfo, Target] | None:
        """What our own upload has made of the key, when the object there is of one.

        A mount that died, or an answer that was lost, leaves an upload that we know nothing of: if
        it is not of these very bytes, it is replaced by them.
        """
        revision = content.revision
        if (
            content.promise is None and not content.attempts
        ) or content.early_upload.has_upload_only:
            return None
        try:
            found = await self._state.store.head(target.key)
        except NotFound:
            return None
        said = found.size, dict(found.headers.metadata if found.headers is not None else {})
        # times of a nanosecond are among it
        named = self._state.store.capabilities.user_metadata
        same = named and said == (content.size, dict(target.headers.metadata))
        if content.revision == revision and (same or _is_digest(found.etag, content)):
            log.info("%r had been uploaded already", target.key)
            content.published(Version(target.key, found.etag, found.size))
            # other attributes than ours are brought there after it
            return found, target if same else dataclasses.replace(target, changes=-1)
        if not self._is_attempt(found, content):
            return None
        log.info("%r had been uploaded before, and is replaced", target.key)
        if content.base is not None:
            # what is the base version's of this file is the same there
            content.rebase(Version(target.key, found.etag, found.size))
        again = dataclasses.replace(target, if_match=found.etag, if_none_match=False)
        return await self._publish(again, content)

    def _take_name_back(self, inode: Inode, lost: tuple[Directory, str]) -> bool:
        """Have an inode under the name that others gave to another object, if it may have it."""
        parent, name = lost
        theirs = parent.children.get(name)
        if not self._state.config.overwrite or isinstance(theirs, Directory):
            return False
        self._state.link(parent, name, inode)
        return True

    async def _resolve_conflict(
        self, inode: Inode, open_state: OpenState, target: Target, cause: Exception
    ) -> tuple[ObjectInfo, Target]:
        """Others have the name: overwrite their version or keep ours beside, as `_keep_beside`."""
        content = open_state.content
        assert content is not None
        whole = not content.fetcher.missing(0, content.size)
        if not self._state.config.overwrite or open_state.exclusive or not whole:
            await self._keep_ours_beside(inode, open_state, content, cause)
        content.drop_base()
        log.warning("%r was changed by someone else; their version is overwritten", inode.name)
        return await upload.publish(self._state.files, content, _unconditional(target))

    async def _replace_theirs(
        self, inode: Inode, target: Target, content: Content
    ) -> tuple[ObjectInfo, Target]:
        """Publish over others' version, which is kept beside unless it is to be overwritten.

        An upload that alone has some bytes cannot be completed under another name.
        """
        if self._state.config.overwrite:
            log.warning("%r was changed by someone else; their version is overwritten", inode.name)
            return await upload.publish(self._state.files, content, _unconditional(target))
        for last in (*[False] * (CONFLICT_TRIES - 1), True):
            try:
                theirs = await self._copy_theirs_aside(inode, target.key)
                again = dataclasses.replace(target, if_match=theirs, if_none_match=not theirs)
                return await upload.publish(self._state.files, content, again)
            except (PreconditionFailed, NotFound):
                if last:
                    raise
        raise AssertionError("unreachable")

    async def _copy_theirs_aside(self, inode: Inode, key: str) -> str:
        """Copy an object to a conflict name; answers its ETag, "" if there is none."""
        try:
            found = await self._state.store.head(key)
        except NotFound:
            return ""
        parent, now = inode.parent, clock.wall_ns()
        assert parent is not None
        for tries in range(1, CONFLICT_NAMES + 1):
            copy = self._state.child_key(parent, _conflict_name(inode.name, now))
            if not await self._exists(copy):
                break
            if tries == CONFLICT_NAMES:
                raise FsError(errno.EIO, f"all names for a copy are taken, up to {copy!r}")
            now += NANO
        await self._state.store.copy(key, copy, size=found.size, source_if_match=found.etag)
        log.error("%r was changed by someone else; their version is %r", inode.name, copy)
        parent.listed = NEVER
        return found.etag

    async def _exists(self, key: str) -> bool:
        try:
            await self._state.store.head(key)
        except NotFound:
            return False
        return True

    async def _keep_ours_beside(
        self, inode: Inode, open_state: OpenState, content: Content, cause: Exception | None
    ) -> NoReturn:
        """Store our bytes under a conflict name; the inode goes on there, with all later writes.

        Raises:
            FsError: ESTALE (EEXIST for a file created with O_EXCL), always; EIO, and nothing has
                changed, when that would lose bytes.
        """
        if content.early_upload.has_upload_only:
            raise FsError(errno.EIO, f"{inode.name!r} has bytes in an upload of its old name only")
        parent, name = open_state.lost or (inode.parent, inode.name)
        assert parent is not None
        code = errno.EEXIST if open_state.exclusive else errno.ESTALE
        new_name = _conflict_name(name, clock.wall_ns())
        try:
            await content.load(0, content.size)  # the version may be there after all
        except FsError as error:
            if error.errno != errno.ESTALE:
                raise
        gaps = content.fetcher.missing(0, content.size)
        if gaps:
            log.error("of the version of %r that was changed here, %s are lost", name, gaps)
        content.drop_base()
        target = Target(
            self._state.child_key(parent, new_name),
            self.headers(inode),
            changes=open_state.attribute_changes,
            if_none_match=True,
        )
        info, target = await upload.publish(self._state.files, content, target)
        log.error("%r was changed by someone else; the local version is %r", name, target.key)
        parent.listed = NEVER
        self._state.unlink(inode)
        self._state.link(parent, new_name, inode)
        self._state.watcher.moved(parent, name)
        self._saved(inode, open_state, info, target.headers, target.changes)
        content.conflicts += 1
        raise FsError(code, f"{name!r} was changed by someone else") from cause

    def _saved(
        self, inode: Inode, open_state: OpenState, info: ObjectInfo, headers: Headers, changes: int
    ) -> None:
        if open_state.content is not None and not open_state.content.unsaved:
            self.promises.drop(open_state.content)
        inode.etag = inode.opened = info.etag
        inode.modified = info.last_modified
        if open_state.content is not None and not open_state.content.unsaved:
            inode.size = open_state.content.size
        inode.checked = clock.monotonic()
        self._state.note_change(inode)
        self._state.index.put_headers(info.key, info.etag, info.last_modified, headers)
        open_state.attributes_unsaved = open_state.attribute_changes != changes
        if not open_state.attributes_unsaved and inode.posix is not None:
            # a streamed upload carries the times of its beginning: what is shown stays what is
            # stored
            inode.posix = with_times_of(inode.posix, headers)
        if open_state.attributes_unsaved:
            self._save_later(inode)


def _unconditional(target: Target) -> Target:
    return dataclasses.replace(target, if_match="", if_none_match=False)


def _is_digest(etag: str, content: Content) -> bool:
    """Whether an ETag is the MD5 of a content, as that of most single uploads is."""
    if content.size > SINGLE_PUT or content.fetcher.missing(0, content.size):
        return False
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in PageBody(content.fetcher.pages, 0, content.size).chunks():
        digest.update(chunk)
    return digest.hexdigest() == etag


def _conflict_name(name: str, now_ns: int) -> str:
    """``NAME.conflict-HOST-TIME``, cut to what a name may have."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ns // NANO))
    suffix = f".conflict-{socket.gethostname()}-{moment}"
    kept = name.encode()[: NAME_MAX - len(suffix.encode())]
    return kept.decode(errors="ignore") + suffix
