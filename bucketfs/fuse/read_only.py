"""A mount that never writes, though the kernel would let programs: one that others have mounted."""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

import pyfuse3

#: Handlers that change something.
_CHANGING = (
    *("mkdir", "mknod", "symlink", "link", "unlink", "rmdir", "rename"),
    *("setattr", "setxattr", "removexattr", "create", "write"),
)


class _Refusing:
    """Handlers of which those that change something answer EROFS."""

    def __init__(self, inner: pyfuse3.Operations) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return _refuse if name in _CHANGING else getattr(self._inner, name)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise pyfuse3.FUSEError(errno.EROFS)
        return await self._inner.open(inode, flags, ctx)


async def _refuse(*_: object) -> NoReturn:
    raise pyfuse3.FUSEError(errno.EROFS)


def refusing(inner: pyfuse3.Operations) -> Any:
    """`inner` for a mount in which nothing changes."""
    return _Refusing(inner)
