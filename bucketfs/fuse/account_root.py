"""The FUSE handlers of an account's mount point, whose entries are buckets."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, RequestContext, SetattrFields, StatvfsData

from bucketfs.errors import FsError
from bucketfs.fuse.calls import Calls
from bucketfs.fuse.encode import Encoder, View, negative, plain_directory
from bucketfs.fuse.guard import guarded
from bucketfs.fuse.operations import check_xattr, room
from bucketfs.tree.account.account import Account
from bucketfs.tree.account.member import Bucket
from bucketfs.tree.core.inode import ROOT_INO
from bucketfs.tree.core.names import decode_name
from bucketfs.tree.core.posix import Defaults, plain
from bucketfs.tree.tree import Tree

_NANO = 10**9
_FILES = "only buckets are in the mount point: make files in one of them"


def inside(view: View) -> View:
    """How a bucket below the mount point is shown: its root is a directory like others."""
    return replace(view, root_umask=None)


class AccountRoot(pyfuse3.Operations):
    """Handlers for the mount point, and for buckets that nobody has entered yet.

    Args:
        account: The buckets.
        view: How owners and modes are shown.
        defaults: Owner of the mount point and the buckets.
        timeout, size, xattrs, acls, calls: As `Operations` takes them.
    """

    def __init__(
        self,
        account: Account,
        view: View,
        defaults: Defaults,
        *,
        timeout: float,
        size: int | None,
        xattrs: bool,
        acls: bool,
        calls: Calls,
    ) -> None:
        super().__init__()
        self.enable_acl = acls
        self.calls = calls
        self.timeout = timeout
        self._account = account
        self._view = view
        self._inside = inside(view)
        self._defaults = defaults
        self._size = size
        self._xattrs = xattrs
        #: Buckets as each handle has read them, None before it has begun to.
        self._handles: dict[int, list[Bucket] | None] = {}
        self._last_handle = 0

    @guarded()
    async def enter(self, number: int) -> Tree:
        """The tree of the bucket that a number of an inode belongs to."""
        return await self._account.enter(self._account.roster.bucket(number))

    # ---- names -----------------------------------------------------------------------------------

    @guarded()
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Find a bucket."""
        text = decode_name(name)
        try:
            bucket = await self._account.roster.find(text)
        except FsError as error:
            if error.errno != errno.ENOENT:
                raise
            return negative(self._account.roster.negative_timeout(text))
        return self._entry(bucket)

    @guarded()
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a bucket."""
        return self._entry(await self._account.roster.create(decode_name(name)))

    @guarded(bounded=False)
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Delete an empty bucket."""
        await self._account.roster.remove(decode_name(name))

    @guarded()
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """No bucket can be renamed; what is in one is copied to another by who wants it there."""
        if parent_inode_old == ROOT_INO:
            raise FsError(errno.EPERM, "a bucket cannot be renamed")
        raise FsError(errno.EXDEV)

    @guarded()
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """There are no files."""
        raise FsError(errno.EISDIR)

    @guarded()
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """There can be no files."""
        raise FsError(errno.EPERM, _FILES)

    @guarded()
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """There can be no files."""
        raise FsError(errno.EPERM, _FILES)

    @guarded()
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """There can be no files."""
        raise FsError(errno.EPERM, _FILES)

    @guarded()
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """Hard links do not exist."""
        raise FsError(errno.EPERM)

    # ---- attributes ------------------------------------------------------------------------------

    @guarded()
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Attributes of the mount point, or of a bucket."""
        if inode == ROOT_INO:
            return self._root()
        return self._entry(self._account.roster.bucket(inode))

    @guarded()
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """The mount point has no object that could keep them."""
        raise FsError(errno.EPERM)

    @guarded()
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """There are none."""
        if not self._xattrs:
            raise FsError(errno.ENOSYS)
        check_xattr(name, supported=True, acls=self.enable_acl)
        raise FsError(pyfuse3.ENOATTR)

    @guarded()
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """The mount point has no object that could keep them."""
        check_xattr(name, supported=self._xattrs, acls=self.enable_acl)
        raise FsError(errno.EPERM)

    @guarded()
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """There are none."""
        if not self._xattrs:
            raise FsError(errno.ENOSYS)
        return []

    @guarded()
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        """There are none."""
        check_xattr(name, supported=self._xattrs, acls=self.enable_acl)
        raise FsError(pyfuse3.ENOATTR)

    @guarded()
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        """Never asked: the kernel checks by itself (default_permissions)."""
        return True

    @guarded()
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Buckets have no size: the configured one, or a constant."""
        return room(self._size)

    # ---- reading the mount point -----------------------------------------------------------------

    @guarded()
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Open the mount point; nothing is asked before it is read."""
        self._last_handle += 1
        self._handles[self._last_handle] = None
        return self._last_handle

    @guarded()
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Buckets from position `start_id`; position 0 takes a new picture of them."""
        if fh not in self._handles:
            raise FsError(errno.EBADF)
        buckets = self._handles[fh]
        if start_id == 0 or buckets is None:
            found = await self._account.roster.read()
            buckets = self._handles[fh] = sorted(found, key=lambda bucket: bucket.name)
        for position in range(start_id, len(buckets) + 2):
            if position < 2:
                name, entry = (b".", b"..")[position], self._root()
            else:
                bucket = buckets[position - 2]
                if not bucket.there:
                    continue
                name, entry = bucket.name.encode(), self._entry(bucket)
            if not pyfuse3.readdir_reply(token, name, entry, position + 1):
                return

    @guarded()
    async def releasedir(self, fh: int) -> None:
        """Close the mount point."""
        self._handles.pop(fh, None)

    @guarded()
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Buckets are made and deleted at once."""

    # ---- helpers ---------------------------------------------------------------------------------

    def _root(self) -> EntryAttributes:
        posix = plain(self._account.mounted_ns // _NANO, True, self._defaults)
        entry = plain_directory(
            ROOT_INO, posix, self._view, root=True, timeout=self._account.roster.ttl
        )
        entry.st_nlink = 2 + len(self._account.roster.present)
        return entry

    def _entry(self, bucket: Bucket) -> EntryAttributes:
        timeout = self._account.roster.timeout(bucket)
        if bucket.tree is not None:
            entry = Encoder(bucket.tree, self._inside).listed(bucket.tree.state.root)
            entry.entry_timeout = timeout
            return entry
        made = bucket.made or self._account.mounted_ns // _NANO
        posix = plain(made, True, self._defaults)
        return plain_directory(bucket.ino, posix, self._view, root=False, timeout=timeout)
