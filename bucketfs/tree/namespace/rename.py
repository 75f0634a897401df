"""Renaming: a copy inside the store and a deletion, for one file or for all objects of a tree.

A file that is not in the bucket yet is renamed without a request. A tree is copied completely
before anything of it is deleted, so that a failure leaves it where it was; the copies are taken
back. Handles, unsaved bytes and attributes hang on inodes and come along by themselves.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from bucketfs import clock
from bucketfs.cache.rows import Rename
from bucketfs.errors import FsError, KeyTaken, NotFound, PreconditionFailed, StoreError
from bucketfs.file.context import Version
from bucketfs.store.base import BytesBody, Headers, ObjectInfo
from bucketfs.tree.core.inode import NEVER, Directory, Inode, OpenState, is_below
from bucketfs.tree.core.locks import Locks
from bucketfs.tree.core.posix import content_type_of, encode
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.attributes import Attributes
from bucketfs.tree.lookup.find import Finder
from bucketfs.tree.lookup.lister import Lister
from bucketfs.tree.namespace.copies import TreeCopies
from bucketfs.tree.namespace.entries import Entries
from bucketfs.tree.saving.lost_answers import delete_attempt
from bucketfs.tree.saving.markers import Markers
from bucketfs.tree.saving.promises import Promises
from bucketfs.tree.saving.remove import Removals
from bucketfs.tree.saving.save import Saver

log = logging.getLogger(__name__)

_THEIRS_STAY: Final = (
    "%r was stored by someone else while it was renamed: their object keeps the old name"
)


@dataclass(frozen=True, slots=True)
class _Onto:
    """The new name of a file, and what may stand there before.

    Attributes:
        key: Its key.
        parent / name: What it is made of.
        target: The file that had it, if any.
        if_match: ETag that has to be replaced, "" for any.
        free: Nothing may be there.
        claim: That has to be the store's decision, whatever it takes.
    """

    key: str
    parent: Directory
    name: str
    target: Inode | None
    if_match: str = ""
    free: bool = False
    claim: bool = False

    def outdate(self) -> None:
        """Have the bucket asked what is there."""
        self.parent.listed = NEVER
        if self.target is not None:
            self.target.checked = NEVER


class Renamer:
    """Renames files and directories."""

    def __init__(
        self,
        state: TreeState,
        finder: Finder,
        attributes: Attributes,
        lister: Lister,
        entries: Entries,
        locks: Locks,
        removals: Removals,
        saver: Saver,
        promises: Promises,
        markers: Markers,
    ) -> None:
        self._state = state
        self._store = state.files.store
        self._index = state.files.cache.index
        self._journal = state.files.cache.journal
        self._finder = finder
        self._attributes = attributes
        self._lister = lister
        self._entries = entries
        self._locks = locks
        self._removals = removals
        self._saver = saver
        self._promises = promises
        self._markers = markers
        self._tree = TreeCopies(state, lister)

    async def rename(
        self,
        old_parent: Directory,
        old_name: str,
        new_parent: Directory,
        new_name: str,
        *,
        replace: bool,
    ) -> None:
        """Give a file or directory another name, atomically for who looks through this mount.

        Raises:
            FsError: ENOENT, EEXIST (unless `replace`), EISDIR, ENOTDIR, ENOTEMPTY, EINVAL,
                ENAMETOOLONG; ESTALE when others changed the object meanwhile.
            StoreError: It could not be copied, and nothing has changed; or the originals of what
                was copied could not be deleted.
        """
        await self._removals.wait_for_deletions()  # no deletion may hit what is copied to its key
        source = await self._finder.find(old_parent, old_name)
        target = await self._finder.find_or_none(new_parent, new_name)
        if target is source:
            return
        if target is not None:
            target = await self._finder.find(new_parent, new_name)
            if not replace:
                raise FsError(errno.EEXIST)
        # whether the store is to decide who has the name, also where that takes more than a copy
        claim = not replace and self._state.config.exclusive_at_open
        with self._learning_of(new_parent, new_name, replace=replace):
            if isinstance(source, Directory):
                await self._check_directory(source, target, new_parent)
                await self._rename_directory(source, target, new_parent, new_name, claim=claim)
            elif isinstance(target, Directory):
                raise FsError(errno.EISDIR)
            else:
                await self._rename_file(source, target, new_parent, new_name, claim=claim)
        self._state.touch(old_parent)
        self._state.touch(new_parent)

    async def _check_directory(
        self, source: Directory, target: Inode | None, new_parent: Directory
    ) -> None:
        if target is not None:
            if not isinstance(target, Directory):
                raise FsError(errno.ENOTDIR)
            await self._entries.check_empty(target)
        node: Directory | None = new_parent
        while node is not None:
            if node is source:
                raise FsError(errno.EINVAL, "a directory cannot go into itself")
            node = node.parent

    async def _rename_file(
        self,
        source: Inode,
        target: Inode | None,
        new_parent: Directory,
        new_name: str,
        *,
        claim: bool,
    ) -> None:
        old_parent = source.parent
        if content_type_of(source.name) != content_type_of(new_name):
            await self._attributes.complete(source)
        # the parents, too: they get a marker if need be, and must not be renamed themselves before
        # the copy stands in one of them
        inodes = [inode for inode in (source, new_parent, old_parent, target) if inode is not None]
        for inode in (source, target):
            if inode is not None and inode.content is not None:
                inode.content.interrupt()
        async with self._locks.exclusive(*inodes) as open_state, AsyncExitStack() as pins:
            await self._pin_key(source, open_state, pins)
            if source.parent is None or (target is not None and target.parent is None):
                raise FsError(errno.ENOENT, "removed while it was to be renamed")
            if old_parent is None or source.parent is not old_parent:
                raise FsError(errno.ESTALE, "renamed while it was to be renamed")
            old_name, old_key = source.name, self._state.key(source)
            new_key = self._state.child_key(new_parent, new_name)
            if source.etag:
                await self._store.foresee("DeleteObject", old_key)
            if target is not None:
                await self._entries.remove_object(target, replaced=True)
            in_bucket = target.etag if target is not None else ""
            left = False
            if open_state.content is not None and open_state.content.overlay.new:
                left = await self._forget_old(source, old_key)
                if target is not None and target.content is not None:
                    # what an upload of the target may have made of the key is replaced as well
                    open_state.content.attempts += target.content.attempts
                    open_state.content.may_have_arrived |= target.content.may_have_arrived
                source.etag = in_bucket  # the object that the upload is going to replace
                self._relink(source, target, new_parent, new_name)
            else:
                onto = await self._onto(target, new_parent, new_name, claim=claim)
                replaced = onto.if_match or in_bucket
                with self._journaled(Rename(old_key, new_key, source.etag, replaced)):
                    left = await self._move_object(source, old_key, onto)
                    self._relink(source, target, new_parent, new_name, ends=old_key)
            if left:
                self._state.freshness.learn_taken(old_parent, old_name)
            await self._markers.keep_left(old_parent)

    async def _onto(
        self, target: Inode | None, new_parent: Directory, new_name: str, *, claim: bool
    ) -> _Onto:
        """What a copy to a name may replace, where the store looks at that.

        Anything elsewhere: a HEAD before the copy would but make the time shorter in which what
        others store is replaced, as a rename a moment later does anyway.
        """
        key = self._state.child_key(new_parent, new_name)
        onto = _Onto(key, new_parent, new_name, target)
        if target is None and key in self._state.deferred:
            return onto  # what a removed file that is still open leaves there is no file any more
        can = await self._store.settle("target_if_match", "target_if_none_match")
        if target is None:
            return dataclasses.replace(onto, free=claim or can.target_if_none_match, claim=claim)
        if not can.target_if_match:
            return onto
        etag = target.etag
        if self._state.freshness.is_ours(target):
            # what is unsaved here goes, whatever others or a lost upload have made of its object
            try:
                etag = (await self._store.head(key)).etag
            except NotFound:
                etag = ""
        return dataclasses.replace(onto, if_match=etag, free=not etag and can.target_if_none_match)

    @contextmanager
    def _journaled(self, row: Rename) -> Iterator[None]:
        """If a crash, or the end of the mount, ends the block, the next mount finishes it."""
        self._journal.rename(row)
        try:
            yield
        except Exception:
            self._journal.renamed(row.old)
            raise
        self._journal.renamed(row.old)

    async def _pin_key(self, inode: Inode, open_state: OpenState, pins: AsyncExitStack) -> None:
        """No upload beside the writer of a file has bytes under the old key, until it has the new.

        The caller holds the inode's lock, or that of the tree it is in.
        """
        content = open_state.content
        if content is not None and inode.parent is not None:
            pins.enter_context(content.early_upload.key_pinned())
            await self._saver.finish_upload(inode, open_state)
            content.interrupt()

    async def _forget_old(self, source: Inode, old_key: str) -> bool:
        """An unsaved file had itself replaced an object that is still under its old name.

        Answers whether something else may be there by now, which stays.
        """
        content = source.content
        assert content is not None
        if not source.etag:
            await delete_attempt(self._store, old_key, content)
            return False
        assert source.parent is not None
        await self._markers.keep(source.parent, source)
        try:
            await self._store.delete(old_key, if_match=source.etag)
        except PreconditionFailed:
            if content.may_have_arrived:
                await delete_attempt(self._store, old_key, content)
            else:
                log.warning(_THEIRS_STAY, old_key)
            return True
        return False

    @contextmanager
    def _learning_of(self, parent: Directory, name: str, *, replace: bool) -> Iterator[None]:
        """If the name turns out to be taken, others' object is seen from now on.

        Raises:
            FsError: ESTALE, after which the kernel asks again, if it may be replaced.
        """
        try:
            yield
        except KeyTaken as error:
            self._state.freshness.learn_taken(parent, name)
            if not replace:
                raise
            raise FsError(errno.ESTALE, f"{name!r} was made by someone else meanwhile") from error

    async def _move_object(self, source: Inode, old_key: str, onto: _Onto) -> bool:
        """Copy and delete; answers whether something of others' stays under the old key."""
        open_state = source.open_state
        assert open_state is not None
        assert source.parent is not None
        changes = open_state.attribute_changes
        headers = self._new_headers(source, onto.name)
        old = Version(old_key, source.etag, source.size)
        await self._markers.keep(source.parent, source)
        condition = source.etag if onto.claim else self._state.copy_condition(source)
        try:
            info = await self._store.copy(
                old_key, onto.key, size=source.size, headers=headers, source_if_match=condition,
                target_if_match=onto.if_match, target_if_none_match=onto.free,
            )  # fmt: skip
        except KeyTaken:
            raise
        except (PreconditionFailed, NotFound) as error:
            # the kernel asks again after ESTALE, and then learns what is there now
            source.checked = source.parent.listed = NEVER
            onto.outdate()
            why = f"{old_key!r} or {onto.key!r} was changed by someone else"
            raise FsError(errno.ESTALE, why) from error
        self._state.retain(onto.key)
        sure = bool(condition)
        # readers go on under the new key before the old one is gone
        self._state.moved(source, old, info, sure=sure)
        left = False
        try:
            left = not await self._delete_original(old, info, sure=sure)
        except StoreError:
            source.checked = source.parent.listed = NEVER
            if await self._is_still(source, old, info):
                log.error("%r is still there, and so is its copy %r", old_key, onto.key)
                onto.outdate()
                raise
        self._index.drop_headers(old_key)
        if headers is not None:
            self._index.put_headers(onto.key, info.etag, info.last_modified, headers)
            if not (open_state.content and open_state.content.unsaved):
                open_state.attributes_stored(changes)
        return left

    async def _delete_original(self, old: Version, copy: ObjectInfo, *, sure: bool) -> bool:
        """Delete what was copied; False when others have stored something else in its place.

        Args:
            old: The version we knew.
            copy: Its copy, or one of a later version unless it is `sure`.
            sure: The copy was conditional on that version.
        """
        for etag in dict.fromkeys([old.etag] if sure else [old.etag, copy.etag]):
            try:
                await self._store.delete(old.key, if_match=etag)
            except PreconditionFailed:
                continue
            return True
        log.warning(_THEIRS_STAY, old.key)
        return False

    async def _is_still(self, source: Inode, old: Version, copy: ObjectInfo) -> bool:
        """Whether a failed deletion has left the original, which the file stands for then."""
        try:
            found = await self._store.head(old.key)
        except NotFound:
            return False
        except StoreError:
            return True
        if found.etag == old.etag:
            self._state.moved(source, Version(copy.key, copy.etag, old.size), found, sure=True)
            source.checked = NEVER
        return True

    def _new_headers(self, source: Inode, new_name: str) -> Headers | None:
        """Headers for the copy, None to keep those of the object.

        They are rewritten for attributes that wait to be saved, and for a content type that only
        said what the old name's extension says.
        """
        open_state = source.open_state
        assert open_state is not None
        posix = source.posix
        if posix is None or posix.partial:
            return None
        old_type, new_type = content_type_of(source.name), content_type_of(new_name)
        # what was stored here has no type of its own: it got that of its name
        kept = (posix.foreign.content_type if posix.foreign else "") or old_type
        unsaved = open_state.attributes_unsaved
        if not unsaved and (old_type == new_type or kept != old_type):
            return None
        if posix.foreign and kept == old_type:
            foreign = Headers(posix.foreign.metadata, "", posix.foreign.other)
            source.posix = posix.changed(posix.ctime_ns, foreign=foreign)
            posix = source.posix
        return encode(posix, new_type)

    def _relink(
        self,
        source: Inode,
        target: Inode | None,
        new_parent: Directory,
        new_name: str,
        *,
        ends: str = "",
    ) -> None:
        # with `ends`, the journal's rename of that key has ended: what waits under the new one is
        # not what was replaced any more
        changed = [source] if target is None else [source, target]
        self._state.note_change(*changed)
        if target is not None:
            if target.open_state is not None:
                target.open_state.removed()
                if target.content is not None:
                    target.content.early_upload.drop()
            self._state.unlink(target)
        self._state.left_by_us(source)
        if source.posix is not None:
            # the copy was made before; its ctime in the bucket follows with the next change
            source.posix = source.posix.changed(clock.wall_ns())
        self._state.link(new_parent, new_name, source)
        with self._journal.batch():
            replaced = target.content if target is not None else None
            if replaced is not None and replaced.promise is not None:
                self._promises.drop(replaced)
            self._promises.update(source)
            if ends:
                self._journal.renamed(ends)

    async def _rename_directory(
        self,
        source: Directory,
        target: Inode | None,
        new_parent: Directory,
        new_name: str,
        *,
        claim: bool,
    ) -> None:
        old_parent = source.parent
        if old_parent is None:
            raise FsError(errno.ENOENT, "removed while it was to be renamed")
        for inode in self._state.open_inodes:
            if inode.content is not None and is_below(inode, source):
                inode.content.interrupt()
        # the target, too: nobody writes its marker while that of the source takes its place
        inodes = [inode for inode in (source, new_parent, old_parent, target) if inode is not None]
        async with self._locks.exclusive(*inodes, tree=source):
            if source.parent is not old_parent:
                raise FsError(errno.ESTALE, "renamed or removed while it was to be renamed")
            new_prefix = self._state.child_key(new_parent, new_name) + "/"
            old_name, claimed = source.name, ""
            pins = AsyncExitStack()
            await self._store.foresee("DeleteObject", self._state.prefix(source))
            try:
                await self._pin_keys_below(source, pins)
                await self._removals.wait_for_deletions()
                await self._markers.keep_emptied_below(source)
                await self._markers.keep(old_parent, source)
                if claim:
                    claimed = await self._claim(source, new_prefix)
                with self._journaled(Rename(self._state.prefix(source), new_prefix)):
                    asked = self._tree.conditions(source)
                    copies = await self._tree.copy(
                        source, new_prefix, target, asked, claimed=claimed
                    )
                    for _, copy in copies:
                        self._state.retain(copy.key)
                    if claim:
                        source.markers = (source.markers or frozenset()) | {"/"}
                    # readers go on under the new keys before the old ones are gone
                    self._relink(source, target, new_parent, new_name)
                    self._tree.adopt_copies(source, copies, asked)
                    self._promises.update_below(source)
                    left = True
                    try:
                        left = await self._tree.delete_originals(copies, asked)
                    finally:
                        if left:
                            self._state.freshness.learn_taken(old_parent, old_name)
            finally:
                await pins.aclose()
            await self._markers.keep_left(old_parent)

    async def _pin_keys_below(self, source: Directory, pins: AsyncExitStack) -> None:
        for inode in list(self._state.open_inodes):
            if inode.open_state is not None and is_below(inode, source):
                await self._pin_key(inode, inode.open_state, pins)

    async def _claim(self, source: Directory, new_prefix: str) -> str:
        """Make the marker of the new name, as only one client can; answers its ETag."""
        headers = source.headers()
        info = await self._store.put(new_prefix, BytesBody(b""), headers, if_none_match=True)
        return info.etag
