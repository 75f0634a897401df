"""Bringing inodes into the bucket: bytes at flush and fsync, attributes a moment after they change.

Everything that writes the object of an inode holds that inode's lock, so that requests for one key
never overtake each other. What fails stays unsaved and is tried again: `close` reports it, the last
close hands it to a background task, unmounting tries a last time.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import mimetypes
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NoReturn

import trio

from bucketfs import clock
from bucketfs.errors import FsError, NotFound, PreconditionFailed, StoreError, errno_of
from bucketfs.file import upload
from bucketfs.file.content import Content
from bucketfs.file.context import Version
from bucketfs.store.base import BytesBody, Headers, ObjectInfo
from bucketfs.tree.inode import NEVER, Directory, Inode, Live
from bucketfs.tree.posix import DIRECTORY_TYPE, NANO, encode, metadata_size
from bucketfs.tree.state import TreeState

log = logging.getLogger(__name__)

#: Seconds between a change of attributes and its CopyObject: chmod, chown and utimens of one
#: program come within a millisecond or two of each other and become one request.
ATTRIBUTE_DELAY = 0.05
#: Pause before an upload that failed is tried again in the background, doubling up to the second.
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
#: S3's limit for user metadata of one object.
METADATA_MAX = 2048
#: Failures that trying again cannot mend.
_PERMANENT = frozenset(
    {errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG, errno.ESTALE, errno.EROFS}
)


def content_type(name: str) -> str:
    """MIME type by extension, as s3fs sets it."""
    return mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"


class Saver:
    """Publishes inodes."""

    def __init__(self, state: TreeState) -> None:
        self._state = state

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

    async def save(self, inode: Inode) -> None:
        """Have the bucket hold everything of this inode: bytes, length, attributes.

        Raises:
            FsError: EFBIG, ENOSPC, ENAMETOOLONG; ESTALE when someone else changed the object.
            StoreError: The request failed; the inode is as unsaved as before.
        """
        if inode.live is None or not self._unsaved(inode.live):
            return
        async with self.exclusive(inode) as live:
            if live.unlinked:
                return
            if live.lost is not None:
                await self._save_lost(inode, live)
            if live.content is not None and live.content.unsaved:
                await self._save_content(inode, live)
            elif live.attributes_unsaved:
                await self._save_attributes(inode, live)

    @asynccontextmanager
    async def exclusive(self, *inodes: Inode) -> AsyncIterator[Live]:
        """Nobody else writes the objects of these inodes meanwhile; yields the first one's state.

        Locks are taken in the order of inode numbers, and none is held while a directory above is
        being renamed (the renaming waits for the locks below it).
        """
        lives = [self._state.enliven(i) for i in inodes]
        order = [self._state.enliven(i) for i in sorted(set(inodes), key=lambda i: i.ino)]
        async with AsyncExitStack() as held:
            while True:
                for inode in inodes:
                    await self.settled(inode)
                for live in order:
                    await held.enter_async_context(live.lock)
                if all(_renaming_above(inode) is None for inode in inodes):
                    break
                await held.aclose()
            yield lives[0]

    async def settled(self, inode: Inode) -> None:
        """Wait until no directory above the inode (or itself) is being renamed."""
        while (renaming := _renaming_above(inode)) is not None:
            await renaming.wait()

    def later(self, inode: Inode) -> None:
        """Save the inode's attributes in a moment, together with what else changes until then."""
        live = self._state.enliven(inode)
        if not live.saving_attributes:
            live.saving_attributes = True
            self._state.background.start(lambda: self._save_later(inode, live), "save attributes")

    def keep_trying(self, inode: Inode) -> None:
        """Save what is unsaved after the last close, in the background, until it has worked."""
        live = self._state.enliven(inode)
        if not live.retrying:
            live.retrying = True
            self._state.background.start(lambda: self._retry(inode, live), "save after close")

    async def _save_later(self, inode: Inode, live: Live) -> None:
        try:
            await trio.sleep(ATTRIBUTE_DELAY)
        finally:
            live.saving_attributes = False
        content = live.content
        if content is not None and content.unsaved and content.handles:
            return  # they go with the bytes
        await self._retry(inode, live)

    async def _retry(self, inode: Inode, live: Live) -> None:
        pause = RETRY_FIRST
        try:
            while True:
                try:
                    return await self.save(inode)
                except (StoreError, FsError) as error:
                    if not self._worth_retrying(inode, error):
                        return None
                    log.warning(
                        "%s is not saved yet, trying again in %.0f s: %s",
                        self._state.shown(inode),
                        pause,
                        error,
                    )
                await trio.sleep(pause)
                pause = min(pause * 2, RETRY_MOST)
        finally:
            live.retrying = False
            self._after(inode, live)

    def _worth_retrying(self, inode: Inode, error: StoreError | FsError) -> bool:
        if errno_of(error) not in _PERMANENT:
            return True
        log.error("%s cannot be saved: %s", self._state.shown(inode), error)
        self.give_up(inode)
        return False

    def give_up(self, inode: Inode) -> None:
        """Forget what cannot be saved; the bucket's version counts again."""
        live = inode.live
        if live is None:
            return
        live.attributes_unsaved = False
        inode.checked = NEVER
        if live.content is not None:
            if live.content.handles:
                return
            self._state.close_content(inode)
        inode.posix = None
        if not inode.etag:
            self._state.unlink(inode)
        self._state.settle(inode)

    def _after(self, inode: Inode, live: Live) -> None:
        """The last close may have been while the save was under way: clean up what it left."""
        content = live.content
        if content is not None and not content.handles and not content.unsaved:
            self._state.close_content(inode)
        self._state.settle(inode)

    def _unsaved(self, live: Live) -> bool:
        return live.attributes_unsaved or (live.content is not None and live.content.unsaved)

    async def _save_content(self, inode: Inode, live: Live) -> None:
        content = live.content
        assert content is not None
        changes = live.attribute_changes
        key = self._state.key(inode)
        replaced = self._state.take_deferred(key)
        etag = inode.etag or (replaced.etag if replaced else "")
        target = upload.Target(key, self.headers(inode), if_match=etag, if_none_match=not etag)
        try:
            info = await upload.publish(self._state.files, content, target)
        except NotFound as error:
            info = await self._publish_again(target, content, error)
        except PreconditionFailed as error:
            await self._keep_beside(inode, live, error)
        except FsError as error:
            if error.errno != errno.ESTALE:
                raise
            await self._keep_beside(inode, live, error)
        self._saved(inode, live, info, target.headers, changes)
        inode.size = content.size
        inode.opened = info.etag

    async def _publish_again(
        self, target: upload.Target, content: Content, error: NotFound
    ) -> ObjectInfo:
        """Others removed the object: what is here becomes the file again, if it is all here."""
        if content.fetcher.missing(0, content.size):
            raise FsError(errno.ESTALE, f"{target.key!r} was removed by someone else") from error
        content.forget_base()
        return await upload.publish(
            self._state.files, content, dataclasses.replace(target, if_match="", if_none_match=True)
        )

    async def _save_lost(self, inode: Inode, live: Live) -> None:
        """The name was given to another object while programs had this one open."""
        if live.content is None or not live.content.unsaved:
            live.attributes_unsaved = False
            return
        await self._keep_beside(inode, live, None)

    async def _keep_beside(self, inode: Inode, live: Live, cause: Exception | None) -> NoReturn:
        """Others replaced the object: theirs stays under the name, ours goes beside it.

        The inode goes on under the new name, so that nothing written later is lost either.

        Raises:
            FsError: ESTALE, with our bytes safe.
        """
        content = live.content
        assert content is not None
        parent, name = live.lost or (inode.parent, inode.name)
        assert parent is not None
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(clock.wall_ns() // NANO))
        new_name = f"{name}.conflict-{socket.gethostname()}-{moment}"
        gaps = content.fetcher.missing(0, content.size)
        if gaps:
            log.error("of the version of %r that was changed here, %s are lost", name, gaps)
        content.forget_base()
        target = upload.Target(
            self._state.child_key(parent, new_name), self.headers(inode), if_none_match=True
        )
        changes = live.attribute_changes
        info = await upload.publish(self._state.files, content, target)
        log.error("%r was changed by someone else; the local version is %r", name, target.key)
        parent.listed = NEVER
        self._state.unlink(inode)
        self._state.link(parent, new_name, inode)
        self._saved(inode, live, info, target.headers, changes)
        inode.size = content.size
        raise FsError(errno.ESTALE, f"{name!r} was changed by someone else") from cause

    async def _save_attributes(self, inode: Inode, live: Live) -> None:
        changes = live.attribute_changes
        headers = self.headers(inode)
        if isinstance(inode, Directory):
            key = self._state.prefix(inode)
            if key:
                info = await self._state.store.put(key, BytesBody(b""), headers)
                inode.markers = (inode.markers or frozenset()) | {"/"}
                self._saved(inode, live, info, headers, changes)
            else:
                live.attributes_unsaved = False  # a whole bucket has no object for its root
            return
        key = self._state.key(inode)
        info = await self._state.store.copy(
            key, key, size=inode.size, headers=headers, source_if_match=inode.etag
        )
        if inode.opened == inode.etag:
            inode.opened = info.etag
        if live.content is not None:
            live.content.rebase(Version(key, info.etag, inode.size))
        self._saved(inode, live, info, headers, changes)

    def _saved(
        self, inode: Inode, live: Live, info: ObjectInfo, headers: Headers, changes: int
    ) -> None:
        inode.etag = info.etag
        inode.modified = info.last_modified
        self._state.note_change(inode)
        inode.checked = clock.monotonic()
        self._state.index.put_headers(info.key, info.etag, info.last_modified, headers)
        if live.attribute_changes == changes:
            live.attributes_unsaved = False
        else:
            live.attributes_unsaved = True
            self.later(inode)

    async def _delete_quietly(self, key: str) -> None:
        try:
            await self._state.store.delete(key)
        except StoreError as error:
            log.error("a removed file stays in the bucket: %s", error)

    async def drain(self) -> list[str]:
        """Save everything that is unsaved, once; answers the paths that could not be."""
        failed = []
        for key in list(self._state.deferred):
            if self._state.take_deferred(key) is not None:
                await self._delete_quietly(key)
        for inode in list(self._state.live):
            try:
                await self.save(inode)
            except (StoreError, FsError) as error:
                failed.append(self._state.shown(inode))
                log.error(
                    "%s could not be saved before the end of the mount: %s", failed[-1], error
                )
        return failed


def _renaming_above(inode: Inode) -> trio.Event | None:
    node: Inode | None = inode
    while node is not None:
        if isinstance(node, Directory) and node.renaming is not None:
            return node.renaming
        node = node.parent
    return None
