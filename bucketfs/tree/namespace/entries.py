"""Making and removing names: files, directories, symbolic links, special files.

A regular file begins to exist here at once and in the bucket at its first flush; everything else is
one PutObject. A directory whose last entry goes stays: if only its entries made it one, it gets a
marker first.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import stat
from collections.abc import Sequence
from dataclasses import replace

from bucketfs import clock
from bucketfs.cache.rows import Removal
from bucketfs.errors import FsError, KeyTaken, NotFound, PreconditionFailed
from bucketfs.file.content import Content
from bucketfs.store.base import Body, BytesBody, Headers, ObjectInfo
from bucketfs.tasks import gather
from bucketfs.tree.core import acl
from bucketfs.tree.core.inode import Directory, Inode, OpenState
from bucketfs.tree.core.locks import Locks
from bucketfs.tree.core.posix import Posix
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.attributes import LINK_MAX, Attributes
from bucketfs.tree.lookup.find import Finder
from bucketfs.tree.lookup.lister import Lister
from bucketfs.tree.saving.lost_answers import delete_attempt
from bucketfs.tree.saving.markers import Markers
from bucketfs.tree.saving.promises import Promises
from bucketfs.tree.saving.remove import Removals

log = logging.getLogger(__name__)

#: Bytes that unlinking an open file may fetch so that it can be deleted at once; with more to
#: fetch the deletion waits for the last close instead.
UNLINK_FETCH = 64 << 20


class Entries:
    """Creates and removes entries."""

    def __init__(
        self,
        state: TreeState,
        finder: Finder,
        lister: Lister,
        attributes: Attributes,
        locks: Locks,
        promises: Promises,
        removals: Removals,
        markers: Markers,
    ) -> None:
        self._state = state
        self._store = state.files.store
        self._index = state.files.cache.index
        self._journal = state.files.cache.journal
        self._attributes = attributes
        self._finder = finder
        self._lister = lister
        self._locks = locks
        self._promises = promises
        self._removals = removals
        self._markers = markers

    async def create(
        self,
        parent: Directory,
        name: str,
        mode: int,
        uid: int,
        gid: int,
        *,
        exclusive: bool = False,
    ) -> Inode:
        """A new regular file, open here and not in the bucket yet; `mode` without type bits counts.

        Args:
            parent: Directory.
            name: Name in it.
            mode: Permissions.
            uid: Owner.
            gid: Group, unless the directory has its setgid bit.
            exclusive: Who creates it wants to be the only one (O_EXCL). The store decides that when
                it is published, or, where the mount was asked to, now: then it is in the bucket,
                empty, when this returns.

        Raises:
            FsError: EEXIST, ENAMETOOLONG.
            StoreError: An exclusive one could not be stored; nothing can be stored here.
        """
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        if exclusive and self._state.config.exclusive_at_open:
            inode = await self.make(parent, name, mode, uid, gid)
        else:
            await self._store.foresee("PutObject", self._state.child_key(parent, name))
            await self._must_be_free(parent, name)
            inode = self._new(parent, name, mode, uid, gid)
            self._state.ensure_open_state(inode).exclusive = exclusive
        self._state.content(inode)
        return inode

    async def make(
        self,
        parent: Directory,
        name: str,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        body: bytes = b"",
    ) -> Inode:
        """A file of any other kind (or an empty regular one), in the bucket when this returns.

        Args:
            parent: Directory.
            name: Name in it.
            mode: With type bits.
            uid: Owner.
            gid: Group, unless the directory has its setgid bit.
            rdev: Device number of a device node.
            body: Target of a symbolic link.

        Raises:
            FsError: EEXIST, ENAMETOOLONG.
            StoreError: It could not be stored; the name is free as before.
        """
        if len(body) > LINK_MAX:
            raise FsError(errno.ENAMETOOLONG)
        await self._must_be_free(parent, name)
        inode = self._new(parent, name, mode, uid, gid, rdev=rdev)
        try:
            async with self._locks.exclusive(inode, *self._state.left_at(inode)):
                key = self._state.key(inode)
                headers = inode.headers()
                info = await self._put_new(key, BytesBody(body), headers)
                self._state.retain(key)
        except BaseException as error:
            self._state.unlink(inode)
            if isinstance(error, KeyTaken):
                self._state.freshness.learn_taken(parent, name)
            raise
        inode.etag, inode.size, inode.modified = info.etag, len(body), info.last_modified
        inode.checked = clock.monotonic()
        self._index.put_headers(key, info.etag, info.last_modified, headers)
        self._state.drop_if_idle(inode)
        return inode

    async def _put_new(self, key: str, body: Body, headers: Headers) -> ObjectInfo:
        """Store what nothing of others' has the key of; raises as `make` does."""
        deferred = self._state.deferred.get(key)
        if deferred is not None:
            # others may have stored something in the place of the removed file, or removed it, too
            with contextlib.suppress(PreconditionFailed, NotFound):
                return await self._store.put(key, body, headers, if_match=deferred.etag)
        return await self._store.put(key, body, headers, if_none_match=True)

    async def make_directory(
        self, parent: Directory, name: str, mode: int, uid: int, gid: int
    ) -> Directory:
        """A directory with its marker in the bucket; raises as `make` does."""
        await self._must_be_free(parent, name)
        self._state.child_key(parent, name + "/")
        directory = self._state.new_directory(parent, name)
        if parent.posix is not None and parent.posix.mode & stat.S_ISGID:
            mode |= stat.S_ISGID
        self._furnish(parent, directory, stat.S_IFDIR | stat.S_IMODE(mode), uid, gid)
        try:
            async with self._locks.exclusive(directory):
                await self._markers.put(directory, new=True)
        except BaseException as error:
            self._state.unlink(directory)
            if isinstance(error, KeyTaken):
                self._state.freshness.learn_taken(parent, name)
            raise
        directory.listed = directory.checked = clock.monotonic()
        self._state.drop_if_idle(directory)
        return directory

    async def unlink(self, parent: Directory, name: str) -> None:
        """Remove a file; programs that have it open go on using it.

        Raises:
            FsError: ENOENT, EISDIR; ESTALE when others put something else in its place meanwhile:
                the kernel looks again and comes back.
            StoreError: It could not be deleted; it is there as before.
        """
        began = clock.monotonic()
        inode = await self._finder.find_typed(parent, name)
        if isinstance(inode, Directory):
            raise FsError(errno.EISDIR)
        if inode.content is not None:
            inode.content.interrupt()
        # the directory, too, which gets a marker if this is all that makes it one
        async with self._locks.exclusive(inode, parent) as open_state:
            if inode.parent is not parent or inode.name != name:
                raise FsError(errno.ESTALE, "replaced while it was to be removed")
            await self.remove_object(inode)
            self._take_away(parent, inode, open_state)
            if open_state.deferred_delete:
                await self._markers.keep_left(parent)
        self._removals.removed(parent, inode, name, began)
        self._state.drop_if_idle(inode)

    async def remove_object(self, inode: Inode, *, replaced: bool = False) -> None:
        """Take a file's object from the bucket; the caller holds the inode's lock.

        Args:
            inode: Which.
            replaced: Another object takes the key: nothing is deleted, but the bytes that an open
                handle still needs are brought here as far as they are few.
        """
        content = inode.content
        in_bucket = bool(inode.etag)
        if content is not None and content.handles and in_bucket:
            await content.prove()
            missing = sum(b - a for a, b in content.local.missing(0, content.size))
            if missing <= UNLINK_FETCH:
                await self._fetch_rest(content)
            elif not replaced:
                # now: nobody looks after the directory when the object goes
                assert inode.parent is not None
                await self._markers.keep(inode.parent, inode)
                if content.handles:
                    self._defer(inode)
                    return
        if replaced:
            return
        if content is not None and not in_bucket:
            await delete_attempt(self._store, self._state.key(inode), content)
        if in_bucket:
            assert inode.parent is not None
            await self._delete(inode.parent, inode, [self._state.key(inode)])

    async def _fetch_rest(self, content: Content) -> None:
        """Have all bytes of an open file here that it is to go on with."""
        try:
            await content.local.load(0, content.size)
        except FsError as error:
            if error.errno != errno.ESTALE:
                raise
            return  # others have replaced or removed that version: nobody has the rest
        content.drop_base()  # the cache must not count on the bucket for these any more

    def _defer(self, inode: Inode) -> None:
        """Leave an open file's object until the last close; the caller takes the name away."""
        assert inode.open_state is not None
        key = self._state.key(inode)
        self._state.take_deferred(key)  # of a version that others have replaced since
        inode.open_state.deferred_delete = key
        self._state.deferred[key] = inode
        self._journal.remove([Removal(key, inode.etag)])

    async def _delete(self, parent: Directory, inode: Inode, keys: Sequence[str]) -> None:
        """Delete what makes a name exist, now or with many others in a moment."""
        if self._state.config.writeback or self._removals.is_burst(parent, inode.name):
            for key in keys:
                await self._store.foresee("DeleteObject", key)
            etag = "" if isinstance(inode, Directory) else inode.etag
            self._journal.remove([Removal(key, etag) for key in keys])
            self._removals.add(parent, inode.name, keys)
            return
        await self._markers.keep(parent, inode)
        for key in keys:
            await self._store.delete(key)
            self._index.drop_headers(key)
        await self._markers.keep_left(parent)

    def _take_away(self, parent: Directory, inode: Inode, open_state: OpenState) -> None:
        open_state.removed()
        content = open_state.content
        if content is not None:
            if content.promise is not None:
                self._promises.withdrawn(content)
            content.early_upload.drop()
        self._state.note_change(inode)
        self._state.left_by_us(inode)
        self._state.touch(parent)

    async def remove_directory(self, parent: Directory, name: str) -> None:
        """Remove an empty directory.

        Raises:
            FsError: ENOENT, ENOTDIR, ENOTEMPTY (also when only hidden keys are left in it).
            StoreError: It could not be deleted, or what was removed from it before could not.
        """
        began = clock.monotonic()
        directory = await self._finder.find(parent, name)
        if not isinstance(directory, Directory):
            raise FsError(errno.ENOTDIR)
        await self._locks.wait_for_renames(directory)
        with self._removals.going(directory):
            await gather(
                [
                    functools.partial(self._removals.wait_for_directory, directory),
                    functools.partial(self.check_empty, directory),
                ],
                limit=2,
            )
            async with self._locks.exclusive(directory, parent) as open_state:
                path = self._state.path(directory)
                markers = [path + suffix for suffix in sorted(directory.markers or ())]
                await self._delete(parent, directory, markers)
                self._take_away(parent, directory, open_state)
        self._removals.removed(parent, directory, name, began)
        self._state.drop_if_idle(directory)

    async def check_empty(self, directory: Directory) -> None:
        """Raise FsError ENOTEMPTY unless neither the bucket nor this mount has an entry in it."""
        if self._state.freshness.is_listed(directory) and directory.children:
            raise FsError(errno.ENOTEMPTY)
        if any(map(self._state.holds_unsaved, directory.children.values())):
            raise FsError(errno.ENOTEMPTY)
        if not await self._lister.is_empty(directory):
            raise FsError(errno.ENOTEMPTY)

    async def _must_be_free(self, parent: Directory, name: str) -> None:
        if parent.parent is None and parent is not self._state.root:
            raise FsError(errno.ENOENT, "the directory has been removed")
        # what is made takes after it; the kernel may know what a listing has made us doubt since
        await self._attributes.ensure(parent)
        await self._removals.wait_for_name(parent, name)
        if await self._finder.find_or_none(parent, name) is not None:
            raise FsError(errno.EEXIST)

    def _new(
        self, parent: Directory, name: str, mode: int, uid: int, gid: int, *, rdev: int = 0
    ) -> Inode:
        inode = self._state.new_file(parent, name)
        self._furnish(parent, inode, mode, uid, gid, rdev)
        return inode

    def _furnish(
        self, parent: Directory, inode: Inode, mode: int, uid: int, gid: int, rdev: int = 0
    ) -> None:
        if parent.posix is not None and parent.posix.mode & stat.S_ISGID:
            gid = parent.posix.gid
        now = clock.wall_ns()
        inode.posix = Posix(
            mode=mode, uid=uid, gid=gid, mtime_ns=now, atime_ns=now, ctime_ns=now, rdev=rdev
        )
        if self._state.config.acls and parent.posix is not None and not stat.S_ISLNK(mode):
            mode, xattrs = acl.made_in(
                parent.posix.xattrs, mode, directory=isinstance(inode, Directory)
            )
            inode.posix = replace(inode.posix, mode=mode, xattrs=xattrs)
        self._state.note_change(inode)
        self._state.touch(parent)
