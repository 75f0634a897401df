"""Saving now: what close, flush and fsync wait for, until the bucket has it.

What fails stays unsaved: `close` reports it, and the last close hands it to `Later`, which tries
again. With `TreeConfig.writeback` close only promises the bytes (`Promises`), and `Later` brings
them to the bucket. With `FileContext.held_back` nobody does before a flush or the mount's end.

On a conflict nothing is lost: the bucket's object keeps the name, and what was written here is
stored beside it (`conflict`). Where the mount was asked to overwrite, our version takes the name,
if it is whole: bytes of others' version are never mixed into it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import trio

from bucketfs import clock
from bucketfs.errors import FsError, NotFound, PreconditionFailed, StoreError
from bucketfs.file import upload
from bucketfs.file.content import Content
from bucketfs.file.target import Target
from bucketfs.file.upload import Interrupted
from bucketfs.store.base import ObjectInfo
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.core.inode import Directory, Inode, OpenState
from bucketfs.tree.core.locks import Locks, is_renaming
from bucketfs.tree.core.posix import tagged_as, with_times_of
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.saving.attributes_alone import NOT_THE_OBJECT, AttributesAlone
from bucketfs.tree.saving.conflict import Conflicts, Published
from bucketfs.tree.saving.later import Later
from bucketfs.tree.saving.leave import Leaver
from bucketfs.tree.saving.lost_answers import find_arrived
from bucketfs.tree.saving.promises import Promises
from bucketfs.tree.saving.remove import Removals

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outlet:
    """Publishes an inode's file before it is closed (`file.early_upload.Outlet`)."""

    saver: Saver
    inode: Inode

    def target(self) -> Target:
        """Where it is to be published. Raises FsError."""
        return self.saver.early_target(self.inode)

    async def publish(self) -> None:
        """Publish it as it is. Raises FsError and StoreError."""
        await self.saver.save(self.inode)


@dataclass(slots=True)
class Uploaded:
    """What has been brought to the bucket since the mount.

    Attributes:
        files / bytes: How much it was.
        failed: How often the bucket did not take a file, or not in time.
    """

    files: int = 0
    bytes: int = 0
    failed: int = 0


