"""Opening and closing files: which version an open sees, and what the last close leaves behind.

Close-to-open: an open that would trust knowledge older than `open_ttl` asks the bucket first. A
small file that is not in the cache is fetched whole by that very question.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

from bucketfs import clock
from bucketfs.errors import FsError, NotFound, errno_of
from bucketfs.file.content import Content
from bucketfs.file.context import Version
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.posix import without_set_ids
from bucketfs.tree.core.stages import OURS_TO_SAVE
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.attributes import Attributes
from bucketfs.tree.prefetch.prefetcher import FILE_MAX, Prefetcher
from bucketfs.tree.saving.change import Changer
from bucketfs.tree.saving.later import Later
from bucketfs.tree.saving.save import Outlet, Saver

#: Seconds for which an object that was seen without tags is taken for one without.
TAGS_TRUSTED = 60.0


class Opener:
    """Opens and closes files."""

    def __init__(
        self,
        state: TreeState,
        attributes: Attributes,
        prefetcher: Prefetcher,
        changer: Changer,
        saver: Saver,
        later: Later,
    ) -> None:
        self._state = state
        self._store = state.files.store
        self._replaced = state.table.replaced
        self._prefetcher = prefetcher
        self._attributes = attributes
        self._changer = changer
        self._saver = saver
        self._later = later

    async def open(self, inode: Inode, flags: int, *, uid: int, pid: int, asker: int = 0) -> Handle:
        """A handle on an existing file; O_TRUNC in `flags` empties it.

        Raises:
            FsError: EISDIR; ESTALE when the name stands for another version than the programs that
                have the file open use, or for nothing: the kernel looks the name up again and finds
                a new inode, or makes one.
                The same, once, for O_APPEND when others have given the file another version: the
                kernel learns where its end is.
            StoreError: The bucket could not be asked, or takes no bytes.
        """
        if isinstance(inode, Directory):
            raise FsError(errno.EISDIR)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        reads = flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_TRUNC
        if reads:
            self._prefetcher.opened(inode, asker)
            await self._attributes.wait_for_answer(inode)  # its bytes may be on their way already
        known = inode.content.conflicts if inode.content is not None else 0
        if writable:
            await self._changer.foresee(inode)
        await self._check_version(inode, reads=reads)
        _check_regular(inode)
        appends = bool(flags & os.O_APPEND)
        if appends and writable and not flags & os.O_TRUNC and inode.ino in self._replaced:
            self._replaced.discard(inode.ino)
            raise FsError(errno.ESTALE, "the kernel does not know how long the file is")
        if writable:
            await self._attributes.complete(inode)
            self._doubt_tags(inode)
        if flags & os.O_TRUNC:
            await self._truncate(inode, uid)
        keep = bool(inode.etag) and inode.opened == inode.etag
        inode.opened = inode.etag
        if keep:
            self._state.content(inode).served = True
        handle = self._handle(inode, writable=writable, keep_cache=keep, pid=pid)
        handle.appends = appends
        # emptying it has waited for an upload, which may have ended in a conflict copy
        handle.conflicts = min(handle.conflicts, known)
        return handle

    def open_new(self, inode: Inode, *, pid: int, appends: bool = False) -> Handle:
        """A handle on a file that was just created."""
        handle = self._handle(inode, writable=True, keep_cache=False, pid=pid)
        handle.appends = appends
        return handle

    def reopen(self, inode: Inode, *, writable: bool, pid: int, untold: int) -> Handle:
        """A handle that a program had already when this daemon began.

        Raises:
            FsError: ESTALE where the file has nothing that it could be of.
        """
        if inode.content is None and not (inode.etag and inode.parent is not None):
            raise FsError(errno.ESTALE, "nothing is known of the file")
        handle = self._handle(inode, writable=writable, keep_cache=False, pid=pid)
        handle.content.served = True  # as far as anybody knows
        handle.conflicts -= untold
        return handle

    async def read(self, handle: Handle, start: int, length: int) -> bytes:
        """Bytes of an open file.

        When the object was replaced between open and the first read, the handle moves on to the
        new version: no program has seen a byte of the old one.

        Raises:
            FsError, StoreError: As `Content.read` does.
        """
        content = handle.content
        base = content.base
        try:
            return await content.read(handle.reader, start, length)
        except FsError as error:
            # where a file ends that is appended to, the kernel knows from its opening
            renewable = not (content.served or content.unsaved or handle.appends)
            if error.errno != errno.ESTALE or (content.base is base and not renewable):
                raise
        if content.base is base:
            await self._renew(handle.inode, content)
        return await content.read(handle.reader, start, length)

    async def _renew(self, inode: Inode, content: Content) -> None:
        """Have an unread open file stand for the version that is in the bucket now.

        Raises:
            FsError: ESTALE when that is shorter: the kernel, which is reading up to the end that it
                knows, would put zeros behind it.
            StoreError: The bucket could not be asked.
        """
        stale = content.base
        info = await self._store.head(self._state.key(inode))
        if content.base is not stale or content.served or content.unsaved:
            return  # another read was faster, or a program wrote meanwhile
        if info.size < content.size:
            inode.checked = NEVER
            if inode.parent is not None:
                inode.parent.listed = NEVER
            raise FsError(errno.ESTALE, f"{info.key!r} was replaced by someone else")
        content.renew(Version(info.key, info.etag, info.size))
        inode.etag, inode.size, inode.modified = info.etag, info.size, info.last_modified
        inode.opened = info.etag
        self._state.scribe.changed(inode)
        self._attributes.reread(inode, info)

    async def look_again(self, handle: Handle) -> bool:
        """Have an open file stand for the bucket's version now: a program has just locked it.

        What was written here before is saved first: who has locked a file reads nothing that the
        bucket may refuse later. A file that was just made, and not written to yet, becomes what
        others have made under its name meanwhile.

        Returns:
            Whether it is another version than before.

        Raises:
            FsError: ESTALE, others have removed it, or what they have put in its place is another
                file here already: a program has opened that. Also as saving does.
            StoreError: The bucket could not be asked.
        """
        inode, content = handle.inode, handle.content
        _check_in_place(inode)
        if not _may_move_on(inode, content):
            await self._saver.save(inode)
            _check_in_place(inode)
            if not _may_move_on(inode, content):
                return False
        try:
            info = await self._store.head(self._state.key(inode))
        except NotFound:
            if not inode.etag:
                return False
            raise FsError(errno.ESTALE, "the object was removed by someone else") from None
        _check_in_place(inode)
        if not _may_move_on(inode, content):
            return False  # a program wrote meanwhile
        if info.etag == inode.etag:
            inode.checked = clock.monotonic()
            return False
        open_state = self._state.ensure_open_state(inode)
        if content.unsaved:  # it was made here
            open_state.attributes_dropped()
        content.move_on(Version(info.key, info.etag, info.size))
        inode.etag, inode.size, inode.modified = info.etag, info.size, info.last_modified
        inode.opened = info.etag
        if not open_state.attributes_unsaved:  # else these go to the new version
            self._attributes.reread(inode, info)
        open_state.find_saver()
        self._state.note_change(inode)
        return True

    async def write(self, handle: Handle, offset: int, data: bytes) -> int:
        """Write to an open file.

        Raises:
            FsError, StoreError: As `Content.write` does, and what `_know_again` raises.
        """
        if handle.inode.posix is None:
            await self._know_again(handle.inode)
        done = await handle.content.write(offset, data)
        self._state.ensure_open_state(handle.inode).written()
        self._changer.touch_content(handle.inode)
        self._state.note_change(handle.inode)
        return done

    async def truncate(self, inode: Inode, size: int, *, publish: bool) -> None:
        """Set a file's length; `publish` when no handle is there whose close would do it.

        Raises:
            FsError: EFBIG, ENOSPC, and what saving raises; with `publish`, ESTALE as from `open`.
            StoreError: The bucket could not be changed.
        """
        if publish:
            await self._check_version(inode, reads=False)
            _check_regular(inode)
        await self._attributes.complete(inode)
        self._doubt_tags(inode)
        content = self._state.content(inode)
        content.handles += 1
        try:
            await content.truncate(size)
            self._state.ensure_open_state(inode).written()
            self._changer.touch_content(inode)
            self._state.note_change(inode)
            if publish:
                await self._saver.close(inode)
        finally:
            await self._drop(inode, content)

    async def renew(self, inode: Inode) -> None:
        """Have a file stand for the bucket's version before its attributes change.

        With one of them all that is stored beside the bytes is stored anew: what others have set
        would be lost. Directories are left out: who unpacks a tree sets the times of all at its
        end, and would wait for each.

        Raises:
            FsError: ESTALE as from `open`.
            StoreError: The bucket could not be asked.
        """
        if not isinstance(inode, Directory):
            await self._check_version(inode, reads=False, opens=False)

    async def release(self, handle: Handle) -> None:
        """The last descriptor is gone.

        What was written after the last flush is saved in the background.
        """
        handle.content.remove_reader(handle.reader)
        handle.content.writers -= handle.writable
        await self._drop(handle.inode, handle.content)

    def fence(self, handles: Iterable[Handle]) -> None:
        """A lock that was held through these is lost: what they write goes nowhere from now on.

        What they have written and nobody has saved is stored beside the file (`Conflicts`).
        """
        for handle in handles:
            handle.fenced = True
            open_state = handle.inode.open_state
            if open_state is not None and handle.content.unsaved:
                open_state.fenced = True

    @asynccontextmanager
    async def held(self, inode: Inode) -> AsyncIterator[Content]:
        """A file's bytes, which stay open during the block; nothing is asked of the bucket.

        Raises:
            FsError: ESTALE for one that was removed meanwhile.
        """
        content = self._state.content(inode)
        content.handles += 1
        try:
            yield content
        finally:
            await self._drop(inode, content)

    def _handle(self, inode: Inode, *, writable: bool, keep_cache: bool, pid: int) -> Handle:
        content = self._state.content(inode)
        content.handles += 1
        handle = Handle(inode, content, writable, keep_cache, pid)
        handle.conflicts = content.conflicts
        content.add_reader(handle.reader)
        content.writers += writable
        if writable:
            content.early_upload.outlet = Outlet(self._saver, inode)
        self._state.ensure_open_state(inode).find_saver()
        return handle

    async def _drop(self, inode: Inode, content: Content) -> None:
        content.handles -= 1
        open_state = inode.open_state
        if open_state is None or open_state.content is not content:
            return
        open_state.find_saver()
        if content.handles:
            # whoever has it open yet only reads, perhaps for days
            if content.unsaved and open_state.stage in OURS_TO_SAVE:
                self._later.keep_trying(inode)
            return
        if open_state.unlinked:
            await self._bury(inode)
        elif content.unsaved:
            self._later.keep_trying(inode)
            return
        else:
            self._state.close_content(inode)
        self._state.drop_if_idle(inode)

    async def _bury(self, inode: Inode) -> None:
        """The last user of a removed file is gone."""
        open_state = inode.open_state
        assert open_state is not None
        self._state.close_content(inode)
        if open_state.deferred_delete:
            await self._saver.delete_left(inode)

    async def _truncate(self, inode: Inode, uid: int) -> None:
        content = inode.content
        if content is None:
            content = self._state.empty_content(inode)
        else:
            content.handles += 1  # a background save that ends meanwhile must not close it
            try:
                await content.truncate(0)
            finally:
                content.handles -= 1
            content.overlay.opened_empty()
            self._state.ensure_open_state(inode).take(content)
        posix = inode.posix
        if posix is not None and uid != 0 and (kept := without_set_ids(posix.mode)) != posix.mode:
            # the kernel leaves this to us for O_TRUNC, as only we know when it happens
            self._changer.replace(inode, posix.changed(posix.ctime_ns, mode=kept))
        self._changer.touch_content(inode)
        self._state.note_change(inode)

    async def _know_again(self, inode: Inode) -> None:
        """Have the attributes known of a file that was opened before this daemon began.

        Raises:
            FsError: ESTALE when the bucket holds something else now; ENOENT.
            StoreError: The bucket could not be asked.
        """
        if await self._attributes.ensure(inode) is not inode:
            raise FsError(errno.ESTALE, "the object was replaced by someone else")
        await self._attributes.complete(inode)
        self._doubt_tags(inode)

    def _doubt_tags(self, inode: Inode) -> None:
        """Forget that an object has no tags, if that was seen too long ago to trust.

        A listing, which may be all that was seen since, shows neither tags nor that they changed.
        """
        posix = inode.posix
        if posix is None or posix.tagged or not inode.etag:
            return
        if clock.monotonic() - inode.checked > TAGS_TRUSTED:
            inode.posix = replace(posix, tagged=True)

    async def _check_version(self, inode: Inode, *, reads: bool, opens: bool = True) -> None:
        """Have the inode stand for the bucket's version, if what we know is too old to trust.

        Args:
            inode: Which.
            reads: Its bytes are wanted next.
            opens: It is opened, or cut.

        Raises:
            FsError: ESTALE when the name stands for something else now, or for nothing.
            StoreError: The bucket could not be asked.
        """
        content = inode.content
        if inode.parent is None or (content is not None and content.unsaved):
            return
        if inode.open_state is not None and inode.open_state.attributes_unsaved:
            return
        if self._state.freshness.trusts(
            self._state.freshness.seen(inode), self._state.config.open_ttl
        ):
            return
        self._prefetcher.outdated(inode, opens=opens)
        whole = FILE_MAX if reads and content is None else 0
        try:
            now = await self._attributes.revalidate(inode, whole=whole)
        except (FsError, NotFound) as error:
            if errno_of(error) != errno.ENOENT:
                raise
            # for ENOENT the kernel would not look the name up again, and so not make a new file
            raise FsError(errno.ESTALE, "the object was removed by someone else") from error
        if now is not inode:
            raise FsError(errno.ESTALE, "the object was replaced by someone else")


def _check_regular(inode: Inode) -> None:
    """Raise FsError, ESTALE, for what is no regular file: others have put that in its place.

    The bytes of a symbolic link are its target: the kernel looks the name up again and follows it.
    """
    if inode.posix is not None and not stat.S_ISREG(inode.posix.mode):
        raise FsError(errno.ESTALE, "the name stands for something else than a file now")


def _check_in_place(inode: Inode) -> None:
    """Raises FsError, ESTALE, for a file that has lost its name to others' version."""
    if inode.parent is None:
        raise FsError(errno.ESTALE, "the object was replaced by someone else")


def _may_move_on(inode: Inode, content: Content) -> bool:
    """Whether an open file has nothing of its own, and so can become another version."""
    open_state = inode.open_state
    if inode.parent is None or open_state is None or open_state.content is not content:
        return False
    if not content.unsaved:
        return True
    made_here = content.overlay.new and not content.overlay.touched and not inode.etag
    return made_here and not (open_state.exclusive or content.publishing or content.promise)
