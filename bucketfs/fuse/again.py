"""Names and attributes that are not what the kernel remembers: it is told to ask again.

Of names only asynchronously (a thread of pyfuse3's own): the kernel may hold locks of the very
request that is being answered. Attributes alone may be taken back at any time.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pyfuse3

from bucketfs.errors import FsError, StoreError, errno_of
from bucketfs.tree.inode import Directory, Inode


@contextmanager
def if_moved(inode: Inode) -> Iterator[None]:
    """A failure in the block may come with another name for the file: a conflict copy's."""
    parent, name = inode.parent, inode.name
    try:
        yield
    except (FsError, StoreError):
        if parent is not None and (inode.parent, inode.name) != (parent, name):
            _look_again(parent, name)
        raise


@contextmanager
def if_taken(parent: Directory, name: str) -> Iterator[None]:
    """A name that was free may turn out in the block to be others'."""
    try:
        yield
    except (FsError, StoreError) as error:
        if errno_of(error) == errno.EEXIST:
            _look_again(parent, name)
        raise


def replaced(inode: Inode) -> None:
    """Others gave the file another version: a read must not end where the old one did."""
    # the kernel may be about to forget it, and may have done so
    with contextlib.suppress(OSError):
        pyfuse3.invalidate_inode(inode.ino, attr_only=True)


def _look_again(parent: Directory, name: str) -> None:
    pyfuse3.invalidate_entry_async(parent.ino, name.encode(), ignore_enoent=True)
