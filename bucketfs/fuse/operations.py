"""The FUSE handlers: decode, call the tree, encode. No rule of the file system is made here.

Reference counts: each answer that names an inode (lookup, create, mkdir, mknod, symlink, and each
entry readdir hands over, but not "." and "..") counts one lookup; forget gives them back.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, RequestContext, SetattrFields, StatvfsData

from bucketfs.errors import FsError, NotFound, errno_of
from bucketfs.fuse import owners
from bucketfs.fuse.calls import OF_HANDLES, Calls
from bucketfs.fuse.diary import Diary
from bucketfs.fuse.encode import BLOCK_SIZE, Encoder, negative
from bucketfs.fuse.guard import guarded
from bucketfs.fuse.kernel_cache import KernelCache
from bucketfs.fuse.open_descriptors import is_open_for_writing, process_of, writable_descriptors
from bucketfs.fuse.readdir import OpenDirectory
from bucketfs.tree.core import acl
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.names import NAME_MAX, decode_name
from bucketfs.tree.namespace import object_xattrs
from bucketfs.tree.saving.change import Change
from bucketfs.tree.tree import Tree

#: These mean something to the kernel, and but for ACLs nothing to a bucket. Other names are free,
#: with a namespace or without, as they are in s3fs.
_XATTR_OF_SYSTEM = b"system."
_XATTR_OF_STORE = object_xattrs.PREFIX.encode()
#: Labels are the host's. Told so once, `ls -l` asks no more; for "no data" it asks for each entry.
_NO_XATTR = b"security.selinux"
_ACLS = frozenset(name.encode() for name in acl.NAMES)
#: What df shows when no bucket_size is given: a bucket has no size, and 1 PiB is plainly not one.
_ASSUMED_SIZE = 1 << 50
_ASSUMED_FILES = 1 << 30


def _behind_prefix(name: bytes) -> str:
    return decode_name(name).removeprefix(object_xattrs.PREFIX)


def room(size: int | None) -> StatvfsData:
    """What df shows of a file system of so many bytes; None: the documented constant."""
    blocks = (size or _ASSUMED_SIZE) // BLOCK_SIZE
    data = StatvfsData()
    data.f_bsize = data.f_frsize = BLOCK_SIZE
    data.f_blocks = data.f_bfree = data.f_bavail = blocks
    data.f_files = data.f_ffree = data.f_favail = _ASSUMED_FILES
    data.f_namemax = NAME_MAX
    return data


def check_xattr(name: bytes, *, supported: bool, acls: bool = False) -> None:
    """Whether there can be such an extended attribute. Raises FsError EOPNOTSUPP."""
    if not supported or name == _NO_XATTR or not _is_kept(name, acls=acls):
        raise FsError(errno.EOPNOTSUPP)


def _is_kept(name: bytes, *, acls: bool) -> bool:
    """Whether an extended attribute may be kept: those of the kernel's are ACLs."""
    return not name.startswith(_XATTR_OF_SYSTEM) or (acls and name in _ACLS)


def _drops_set_ids(fields: SetattrFields, ctx: RequestContext) -> bool:
    """Whether a setattr takes a file's set-id bits (agreement.HANDLE_KILLPRIV_V2).

    Giving the file away does, and so does cutting it unless root does. One that changes nothing
    comes before a write by somebody who may not leave them. Without that agreement the kernel says
    in each case what the mode is to be.
    """
    if fields.update_uid or fields.update_gid:
        return True
    if fields.update_size:
        return bool(ctx.uid != 0)
    return not (fields.update_mode or fields.update_atime or fields.update_mtime)


def _check_kind(inode: Inode) -> None:
    """Raise FsError, ESTALE, for an inode of another type than the kernel was told.

    Others have put that in its place. The kernel looks the name up again, and takes the type then.
    """
    if inode.kind and inode.posix is not None and stat.S_IFMT(inode.posix.mode) != inode.kind:
        raise FsError(errno.ESTALE, "the name stands for something of another type now")


def _is_held(handle: Handle) -> bool:
    """Whether its opener, or a process that this has begun, has a file open."""
    return is_open_for_writing(handle.pid, handle.inode.ino, handle.inode.name)