class Saver:
    """Brings what the bucket lacks of an inode there, under its lock.

    Attributes:
        later: Does it in the background, when nobody waits.
        uploaded: Counts what has been.
    """

    def __init__(
        self,
        state: TreeState,
        locks: Locks,
        removals: Removals,
        promises: Promises,
        leaver: Leaver,
    ) -> None:
        self._state = state
        self._locks = locks
        self._removals = removals
        self._promises = promises
        self.later = Later(state, promises, leaver, save=functools.partial(self.save, late=True))
        self._store = state.files.store
        self._index = state.files.cache.index
        self._conflicts = Conflicts(state)
        self._attributes_alone = AttributesAlone(state)
        self.uploaded = Uploaded()
        #: Whether the log says that not all files could be held back.
        self._overflowed = False

    @property
    def conflicts(self) -> int:
        """How often others' version was in the way of ours."""
        return self._conflicts.met

    async def flush(self, handle: Handle) -> None:
        """Its last descriptor was closed: have everything in the bucket, or raise why it is not."""
        if handle.writable:
            with telling(handle):
                await self.close(handle.inode)

    async def sync(self, handle: Handle) -> None:
        """Have all of an open file in the bucket, or safe here if files are held back (fsync).

        Raises:
            FsError: ESTALE once for each handle that was open when others' version won a conflict.
            StoreError: It could not be saved.
        """
        with telling(handle):
            if self._state.files.held_back:
                await self.close(handle.inode)
            else:
                await self._save_for_good(handle.inode)

    async def close(self, inode: Inode) -> None:
        """Have nothing of what was written lost from now on, whatever happens here.

        Raises:
            FsError, StoreError: As `save`.
        """
        if self._state.config.writeback and await self._promises.promise(
            inode, self._state.ensure_open_state(inode)
        ):
            self.later.closed(inode)
            return
        if self._state.files.held_back and not self._overflowed:
            self._overflowed = True
            log.warning(
                "%s is uploaded before the end of the mount, others may be, too: "
                "the cache is too small to hold all that waits; raise cache_size",
                self._state.shown(inode),
            )
        await self._save_for_good(inode)

    async def _save_for_good(self, inode: Inode) -> None:
        """As `save`; and no power cut brings back what the journal had under this name before."""
        await self.save(inode)
        journal = self._state.files.cache.journal
        if journal.may_return:
            with contextlib.suppress(FsError):  # the local disk fails, and the bucket has it
                await journal.synced()

    async def save(self, inode: Inode, *, late: bool = False) -> None:
        """Have the bucket hold everything of this inode: bytes, length, attributes.

        Args:
            inode: Which.
            late: It was to be saved a while ago: what a program has begun to write since is left to
                that one's close.

        Raises:
            FsError: EFBIG, ENOSPC, ENAMETOOLONG; ESTALE when someone else changed the object.
            StoreError: The request failed; the inode is as unsaved as before.
        """
        while inode.open_state is not None and inode.open_state.unsaved:
            left = self._state.left_at(inode)
            try:
                async with self._locks.exclusive(inode, *left) as open_state:
                    if self._state.left_at(inode) != left:
                        continue  # it has been deleted, or the inode has another key
                    if not (late and open_state.being_written):
                        await self._save(inode, open_state)
                break
            except Interrupted:
                continue  # it was renamed or removed meanwhile; that had the lock first

    async def _save(self, inode: Inode, open_state: OpenState) -> None:
        if open_state.unlinked:
            return
        if open_state.content is not None and open_state.content.unsaved:
            try:
                await self._save_bytes(inode, open_state, open_state.content)
            except StoreError:
                self.uploaded.failed += 1
                raise
            self.uploaded.files += 1
            self.uploaded.bytes += inode.size
        elif open_state.lost is not None:
            open_state.attributes_dropped()  # nothing but the attributes of a lost name
        elif open_state.attributes_unsaved:
            await self._save_attributes(inode, open_state)

    async def _save_bytes(self, inode: Inode, open_state: OpenState, content: Content) -> None:
        """Store bytes and attributes.

        Raises:
            FsError: EFBIG, ENOSPC, ENAMETOOLONG; EIO, where a conflict would lose bytes. When they
                are in a conflict copy: ESTALE, or EEXIST for a file made with O_EXCL, or EIO where
                a lock was lost.
            StoreError: The upload failed, nothing has changed.
            Interrupted: Somebody needs the inode's lock.
        """
        with _attempt(open_state):
            content.hold()  # what a refusal leads to is done with the same bytes
            try:
                published = await self._store_bytes(inode, open_state, content)
            finally:
                content.unhold()
            if published.conflict is None:
                open_state.exclusive = False
                self._state.retain(published.target.key)
            inode.etag, inode.modified = published.info.etag, published.info.last_modified
            inode.checked, inode.opened = clock.monotonic(), published.info.etag
            self._note_saved(inode, open_state, published.info, published.target)
        if open_state.attributes_unsaved:
            self.later.attributes(inode)
        if published.conflict is not None:
            content.conflicts += 1
            raise published.conflict

    async def _store_bytes(
        self, inode: Inode, open_state: OpenState, content: Content
    ) -> Published:
        lost = open_state.lost
        taken = lost is not None and not self._conflicts.take_name_back(inode, lost)
        if taken or open_state.fenced:
            open_state.overtaken()
            return await self._conflicts.keep_ours_beside(inode, open_state, content, None)
        target, replaces_ours = self._state.target(inode), False
        while True:
            try:
                return await self._publish_noted(inode, target, content)
            except PreconditionFailed as error:
                cause: Exception = error
            except FsError as error:
                if error.errno != errno.ESTALE or content.early_upload.has_upload_only:
                    raise
                cause = error  # the base version is gone, as it is when our own upload replaced it
            found = await find_arrived(self._store, target, content)
            if found is None or (found[0] is None and replaces_ours):
                open_state.overtaken()
                return await self._conflicts.resolve(inode, open_state, target, cause)
            info, target = found
            if info is not None:
                return Published(info, target)
            replaces_ours = True

    async def _publish_noted(self, inode: Inode, target: Target, content: Content) -> Published:
        """Publish, and remember an upload whose outcome is not known."""
        # before it: an upload that ran beside the writer is dropped when it fails
        known = content.known_by(target.headers.metadata)
        if content.promise is not None:
            self._promises.attempting(content, known)
        try:
            return await self._publish(target, content)
        except PreconditionFailed:
            raise
        except (Exception, trio.Cancelled) as error:
            refused = isinstance(error, StoreError) and 400 <= error.status < 500
            content.may_have_arrived = content.may_have_arrived or not refused
            self._promises.attempted(inode, content, known)
            raise

    async def _publish(self, target: Target, content: Content) -> Published:
        try:
            return Published(*await upload.publish(self._state.files, content, target))
        except NotFound as error:
            if error.code in NOT_THE_OBJECT:
                raise
            if content.early_upload.has_upload_only:
                raise PreconditionFailed(error.code, status=error.status, key=error.key) from error
            await content.prove()
            if content.local.missing(0, content.size):
                raise FsError(errno.ESTALE, f"{target.key!r} was removed by others") from error
        # others removed the object, and all of it is here: it becomes the file again
        content.drop_base()
        again = replace(target, if_match="", if_none_match=True)
        return Published(*await upload.publish(self._state.files, content, again))

    async def _save_attributes(self, inode: Inode, open_state: OpenState) -> None:
        """Store attributes alone. Raises StoreError: it failed, nothing has changed."""
        with _attempt(open_state):
            target = Target("", inode.headers(), changes=open_state.attribute_changes)
            info = await self._attributes_alone.store(inode, open_state, target.headers)
            if info is not None:
                self._note_saved(inode, open_state, info, target)
                self._promises.update(inode)  # made meanwhile, of the version before the copy
        if open_state.attributes_unsaved:
            self.later.attributes(inode)

    async def finish_upload(self, inode: Inode, open_state: OpenState) -> None:
        """Have nothing of a file in an unfinished upload only; the caller has the inode's lock.

        Raises:
            FsError, StoreError: As `save`.
        """
        while (content := open_state.content) is not None and content.early_upload.has_upload_only:
            with contextlib.suppress(Interrupted):
                await self._save_bytes(inode, open_state, content)

    def early_target(self, inode: Inode) -> Target:
        """Where a file would be published now that is still being written. Raises FsError."""
        if is_renaming(inode):
            raise FsError(errno.EBUSY, "its directory is being renamed")
        return self._state.target(inode)

    async def delete_left(self, inode: Inode) -> None:
        """Delete the object that a removed file has left, which no program has open any more.

        If it cannot be deleted it stays hidden, and is tried again when the mount ends.
        """
        async with self._locks.exclusive(inode) as open_state:
            key = open_state.deferred_delete
            if not key:
                return  # something new has taken its place
            try:
                with contextlib.suppress(PreconditionFailed):
                    await self._store.delete(key, if_match=inode.etag)
            except StoreError as error:
                log.error(
                    "%r was removed and is still there, it is deleted when the mount ends: %s",
                    key, error,
                )  # fmt: skip
                return
            self._state.retain(key)

    async def save_directory(self, directory: Directory) -> None:
        """Have the bucket hold a directory's attributes and no name that was removed from it.

        Raises:
            StoreError: A request failed, or an earlier one of a removal.
        """
        await self._removals.wait_for_directory(directory)
        if self._state.config.writeback:
            await self._state.files.cache.journal.synced()
        await self.save(directory)

    def _note_saved(
        self, inode: Inode, open_state: OpenState, info: ObjectInfo, target: Target
    ) -> None:
        """The bucket has the inode as `target` says, in the version `info`."""
        content = open_state.content
        if content is not None and not content.unsaved:
            if content.promise is not None:
                self._promises.kept(content)
            inode.size = content.size
        self._state.note_change(inode)
        self._index.put_headers(info.key, info.etag, info.last_modified, target.headers)
        open_state.attributes_stored(target.changes)
        if inode.posix is not None and info.headers is not None:
            inode.posix = tagged_as(inode.posix, info.headers)
        if not open_state.attributes_unsaved and inode.posix is not None:
            # a streamed upload carries the times of its beginning: what is shown stays what is
            # stored
            inode.posix = with_times_of(inode.posix, target.headers)


@contextmanager
def telling(handle: Handle) -> Iterator[None]:
    """The block saves a file; a conflict that another save has met is told of as well.

    Raises:
        FsError: ESTALE, there was one, before or meanwhile.
    """
    try:
        yield
    finally:
        news = handle.conflicts != handle.content.conflicts
        handle.conflicts = handle.content.conflicts
    if news:
        raise FsError(errno.ESTALE, "what was written is under the name of a conflict copy")


@contextmanager
def _attempt(open_state: OpenState) -> Iterator[None]:
    """The block brings what is unsaved to the bucket; what it comes to moves the inode on."""
    open_state.begin()
    try:
        yield
    except Interrupted:
        open_state.interrupted()
        raise
    except Exception as error:
        open_state.failed(error)
        raise
    except BaseException:  # cancelled
        open_state.interrupted()
        raise
    open_state.saved()
