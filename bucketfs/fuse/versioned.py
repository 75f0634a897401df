"""The FUSE handlers of a mount that shows old versions: ``.versions`` in each directory.

What is in there is a tree of its own, of keys that `bucketfs.store.layers.history` answers for, and
whose numbers of inodes and handles are above half of those that a bucket has. Its handlers are
those of any read-only mount.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from pyfuse3 import EntryAttributes, FileInfo, RequestContext

from bucketfs import clock
from bucketfs.errors import FsError
from bucketfs.fuse.encode import Encoder
from bucketfs.fuse.guard import guarded
from bucketfs.fuse.operations import Operations
from bucketfs.store.base import OLD, VERSIONS
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.state import Watcher
from bucketfs.tree.tree import Tree

#: In numbers of what is in ``.versions``; all others are smaller (see `tree.account.member`).
_ABOVE: Final = 1 << 39
_NAME: Final = VERSIONS.encode()


def old_versions(tree: Tree, watcher: Watcher) -> Tree:
    """The tree of a bucket's old versions; nothing is asked yet."""
    state = tree.state
    # whether what is known is still good is decided where it is known, see `HistoryStore`
    prefix = OLD + state.config.prefix
    config = replace(state.config, prefix=prefix, open_ttl=0.0, read_only=True, own_name="")
    return Tree(state.files, config, watcher, root=_ABOVE | state.root.ino)


def _refused(name: str) -> Any:
    """A handler of what would change something."""

    async def handler(self: Operations, *arguments: Any) -> Any:  # noqa: ARG001
        raise FsError(errno.EROFS)

    handler.__name__ = name
    return guarded()(handler)


class OldVersions(Operations):
    """Handlers of what is in ``.versions``."""

    mkdir = _refused("mkdir")
    mknod = _refused("mknod")
    symlink = _refused("symlink")
    link = _refused("link")
    unlink = _refused("unlink")
    rmdir = _refused("rmdir")
    rename = _refused("rename")
    setattr = _refused("setattr")
    setxattr = _refused("setxattr")
    removexattr = _refused("removexattr")
    create = _refused("create")

    @guarded()
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Open a version to read it."""
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise FsError(errno.EROFS)
        return await super().open(inode, flags, ctx)

    def top(self, path: str, like: Inode) -> EntryAttributes:
        """The directory of versions in a directory; it is as open to others as that is.

        Args:
            path: The directory's below the mounted prefix, "" or ending in a slash.
            like: The directory.
        """
        root = self._tree.state.root
        name = path + VERSIONS
        found = root.children.get(name)
        if not isinstance(found, Directory):
            found = self._tree.state.new_directory(root, name)
            found.markers = frozenset()
        found.posix = None if like.posix is None else replace(like.posix, foreign=None)
        found.checked = clock.monotonic()
        entry = self._encode.listed(found)
        # the directory may get another name, which the kernel does not connect with this one
        entry.entry_timeout = 0
        self._table.count(found)
        return entry

    async def _known(self, ino: int, *, asker: int = 0) -> Inode:
        inode = self._table.get(ino)
        if inode.parent is self._tree.state.root:
            inode.checked = clock.monotonic()  # nobody can tell more of it
        return await super()._known(ino, asker=asker)


def _passed_on(name: str) -> Any:
    """A handler that has those of the old versions do the work for their numbers."""
    own = getattr(Operations, name)

    async def handler(self: Versioned, number: int, *arguments: Any) -> Any:
        if number & _ABOVE:
            return await getattr(self.old, name)(number, *arguments)
        return await own(self, number, *arguments)

    handler.__name__ = name
    return handler


class Versioned(Operations):
    """One mount's handlers, with ``.versions``.

    Args:
        tree, encoder, settings: As `Operations` takes them.
        old: The tree of the old versions.
        shown: How its inodes are shown.
    """

    def __init__(
        self, tree: Tree, encoder: Encoder, *, old: Tree, shown: Encoder, **settings: Any
    ) -> None:
        super().__init__(tree, encoder, **settings)
        own = {"kernel": self.kernel, "first": settings.get("first", 0) | _ABOVE}
        self.old = OldVersions(old, shown, **{**settings, **own})

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Find a name, or the old versions."""
        if parent_inode & _ABOVE:
            return await self.old.lookup(parent_inode, name, ctx)
        if name == _NAME:
            return await self._top(parent_inode)
        return await super().lookup(parent_inode, name, ctx)

    @guarded()
    async def _top(self, parent_inode: int) -> EntryAttributes:
        directory = await self._known(parent_inode)
        state = self._tree.state
        assert isinstance(directory, Directory), "the kernel looks up names in directories"
        path = state.prefix(directory).removeprefix(state.config.prefix)
        return self.old.top(path, directory)

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """Rename; nothing goes into ``.versions`` or out of it."""
        inside = (parent_inode_old | parent_inode_new) & _ABOVE
        old = inside or _NAME in (name_old, name_new)
        rename = self.old.rename if old else super().rename
        await rename(parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an empty directory."""
        old = parent_inode & _ABOVE or name == _NAME
        await (self.old.rmdir if old else super().rmdir)(parent_inode, name, ctx)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Give lookups back."""
        await super().forget([each for each in inode_list if not each[0] & _ABOVE])
        await self.old.forget([each for each in inode_list if each[0] & _ABOVE])

    def subject(self, handler: str, number: int) -> str:
        """The path that a call is about."""
        if number & _ABOVE:
            return self.old.subject(handler, number)
        return super().subject(handler, number)

    @property
    def open_files(self) -> int:
        """How many handles of files programs hold."""
        return super().open_files + self.old.open_files

    mkdir = _passed_on("mkdir")
    mknod = _passed_on("mknod")
    symlink = _passed_on("symlink")
    readlink = _passed_on("readlink")
    link = _passed_on("link")
    unlink = _passed_on("unlink")
    getattr = _passed_on("getattr")
    setattr = _passed_on("setattr")
    getxattr = _passed_on("getxattr")
    setxattr = _passed_on("setxattr")
    listxattr = _passed_on("listxattr")
    removexattr = _passed_on("removexattr")
    access = _passed_on("access")
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
