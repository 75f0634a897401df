"""Names and attributes that are not what the kernel remembers: it is told to ask again.

Attributes alone may be taken back at any time. For a name the kernel locks its directory, so that
while a request that changes the directory is being answered, nobody may wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import pyfuse3
import trio

from bucketfs.errors import FsError, StoreError, errno_of
from bucketfs.tree.core.inode import ROOT_INO, Directory, Inode

#: Seconds for which an answer waits until the kernel has forgotten a name.
PATIENCE = 1.0


@asynccontextmanager
async def if_moved(inode: Inode) -> AsyncIterator[None]:
    """A failure in the block may come with another name for the file: a conflict copy's.

    Who hears of it and opens the old name finds others' version. Not for requests that lock the
    directory.
    """
    parent, name = inode.parent, inode.name
    try:
        yield
    except (FsError, StoreError):
        if parent is not None and (inode.parent, inode.name) != (parent, name):
            await forget_name(parent, name)
        raise


async def forget_name(parent: Directory, name: str) -> None:
    """Have the kernel ask for a name anew. Not within requests that lock the directory."""
    # in a thread, as the directory's lock may be held by one whom this loop has to answer
    with trio.move_on_after(PATIENCE):
        await trio.to_thread.run_sync(
            functools.partial(_invalidate, parent.ino, name), abandon_on_cancel=True
        )


@contextmanager
def if_taken(parent: Directory, name: str) -> Iterator[None]:
    """A name that was free may turn out in the block to be others'."""
    try:
        yield
    except (FsError, StoreError) as error:
        if errno_of(error) == errno.EEXIST:
            pyfuse3.invalidate_entry_async(parent.ino, name.encode(), ignore_enoent=True)
        raise


def replaced(inode: Inode) -> None:
    """Others gave the file another version: a read must not end where the old one did."""
    # the kernel may have forgotten the inode meanwhile
    with contextlib.suppress(OSError):
        pyfuse3.invalidate_inode(inode.ino, attr_only=True)


def moved(parent: Directory, name: str) -> None:
    """A name stands for others' file now: who opens it is not to go on in a conflict copy."""
    pyfuse3.invalidate_entry_async(parent.ino, name.encode(), ignore_enoent=True)


def bucket_changed(name: str) -> None:
    """A name in the mount point of an account stands for a bucket now, or does so no more."""
    pyfuse3.invalidate_entry_async(ROOT_INO, name.encode(), ignore_enoent=True)


async def forget(names: Sequence[tuple[int, str]], inodes: Sequence[int]) -> None:
    """Have the kernel ask again for names that were free, and for attributes; returns after that.

    Args:
        names: With the numbers of their directories.
        inodes: By number.
    """

    def tell() -> None:
        for parent, name in names:
            _invalidate(parent, name)
        for ino in inodes:
            # the kernel may have forgotten it meanwhile
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_inode(ino, attr_only=True)

    # in a thread, as a directory's lock may be held by one whom this loop has to answer
    await trio.to_thread.run_sync(tell, abandon_on_cancel=True)


def _invalidate(parent: int, name: str) -> None:
    # the kernel may not know the name
    with contextlib.suppress(OSError):
        pyfuse3.invalidate_entry(parent, name.encode())
