"""What an earlier mount left in the journal is carried out before anything is served.

Each step may be interrupted by another crash and is done again by the next mount:

1. half-done renames: the copies that are missing are made, then the originals go;
2. removals that had been answered: the objects go, unless others have replaced them since;
3. pending files: they are in the tree again, and wait for their upload as they did;
4. multipart uploads that nobody will complete are aborted, beside the serving; those whose id is
   not known, first of all.

What cannot be done now stays in the journal. Rows of other prefixes of the bucket are left for a
mount that shows these.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bucketfs import clock
from bucketfs.cache.extents import Extents, Seals
from bucketfs.cache.pages import PageFile, read_exactly
from bucketfs.cache.rows import Attempt, Removal, Rename
from bucketfs.cache.rows import PendingRow as Row
from bucketfs.errors import FsError, KeyTaken, NotFound, PreconditionFailed, StoreError
from bucketfs.file import multipart
from bucketfs.file.content import Content
from bucketfs.store.base import ObjectInfo
from bucketfs.tasks import gather
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.names import is_visible
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.lister import Lister
from bucketfs.tree.saving.later import Later
from bucketfs.tree.saving.promises import Promises, attributes_of
from bucketfs.units import count

log = logging.getLogger(__name__)

_STORED_SINCE: Final = "%r was stored by someone else after it was renamed: it stays"


@dataclass(slots=True)
class Replayed:
    """What has been done: objects renamed and removed, files that wait again, and what is left."""

    renamed: int = 0
    removed: int = 0
    pending: int = 0
    damaged: int = 0
    others: int = 0

    def __str__(self) -> str:
        """Words for the log, without what has not happened."""
        damaged = count(self.damaged, "damaged file")
        others = count(self.others, "entry", "entries")
        told = (
            (self.pending, f"{count(self.pending, 'file')} to be uploaded again"),
            (self.renamed, f"{count(self.renamed, 'object')} renamed"),
            (self.removed, f"{count(self.removed, 'object')} removed"),
            (self.damaged, f"{damaged}, see bucketfs recover"),
            (self.others, f"{others} left for mounts of other prefixes of the bucket"),
        )
        return "; ".join(words for number, words in told if number)


class DamagedError(Exception):
    """A pending file is not there as the journal has it; the message says what is wrong."""


class Replay:
    """Carries out the journal of an earlier mount of this bucket."""

    def __init__(self, state: TreeState, lister: Lister, promises: Promises, later: Later) -> None:
        self._state = state
        self._background = state.files.background
        self._store = state.files.store
        self._journal = state.files.cache.journal
        self._lister = lister
        self._promises = promises
        self._later = later
        self.done = Replayed()

    def postpone(self) -> None:
        """Leave everything to a mount that may write; the log says so."""
        journal = self._journal
        rows = (journal.renames(), journal.removals(), journal.pending(), journal.uploads())
        if left := sum(len(found) for found in rows):
            log.warning(
                "an earlier mount has left %s in the journal: mount without ro to carry it out",
                count(left, "entry", "entries"),
            )

    async def run(self) -> Replayed:
        """Carry everything out; what the bucket refuses stays for the next mount, and is logged."""
        left = self._journal.uploads()
        if nameless := [upload for upload in left if not upload.upload_id]:
            # they are looked for by their key: before there are new ones of it
            await multipart.clear(self._store, self._journal, nameless)
        named = [upload for upload in left if upload.upload_id]
        for rename in self._journal.renames():
            if self._is_here(rename.old) and self._is_here(rename.new):
                await self._finish(rename)
        await self._remove([r for r in self._journal.removals() if self._is_here(r.key)])
        for row in self._journal.pending():
            if row.error:
                self._report(row, row.error)
            elif self._is_here(row.key):
                await self._plant(row)
        if named:
            self._background.start(
                lambda: multipart.clear(self._store, self._journal, named), "abort left uploads"
            )
        if self.done != Replayed():
            log.warning("a mount before this one was not unmounted: %s", self.done)
        return self.done

    def _is_here(self, key: str) -> bool:
        here = key.startswith(self._state.config.prefix)
        self.done.others += not here
        return here

    # ---- renames ---------------------------------------------------------------------------------

    async def _finish(self, rename: Rename) -> None:
        try:
            if rename.is_tree:
                await self._finish_tree(rename)
            else:
                await self._finish_file(rename)
        except StoreError as error:
            log.error(
                "%r is renamed to %r only in part, the next mount goes on: %s",
                rename.old,
                rename.new,
                error,
            )

    async def _finish_tree(self, rename: Rename) -> None:
        objects = await self._lister.objects_below(rename.old)
        originals = {info.key for info in objects}
        there = {info.key: info for info in await self._lister.objects_below(rename.new)}
        waiting: dict[str, list[Row]] = {}  # read once: to read 10,000 rows takes 0.2 s
        for row in self._journal.pending():
            waiting.setdefault(row.key, []).append(row)
        moved = await gather(
            [
                functools.partial(self._move, rename, info, there, waiting.get(info.key, ()))
                for info in objects
            ],
            limit=self._state.files.parallel,
        )
        gone = {info.key: info.etag for info, well in zip(objects, moved, strict=True) if well}
        stayed = await self._store.delete_many([*gone], if_match=gone)
        for key, error in stayed.items():
            if not isinstance(error, PreconditionFailed):
                raise error
            log.warning(_STORED_SINCE, key)
        self.done.renamed += len(gone)
        with self._journal.batch():
            for row in self._journal.pending():
                if row.key.startswith(rename.old):
                    key = rename.new + row.key[len(rename.old) :]
                    # originals go last: where there is none, its copy has its place
                    copy = None if row.key in originals else there.get(key)
                    self._journal.change(_based_on(row, key, copy))
            self._journal.renamed(rename.old)

    async def _move(
        self,
        rename: Rename,
        info: ObjectInfo,
        there: Mapping[str, ObjectInfo],
        waiting: Sequence[Row],
    ) -> bool:
        """Have an object under its new key; False when it has to keep the old one, too.

        Args:
            rename: That of its directory.
            info: The object.
            there: What has its new key already.
            waiting: The files that are to take its place.
        """
        key = rename.new + info.key[len(rename.old) :]
        copy = there.get(key)
        try:
            if copy is None:
                copy = await self._store.copy(
                    info.key, key, size=info.size, source_if_match=info.etag,
                    target_if_none_match=True,
                )  # fmt: skip
            elif not _may_be_copy(copy, info):
                raise KeyTaken("PreconditionFailed", key=key)
        except KeyTaken:
            log.error(
                "%r was to be renamed to %r, which is another object now: both stay", info.key, key
            )
            return False
        for row in waiting:
            self._journal.change(_moved(row, key, copy, info.etag))
        return True

    async def _finish_file(self, rename: Rename) -> None:
        """The copy was made, or the rename never happened; the original goes only after a copy."""
        old, new = await self._head(rename.old), await self._head(rename.new)
        if new is not None and await self._is_copy(rename, old, new):
            if old is not None and old.etag == rename.etag:
                try:
                    await self._store.delete(rename.old, if_match=old.etag)
                except PreconditionFailed:
                    log.warning(_STORED_SINCE, rename.old)
            self.done.renamed += 1
            for row in self._journal.pending():
                if row.key == rename.new:
                    self._forget(row)  # of the file that was replaced
                elif row.key == rename.old:
                    self._journal.change(_moved(row, rename.new, new, rename.etag))
        self._journal.renamed(rename.old)

    async def _is_copy(self, rename: Rename, old: ObjectInfo | None, new: ObjectInfo) -> bool:
        if new.etag == rename.etag:
            return True
        if new.etag == rename.replaced:
            return False
        if old is None:
            return True  # the original goes last
        if new.size != old.size:
            return False
        # the ETag of a copy may be another one; its modification time is to the nanosecond
        times = [info.headers.metadata.get("mtime") for info in (old, new) if info.headers]
        return len(times) == 2 and times[0] == times[1]

    async def _head(self, key: str) -> ObjectInfo | None:
        try:
            return await self._store.head(key)
        except NotFound:
            return None

    # ---- removals --------------------------------------------------------------------------------

    async def _remove(self, removals: list[Removal]) -> None:
        await gather(
            [functools.partial(self._remove_one, removal) for removal in removals],
            limit=self._state.files.parallel,
        )

    async def _remove_one(self, removal: Removal) -> None:
        try:
            found = await self._head(removal.key)
            if found is not None and removal.etag in ("", found.etag):
                await self._store.delete(removal.key, if_match=removal.etag)
                self.done.removed += 1
        except PreconditionFailed:
            log.info("%r was stored by someone else after it was removed: it stays", removal.key)
        except StoreError as error:
            log.error(
                "%r was removed and is still there, the next mount deletes it: %s",
                removal.key,
                error,
            )
            return
        self._journal.removed([removal.key])

    # ---- pending files ---------------------------------------------------------------------------

    async def _plant(self, row: Row) -> None:
        """Have a pending file in the tree as it was when it was promised."""
        if await self._is_overtaken(row):
            self._forget(row)
            return
        try:
            directory, data = self._state.files.cache.directory, self._journal.data(row.file)
            data = await self._journal.in_thread(functools.partial(check, row, data, directory))
            parent, name = self._parent(row.key)
            pages = self._pages(row, data)
        except DamagedError as error:
            await self._leave_damaged(row, error)
            return
        except FsError as error:
            log.error(
                "%r cannot be uploaded by this mount, the next one tries again: %s", row.key, error
            )
            return
        inode = self._state.file_that_waits(parent, name)
        self._furnish(inode, row)
        content = Content.promised(self._state.files, row, pages)
        open_state = self._state.ensure_open_state(inode)
        open_state.take(content)
        open_state.find_saver()
        self._promises.adopted(content)
        self._state.note_change(inode)
        self._later.keep_trying(inode)
        self.done.pending += 1

    def _forget(self, row: Row) -> None:
        """Nobody needs the bytes of a pending file any more."""
        cache = self._state.files.cache
        self._journal.drop(row.file)
        cache.release(cache.take_kept(row.file))

    def _furnish(self, inode: Inode, row: Row) -> None:
        inode.etag = row.if_match
        inode.size = row.base[2] if row.base else 0
        inode.posix = attributes_of(row, self._state.config.defaults)

    def _pages(self, row: Row, data: bytes | None) -> PageFile:
        """The page file with the bytes that were promised; raises FsError ENOSPC."""
        cache = self._state.files.cache
        pages = cache.take_kept(row.file)
        try:
            if data is not None:
                pages.truncate(0)
                if cache.write(pages, 0, data) < len(data):
                    raise FsError(errno.ENOSPC, "no space left on the disk of the cache")
            elif pages.stored > row.size:
                pages.truncate(row.size)  # it had been written on
        except OSError as error:
            raise FsError(error.errno or errno.EIO, f"the cache: {error.strerror}") from error
        return pages

    async def _leave_damaged(self, row: Row, error: DamagedError) -> None:
        if await self._has_arrived(row):
            self._forget(row)
            return
        self._report(row, str(error))
        self._journal.damage(row.file, str(error))

    def _report(self, row: Row, error: str) -> None:
        self.done.damaged += 1
        log.error("%r is damaged and cannot be uploaded: %s; see bucketfs recover", row.key, error)

    async def _has_arrived(self, row: Row) -> bool:
        """Whether the bucket has the object although the row is still there."""
        ours = [(row.size, row.headers.metadata), *row.attempts]
        return await self._is_there(row.key, [sent for sent in ours if sent[0] == row.size])

    async def _is_overtaken(self, row: Row) -> bool:
        """Whether a later state of the file has arrived, which is what counts then."""
        if not row.ahead or not await self._is_there(row.key, row.ahead):
            return False
        log.info("%r is in the bucket already, with what was written to it later", row.key)
        return True

    async def _is_there(self, key: str, uploads: Sequence[Attempt]) -> bool:
        """Whether the object of a key is of one of these uploads, as far as can be known."""
        try:
            found = await self._head(key)
        except StoreError as error:
            log.warning(
                "cannot look whether %r is in the bucket already, it is uploaded again: %s",
                key,
                error,
            )
            return False
        if found is None or found.headers is None or not self._store.capabilities.user_metadata:
            return False
        said = found.size, dict(found.headers.metadata)
        return said in [(size, dict(sent)) for size, sent in uploads]

    def _parent(self, key: str) -> tuple[Directory, str]:
        """The directory of a key, made if missing, and the name in it."""
        *above, name = key[len(self._state.config.prefix) :].split("/")
        if not all(map(is_visible, (*above, name))):
            raise DamagedError("its key cannot be a path")
        directory = self._state.root
        for part in above:
            child = directory.children.get(part)
            if child is None:
                child = self._state.new_directory(directory, part)
            if not isinstance(child, Directory):
                raise DamagedError("another file that waits has the name of its directory")
            directory = child
        if isinstance(directory.children.get(name), Directory):
            raise DamagedError("other files that wait are below its name")
        return directory, name


def check(row: Row, data: bytes | None, directory: Path) -> bytes | None:
    """Whether all that a pending file's row counts on is there, and is what it was.

    Args:
        row: What the journal says.
        data: All bytes of the file, if the journal has them.
        directory: Of the cache, with the page file.

    Returns:
        `data` when it is right; None when the page file is to be used.

    Raises:
        DamagedError: It is not.
    """
    if row.error:
        raise DamagedError(row.error)
    if row.boot not in ("", clock.boot_id()):
        raise DamagedError("the machine went down before all of its bytes were on the disk")
    try:
        seals = Seals.load(row.seals)
    except ValueError as error:
        raise DamagedError(str(error)) from error
    if not _is_whole(row):
        raise DamagedError("the journal contradicts itself")
    if data is not None:
        try:
            _check_data(row, seals, data)
        except DamagedError as error:
            try:
                _check_pages(row, seals, directory / row.file)
            except DamagedError:
                raise error from None
            return None  # mostly it has the same bytes
        return data
    _check_pages(row, seals, directory / row.file)
    return None


def _check_data(row: Row, seals: Seals, data: bytes) -> None:
    if len(data) != row.size:
        raise DamagedError("its bytes in the journal are not all")
    _compare(seals, lambda start, stop: data[start:stop], "in the journal")


def _check_pages(row: Row, seals: Seals, path: Path) -> None:
    try:
        with path.open("rb") as file:
            stored = os.fstat(file.fileno()).st_size
            if stored < row.stored:
                raise DamagedError(f"{path} has {stored} bytes instead of {row.stored}")
            _compare(seals, functools.partial(read_exactly, file.fileno()), f"of {path}")
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}") from error


def _compare(seals: Seals, read: Callable[[int, int], bytes], where: str) -> None:
    if (seal := seals.broken(read)) is not None:
        raise DamagedError(
            f"bytes {seal.start}-{seal.stop - 1} {where} are not those that were written"
        )


def _may_be_copy(copy: ObjectInfo, info: ObjectInfo) -> bool:
    """Whether nobody has changed an original or its copy since that was made; times are seconds."""
    if copy.size != info.size:
        return False
    return not info.size or copy.etag == info.etag or copy.last_modified > info.last_modified


def _is_whole(row: Row) -> bool:
    """Whether each byte is in the page file or in the base version."""
    held = Extents(row.valid)
    if not 0 <= row.limit <= row.size or held.end > row.size:
        return False
    for start, stop in row.dirty:
        if not held.covers(start, stop):
            return False
    return held.covers(row.limit, row.size) and (row.base is not None or not row.limit)


def _based_on(row: Row, key: str, copy: ObjectInfo | None) -> Row:
    """As `_moved`, where nobody can say any more of which version the copy was made."""
    _, etag, size = row.base or ("", row.if_match, None)
    if copy is None or not etag or size not in (None, copy.size):
        return _moved(row, key, None)
    return _moved(row, key, copy, etag)


def _moved(row: Row, key: str, copy: ObjectInfo | None, etag: str = "") -> Row:
    """The row of a file that was to be published as `key`, where `copy` stands now.

    Args:
        row: As it is.
        key: The new one.
        copy: The object there, copied from the version `etag` of the old key.
        etag: What the row may be based on, or replace.
    """
    base, if_match = row.base, row.if_match
    if copy is not None and if_match == etag:
        if_match = copy.etag
    if copy is not None and base is not None and base[1] == etag:
        base = (key, copy.etag, copy.size)
    return replace(row, key=key, base=base, if_match=if_match)
