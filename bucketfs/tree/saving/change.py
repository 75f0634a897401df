"""Changing attributes: in memory at once, in the bucket with the bytes or a moment later."""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass

from bucketfs import clock
from bucketfs.errors import FsError
from bucketfs.store.base import Headers
from bucketfs.tree.core import acl
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.posix import Posix, without_set_ids
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.saving.promises import Promises


@dataclass(frozen=True, slots=True)
class Change:
    """A setattr: what is None stays. `size` is not part of it, it belongs to the content.

    Attributes:
        drops_set_ids: A file whose mode is not named loses its set-id bits.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    drops_set_ids: bool = False


class Changer:
    """Changes the attributes of inodes; saving them is the caller's to start."""

    def __init__(self, state: TreeState, promises: Promises) -> None:
        self._state = state
        self._promises = promises

    async def foresee(self, inode: Inode) -> None:
        """Raise StoreError if the bucket refuses what is stored under the name, as far as known."""
        if inode.parent is None:
            return  # the root has no object, and what was removed gets none
        state = self._state
        key = state.prefix(inode) if isinstance(inode, Directory) else state.key(inode)
        await state.files.store.foresee("PutObject", key)

    def change(self, inode: Inode, change: Change) -> bool:
        """Apply a change to the known attributes; answers whether anything has to be saved.

        Where the endpoint keeps no user metadata nothing changes.
        """
        posix = inode.posix
        assert posix is not None, "attributes are looked up before they are changed"
        wanted: dict[str, object] = {}
        if change.mode is not None:
            wanted["mode"] = stat.S_IFMT(posix.mode) | stat.S_IMODE(change.mode)
            wanted["xattrs"] = acl.after_chmod(posix.xattrs, change.mode)
        elif change.drops_set_ids and (mode := without_set_ids(posix.mode)) != posix.mode:
            wanted["mode"] = mode
        if change.mtime_ns is not None and isinstance(inode, Directory):
            inode.touched_ns = 0
        for name in ("uid", "gid", "atime_ns", "mtime_ns"):
            if (value := getattr(change, name)) is not None:
                wanted[name] = value
        if not wanted or not self._state.files.store.capabilities.user_metadata:
            # cp -p, tar and rsync would fail if what the bucket cannot keep were refused
            return False
        self.replace(inode, posix.changed(clock.wall_ns(), **wanted))
        return True

    def replace(self, inode: Inode, posix: Posix) -> None:
        """New attributes, which the bucket does not have yet."""
        inode.posix = posix
        self._state.ensure_open_state(inode).attributes_changed()
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
        xattrs = {**inode.posix.xattrs, name: value}
        self._replace_if_it_fits(inode, inode.posix, xattrs=xattrs)

    def remove_xattr(self, inode: Inode, name: str) -> None:
        """Remove an extended attribute; raises FsError ENODATA for a missing one."""
        assert inode.posix is not None, "attributes are looked up before they are changed"
        xattrs = dict(inode.posix.xattrs)
        if xattrs.pop(name, None) is None:
            raise FsError(errno.ENODATA)
        self._replace_if_it_fits(inode, inode.posix, xattrs=xattrs)

    def set_acl(self, inode: Inode, name: str, value: bytes, *, keeps_setgid: bool) -> None:
        """Set an access control list, and for one of access the mode that shows it.

        Args:
            inode: Which.
            name: One of `acl.NAMES`.
            value: As `acl.encode` makes it.
            keeps_setgid: Who sets it may give the file its setgid bit.

        Raises:
            FsError: EINVAL for no list; EACCES for a default list of a file; ENOSPC.
        """
        assert inode.posix is not None, "attributes are looked up before they are changed"
        before = inode.posix
        if (entries := acl.decode(value)) is None:
            raise FsError(errno.EINVAL, "no access control list")
        mode, xattrs = before.mode, {**before.xattrs, name: value}
        if name == acl.ACCESS:
            mode = mode & ~0o777 | acl.mode_of(entries)
            if acl.is_minimal(entries):
                del xattrs[name]
            if not keeps_setgid:
                mode &= ~stat.S_ISGID
        elif not isinstance(inode, Directory):
            raise FsError(errno.EACCES, "only a directory has a default access control list")
        self._replace_if_it_fits(inode, before, mode=mode, xattrs=xattrs)

    def set_foreign(self, inode: Inode, headers: Headers) -> None:
        """Replace what the object carries beside our attributes; raises as `set_xattr` does."""
        assert inode.posix is not None, "attributes are looked up before they are changed"
        self._replace_if_it_fits(inode, inode.posix, foreign=headers)

    def _replace_if_it_fits(self, inode: Inode, before: Posix, **values: object) -> None:
        if not self._state.files.store.capabilities.user_metadata:
            raise FsError(errno.ENOTSUP, "the endpoint keeps no user metadata")
        inode.posix = before.changed(clock.wall_ns(), **values)
        try:
            inode.headers()
        except FsError:
            inode.posix = before
            raise
        self.replace(inode, inode.posix)
