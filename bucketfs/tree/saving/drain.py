"""The end of the mount: everything is saved once more, and what cannot be stays on this machine.

What no close and no fsync has finished may be half of a file: it is kept out of the bucket.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
from collections.abc import Callable

import trio

from bucketfs.errors import FsError, NotFound, StoreError
from bucketfs.tasks import gather
from bucketfs.tree.core.inode import Inode
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.saving.handover import HandOver
from bucketfs.tree.saving.leave import Leaver
from bucketfs.tree.saving.outstanding import LeftBehind, Outstanding, Remaining
from bucketfs.tree.saving.remove import Removals
from bucketfs.tree.saving.save import Saver
from bucketfs.units import count

log = logging.getLogger(__name__)

#: Seconds between two looks at what is left while the mount drains.
_LOOK = 1.0


class Drain:
    """Empties the mount into the bucket.

    Attributes:
        undeleted: Keys of removed files that could not be deleted, or not in time.
    """

    def __init__(
        self,
        state: TreeState,
        saver: Saver,
        removals: Removals,
        leaver: Leaver,
        outstanding: Outstanding,
        handover: HandOver,
    ) -> None:
        self._state = state
        self._saver = saver
        self._removals = removals
        self._leaver = leaver
        self._outstanding = outstanding
        self._handover = handover
        self.undeleted: set[str] = set()

    async def run(
        self, hurry: trio.Event, tell: Callable[[Remaining], None], *, goes_on: bool = False
    ) -> LeftBehind:
        """Save everything, as `save_all` does; what is left when `hurry` is set stays here.

        Args:
            hurry: Nobody wants to wait any longer.
            tell: Told how much is left, now and then.
            goes_on: As `save_all` takes it.

        Returns:
            What could not be done, or was not waited for.
        """
        before, back = set(self._state.given_up), set(self._removals.failures())
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look, tell)
                nursery.start_soon(_cancel_when, hurry, scope)
                await self.save_all(goes_on=goes_on)
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            self._abandon()
        return LeftBehind(
            tuple(lost for lost in self._state.given_up if lost not in before),
            self._outstanding.remaining().removals
            + len(self._state.deferred)
            + len(self.undeleted)
            + len(set(self._removals.failures()) - back),
        )

    async def save_all(self, *, goes_on: bool = False) -> None:
        """Save everything that is unsaved, once; what cannot be is left on the local disk.

        So is what no close and no fsync has finished: it may be half of a file. Removals come
        first: they have been promised longer.

        Args:
            goes_on: Another daemon takes the mount over: it gets what programs are still writing,
                and what the journal has of files that wait.
        """
        if goes_on:
            await self._handover.take_along()
        self._leave_unfinished()
        await self._removals.wait_for_all()
        for key in list(self._state.deferred):
            if (inode := self._state.take_deferred(key)) is not None:
                self.undeleted.add(key)
                await self._delete(key, inode.etag)
        unsaved = self._state.open_inodes - self._leaver.left
        jobs = [
            functools.partial(self._save_last, inode, goes_on=goes_on)
            for inode in unsaved
            if not (goes_on and _is_promised(inode))
        ]
        if jobs:
            await gather(jobs, limit=self._state.files.parallel)

    async def _look(self, tell: Callable[[Remaining], None]) -> None:
        while True:
            tell(self._outstanding.remaining())
            await trio.sleep(_LOOK)

    def _leave_unfinished(self) -> None:
        """Keep what programs are still writing out of the bucket, and in files of its own."""
        error = InterruptedError("no close and no fsync had finished it when the mount ended")
        for inode in list(self._state.open_inodes):
            open_state = inode.open_state
            if open_state is None or open_state.unlinked or not open_state.being_written:
                continue
            if inode in self._leaver.left:
                continue
            content = open_state.content
            words = "; there is nothing in it"
            if content is not None and content.size:
                words = self._leaver.on_disk(inode, error) or "; its bytes are lost"
            if content is not None and not content.early_upload.has_upload_only:
                content.early_upload.drop()
            if content is not None and content.promise is not None:
                words += "; the next mount of this bucket here goes on with what was closed before"
            log.error("%s is not saved: %s%s", self._state.shown(inode), error, words)
            self._leaver.left.add(inode)

    async def _save_last(self, inode: Inode, *, goes_on: bool) -> None:
        to_next_mount = self._state.config.writeback or goes_on
        try:
            await self._saver.save(inode)
        except (StoreError, FsError) as error:
            where = self._leaver.behind(inode, error, to_next_mount=to_next_mount)
            log.error(
                "%s could not be saved at unmount: %s%s", self._state.shown(inode), error, where
            )
        except Exception as error:
            # whatever is wrong with one file, the others must still be saved
            where = self._leaver.behind(inode, error, to_next_mount=to_next_mount)
            log.exception("%s could not be saved at unmount%s", self._state.shown(inode), where)

    def _abandon(self) -> None:
        """Leave here what a drain that was cut short has not saved, for the next mount."""
        self._leave_unfinished()  # a hand-over may have been cut short before
        error = FsError(errno.EINTR, "unmounting was cut short")
        for inode in list(self._state.open_inodes):
            open_state = inode.open_state
            if open_state is None or not open_state.unsaved or inode in self._leaver.left:
                continue
            where = self._leaver.behind(inode, error, to_next_mount=True)
            log.error("%s is not saved: %s%s", self._state.shown(inode), error.why, where)
        leaving = sum(map(len, self._state.leaving.values())) + len(self._state.deferred)
        if leaving:
            log.error(
                "%s still in the bucket, the next mount deletes what was removed: %s",
                count(leaving, "removed file is", "removed files are"), error.why,
            )  # fmt: skip

    async def _delete(self, key: str, etag: str) -> None:
        """Delete an object that was removed a while ago, unless others have replaced it since."""
        store = self._state.files.store
        try:
            with contextlib.suppress(NotFound):
                info = await store.head(key)
                if info.etag == etag:
                    await store.delete(key, if_match=etag)
        except StoreError as error:
            log.error(
                "%r was removed and is still there, the next mount deletes it: %s", key, error
            )
        else:
            self.undeleted.discard(key)
            self._state.files.cache.journal.removed([key])


def _is_promised(inode: Inode) -> bool:
    """Whether the journal has all that the bucket lacks of a file."""
    content = inode.content
    return content is not None and content.unsaved and content.promised_as_it_is


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
