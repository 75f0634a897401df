"""When inodes are brought to the bucket: bytes at flush and fsync, attributes a moment later.

What fails stays unsaved and is tried again: `close` reports it, the last close hands it to a
background task, unmounting tries a last time and then leaves the bytes in a file on the local disk.
With `TreeConfig.writeback` close only promises the bytes (`Promises`), and that same background
task brings them to the bucket; what unmounting cannot save then waits in the journal for the next
mount.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
from dataclasses import dataclass

import trio

from bucketfs import clock
from bucketfs.errors import FsError, NotFound, StoreError, errno_of
from bucketfs.file.content import Content
from bucketfs.file.target import Target
from bucketfs.file.upload import Interrupted
from bucketfs.tasks import gather
from bucketfs.tree.core.inode import NEVER, Directory, Inode, OpenState
from bucketfs.tree.core.locks import Locks, is_renaming
from bucketfs.tree.core.state import GivenUp, TreeState
from bucketfs.tree.saving.promises import Promises
from bucketfs.tree.saving.publish import Publisher, Saved
from bucketfs.tree.saving.remove import Removals

log = logging.getLogger(__name__)

#: Seconds between a change of attributes and its CopyObject: chmod, chown and utimens of one
#: program come within a millisecond or two of each other and become one request.
ATTRIBUTE_DELAY = 0.05
#: Uploads of promised files begin when no other was closed for so many seconds, or have waited for
#: the second figure: a program that writes many files has the machine to itself until then, and
#: what it renames or removes at once has cost nothing.
LULL, LULL_MOST = 0.05, 1.0
#: Seconds after an upload until the journal's knowledge of it is on the disk, with that of others.
SYNC_AFTER = 1.0
#: Pause before an upload that failed is tried again in the background, doubling up to the second.
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
#: Failures that trying again cannot mend (refused credentials may be renewed, so not EACCES; a
#: store or a disk that is full may be given room, so not ENOSPC).
_PERMANENT = frozenset({errno.EEXIST, errno.EFBIG, errno.ENAMETOOLONG, errno.EROFS, errno.ESTALE})
#: Uploads in the background: files up to so many bytes leave in one request each, as many at once
#: as the mount may send; of larger ones, which send as many by themselves, this many beside them.
_SMALL, _LARGE_AT_ONCE = 8 << 20, 2


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
    """Decides when an inode is published, and sees it through.

    Attributes:
        publisher: Writes the objects.
        promises: What the journal knows of files that are not saved yet.
        uploaded: Counts what has been.
        undeleted: Keys of removed files that the drain could not delete, or not in time.
    """

    def __init__(self, state: TreeState, locks: Locks, removals: Removals) -> None:
        self._state = state
        self._locks = locks
        self._removals = removals
        self.promises = Promises(state)
        self.publisher = Publisher(state, self.promises)
        self.uploaded = Uploaded()
        #: When the last promised file was closed, and what ends when no other was for a while.
        self._closed = 0.0
        self._lull: trio.Event | None = None
        self._syncing = False
        self.undeleted: set[str] = set()
        self._small = trio.Semaphore(state.files.parallel)
        self._large = trio.Semaphore(_LARGE_AT_ONCE)
        #: What the drain could not save and has left on the local disk.
        self._left: set[Inode] = set()

    async def close(self, inode: Inode) -> None:
        """Have nothing of what was written lost from now on, whatever happens here.

        Raises:
            FsError, StoreError: As `save`.
        """
        if self._state.config.writeback and await self.promises.promise(
            inode, self._state.ensure_open_state(inode)
        ):
            self._closed = trio.current_time()
            self.keep_trying(inode, in_a_lull=True)
        else:
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
            promised = open_state.content.promise is not None
            try:
                saved = await self.publisher.content(inode, open_state)
            finally:
                if promised and (open_state.content is None or open_state.content.promise is None):
                    self._sync_journal_soon()
            self._follow_up(inode, saved)
            self.uploaded.files += 1
            self.uploaded.bytes += inode.size
        elif open_state.lost is not None:
            open_state.attributes_dropped()  # nothing but the attributes of a lost name
        elif open_state.progress.attributes_unsaved:
            self._follow_up(inode, await self.publisher.attributes(inode, open_state))

    async def finish_upload(self, inode: Inode, open_state: OpenState) -> None:
        """Have nothing of a file in an unfinished upload only; the caller has the inode's lock.

        Raises:
            FsError, StoreError: As `save`.
        """
        while open_state.content is not None and open_state.content.early_upload.has_upload_only:
            with contextlib.suppress(Interrupted):
                self._follow_up(inode, await self.publisher.content(inode, open_state))

    def _follow_up(self, inode: Inode, saved: Saved) -> None:
        """Do what publishing has left to do. Raises FsError for a conflict."""
        if saved.attributes_left:
            self.later(inode)
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
            await self._state.journal.synced()
        await self.save(directory)

    def later(self, inode: Inode) -> None:
        """Save the inode's attributes in a moment, together with what else changes until then."""
        open_state = self._state.ensure_open_state(inode)
        if not open_state.progress.saving_attributes:
            open_state.progress.saving_attributes = True
            self._state.background.start(
                lambda: self._save_later(inode, open_state), "save attributes"
            )

    def keep_trying(self, inode: Inode, *, in_a_lull: bool = False) -> None:
        """Save what is unsaved after the last close, in the background, until it has worked.

        With `in_a_lull` the first try waits until programs have stopped closing files.
        """
        open_state = self._state.ensure_open_state(inode)
        self.promises.note(inode)
        if not open_state.progress.retrying:
            open_state.progress.retrying = True
            self._state.background.start(
                lambda: self._retry(inode, open_state, in_a_lull), "save after close"
            )

    async def _save_later(self, inode: Inode, open_state: OpenState) -> None:
        try:
            await trio.sleep(ATTRIBUTE_DELAY)
        finally:
            open_state.progress.saving_attributes = False
        if not open_state.progress.retrying:
            open_state.progress.retrying = True
            await self._retry(inode, open_state, in_a_lull=False)

    async def _wait_for_lull(self) -> None:
        """One waits by the clock, the others for that one: there may be thousands of them."""
        with trio.move_on_after(LULL_MOST):
            if self._lull is not None:
                await self._lull.wait()
                return
            self._lull = lull = trio.Event()
            try:
                # an event would have to be made anew by each close, of which there are thousands
                while (left := self._closed + LULL - trio.current_time()) > 0:  # noqa: ASYNC110
                    await trio.sleep(left)
            finally:
                self._lull = None
                lull.set()

    async def _retry(self, inode: Inode, open_state: OpenState, in_a_lull: bool) -> None:
        pause = RETRY_FIRST
        try:
            if in_a_lull:
                await self._wait_for_lull()
            while not open_state.being_written:
                try:
                    return await self._save_in_turn(inode, open_state)
                except (StoreError, FsError) as error:
                    hopeless = self._is_hopeless(inode, open_state, error)
                    if hopeless and self._give_up(inode, open_state, error):
                        return None
                    log.warning(
                        "%s is not saved yet, next try in %.0f s: %s",
                        self._state.shown(inode), pause, error,
                    )  # fmt: skip
                except Exception:
                    # a bug: what is unsaved must not be left alone for it
                    log.exception("%s is not saved yet", self._state.shown(inode))
                await trio.sleep(pause)
                pause = min(pause * 2, RETRY_MOST)
        finally:
            open_state.progress.retrying = False
            self._after(inode, open_state)

    async def _save_in_turn(self, inode: Inode, open_state: OpenState) -> None:
        """Save, when it is this one's turn: first come, first served."""
        content = open_state.content
        lane = self._small if content is None or content.size <= _SMALL else self._large
        async with lane:
            await self.save(inode, late=True)

    def _sync_journal_soon(self) -> None:
        """A power cut must not have what has arrived long ago be uploaded once more."""
        if not self._syncing:
            self._syncing = True
            self._state.background.start(self._sync_journal, "take the journal to the disk")

    async def _sync_journal(self) -> None:
        try:
            await trio.sleep(SYNC_AFTER)
        finally:
            self._syncing = False
        with contextlib.suppress(FsError):
            await self._state.journal.synced()

    def _is_hopeless(
        self, inode: Inode, open_state: OpenState, error: StoreError | FsError
    ) -> bool:
        """Whether trying again cannot help; a full store or disk may get room again."""
        if errno_of(error) in _PERMANENT or open_state.broken:
            return True
        if isinstance(error, StoreError):
            return error.code == "MetadataTooLarge"
        try:
            inode.headers()
        except FsError:
            return True  # too much metadata, which is ENOSPC as well
        return False

    def _give_up(self, inode: Inode, open_state: OpenState, error: Exception) -> bool:
        """Leave what cannot be saved on the local disk; the bucket's version counts again.

        Returns:
            False when the disk refuses: the file stays as it is then.
        """
        where = self._leave_on_disk(inode, error)
        if where is None:
            self.promises.note(inode)
            return False
        open_state.given_up()
        inode.checked = NEVER
        inode.opened = ""
        log.error("%s cannot be saved: %s%s", self._state.shown(inode), error, where)
        content = open_state.content
        if content is not None:
            if content.handles:
                return True
            self._state.close_content(inode)
        inode.posix = None
        if not inode.etag:
            self._state.unlink(inode)
        return True

    def _after(self, inode: Inode, open_state: OpenState) -> None:
        """The last close may have been while the save was under way: clean up what it left."""
        content = open_state.content
        if (
            content is not None
            and not content.handles
            and (open_state.unlinked or not content.unsaved)
        ):
            self._state.close_content(inode)
        self._state.drop_if_idle(inode)

    async def drain(self) -> None:
        """Save everything that is unsaved, once; what cannot be is left on the local disk.

        So is what no close and no fsync has finished: it may be half of a file. Removals come
        first: they have been promised longer.
        """
        self._leave_unfinished()
        await self._removals.wait_for_all()
        for key in list(self._state.deferred):
            if (inode := self._state.take_deferred(key)) is not None:
                self.undeleted.add(key)
                await self._delete(key, inode.etag)
        unsaved = self._state.open_inodes - self._left
        jobs = [functools.partial(self._save_last, inode) for inode in unsaved]
        if jobs:
            await gather(jobs, limit=self._state.files.parallel)

    def _leave_unfinished(self) -> None:
        """Keep what programs are still writing out of the bucket, and in files of its own."""
        error = InterruptedError("no close and no fsync had finished it when the mount ended")
        for inode in list(self._state.open_inodes):
            open_state = inode.open_state
            if open_state is None or open_state.unlinked or not open_state.being_written:
                continue
            content = open_state.content
            words = "; there is nothing in it"
            if content is not None and content.size:
                words = self._leave_on_disk(inode, error) or "; its bytes are lost"
            if content is not None and not content.early_upload.has_upload_only:
                content.early_upload.drop()
            if content is not None and content.promise is not None:
                words += "; the next mount of this bucket here goes on with what was closed before"
            log.error("%s is not saved: %s%s", self._state.shown(inode), error, words)
            self._left.add(inode)

    async def _save_last(self, inode: Inode) -> None:
        try:
            await self.save(inode)
        except (StoreError, FsError) as error:
            where = self._leave_behind(inode, error, to_next_mount=self._state.config.writeback)
            log.error(
                "%s could not be saved at unmount: %s%s", self._state.shown(inode), error, where
            )
        except Exception as error:
            # whatever is wrong with one file, the others must still be saved
            where = self._leave_behind(inode, error, to_next_mount=self._state.config.writeback)
            log.exception("%s could not be saved at unmount%s", self._state.shown(inode), where)

    def abandon(self) -> None:
        """Leave here what a drain that was cut short has not saved, for the next mount."""
        error = FsError(errno.EINTR, "unmounting was cut short")
        for inode in list(self._state.open_inodes):
            open_state = inode.open_state
            if open_state is None or not open_state.unsaved or inode in self._left:
                continue
            where = self._leave_behind(inode, error, to_next_mount=True)
            log.error("%s is not saved: %s%s", self._state.shown(inode), error.why, where)
        leaving = sum(map(len, self._state.leaving.values())) + len(self._state.deferred)
        if leaving:
            log.error("%d removed files stay in the bucket for now: %s", leaving, error.why)

    def _leave_behind(self, inode: Inode, error: Exception, *, to_next_mount: bool) -> str:
        """Keep what is not saved when the mount ends; words that say where."""
        content, words = inode.content, ""
        if to_next_mount:
            self.promises.note(inode)
            if content is not None and content.promised_as_it_is:
                words = "; the next mount of this bucket here goes on with it"
                self._note_given_up(inode, f"{error}{words}", "")
        if not words:
            where = self._leave_on_disk(inode, error)
            words = where or ""
            if where is None:
                self.promises.note(inode)
                self._note_given_up(inode, str(error), "")
        self._left.add(inode)
        return words

    def _leave_on_disk(self, inode: Inode, error: Exception) -> str | None:
        """Keep unsaved bytes that nobody writes any more in a file; words that say where.

        None where the disk refuses.
        """
        content, open_state = inode.content, inode.open_state
        if open_state is None or not open_state.unsaved or inode in self._left:
            return ""
        path, words = "", ""
        if content is not None and content.unsaved:
            cache = self._state.files.cache
            try:
                kept = cache.rescue(content.fetcher.pages, inode.name, content.size)
            except OSError as failure:
                log.error("%s cannot be put under unsaved/: %s", self._state.shown(inode), failure)
                return None
            path = str(kept)
            self.promises.fail(inode, str(kept.relative_to(cache.directory)), error)
            words = f"; its bytes are in {path}{_gaps(content)}{content.early_upload.hand_over()}"
        self._note_given_up(inode, str(error), path)
        return words

    def _note_given_up(self, inode: Inode, error: str, where: str) -> None:
        path = self._state.shown_below(inode)
        self._state.given_up.append(GivenUp(path, error, clock.wall_ns() / 1e9, where))

    async def _delete(self, key: str, etag: str) -> None:
        """Delete an object that was removed a while ago, unless others have replaced it since."""
        try:
            with contextlib.suppress(NotFound):
                info = await self._state.store.head(key)
                if info.etag == etag:
                    await self._state.store.delete(key, if_match=etag)
        except StoreError as error:
            log.error("a removed file stays in the bucket for now: %s", error)
        else:
            self.undeleted.discard(key)
            self._state.journal.removed([key])


def _gaps(content: Content) -> str:
    """Words for what a rescued file lacks because only the version in the bucket has it."""
    gaps = ", ".join(
        f"{start}-{stop - 1}" for start, stop in content.fetcher.missing(0, content.size)
    )
    return f", without bytes {gaps}, which are those of the version in the bucket" if gaps else ""
