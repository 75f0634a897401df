"""Files that the bucket lacks and the journal knows: making promises, and keeping them up to date.

A row says what an inode's page file does not: where its bytes are to go, with which attributes and
over which version. It follows the inode when it is renamed, changed or removed, and goes when the
bucket has the bytes.

Invariant: a row exists exactly while `Content.promise` is set, or (of an earlier mount) until
its file has been planted again.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace

import trio

from bucketfs import clock
from bucketfs.cache.extents import Extent, Seals
from bucketfs.cache.pages import PageFile, read_exactly, sync_directory
from bucketfs.cache.rows import Attempt, FailedRow
from bucketfs.cache.rows import PendingRow as Row
from bucketfs.errors import FsError
from bucketfs.file.content import Content
from bucketfs.file.promise import COPIED, Promise
from bucketfs.file.target import Target
from bucketfs.tree.core.inode import Directory, Inode, OpenState, is_below
from bucketfs.tree.core.posix import Defaults, Posix, decode
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.saving.held import Held, counted, may_be_noted

log = logging.getLogger(__name__)

#: Files up to this size stand in the journal itself: one sync for all that are closed at the same
#: time, and a program may change them again without breaking the promise.
INLINE = 32 << 10
#: Files that may wait for their upload; the close of any further one waits for its own.
MOST = 10_000
#: Uploads of unknown outcome that are remembered of a file.
_ATTEMPTS = 8
#: Seconds after an upload until the journal's knowledge of it is on the disk, with that of others.
SYNC_AFTER = 1.0
#: How often a file may change while it is taken to the disk, before its close waits for the bucket.
_TRIES = 3


class Promises:
    """The promises of one mount.

    Attributes:
        count, bytes: Of the files promised.
    """

    def __init__(self, state: TreeState) -> None:
        self._state = state
        self._cache = state.files.cache
        self._journal = state.files.cache.journal
        self.count = self.bytes = 0
        #: What rows counted on until others took their place, which may not be safe yet.
        self._outdated: list[PageFile] = []
        self._syncing = False

    async def promise(self, inode: Inode, open_state: OpenState) -> bool:
        """Have the unsaved bytes of a file on the disk, so that they survive a power cut.

        Returns:
            False when the file has to be brought to the bucket instead.
        """
        for _ in range(_TRIES):
            content = open_state.content
            if content is None or not content.unsaved:
                return True
            if not self._may_wait(open_state, content):
                return False
            try:
                known = content.promise if content.promised_as_it_is else None
                if known is not None and known.on_disk:
                    known.answered = True
                elif not await self._take_down(inode, open_state, content, answered=True):
                    continue
                await self._sync_rows()
                return True
            except (FsError, OSError) as error:
                log.warning(
                    "%s cannot be kept in the journal, so close() waits for its upload: %s",
                    self._state.shown(inode), error,
                )  # fmt: skip
                return False
        return False

    async def _sync_rows(self) -> None:
        """Have the rows safe from a power cut, and only then the pages of those before them go."""
        outdated, self._outdated = self._outdated, []
        try:
            await self._journal.synced()
        except BaseException:
            self._outdated += outdated
            raise
        for pages in outdated:
            self._cache.release(pages)

    def note(self, inode: Inode, *, at_once: bool = False) -> None:
        """Have the journal know the unsaved bytes of a file, so that they survive kill -9.

        After a power cut its checksums tell whether they are all there. A large one gets none, but
        is taken to the disk in the background. So is any whose place in the journal is that of
        bytes that a close counts on: these stay there until then, or, with `at_once`, the disk is
        waited for here. A file that cannot be noted is no worse off than before.
        """
        open_state = inode.open_state
        content = open_state.content if open_state is not None else None
        if (
            open_state is None
            or content is None
            or not content.unsaved
            or content.promised_as_it_is
        ):
            return
        if not may_be_noted(open_state, content):
            return
        old = content.promise
        needs_disk = old is not None and old.answered and not _is_inline(content)
        if needs_disk and not at_once:
            self._state.files.background.start(
                functools.partial(self._renew, inode, content, content.overlay.revision),
                "take a file to the disk",
            )
            return
        try:
            if needs_disk:
                _sync_now(content.local.pages)
            seals, held = self._seals(content), Held.now(content)
            self._put(inode, open_state, content, seals, held, on_disk=needs_disk)
        except (FsError, OSError) as error:
            log.warning(
                "%s cannot be kept in the journal, a crash before its upload would lose it: %s",
                self._state.shown(inode), error,
            )  # fmt: skip
        self._take_to_disk(content)
        if self._outdated:
            self._sync_soon()

    async def _renew(self, inode: Inode, content: Content, revision: int) -> None:
        """Have later bytes of a file in the journal, in place of those that a close counts on.

        Whoever writes on meanwhile has it done by the next close.
        """
        try:
            # shielded: it has to be done at the end of the mount, too
            with trio.CancelScope(shield=True):
                for _ in range(_TRIES):
                    open_state = inode.open_state
                    if open_state is None or open_state.content is not content:
                        return
                    if not content.unsaved or content.promised_as_it_is:
                        return
                    if content.overlay.revision != revision:
                        return
                    if not may_be_noted(open_state, content):
                        return
                    if await self._take_down(inode, open_state, content, answered=False):
                        await self._sync_rows()
                        return
        except (FsError, OSError) as error:
            log.warning(
                "%s cannot be kept in the journal as it is now, but as it was closed: %s",
                self._state.shown(inode), error,
            )  # fmt: skip

    def update(self, inode: Inode) -> None:
        """The inode has another key, other attributes, or replaces another version now."""
        open_state = inode.open_state
        if open_state is None or open_state.content is None or open_state.content.promise is None:
            return
        promise = open_state.content.promise
        if open_state.content.publishing:
            known = open_state.content.known_by(promise.row.headers.metadata)
            self._attempt(open_state.content, known)
        try:
            target = self._state.target(inode)
        except FsError:
            return  # it has lost its name: what the row says is as good as it gets
        base = open_state.content.base
        promise.row = replace(
            promise.row,
            key=target.key,
            headers=target.headers,
            if_match=target.if_match,
            base=(base.key, base.etag, base.size) if base is not None else promise.row.base,
            attempts=tuple(open_state.content.attempts),
        )
        self._journal.change(promise.row)

    def attempting(self, content: Content, known: Sequence[Attempt]) -> None:
        """An upload of a promised file begins that is known by this.

        When the file has changed since its promise, a crash leaves the row and, maybe, the object
        of a later state: the row has to know it. So it has to know the headers of an upload that
        has run beside the writer.
        """
        promise = content.promise
        assert promise is not None
        row = promise.row
        if not content.promised_as_it_is:
            promise.row = replace(row, ahead=(*row.ahead, *known)[-_ATTEMPTS:])
        elif others := [sent for sent in known if sent != (row.size, row.headers.metadata)]:
            self._attempt(content, others)
            promise.row = replace(row, attempts=tuple(content.attempts))
        if promise.row is not row:
            self._journal.change(promise.row)

    def attempted(self, inode: Inode, content: Content, known: Sequence[Attempt]) -> None:
        """An upload that is known by this has failed, and yet the bucket may have it."""
        self._attempt(content, known)
        self.update(inode)

    def _attempt(self, content: Content, known: Sequence[Attempt]) -> None:
        content.attempts += known
        del content.attempts[:-_ATTEMPTS]

    def update_below(self, directory: Directory) -> None:
        """The directory has another name."""
        with self._journal.batch():
            for inode in self._state.open_inodes:
                if is_below(inode, directory):
                    self.update(inode)

    def drop(self, content: Content) -> None:
        """Nobody wants the bytes of a promised file any more."""
        promise, content.promise = content.promise, None
        assert promise is not None
        self.count -= 1
        self.bytes -= promise.row.size
        self._journal.drop(promise.row.file)
        if promise.pages is not content.local.pages:
            self._cache.release(promise.pages)

    def withdrawn(self, content: Content) -> None:
        """The name of a promised file is gone, or another file has it.

        The bytes stay until a power cut cannot undo that any more.
        """
        assert content.promise is not None
        self._outdated.append(self._cache.hold(content.promise.pages))
        self.drop(content)
        self._sync_soon()

    def kept(self, content: Content) -> None:
        """The bucket has the bytes of a promised file.

        A power cut must not have what has arrived long ago be uploaded once more.
        """
        self.drop(content)
        self._sync_soon()

    def _sync_soon(self) -> None:
        if not self._syncing:
            self._syncing = True
            self._state.files.background.start(self._sync, "take the journal to the disk")

    async def _sync(self) -> None:
        try:
            await trio.sleep(SYNC_AFTER)
        finally:
            self._syncing = False
        with contextlib.suppress(FsError):
            await self._sync_rows()

    def fail(self, inode: Inode, path: str, error: Exception) -> None:
        """The file was given up; its bytes are in `path`, below the cache's directory.

        A promise of an earlier state of it stands.
        """
        row = FailedRow(path, self._state.shown(inode), str(error), time.time())
        with self._journal.batch():
            self._journal.fail(row)
            open_state = inode.open_state
            if open_state is None or open_state.content is None:
                return
            if open_state.content.promised_as_it_is:
                self.drop(open_state.content)
                open_state.find_saver()

    def adopted(self, content: Content) -> None:
        """A promise of an earlier mount is this one's now."""
        assert content.promise is not None
        self.count += 1
        self.bytes += content.promise.row.size
        self._take_to_disk(content)

    def _take_to_disk(self, content: Content) -> None:
        """Do so in the background with what is promised, if that has not been done."""
        promise = content.promise
        if promise is not None and promise.row.boot:
            self._state.files.background.start(
                lambda: self._secure(content, promise), "take a file to the disk"
            )

    async def _secure(self, content: Content, promise: Promise) -> None:
        """Have the bytes of a row survive a power cut, which have no checksums to tell of it."""
        try:
            # shielded: it has to be done at the end of the mount, too
            with trio.CancelScope(shield=True):
                await self._sync_pages(promise.pages)
            if content.promise is promise:
                promise.on_disk = True
                promise.row = replace(promise.row, boot="")
                self._journal.change(promise.row)
                await self._journal.synced()
        except (FsError, OSError) as error:
            log.warning(
                "%r cannot be taken to the disk, a power cut before its upload would lose it: %s",
                promise.row.key, error,
            )  # fmt: skip

    def _seals(self, content: Content) -> Seals:
        """Of a file that is noted at once; none of a large one, which would take long to read."""
        if content.size > COPIED:
            return Seals()
        return Seals.of(counted(content), content.local.pages.read)

    def _may_wait(self, open_state: OpenState, content: Content) -> bool:
        """Whether a file may be promised: not too much waits, and all that is needed is here."""
        if open_state.lost is not None or not may_be_noted(open_state, content):
            return False
        mine = content.promise
        count, held = self.count, self.bytes
        if mine is not None:
            count, held = count - 1, held - mine.row.size
        return count < MOST and held + content.size <= self._cache.capacity // 2

    async def _take_down(
        self, inode: Inode, open_state: OpenState, content: Content, *, answered: bool
    ) -> bool:
        """Take the bytes to the disk, then write the row; answers whether nothing came between."""
        pages, revision = content.local.pages, content.overlay.revision
        seals, held = Seals(), Held.now(content)
        if not _is_inline(content):
            seals = await self._sync_pages(pages, held.valid)
            if (content.overlay.revision, content.local.pages) != (revision, pages):
                return False
            if any(not pages.valid.covers(start, stop) for start, stop in held.valid):
                return False  # clean pages have left
            if open_state.content is not content or not content.unsaved:
                return False
            if not (self._may_wait if answered else may_be_noted)(open_state, content):
                return False
        self._put(inode, open_state, content, seals, held, on_disk=True, answered=answered)
        return True

    async def _sync_pages(self, pages: PageFile, valid: Sequence[Extent] = ()) -> Seals:
        """Take a page file to the disk, in a thread; answers the seals of what is `valid`."""
        fd = os.dup(pages.fd)  # the file's own may be closed for others' sake meanwhile
        seals = Seals()

        def sync() -> None:
            nonlocal seals
            seals = Seals.of(valid, functools.partial(read_exactly, fd))
            os.fdatasync(fd)
            sync_directory(pages.path.parent)

        try:
            await self._journal.in_thread(sync)
        finally:
            os.close(fd)
        return seals

    def _put(
        self,
        inode: Inode,
        open_state: OpenState,
        content: Content,
        seals: Seals,
        held: Held,
        *,
        on_disk: bool,
        answered: bool = False,
    ) -> None:
        """Write the row; raises FsError, and then the promise is as it was."""
        pages, old, data = content.local.pages, content.promise, None
        revision = content.overlay.revision
        if inline := _is_inline(content):
            data = pages.read(0, content.size)
            seals = Seals.of([(0, len(data))], lambda start, stop: data[start:stop])
            held = Held.now(content)
        row = self._row(inode, content, seals, held)
        if row.valid and not row.seals and not on_disk:
            row = replace(row, boot=clock.boot_id())
        with self._journal.batch():
            self._journal.put(row, data)
            if old is not None and old.row.file != row.file:
                self._journal.drop(old.row.file)
        answered = answered or (old is not None and old.answered)
        on_disk = on_disk or inline
        content.promise = Promise(
            pages, row, inline=inline, revision=revision, on_disk=on_disk, answered=answered
        )
        open_state.find_saver()
        self.count += old is None
        self.bytes += row.size - (old.row.size if old is not None else 0)
        if old is not None and old.pages is not pages:
            self._outdated.append(old.pages)

    def unfinished(self, inode: Inode, content: Content) -> Row:
        """What a row would say of a file that a program is writing, or has removed.

        Raises:
            FsError: ENOSPC, ENAMETOOLONG; ESTALE for an inode that has lost its name.
        """
        target = None
        if inode.unlinked:
            target = Target("", inode.headers(), changes=0, if_match="", if_none_match=False)
        valid = tuple(content.local.pages.valid.within(0, content.size))
        held = replace(Held.now(content), valid=valid)
        return self._row(inode, content, Seals(), held, target)

    def _row(
        self,
        inode: Inode,
        content: Content,
        seals: Seals,
        held: Held,
        target: Target | None = None,
    ) -> Row:
        target = target or self._state.target(inode)
        base, pages = content.base, content.local.pages
        return Row(
            file=pages.path.name,
            key=target.key,
            since=content.promise.row.since if content.promise is not None else time.time(),
            size=content.size,
            valid=held.valid,
            stored=held.stored,
            dirty=tuple(content.overlay.dirty),
            limit=content.overlay.limit,
            new=content.overlay.new,
            cut=content.overlay.cut,
            base=None if base is None else (base.key, base.etag, base.size),
            if_match=target.if_match,
            headers=target.headers,
            attempts=tuple(content.attempts),
            seals=seals.dump(),
        )


def attributes_of(row: Row, defaults: Defaults) -> Posix:
    """The attributes of a file as its row has them."""
    return decode(
        replace(row.headers, tag_count=0) if row.new else row.headers,
        size=row.size,
        modified=int(row.since),
        directory=False,
        defaults=defaults,
    )


def _sync_now(pages: PageFile) -> None:
    """Take a page file to the disk, and wait for it here. Raises OSError."""
    os.fdatasync(pages.fd)
    sync_directory(pages.path.parent)


def _is_inline(content: Content) -> bool:
    size = content.size
    return size <= INLINE and content.local.pages.valid.covers(0, size)