class Operations(pyfuse3.Operations):
    """One mount's handlers.

    Args:
        tree: The file system.
        encoder: How inodes are shown.
        timeout: Seconds after which an operation that moves no file contents fails.
        size: Bytes that statfs shows, None for the documented constant.
        xattrs: Whether extended attributes exist; without them small writes are faster.
        acls: Whether POSIX access control lists do.
        kernel: What the kernel remembers of the mount; its requests are counted there.
        first: All numbers of handles are above this one.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(
        self,
        tree: Tree,
        encoder: Encoder,
        *,
        timeout: float,
        size: int | None,
        xattrs: bool,
        acls: bool = False,
        kernel: KernelCache | None = None,
        first: int = 0,
    ) -> None:
        super().__init__()
        self.enable_acl = acls
        self.kernel = kernel or KernelCache(Calls())
        self.calls = self.kernel.calls
        self.timeout = timeout
        self._tree = tree
        self._table = tree.state.table
        self._encode = encoder
        self._size = size
        self._xattrs = xattrs
        #: What programs have open, by the numbers that the kernel knows.
        self.handles: dict[int, Handle | OpenDirectory] = {}
        self._last_handle = first
        self._diary: Diary | None = None

    def begin_above(self, number: int) -> None:
        """Handles have numbers up to this one already."""
        self._last_handle = max(self._last_handle, number)

    def write_down(self, diary: Diary) -> None:
        """Have it written down what is open, from now on."""
        self._diary = diary

    def subject(self, handler: str, number: int) -> str:
        """The path that a call is about, as `Counted.subject`; a name's is its directory."""
        inode: Inode | None
        if handler in OF_HANDLES:
            handle = self.handles.get(number)
            inode = handle.directory if isinstance(handle, OpenDirectory) else None
            inode = handle.inode if isinstance(handle, Handle) else inode
        else:
            inode = self._table.find(number)
        return "" if inode is None else self._tree.state.shown_below(inode)

    # ---- names -----------------------------------------------------------------------------------

    @guarded()
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Find a name; a free one is answered so that the kernel remembers it."""
        parent = self._table.directory(parent_inode)
        text = decode_name(name)
        self._tree.prefetcher.asked_for(ctx.pid)
        try:
            inode = await self._tree.finder.find_typed(parent, text, asker=ctx.pid)
        except FsError as error:
            if error.errno != errno.ENOENT:
                raise
            return negative(self._tree.finder.negative_timeout(parent, text))
        entry = self._encode.listed(inode, ctx.uid)
        self._table.count(inode)
        return entry

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Give lookups back; cannot fail and is not answered."""
        for ino, lookups in inode_list:
            self._table.forget(ino, lookups)
        self._tree.pruner.given_back()

    @guarded()
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a directory."""
        parent, mode = await self._parent(parent_inode, mode, ctx)
        inode = await self._tree.entries.make_directory(
            parent, decode_name(name), mode, ctx.uid, ctx.gid
        )
        return self._counted(inode)

    @guarded()
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a special file, or an empty regular one."""
        parent, mode = await self._parent(parent_inode, mode, ctx)
        device = rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
        inode = await self._tree.entries.make(
            parent, decode_name(name), mode, ctx.uid, ctx.gid, rdev=device
        )
        return self._counted(inode)

    @guarded()
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a symbolic link."""
        parent = self._table.directory(parent_inode)
        mode = stat.S_IFLNK | 0o777
        inode = await self._tree.entries.make(
            parent, decode_name(name), mode, ctx.uid, ctx.gid, body=target
        )
        return self._counted(inode)

    @guarded()
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """Target of a symbolic link."""
        node = self._table.get(inode)
        if node.posix is None:
            node = await self._known(inode)
        _check_kind(node)
        return await self._tree.read_link(node)

    @guarded()
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """Hard links do not exist in a bucket: EPERM, as POSIX has it for such file systems."""
        raise FsError(errno.EPERM)

    @guarded(bounded=False)
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove a file."""
        parent, text = self._table.directory(parent_inode), decode_name(name)
        await self._check_removal(parent, text, ctx)
        await self._tree.entries.unlink(parent, text)

    @guarded(bounded=False)
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an empty directory."""
        parent, text = self._table.directory(parent_inode), decode_name(name)
        await self._check_removal(parent, text, ctx)
        await self._tree.entries.remove_directory(parent, text)

    @guarded(bounded=False)
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """Rename; RENAME_EXCHANGE cannot be done in a bucket and is refused."""
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise FsError(errno.EINVAL)
        parent, name = self._table.directory(parent_inode_old), decode_name(name_old)
        new_parent, new_name = self._table.directory(parent_inode_new), decode_name(name_new)
        await self._check_removal(parent, name, ctx)
        await self._check_removal(new_parent, new_name, ctx)
        with self.kernel.if_taken(new_parent, new_name):
            await self._tree.renamer.rename(
                parent,
                name,
                new_parent,
                new_name,
                replace=not flags & pyfuse3.RENAME_NOREPLACE,
            )

    # ---- attributes ------------------------------------------------------------------------------

    @guarded()
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Attributes, asked of the bucket when what is known is too old."""
        self._tree.prefetcher.asked_for(ctx.pid)
        return self._encode.attributes(await self._known(inode, asker=ctx.pid))

    @guarded(bounded=False)
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """Change attributes; the kernel has checked who may (default_permissions)."""
        node = await self._to_change(inode, cut=fields.update_size)
        if fields.update_size:  # for that the kernel looks at the mode, and so has asked before
            await self._tree.opener.truncate(node, attr.st_size, publish=fh is None)
        else:
            owners.check(node, self._encode, ctx)
        change = Change(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            drops_set_ids=_drops_set_ids(fields, ctx),
        )
        if self._tree.changer.change(node, change):
            self._tree.later.attributes(node)
        return self._encode.attributes(node)

    @guarded()
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """Value of an extended attribute.

        The kernel asks for security.capability before each write(2).
        """
        if not self._xattrs:
            raise FsError(errno.ENOSYS)
        check_xattr(name, supported=self._xattrs, acls=self.enable_acl)
        node = self._table.get(inode)
        if node.posix is None:
            node = await self._known(inode)
        if name.startswith(_XATTR_OF_STORE):
            return await self._tree.object_xattrs.get(node, _behind_prefix(name))
        value = self._tree.posix(node).xattrs.get(decode_name(name))
        if value is None or (name in _ACLS and acl.decode(value) is None):
            raise FsError(pyfuse3.ENOATTR)
        return value

    @guarded()
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Set an extended attribute (pyfuse3 has looked at XATTR_CREATE and XATTR_REPLACE)."""
        check_xattr(name, supported=self._xattrs, acls=self.enable_acl)
        node = await self._to_change(inode)
        if name.startswith(_XATTR_OF_STORE):
            await self._tree.object_xattrs.set(node, _behind_prefix(name), value)
            return
        if name in _ACLS:
            owners.check(node, self._encode, ctx)
            may = owners.is_in_group(ctx, self._tree.posix(node).gid)
            self._tree.changer.set_acl(node, decode_name(name), value, keeps_setgid=may)
        else:
            self._tree.changer.set_xattr(node, decode_name(name), value)
        self._tree.later.attributes(node)

    @guarded()
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """Names of the extended attributes."""
        if not self._xattrs:
            raise FsError(errno.ENOSYS)
        names = self._tree.posix(await self._known(inode)).xattrs
        return [name for name in map(str.encode, names) if _is_kept(name, acls=self.enable_acl)]

    @guarded()
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an extended attribute."""
        check_xattr(name, supported=self._xattrs, acls=self.enable_acl)
        node = await self._to_change(inode)
        if name.startswith(_XATTR_OF_STORE):
            await self._tree.object_xattrs.remove(node, _behind_prefix(name))
            return
        if name in _ACLS:
            owners.check(node, self._encode, ctx)
        if name in _ACLS and decode_name(name) not in self._tree.posix(node).xattrs:
            return  # no list is a list to the kernel, the one that the mode is
        self._tree.changer.remove_xattr(node, decode_name(name))
        self._tree.later.attributes(node)

    @guarded()
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        """Never asked: the kernel checks by itself (default_permissions)."""
        return True

    @guarded()
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """A bucket has no size: the configured one, or a constant."""
        return room(self._size)

    # ---- files -----------------------------------------------------------------------------------

    @guarded()
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Open an existing file; O_TRUNC comes here, O_CREAT and O_EXCL do not."""
        node = await self._known(inode, asker=ctx.pid)
        pid = ctx.pid if flags & os.O_ACCMODE == os.O_RDONLY else process_of(ctx.pid)
        handle = await self._tree.opener.open(node, flags, uid=ctx.uid, pid=pid, asker=ctx.pid)
        return self._opened(handle)

    @guarded()
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """Make and open a file; one made by others meanwhile is opened unless O_EXCL is set."""
        parent, mode = await self._parent(parent_inode, mode, ctx)
        text = decode_name(name)
        pid = process_of(ctx.pid)
        try:
            inode = await self._tree.entries.create(
                parent, text, mode, ctx.uid, ctx.gid, exclusive=bool(flags & os.O_EXCL)
            )
            handle = self._tree.opener.open_new(inode, pid=pid, appends=bool(flags & os.O_APPEND))
        except FsError as error:
            if error.errno != errno.EEXIST or flags & os.O_EXCL:
                raise
            inode = await self._tree.finder.find(parent, text)
            handle = await self._tree.opener.open(inode, flags, uid=ctx.uid, pid=pid)
        return self._opened(handle), self._counted(inode)

    @guarded()
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Bytes of an open file."""
        handle = self._file(fh)
        version = handle.inode.etag
        data = await self._tree.opener.read(handle, off, size)
        if handle.inode.etag != version:
            self.kernel.replaced(handle.inode)
        return data

    @guarded(bounded=False)
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Store bytes; waits while the file is being published."""
        return await self._tree.opener.write(self._file(fh), off, buf)

    @guarded(bounded=False)
    async def flush(self, fh: int) -> None:
        """A descriptor is closed: the bucket gets the bytes, close(2) gets what goes wrong."""
        handle = self._file(fh)
        if not handle.writable:
            return  # a reader's close says nothing of what others are still writing
        content, inode = handle.content, handle.inode
        if content.unsaved and not inode.unlinked:
            goes_on = self._opener_goes_on(handle) if content.overlay.touched else _is_held(handle)
            if goes_on:
                return
        async with self.kernel.if_moved(inode):
            await self.save_closed(handle)

    async def save_closed(self, handle: Handle) -> None:
        """Save what a program has closed. Raises FsError and StoreError."""
        await self._tree.saver.flush(handle)

    def _opener_goes_on(self, handle: Handle) -> bool:
        """Whether who opened a file has it open for writing still: not its last one was closed."""
        inode = handle.inode
        found = writable_descriptors(handle.pid, inode.ino, inode.name)
        if not found:
            return False
        # the same process may have opened the file several times
        others = [
            other
            for other in self.handles.values()
            if isinstance(other, Handle) and other is not handle
            if other.inode is inode and other.writable and other.pid == handle.pid
        ]
        return found > len(others)

    @guarded(bounded=False)
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Bytes and attributes into the bucket."""
        handle = self._file(fh)
        async with self.kernel.if_moved(handle.inode):
            await self._tree.saver.sync(handle)

    @guarded(bounded=False)
    async def release(self, fh: int) -> None:
        """The last descriptor is closed; nobody waits for this answer."""
        handle = self._file(fh)
        del self.handles[fh]
        if self._diary is not None:
            self._diary.closed(fh, handle.inode)
        await self._tree.opener.release(handle)

    # ---- directories -----------------------------------------------------------------------------

    @guarded()
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Open a directory; nothing is listed before it is read, unless it may be a file."""
        directory = self._table.directory(inode)
        if directory.presumed:
            await self._tree.lister.ensure(directory)
        return self._new_handle(self.directory_opened(directory, ctx.pid))

    @guarded()
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries from position `start_id`; position 0 takes a new picture of the directory."""
        await self._directory(fh).read(start_id, token)

    @guarded()
    async def releasedir(self, fh: int) -> None:
        """Close a directory."""
        self._directory(fh).close()
        del self.handles[fh]

    @guarded(bounded=False)
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Save the directory's attributes, and wait until what was removed from it has left."""
        await self._tree.saver.save_directory(self._directory(fh).directory)

    def directory_opened(self, directory: Directory, asker: int) -> OpenDirectory:
        """A directory that a process has opened."""
        return OpenDirectory(self._tree, self._encode, directory, asker)

    # ---- helpers ---------------------------------------------------------------------------------

    async def _to_change(self, ino: int, *, cut: bool = False) -> Inode:
        """As `_known`, with all that is stored again when an attribute changes.

        Raises StoreError if the bucket refuses that, as far as it is known. To `cut` a file looks
        by itself what others have made of it.
        """
        await self._tree.changer.foresee(self._table.get(ino))
        node = await self._known(ino)
        if not cut:
            await self._tree.opener.renew(node)
            _check_kind(node)
        await self._tree.attributes.complete(node)
        return node

    async def _known(self, ino: int, *, asker: int = 0) -> Inode:
        """The inode with fresh attributes; `asker`: as `Finder.find` takes it.

        Raises:
            FsError: ESTALE where others have put something else in its place, or removed it.
            StoreError: The bucket could not be asked.
        """
        try:
            inode = await self._looked_at(ino, asker)
        except (FsError, NotFound) as error:
            if errno_of(error) != errno.ENOENT:
                raise
            # for ENOENT the kernel would not look the name up again, and so an open with O_CREAT
            # would fail instead of making the file
            raise FsError(errno.ESTALE, "the object was removed by someone else") from error
        _check_kind(inode)
        return inode

    async def _looked_at(self, ino: int, asker: int) -> Inode:
        inode = self._table.get(ino)
        state = self._tree.state
        if inode.parent is None or state.freshness.is_fresh(inode):
            if inode.posix is not None:
                return inode
            now = await self._tree.attributes.ensure(inode, asker)
        else:
            now = await self._tree.finder.find(inode.parent, inode.name, asker=asker)
        if now is not inode and not (inode.content is not None and inode.posix is not None):
            raise FsError(errno.ESTALE, "the name stands for another object now")
        return inode

    async def _check_removal(self, parent: Directory, name: str, ctx: RequestContext) -> None:
        await owners.check_removal(parent, name, self._tree.attributes, self._encode, ctx)

    def _counted(self, inode: Inode) -> EntryAttributes:
        entry = self._encode.attributes(inode)
        self._table.count(inode)
        return entry

    def _opened(self, handle: Handle) -> FileInfo:
        number = self._new_handle(handle)
        if self._diary is not None:
            self._diary.opened(number, handle)
        return FileInfo(fh=number, keep_cache=handle.keep_cache)

    def _new_handle(self, handle: Handle | OpenDirectory) -> int:
        self._last_handle += 1
        self.handles[self._last_handle] = handle
        return self._last_handle

    @property
    def open_files(self) -> int:
        """How many handles of files programs hold."""
        return sum(isinstance(handle, Handle) for handle in self.handles.values())

    def _file(self, fh: int) -> Handle:
        handle = self.handles.get(fh)
        if not isinstance(handle, Handle):
            raise FsError(errno.ESTALE, "it was opened before a crash")
        return handle

    def _directory(self, fh: int) -> OpenDirectory:
        handle = self.handles.get(fh)
        if not isinstance(handle, OpenDirectory):
            raise FsError(errno.ESTALE, "it was opened before a crash")
        return handle

    async def _parent(self, ino: int, mode: int, ctx: RequestContext) -> tuple[Directory, int]:
        """The directory in which something is to be made, and the mode that it is to have."""
        if not self.enable_acl:
            return self._table.directory(ino), mode
        if acl.DEFAULT in self._tree.posix(await self._known(ino)).xattrs:
            mode = acl.unmasked(mode, ctx.umask)
        return self._table.directory(ino), mode
