"""What the kernel let pass because it took a user for the owner of what it knew the type of alone.

It checks permissions by itself (default_permissions), and asks for attributes before it does, but
not before it compares owners: in chmod(2), chown(2), utimensat(2), for access control lists, and
for removals in a sticky directory. See `Encoder.glanced` for what it was told there.

Here the attributes are asked for, which is a request that the change would need anyway. Who is not
the owner gets ESTALE: the kernel then looks the path up again, hears who the owner is, and decides.
"""

from __future__ import annotations

import errno
import stat

import pyfuse3
from pyfuse3 import RequestContext

from bucketfs.errors import FsError
from bucketfs.fuse.encode import Encoder
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.lookup.attributes import Attributes

_WHY = "the kernel did not know the owner yet, and asks again"


def check(inode: Inode, encoder: Encoder, ctx: RequestContext) -> None:
    """Look who changes an inode whose attributes are known. Raises FsError ESTALE."""
    if not inode.told and ctx.uid not in (0, encoder.owner(inode)):
        raise FsError(errno.ESTALE, _WHY)


async def check_removal(
    parent: Directory, name: str, attributes: Attributes, encoder: Encoder, ctx: RequestContext
) -> None:
    """Look who removes or replaces a name, if only its owner may. Raises FsError, StoreError."""
    inode = parent.children.get(name)
    if inode is None or inode.told or ctx.uid == 0:
        return
    if parent.posix is None or not parent.posix.mode & stat.S_ISVTX:
        return
    if ctx.uid == encoder.owner(parent):
        return
    check(await attributes.ensure(inode), encoder, ctx)


def is_in_group(ctx: RequestContext, gid: int) -> bool:
    """Whether a program may act for a group; not where nobody tells which groups it is in.

    A process of another namespace, as in another container, has no number here.
    """
    if ctx.uid == 0 or gid == ctx.gid:
        return True
    try:
        return gid in pyfuse3.get_sup_groups(ctx.pid)
    except OSError:
        return False
