"""What is saved when nobody waits: attributes in a moment, promised files in a lull, and again.

What has failed is tried until it works, with pauses that grow. What trying cannot mend is given up:
it is left on the local disk, and the bucket's version counts again.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable

import trio

from bucketfs.errors import FsError, StoreError, errno_of
from bucketfs.repeats import OncePerOutage
from bucketfs.tree.core.inode import NEVER, Inode, OpenState
from bucketfs.tree.core.stages import Stage
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.saving.leave import Leaver
from bucketfs.tree.saving.promises import Promises

log = logging.getLogger(__name__)

#: Seconds between a change of attributes and its CopyObject: chmod, chown and utimens of one
#: program come within a millisecond or two of each other and become one request.
ATTRIBUTE_DELAY = 0.05
#: Uploads of promised files begin when no other was closed for so many seconds, or have waited for
#: the second figure: a program that writes many files has the machine to itself until then, and
#: what it renames or removes at once has cost nothing.
LULL, LULL_MOST = 0.05, 1.0
#: Pause before an upload that failed is tried again in the background, doubling up to the second.
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
#: Failures that trying again cannot mend (refused credentials may be renewed, so not EACCES; a
#: store or a disk that is full may be given room, so not ENOSPC).
_PERMANENT = frozenset({errno.EEXIST, errno.EFBIG, errno.ENAMETOOLONG, errno.EROFS, errno.ESTALE})
#: Uploads in the background: files up to so many bytes leave in one request each, as many at once
#: as the mount may send; of larger ones, which send as many by themselves, this many beside them.
_SMALL, _LARGE_AT_ONCE = 8 << 20, 2


class Later:
    """Saves in the background.

    Args:
        state: The tree's memory.
        promises: Told of what is to be saved until it is.
        leaver: Takes what is given up.
        save: Saves an inode, without what a program has begun to write since.
    """

    def __init__(
        self,
        state: TreeState,
        promises: Promises,
        leaver: Leaver,
        *,
        save: Callable[[Inode], Awaitable[None]],
    ) -> None:
        self._state = state
        self._background = state.files.background
        self._promises = promises
        self._leaver = leaver
        self._save = save
        self._outages = OncePerOutage()
        #: When the last promised file was closed, and what ends when no other was for a while.
        self._closed = 0.0
        self._lull: trio.Event | None = None
        self._small = trio.Semaphore(state.files.parallel)
        self._large = trio.Semaphore(_LARGE_AT_ONCE)

    def attributes(self, inode: Inode) -> None:
        """Save the inode's attributes in a moment, together with what else changes until then."""
        open_state = self._state.ensure_open_state(inode)
        if not open_state.saving_attributes:
            open_state.saving_attributes = True
            self._background.start(
                lambda: self._save_attributes(inode, open_state), "save attributes"
            )

    def closed(self, inode: Inode) -> None:
        """Save a promised file as soon as programs have stopped closing others."""
        self._closed = trio.current_time()
        self.keep_trying(inode, in_a_lull=True)

    def keep_trying(self, inode: Inode, *, in_a_lull: bool = False) -> None:
        """Save what is unsaved after the last close, in the background, until it has worked.

        With `in_a_lull` the first try waits until programs have stopped closing files.
        """
        open_state = self._state.ensure_open_state(inode)
        if open_state.stage is Stage.GIVEN_UP:
            self._let_go(inode, open_state)  # who has closed it now only read
            self._state.drop_if_idle(inode)
            return
        self._promises.note(inode)
        if not open_state.retrying and not self._is_held_back(open_state):
            open_state.retrying = True
            self._background.start(
                lambda: self._retry(inode, open_state, in_a_lull), "save after close"
            )

    def _is_held_back(self, open_state: OpenState) -> bool:
        """Whether a file is to wait for a flush or the end; the journal has to know it."""
        content = open_state.content
        promised = content is not None and content.unsaved and content.promise is not None
        return self._state.files.held_back and promised

    async def _save_attributes(self, inode: Inode, open_state: OpenState) -> None:
        try:
            await trio.sleep(ATTRIBUTE_DELAY)
        finally:
            open_state.saving_attributes = False
        if not open_state.retrying and not self._is_held_back(open_state):
            open_state.retrying = True
            await self._retry(inode, open_state, in_a_lull=False)

    async def _wait_for_lull(self) -> None:
        """Until no file was closed for `LULL`, or others go and this one has waited so long."""
        closed = trio.current_time()
        while trio.current_time() < closed + LULL:
            await self._next_lull()

    async def _next_lull(self) -> None:
        """One waits by the clock, the others for that one: there may be thousands of them."""
        if self._lull is not None:
            await self._lull.wait()
            return
        self._lull = lull = trio.Event()
        # who comes too late for this one waits for the next, and no longer than LULL_MOST for both
        last = trio.current_time() + LULL_MOST - LULL
        try:
            # an event would have to be made anew by each close, of which there are thousands
            while (left := min(self._closed + LULL, last) - trio.current_time()) > 0:  # noqa: ASYNC110
                await trio.sleep(left)
        finally:
            self._lull = None
            lull.set()

    async def _retry(self, inode: Inode, open_state: OpenState, in_a_lull: bool) -> None:
        pause = RETRY_FIRST
        try:
            if in_a_lull:
                await self._wait_for_lull()
            while not open_state.being_written and not self._is_held_back(open_state):
                had_bytes = _has_unsaved_bytes(open_state)
                try:
                    await self._save_in_turn(inode, open_state)
                    if not _has_unsaved_bytes(open_state):
                        return
                    pause = RETRY_FIRST  # written and closed while attributes were being saved
                    continue
                except (StoreError, FsError) as error:
                    if not had_bytes and _has_unsaved_bytes(open_state):
                        continue  # the same, and what failed was not about the bytes
                    if not open_state.unsaved:
                        return  # it is saved, under the name of a conflict copy
                    hopeless = _is_hopeless(inode, open_state, error)
                    if hopeless and self._give_up(inode, open_state, error):
                        return
                    log.log(
                        self._outages.level("save", error, logging.WARNING),
                        "%s is not saved yet, next try in %.0f s: %s",
                        self._state.shown(inode), pause, error,
                    )  # fmt: skip
                except Exception:
                    # a bug: what is unsaved must not be left alone for it
                    log.exception("%s is not saved yet", self._state.shown(inode))
                await trio.sleep(pause)
                pause = min(pause * 2, RETRY_MOST)
        finally:
            open_state.retrying = False
            self._after(inode, open_state)

    async def _save_in_turn(self, inode: Inode, open_state: OpenState) -> None:
        """Save, when it is this one's turn: first come, first served."""
        content = open_state.content
        lane = self._small if content is None or content.size <= _SMALL else self._large
        async with lane:
            await self._save(inode)

    def _give_up(self, inode: Inode, open_state: OpenState, error: Exception) -> bool:
        """Leave what cannot be saved on the local disk; the bucket's version counts again.

        Returns:
            False when the disk refuses: the file stays as it is then.
        """
        where = self._leaver.on_disk(inode, error)
        if where is None:
            self._promises.note(inode)
            return False
        open_state.given_up()
        inode.checked = NEVER
        inode.opened = ""
        log.error("%s cannot be saved: %s%s", self._state.shown(inode), error, where)
        self._let_go(inode, open_state)
        return True

    def _let_go(self, inode: Inode, open_state: OpenState) -> None:
        """Have the bucket's version of a file count that was given up, once nobody has it open."""
        content = open_state.content
        if content is not None:
            if content.handles:
                return
            self._state.close_content(inode)
        inode.posix = None
        if not inode.etag:
            self._state.unlink(inode)

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


def _has_unsaved_bytes(open_state: OpenState) -> bool:
    content = open_state.content
    return content is not None and content.unsaved and not open_state.unlinked


def _is_hopeless(inode: Inode, open_state: OpenState, error: StoreError | FsError) -> bool:
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
