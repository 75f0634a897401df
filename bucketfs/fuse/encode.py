"""Inodes as the kernel wants them: attributes, and how long it may believe them.

Four inputs decide: what is known of the inode, how fresh it is, and how the mount is asked to show
owners and modes (`View`).
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

import pyfuse3

from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.posix import Posix
from bucketfs.tree.tree import Tree

#: What programs take as the best length of a read or write. Python and stdio buffer this much:
#: one request instead of 32 of 4 KiB; the kernel reads ahead as much anyway.
BLOCK_SIZE = 128 << 10


@dataclass(frozen=True, slots=True)
class View:
    """Options that change what is shown, not what is stored (None: as stored).

    Attributes:
        uid / gid: Owner and group of everything.
        umask: Mode of everything is 0777 without these bits (s3fs's and libfuse's rule).
        root_umask: The same for the mount point.
        shared: Several users are let in.
    """

    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    root_umask: int | None = None
    shared: bool = False

    def mode(self, mode: int, *, root: bool) -> int:
        """The mode to show for a stored one."""
        mask = self.root_umask if root and self.root_umask is not None else self.umask
        return mode if mask is None else stat.S_IFMT(mode) | (0o777 & ~mask)


class Encoder:
    """Makes `pyfuse3.EntryAttributes`."""

    def __init__(self, tree: Tree, view: View) -> None:
        self._tree = tree
        self._view = view

    def attributes(self, inode: Inode) -> pyfuse3.EntryAttributes:
        """Complete attributes of an inode whose attributes are known.

        Raises FsError ESTALE otherwise.
        """
        return self._complete(inode, self._tree.posix(inode))

    def listed(self, inode: Inode, asker: int | None = None) -> pyfuse3.EntryAttributes:
        """What may be said of an entry without asking the bucket; `asker` as `glanced` takes it."""
        return self.glanced(inode, *self._tree.glances([inode]), asker=asker)

    def glanced(
        self, inode: Inode, posix: Posix | None, *, asker: int | None = None
    ) -> pyfuse3.EntryAttributes:
        """What lookup and readdirplus may say of an entry of which `posix` is known.

        Known attributes if there are any. Otherwise the type alone, with attributes that are valid
        for no time, so that a program that wants them asks. If not even the type is certain (a
        small object may be a symbolic link), type bits 0: the kernel lists the entry as DT_UNKNOWN
        and looks it up when someone wants to know. So it is with an object without a slash that is
        remembered as a directory: looking it up makes a directory of it.

        Before chmod(2) and the like, and before a removal in a sticky directory, the kernel
        compares the user with the owner it was told of, however old that is. Of the type alone it
        is told that who asks is the owner, and to look the name up again where others may use it.
        What it lets pass so is looked at by `fuse.owners`.

        Args:
            inode: The entry.
            posix: Its attributes, None if they are not known.
            asker: The user who looks it up; None: the one who mounted.
        """
        kind_known = self._tree.attributes.kind_known(inode)
        if posix is not None and (kind_known or not stat.S_ISDIR(posix.mode)):
            return self._complete(inode, posix)
        kind = stat.S_IFDIR if isinstance(inode, Directory) else stat.S_IFREG
        entry = self._entry(inode, kind if kind_known else 0)
        entry.attr_timeout = 0
        if self._view.shared:
            entry.entry_timeout = 0
        mounter = self._tree.state.config.defaults.uid
        owner = mounter if asker is None else asker
        entry.st_uid = owner if self._view.uid is None else self._view.uid
        inode.told = False
        return entry

    def owner(self, inode: Inode) -> int:
        """The user whose inode it is, as it is shown. Raises FsError ESTALE."""
        posix = self._tree.posix(inode)
        return posix.uid if self._view.uid is None else self._view.uid

    def _complete(self, inode: Inode, posix: Posix) -> pyfuse3.EntryAttributes:
        inode.told = True
        entry = self._entry(inode, posix.mode)
        entry.st_nlink = self._tree.nlink(inode)
        _describe(entry, posix, self._view)
        return entry

    def _entry(self, inode: Inode, mode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode.ino
        entry.generation = 0
        entry.entry_timeout = entry.attr_timeout = self._tree.state.freshness.timeout(inode)
        entry.st_mode = self._view.mode(mode, root=inode is self._tree.state.root) if mode else 0
        inode.kind = stat.S_IFMT(mode) or inode.kind
        size = inode.current_size
        entry.st_size = size
        entry.st_blksize = BLOCK_SIZE
        entry.st_blocks = -(-size // 512)
        return entry


def negative(timeout: float) -> pyfuse3.EntryAttributes:
    """The answer to a lookup that lets the kernel remember that the name is free."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = timeout
    entry.attr_timeout = timeout
    return entry


def plain_directory(
    ino: int, posix: Posix, view: View, *, root: bool, timeout: float
) -> pyfuse3.EntryAttributes:
    """A directory that is in no bucket: the mount point above buckets, or a bucket as it is listed.

    Args:
        ino: Its number.
        posix: Its attributes.
        view: How they are shown.
        root: It is the mount point.
        timeout: Seconds for which that may be believed.
    """
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = ino
    entry.generation = 0
    entry.entry_timeout = entry.attr_timeout = timeout
    entry.st_mode = view.mode(posix.mode, root=root)
    entry.st_nlink = 2
    entry.st_size = 0
    entry.st_blksize = BLOCK_SIZE
    entry.st_blocks = 0
    _describe(entry, posix, view)
    return entry


def _describe(entry: pyfuse3.EntryAttributes, posix: Posix, view: View) -> None:
    """Fill in owner and times."""
    entry.st_uid = posix.uid if view.uid is None else view.uid
    entry.st_gid = posix.gid if view.gid is None else view.gid
    entry.st_rdev = posix.rdev
    entry.st_atime_ns = posix.atime_ns
    entry.st_mtime_ns = posix.mtime_ns
    entry.st_ctime_ns = posix.ctime_ns
