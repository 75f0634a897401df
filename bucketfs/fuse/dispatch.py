"""The FUSE handlers of a mount of all buckets: each request goes to the bucket that it is for.

The number of an inode or a handle, which is the first argument of a handler, says which that is
(`tree.account.member.index_of`). No rule of the file system is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyfuse3
from pyfuse3 import RequestContext, StatvfsData

from bucketfs.fuse.account_root import AccountRoot
from bucketfs.fuse.operations import Operations
from bucketfs.tree.account.account import Account
from bucketfs.tree.account.member import Bucket, index_of
from bucketfs.tree.tree import Tree

#: Makes the handlers of a bucket that was entered.
Serve = Callable[[Bucket, Tree], Operations]


def _passed_on(name: str) -> Any:
    """A handler that has the bucket's, or the mount point's, do the work."""

    async def handler(self: Dispatch, number: int, *arguments: Any) -> Any:
        handlers = self.known(number) or await self.entered(number)
        return await getattr(handlers, name)(number, *arguments)

    handler.__name__ = name
    return handler


def _looked_at(name: str) -> Any:
    """As `_passed_on`, of what `ls -l` asks: to look at a bucket is not to enter it."""

    async def handler(self: Dispatch, number: int, *arguments: Any) -> Any:
        return await getattr(self.known(number) or self.root, name)(number, *arguments)

    handler.__name__ = name
    return handler


class Dispatch(pyfuse3.Operations):
    """One mount's handlers.

    Args:
        account: The buckets.
        root: Handles what is about the mount point.
        serve: Makes the handlers of a bucket.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, account: Account, root: AccountRoot, serve: Serve) -> None:
        super().__init__()
        self.calls = root.calls
        self.enable_acl = root.enable_acl
        self._account = account
        self.root = root
        self._serve = serve
        self._by_index: dict[int, AccountRoot | Operations] = {0: root}

    @property
    def open_files(self) -> int:
        """How many handles of files programs hold."""
        handlers = self._by_index.values()
        return sum(each.open_files for each in handlers if isinstance(each, Operations))

    def subject(self, handler: str, number: int) -> str:
        """The path that a call is about, "" for the mount point and what was not entered."""
        known = self.known(number)
        return known.subject(handler, number) if isinstance(known, Operations) else ""

    def known(self, number: int) -> AccountRoot | Operations | None:
        """Who handles requests about a number, if its bucket was entered."""
        return self._by_index.get(index_of(number))

    async def entered(self, number: int) -> AccountRoot | Operations:
        """As `known`, after the bucket was entered. Raises FUSEError."""
        tree = await self.root.enter(number)
        if (known := self.known(number)) is not None:
            return known
        handlers = self._serve(self._account.roster.bucket(number), tree)
        self._by_index[index_of(number)] = handlers
        return handlers

    lookup = _passed_on("lookup")
    mkdir = _passed_on("mkdir")
    mknod = _passed_on("mknod")
    symlink = _passed_on("symlink")
    readlink = _passed_on("readlink")
    link = _passed_on("link")
    unlink = _passed_on("unlink")
    rmdir = _passed_on("rmdir")
    getattr = _looked_at("getattr")
    setattr = _passed_on("setattr")
    getxattr = _looked_at("getxattr")
    setxattr = _passed_on("setxattr")
    listxattr = _looked_at("listxattr")
    removexattr = _passed_on("removexattr")
    access = _looked_at("access")
    open = _passed_on("open")
    create = _passed_on("create")
    read = _passed_on("read")
    write = _passed_on("write")
    flush = _passed_on("flush")
    fsync = _passed_on("fsync")
    release = _passed_on("release")
    opendir = _passed_on("opendir")
    readdir = _passed_on("readdir")
    releasedir = _passed_on("releasedir")
    fsyncdir = _passed_on("fsyncdir")

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Give lookups back; those of buckets themselves are not counted."""
        for ino, lookups in inode_list:
            handlers = self.known(ino)
            if isinstance(handlers, Operations) and ino != self._account.roster.bucket(ino).ino:
                await handlers.forget([(ino, lookups)])

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """Rename in a bucket."""
        handlers: AccountRoot | Operations = self.root
        if index_of(parent_inode_old) == index_of(parent_inode_new):
            handlers = self.known(parent_inode_old) or await self.entered(parent_inode_old)
        await handlers.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx)

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Room of the whole mount."""
        return await self.root.statfs(ctx)
