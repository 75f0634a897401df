"""Saving now: what close, flush and fsync wait for, until the bucket has it.

What fails stays unsaved: `close` reports it, and the last close hands it to `Later`, which tries
again. With `TreeConfig.writeback` close only promises the bytes (`Promises`), and `Later` brings
them to the bucket. With `FileContext.held` nobody does before a flush or the mount's end.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bucketfs.errors import FsError
from bucketfs.file.target import Target
from bucketfs.file.upload import Interrupted
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.core.inode import Directory, Inode, OpenState
from bucketfs.tree.core.locks import Locks, is_renaming
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.saving.later import Later
from bucketfs.tree.saving.promises import Promises
from bucketfs.tree.saving.publish import Publisher, Saved
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
    """What has been brought to the bucket since the mount."""

    files: int = 0
    bytes: int = 0


class Saver:
    """Has an inode published, and sees it through.

    Attributes:
        uploaded: Counts what has been.
    """

    def __init__(
        self,
        state: TreeState,
        locks: Locks,
        removals: Removals,
        promises: Promises,
        later: Later,
    ) -> None:
        self._state = state
        self._locks = locks
        self._removals = removals
        self._promises = promises
        self._later = later
        self._publisher = Publisher(state, promises)
        self.uploaded = Uploaded()
        #: Whether the log says that not all files could be held.
        self._overflowed = False

    async def flush(self, handle: Handle) -> None:
        """Its last descriptor was closed: have everything in the bucket, or raise why it is not."""
        if handle.writable:
            await self._tell(handle, self.close)

    async def sync(self, handle: Handle) -> None:
        """Have everything of an open file in the bucket, or safe here if files are held (fsync).

        Raises:
            FsError: ESTALE once for each handle that was open when others' version won a conflict.
            StoreError: It could not be saved.
        """
        await self._tell(handle, self.close if self._state.files.held else self.save)

    async def _tell(self, handle: Handle, save: Callable[[Inode], Awaitable[None]]) -> None:
        """Save; a conflict that another save has met, before or meanwhile, is told of as well."""
        known = handle.conflicts
        try:
            await save(handle.inode)
        finally:
            handle.conflicts = handle.content.conflicts
        if known != handle.conflicts:
            raise FsError(errno.ESTALE, "what was written is under the name of a conflict copy")

    async def close(self, inode: Inode) -> None:
        """Have nothing of what was written lost from now on, whatever happens here.

        Raises:
            FsError, StoreError: As `save`.
        """
        if self._state.config.writeback and await self._promises.promise(
            inode, self._state.ensure_open_state(inode)
        ):
            self._later.closed(inode)
            return
        if self._state.files.held and not self._overflowed:
            self._overflowed = True
            log.warning(
                "%s is published before the end of the mount, and perhaps others: "
                "the cache cannot hold all that waits; raise cache_size",
                self._state.shown(inode),
            )
        await self.save(inode)

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
            try:
                async with self._locks.exclusive(inode) as open_state:
                    if not (late and open_state.being_written):
                        await self._save(inode, open_state)
                break
            except Interrupted:
                continue  # it was renamed or removed meanwhile; that had the lock first

    async def _save(self, inode: Inode, open_state: OpenState) -> None:
        if open_state.unlinked:
            return
        if open_state.content is not None and open_state.content.unsaved:
            self._follow_up(inode, await self._publisher.content(inode, open_state))
            self.uploaded.files += 1
            self.uploaded.bytes += inode.size
        elif open_state.lost is not None:
            open_state.attributes_dropped()  # nothing but the attributes of a lost name
        elif open_state.attributes_unsaved:
            self._follow_up(inode, await self._publisher.attributes(inode, open_state))

    async def finish_upload(self, inode: Inode, open_state: OpenState) -> None:
        """Have nothing of a file in an unfinished upload only; the caller has the inode's lock.

        Raises:
            FsError, StoreError: As `save`.
        """
        while open_state.content is not None and open_state.content.early_upload.has_upload_only:
            with contextlib.suppress(Interrupted):
                self._follow_up(inode, await self._publisher.content(inode, open_state))

    def _follow_up(self, inode: Inode, saved: Saved) -> None:
        """Do what publishing has left to do. Raises FsError for a conflict."""
        if saved.attributes_left:
            self._later.attributes(inode)
        if saved.conflict is not None:
            raise saved.conflict

    def early_target(self, inode: Inode) -> Target:
        """Where a file would be published now that is still being written. Raises FsError."""
        if is_renaming(inode):
            raise FsError(errno.EBUSY, "its directory is being renamed")
        return self._state.target(inode)

    async def save_directory(self, directory: Directory) -> None:
        """Have the bucket hold a directory's attributes and no name that was removed from it.

        Raises:
            StoreError: A request failed, or an earlier one of a removal.
        """
        await self._removals.wait_for_directory(directory)
        if self._state.config.writeback:
            await self._state.files.cache.journal.synced()
        await self.save(directory)
