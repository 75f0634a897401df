"""Renaming: a copy inside the store and a deletion, for one file or for all objects of a tree.

A file that is not in the bucket yet is renamed without a request. A tree is copied completely
before anything of it is deleted, so that a failure leaves it where it was; the copies are taken
back. Handles, unsaved bytes and attributes hang on inodes and come along by themselves.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress

from bucketfs import clock
from bucketfs.cache.rows import Rename
from bucketfs.errors import FsError, KeyTaken, StoreError
from bucketfs.store.base import BytesBody
from bucketfs.tree.core.inode import Directory, Inode, OpenState, is_below
from bucketfs.tree.core.locks import Locks
from bucketfs.tree.core.posix import content_type_of
from bucketfs.tree.core.state import TreeState, check_key
from bucketfs.tree.lookup.attributes import Attributes
from bucketfs.tree.lookup.find import Finder
from bucketfs.tree.lookup.lister import Lister
from bucketfs.tree.namespace.copies import TreeCopies
from bucketfs.tree.namespace.entries import Entries
from bucketfs.tree.namespace.file_copies import FileCopies
from bucketfs.tree.saving.markers import Markers
from bucketfs.tree.saving.promises import Promises
from bucketfs.tree.saving.remove import Removals
from bucketfs.tree.saving.save import Saver


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
        self._file = FileCopies(state, markers)
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
        old_parent, old_name = source.parent, source.name
        if content_type_of(source.name) != content_type_of(new_name):
            await self._attributes.complete(source)
        # the parents, too: they get a marker if need be, and must not be renamed themselves before
        # the copy stands in one of them
        inodes = [inode for inode in (source, new_parent, old_parent, target) if inode is not None]
        inodes += self._state.left_at(source)
        inodes += self._state.left_below(self._state.child_key(new_parent, new_name))
        for inode in (source, target):
            if inode is not None and inode.content is not None:
                inode.content.interrupt()
        async with self._locks.exclusive(*inodes) as open_state, AsyncExitStack() as pins:
            await self._pin_key(source, open_state, pins)
            if source.parent is None:
                raise FsError(errno.ENOENT, "removed while it was to be renamed")
            _check_target(target, new_parent, new_name)
            # what was written may have become a conflict copy, and the name that of others' file
            if old_parent is None or (source.parent, source.name) != (old_parent, old_name):
                raise FsError(errno.ESTALE, "renamed while it was to be renamed")
            old_key = self._state.key(source)
            new_key = self._state.child_key(new_parent, new_name)
            if source.etag:
                await self._store.foresee("DeleteObject", old_key)
            if target is not None:
                await self._entries.remove_object(target, replaced=True)
            in_bucket = target.etag if target is not None else ""
            left = False
            if open_state.content is not None and open_state.content.overlay.new:
                left = await self._file.free_old_name(source, old_key)
                if target is not None and target.content is not None:
                    # what an upload of the target may have made of the key is replaced as well
                    open_state.content.attempts += target.content.attempts
                    open_state.content.may_have_arrived |= target.content.may_have_arrived
                source.etag = in_bucket  # the object that the upload is going to replace
                self._relink(source, target, new_parent, new_name)
            else:
                onto = await self._file.onto(target, new_parent, new_name, claim=claim)
                replaced = onto.if_match or in_bucket
                row = Rename(old_key, new_key, source.etag, replaced)
                async with self._journaled(row, waits=_waits(source) or _waits(target)):
                    left = await self._file.move(source, old_key, onto)
                    self._relink(source, target, new_parent, new_name, ends=old_key)
            if left:
                self._state.freshness.learn_taken(old_parent, old_name)
            await self._markers.keep_left(old_parent)

    @asynccontextmanager
    async def _journaled(self, row: Rename, *, waits: bool) -> AsyncIterator[None]:
        """If a crash, or the end of the mount, ends the block, the next mount finishes it.

        Args:
            row: What is renamed.
            waits: Files that it is about may wait for their upload. Then it is finished after a
                power cut, too, which may leave their rows as they are before the block.
        """
        self._journal.rename(row)
        try:
            if waits:
                with suppress(FsError):  # the local disk fails, and with it what waits there
                    await self._journal.synced()
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
                self._promises.withdrawn(replaced)
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
        inodes += self._state.left_below(self._state.prefix(source))
        inodes += self._state.left_below(self._state.child_key(new_parent, new_name) + "/")
        async with self._locks.exclusive(*inodes, tree=source):
            if source.parent is not old_parent:
                raise FsError(errno.ESTALE, "renamed or removed while it was to be renamed")
            _check_target(target, new_parent, new_name)
            new_prefix = self._state.child_key(new_parent, new_name) + "/"
            self._check_unsaved_below(source, new_prefix)
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
                row = Rename(self._state.prefix(source), new_prefix)
                async with self._journaled(row, waits=self._promises.count > 0):
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
                    except StoreError:
                        # the kernel takes it that nothing has been renamed
                        self._state.watcher.moved(old_parent, old_name)
                        self._state.watcher.moved(new_parent, new_name)
                        raise
                    finally:
                        if left:
                            self._state.freshness.learn_taken(old_parent, old_name)
            finally:
                await pins.aclose()
            await self._markers.keep_left(old_parent)

    def _check_unsaved_below(self, source: Directory, new_prefix: str) -> None:
        """Raise FsError, ENAMETOOLONG, if what the bucket lacks could not be stored any more."""
        for inode in self._state.open_inodes:
            unsaved = inode.open_state is not None and inode.open_state.unsaved
            if unsaved and inode is not source and is_below(inode, source):
                path = self._state.path(inode).removeprefix(self._state.prefix(source))
                check_key(new_prefix + path)

    async def _pin_keys_below(self, source: Directory, pins: AsyncExitStack) -> None:
        for inode in list(self._state.open_inodes):
            if inode.open_state is not None and is_below(inode, source):
                await self._pin_key(inode, inode.open_state, pins)

    async def _claim(self, source: Directory, new_prefix: str) -> str:
        """Make the marker of the new name, as only one client can; answers its ETag."""
        await self._attributes.ensure(source)
        headers = source.headers()
        info = await self._store.put(new_prefix, BytesBody(b""), headers, if_none_match=True)
        return info.etag


def _waits(inode: Inode | None) -> bool:
    """Whether the journal has bytes of a file."""
    return inode is not None and inode.content is not None and inode.content.promise is not None


def _check_target(target: Inode | None, new_parent: Directory, new_name: str) -> None:
    """Raises FsError, ESTALE, when others have put something in the place of what is replaced.

    The kernel looks again and comes back.
    """
    if new_parent.children.get(new_name) is not target:
        raise FsError(errno.ESTALE, f"{new_name!r} was changed by someone else meanwhile")
