"""Open descriptors of page files: a bounded number, the longest unused of which are closed first.

A process may have a thousand files open here, whose page files are all in use, under a limit of 256
descriptors that sockets need some of too. A page file opens again at its next use (10 µs).
"""

from __future__ import annotations

import errno
import os
import resource
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

#: Least number kept open, whatever the limit says.
_LEAST: Final = 16
#: What the limit is taken for where there is none.
_MOST: Final = 1 << 20


class Opened(Protocol):
    """Who has a descriptor and can do without."""

    def close(self) -> None:
        """Give the descriptor back, and tell `Descriptors.gone`."""


class Descriptors:
    """Who has a descriptor, in the order of their last use.

    Args:
        limit: How many there may be; asked whenever one more is opened.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._open: OrderedDict[Opened, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, owner: Opened, path: str | os.PathLike[str], flags: int) -> int:
        """A descriptor of a file for `owner`, mode 600 where it is made; raises OSError."""
        while len(self._open) >= self._limit() and self._close_one():
            pass
        while True:
            try:
                fd = os.open(path, flags, 0o600)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._close_one():
                    raise
            else:
                self._open[owner] = None
                return fd

    def used(self, owner: Opened) -> None:
        """The owner's descriptor is used now."""
        self._open.move_to_end(owner)

    def gone(self, owner: Opened) -> None:
        """The owner has closed its descriptor."""
        self._open.pop(owner, None)

    def _close_one(self) -> bool:
        if not self._open:
            return False
        next(iter(self._open)).close()
        return True


def share() -> int:
    """Descriptors that page files may take: half of what this process may have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(_LEAST, (_MOST if limit == resource.RLIM_INFINITY else limit) // 2)
