"""Changing attributes: in memory at once, in the bucket with the bytes or a moment later."""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass

from bucketfs import clock
from bucketfs.errors import FsError
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.posix import Posix
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.saving.promises import Promises
from bucketfs.tree.saving.upload_target import object_headers


@dataclass(frozen=True, slots=True)
class Change:
    """A setattr: what is None stays. `size` is not part of it, it belongs to the content."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class Changer:
    """Changes the attributes of inodes; saving them is the caller's to start."""

    def __init__(self, state: TreeState, promises: Promises) -> None:
        self._state = state
        self._promises = promises

    def change(self, inode: Inode, change: Change) -> bool:
        """Apply a change to the known attributes; answers whether anything has to be saved.

        Where the endpoint keeps no user metadata nothing changes.
        """
        posix = inode.posix
        assert posix is not None, "attributes are looked up before they are changed"
        wanted: dict[str, object] = {}
        if change.mode is not None:
            wanted["mode"] = stat.S_IFMT(posix.mode) | stat.S_IMODE(change.mode)
        if change.mtime_ns is not None and isinstance(inode, Directory):
            inode.touched_ns = 0
        for name in ("uid", "gid", "atime_ns", "mtime_ns"):
            if (value := getattr(change, name)) is not None:
                wanted[name] = value
        if not wanted or not self._state.store.capabilities.user_metadata:
            # cp -p, tar and rsync would fail if what the bucket cannot keep were refused
            return False
        self.replace(inode, posix.changed(clock.wall_ns(), **wanted))
        return True

    def replace(self, inode: Inode, posix: Posix) -> None:
        """New attributes, which the bucket does not have yet."""
        open_state = self._state.ensure_open_state(inode)
        inode.posix = posix
        open_state.attributes_unsaved = True
        open_state.attribute_changes += 1
        self._state.note_change(inode)
        self._promises.update(inode)

    def touch_content(self, inode: Inode) -> None:
        """A program changed the bytes: mtime and ctime are now; saved along with the bytes."""
        if inode.posix is not None:
            now = clock.wall_ns()
            inode.posix = inode.posix.changed(now, mtime_ns=now)

    def set_xattr(self, inode: Inode, name: str, value: bytes) -> None:
        """Set an extended attribute; raises FsError ENOSPC, ENOTSUP when it cannot be carried."""
        assert inode.posix is not None, "attributes are looked up before they are changed"
        self._replace_xattrs(inode, inode.posix, {**inode.posix.xattrs, name: value})

    def remove_xattr(self, inode: Inode, name: str) -> None:
        """Remove an extended attribute; raises FsError ENODATA for a missing one."""
        assert inode.posix is not None, "attributes are looked up before they are changed"
        xattrs = dict(inode.posix.xattrs)
        if xattrs.pop(name, None) is None:
            raise FsError(errno.ENODATA)
        self._replace_xattrs(inode, inode.posix, xattrs)

    def _replace_xattrs(self, inode: Inode, before: Posix, xattrs: dict[str, bytes]) -> None:
        if not self._state.store.capabilities.user_metadata:
            raise FsError(errno.ENOTSUP, "the endpoint keeps no user metadata")
        inode.posix = before.changed(clock.wall_ns(), xattrs=xattrs)
        try:
            object_headers(inode)
        except FsError:
            inode.posix = before
            raise
        self.replace(inode, inode.posix)
