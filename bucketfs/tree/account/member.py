"""A bucket of an account, and the numbers that belong to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import trio

from bucketfs import clock
from bucketfs.errors import FsError, StoreError
from bucketfs.tree.core.inode import NEVER, ROOT_INO
from bucketfs.tree.tree import Tree

#: Bits of a number that count within a bucket.
_WITHIN: Final = 40
#: What any store takes as a bucket's name: Amazon before 2018, Ceph without its strict rules.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
#: Seconds after which lists show that a bucket was made or deleted. Amazon's may be late, and
#: says not by how much.
_SETTLED: Final = 60.0


def index_of(number: int) -> int:
    """Which bucket the number of an inode or a handle belongs to; 0: the mount point itself."""
    return number >> _WITHIN


def is_bucket_name(name: str) -> bool:
    """Whether a bucket can have this name."""
    return _NAME.fullmatch(name) is not None


class Entering:
    """A bucket's tree is being opened."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.failure: FsError | StoreError | None = None


@dataclass(slots=True, eq=False)
class Bucket:
    """A bucket, or the name of one that is gone.

    Attributes:
        name: Its name.
        index: Its numbers are above this, see `first`.
        made: Unix time at which it was made, 0 if that is not known.
        there: It exists, as far as is known.
        seen: Monotonic time of the question whose answer said so.
        changed: Monotonic time at which it was made or deleted here.
        listed: It was in a list of the account's buckets.
        tree: Once it was entered.
        entering: While it is.
    """

    name: str
    index: int
    made: int = 0
    there: bool = False
    seen: float = NEVER
    changed: float = NEVER
    listed: bool = False
    tree: Tree | None = None
    entering: Entering | None = None

    @property
    def first(self) -> int:
        """What all its numbers are above."""
        return self.index << _WITHIN

    @property
    def ino(self) -> int:
        """Number of its root."""
        return self.first + ROOT_INO

    @property
    def is_settling(self) -> bool:
        """Whether lists may not know yet that it was made or deleted here."""
        return age(self.changed) <= _SETTLED


def age(since: float) -> float:
    """Seconds since a monotonic time."""
    return clock.monotonic() - since
