"""All buckets of an account as the directories of one mount.

Knows which buckets there are, and has a tree for each that was entered; what is in a bucket is its
tree's business. A bucket is entered when something in it is asked for, and stays so until the mount
ends: it may have files that are not saved yet.

Numbers of inodes and of handles say which bucket they belong to (`index_of`): a removed file has no
name any more by which its bucket could be found.

Invariants: a bucket has one `Bucket` and at most one tree in a mount, whatever becomes of its name;
what was made or deleted here is not undone by an answer to an older question.
"""

from __future__ import annotations

import errno
import functools
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from bucketfs import clock
from bucketfs.errors import FsError, NotFound, StoreError, advice, is_denied
from bucketfs.tasks import Shared, gather, internal
from bucketfs.tree.core.inode import NEVER, ROOT_INO
from bucketfs.tree.lookup.forget import Forgotten
from bucketfs.tree.saving.outstanding import LeftBehind, Remaining
from bucketfs.tree.tree import Tree

log = logging.getLogger(__name__)

#: Bits of a number that count within a bucket.
_WITHIN: Final = 40
#: What any store takes as a bucket's name: Amazon before 2018, Ceph without its strict rules.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
#: Buckets entered side by side before the mount stands.
_AT_ONCE: Final = 8
#: Seconds after which lists show that a bucket was made or deleted. Amazon's may be late, and
#: says not by how much.
_SETTLED: Final = 60.0
#: Free names remembered.
_FREE_NAMES: Final = 10_000
#: Seconds between two looks at what is left while the mount drains.
_LOOK: Final = 1.0


def index_of(number: int) -> int:
    """Which bucket the number of an inode or a handle belongs to; 0: the mount point itself."""
    return number >> _WITHIN


def is_bucket_name(name: str) -> bool:
    """Whether a bucket can have this name."""
    return _NAME.fullmatch(name) is not None


class Buckets(Protocol):
    """What the endpoint is asked. All raise StoreError; FsError where there are no keys."""

    async def names(self) -> dict[str, int]:
        """All buckets, with the Unix time at which they were made, 0 if that is not told."""
        ...

    async def exists(self, name: str) -> bool:
        """Whether there is a bucket of this name, also of another account."""
        ...

    async def create(self, name: str) -> None:
        """Make a bucket."""
        ...

    async def delete(self, name: str) -> None:
        """Delete an empty bucket."""
        ...


#: Opens the tree of a bucket: asks for the bucket first, does what an earlier mount has left last.
Plant = Callable[["Bucket"], AbstractAsyncContextManager[Tree]]


class _Entering:
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
    entering: _Entering | None = None

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
        return _age(self.changed) <= _SETTLED


class Account:
    """The buckets of an account.

    Args:
        buckets: Asked which there are.
        plant: Opens one.
        nursery: Where the opened ones live, until `close`.
        ttl: Seconds for which it holds that a bucket was there.
        open_ttl: Seconds for which a list holds, and that there is no bucket of a name.
        on_change: Told of a name that stands for another thing than before.

    Attributes:
        ttl: As given.
        mounted_ns: When it was opened, in nanoseconds of the wall clock.
    """

    def __init__(
        self,
        buckets: Buckets,
        plant: Plant,
        nursery: trio.Nursery,
        *,
        ttl: float,
        open_ttl: float,
        on_change: Callable[[str], None],
    ) -> None:
        self._store = buckets
        self._plant = plant
        self._nursery = nursery
        self.ttl = ttl
        self._open_ttl = min(ttl, open_ttl)
        self._on_change = on_change
        self._by_name: dict[str, Bucket] = {}
        self._all: list[Bucket] = []
        self._listed = NEVER
        self._denied: StoreError | None = None
        self._asking: Shared | None = None
        #: Names that were free at a monotonic time.
        self._free: dict[str, float] = {}
        self._over = trio.Event()
        self.mounted_ns = clock.wall_ns()

    @property
    def trees(self) -> list[Tree]:
        """Those of the buckets that were entered."""
        return [bucket.tree for bucket in self._all if bucket.tree is not None]

    @property
    def present(self) -> list[Bucket]:
        """The buckets that are there, as far as is known."""
        return [bucket for bucket in self._all if bucket.there]

    def bucket(self, number: int) -> Bucket:
        """The bucket of an inode's or handle's number. Raises FsError ESTALE."""
        index = index_of(number)
        if not 0 < index <= len(self._all):
            raise FsError(errno.ESTALE, f"no inode {number}")
        return self._all[index - 1]

    def timeout(self, bucket: Bucket) -> float:
        """Seconds for which the kernel may take it for granted that the bucket is there."""
        return max(0.0, self.ttl - _age(bucket.seen))

    def negative_timeout(self, name: str) -> float:
        """Seconds for which the kernel may take a name for free."""
        if not is_bucket_name(name):
            return self.ttl
        return max(0.0, self._open_ttl - _age(self._free.get(name, NEVER)))

    # ---- which there are -------------------------------------------------------------------------

    async def look(self) -> None:
        """Know which buckets there are, as of `open_ttl` ago at most, if the keys cover that.

        Raises:
            StoreError: The endpoint does not answer.
        """
        while _age(self._listed) > self._open_ttl:
            if self._asking is None:
                await self._list()
                return
            await self._asking.answered()

    async def read(self) -> list[Bucket]:
        """The buckets to show.

        Raises:
            StoreError: The endpoint does not say, or not to us.
        """
        await self.look()
        if self._denied is not None and not self.present:
            raise self._denied
        return self.present

    async def _list(self) -> None:
        shared = self._asking = Shared()
        asked = clock.monotonic()
        try:
            with shared.asked():
                found = await self._names()
        finally:
            self._asking = None
        self._listed = asked
        for name, made in found.items():
            bucket = self._known(name)
            bucket.listed = True
            bucket.made = made
            if not bucket.is_settling:
                self._appeared(bucket, asked)
        for bucket in self._all:
            gone = bucket.there and bucket.listed and bucket.name not in found
            if gone and not bucket.is_settling and self._denied is None:
                self._vanished(bucket)

    async def _names(self) -> dict[str, int]:
        """As `Buckets.names`; nothing, if the keys do not cover the question."""
        try:
            found = await self._store.names()
        except StoreError as error:
            if not is_denied(error):
                raise
            if self._denied is None:
                log.warning("buckets are shown once they are asked for by name: %s", error)
            self._denied = error
            return {}
        self._denied = None
        return {name: made for name, made in found.items() if is_bucket_name(name)}

    async def find(self, name: str) -> Bucket:
        """The bucket of a name.

        One that is not in the list is asked for itself: it may be another account's.

        Raises:
            FsError: ENOENT.
            StoreError: The endpoint does not say.
        """
        if not is_bucket_name(name):
            raise FsError(errno.ENOENT)
        bucket = self._by_name.get(name)
        if bucket is not None and bucket.there and _age(bucket.seen) <= self.ttl:
            return bucket
        if _age(self._free.get(name, NEVER)) <= self._open_ttl:
            raise FsError(errno.ENOENT)
        if self._denied is None or _age(self._listed) > self.ttl:
            try:
                await self.look()
            except StoreError:
                if bucket is not None and bucket.there and bucket.tree is not None:
                    return bucket  # nobody says that it is gone, and what is here can be used
                raise
        bucket = self._by_name.get(name)
        if bucket is not None and bucket.there and _age(bucket.seen) <= self.ttl:
            return bucket
        if self._is_listed(bucket) or not await self._exists(name):
            if bucket is not None and bucket.there:
                self._vanished(bucket)
            self._note_free(name, clock.monotonic())
            raise FsError(errno.ENOENT)
        return self._by_name[name]

    def _is_listed(self, bucket: Bucket | None) -> bool:
        """Whether lists tell if there is a bucket."""
        settled = bucket is not None and bucket.listed and not bucket.is_settling
        return settled and self._denied is None

    async def _exists(self, name: str) -> bool:
        """Ask for a bucket by its name. Raises StoreError."""
        asked = clock.monotonic()
        try:
            if not await self._store.exists(name):
                return False
        except StoreError as error:
            if not is_denied(error):
                raise
            log.info("bucket %s is not shown: %s", name, error)
            return False
        self._appeared(self._known(name), asked)
        return True

    def _known(self, name: str) -> Bucket:
        bucket = self._by_name.get(name)
        if bucket is None:
            bucket = self._by_name[name] = Bucket(name, len(self._all) + 1)
            self._all.append(bucket)
        return bucket

    def _appeared(self, bucket: Bucket, asked: float) -> None:
        bucket.seen = max(bucket.seen, asked)
        if not bucket.there:
            bucket.there = True
            if self._free.pop(bucket.name, None) is not None:
                self._on_change(bucket.name)

    def _vanished(self, bucket: Bucket) -> None:
        bucket.there = False
        self._on_change(bucket.name)
        if bucket.tree is not None and any(bucket.tree.outstanding.waiting()):
            log.error("bucket %s is gone, and files in it are not saved yet", bucket.name)

    def _note_free(self, name: str, since: float) -> None:
        if len(self._free) >= _FREE_NAMES:
            self._free.clear()
        self._free[name] = since

    async def at(self, path: str) -> tuple[Tree, str]:
        """The tree of a path below the mount point, and the path in it.

        Raises FsError, StoreError.
        """
        name, _, below = path.partition("/")
        if not name:
            raise FsError(errno.EISDIR, "name a file in one of the buckets")
        return await self.enter(await self.find(name)), below

    async def forget(self, path: str) -> Forgotten:
        """As `Refresher.forget`, of a path below the mount point; of all buckets for ""."""
        name, _, below = path.partition("/")
        await self._ask_anew()
        forgotten = Forgotten()
        for bucket in self._all:
            if bucket.tree is not None and name in ("", bucket.name):
                part = await bucket.tree.refresher.forget(below)
                forgotten.missing |= part.missing
                forgotten.names += part.names
                forgotten.inodes += part.inodes
        bucket_of_path = self._by_name.get(name)
        if name and (bucket_of_path is None or not bucket_of_path.there):
            forgotten.missing = True
        return forgotten

    async def _ask_anew(self) -> None:
        """Ask again which buckets there are. Raises StoreError."""
        self._listed = NEVER
        names = list(self._free)
        self._free.clear()
        for name in names:
            self._on_change(name)
        for bucket in self._all:
            bucket.seen = NEVER
        await self.look()

    # ---- making and deleting ---------------------------------------------------------------------

    async def create(self, name: str) -> Bucket:
        """Make a bucket.

        Raises:
            FsError: EINVAL for a name no bucket can have, EEXIST, EPERM where it is refused.
            StoreError: The endpoint does not answer.
        """
        if not is_bucket_name(name):
            raise FsError(errno.EINVAL, f"{name}: not a bucket name (letters, digits, . - _)")
        try:
            await self._store.create(name)
        except StoreError as error:
            raise _refusal("made", name, error) from error
        bucket = self._known(name)
        now = clock.monotonic()
        bucket.changed = now
        bucket.listed = True
        bucket.made = clock.wall_ns() // 10**9
        self._free.pop(name, None)
        bucket.there, bucket.seen = True, now
        return bucket

    async def remove(self, name: str) -> None:
        """Delete a bucket that is empty.

        Raises:
            FsError: ENOENT, ENOTEMPTY, EPERM where it is refused.
            StoreError: The endpoint does not answer.
        """
        bucket = await self.find(name)
        if bucket.tree is not None:
            await bucket.tree.removals.wait_for_all()
            if any(bucket.tree.outstanding.waiting()):
                raise FsError(errno.ENOTEMPTY)
        try:
            await self._store.delete(name)
        except NotFound:
            self._vanished(bucket)
            raise FsError(errno.ENOENT) from None
        except StoreError as error:
            raise _refusal("deleted", name, error) from error
        bucket.changed = clock.monotonic()
        bucket.there = False
        self._note_free(name, bucket.changed)
        if bucket.tree is not None:
            await bucket.tree.refresher.forget("")

    # ---- entering --------------------------------------------------------------------------------

    async def enter(self, bucket: Bucket) -> Tree:
        """The tree of a bucket, opened at first.

        Raises:
            FsError: The cache cannot be used, or there are no keys.
            StoreError: The bucket cannot be asked.
        """
        while bucket.tree is None:
            if bucket.entering is None:
                bucket.entering = _Entering()
                self._nursery.start_soon(self._keep, bucket, bucket.entering)
            entering = bucket.entering
            await entering.done.wait()
            if entering.failure is not None:
                raise entering.failure
        return bucket.tree

    async def enter_all(self, names: Sequence[str]) -> None:
        """Enter buckets in which an earlier mount has left something; what fails is logged."""
        if names:
            await gather([functools.partial(self._resume, each) for each in names], limit=_AT_ONCE)

    async def _resume(self, name: str) -> None:
        bucket = self._known(name)
        asked = clock.monotonic()
        try:
            await self.enter(bucket)
        except (FsError, StoreError) as error:
            log.error("what an earlier mount has left for bucket %s waits: %s", name, _why(error))
        else:
            self._appeared(bucket, asked)

    async def _keep(self, bucket: Bucket, entering: _Entering) -> None:
        """Have a bucket open until the account is closed."""
        try:
            with entering.scope:
                async with self._plant(bucket) as tree:
                    bucket.tree = tree
                    bucket.entering = None
                    entering.done.set()
                    await self._over.wait()
        except Exception as error:
            if bucket.tree is not None:
                log.exception("bucket %s does not end as it should", bucket.name)
                return
            bucket.entering = None
            if isinstance(error, FsError | StoreError):
                entering.failure = error
            else:
                log.exception("bucket %s cannot be entered", bucket.name)
                entering.failure = internal("enter", error)
            entering.done.set()

    # ---- the end ---------------------------------------------------------------------------------

    def remaining(self) -> Remaining:
        """How much waits, in all buckets."""
        return Remaining.total([tree.outstanding.remaining() for tree in self.trees])

    async def drain(self, hurry: trio.Event, tell: Callable[[Remaining], None]) -> LeftBehind:
        """As `Drain.run`, of all buckets side by side."""
        left: list[LeftBehind] = []

        async def one(tree: Tree) -> None:
            left.append(await tree.drain.run(hurry, lambda _: None))

        async with trio.open_nursery() as watching:
            watching.start_soon(self._tell, tell)
            async with trio.open_nursery() as draining:
                for tree in self.trees:
                    draining.start_soon(one, tree)
            watching.cancel_scope.cancel()
        return LeftBehind.total(left)

    async def _tell(self, tell: Callable[[Remaining], None]) -> None:
        while True:
            tell(self.remaining())
            await trio.sleep(_LOOK)

    def close(self) -> None:
        """Let all buckets go; those that are just being entered, too."""
        self._over.set()
        for bucket in self._all:
            if bucket.entering is not None:
                bucket.entering.scope.cancel()


def _age(since: float) -> float:
    return clock.monotonic() - since


def _why(error: FsError | StoreError) -> str:
    if isinstance(error, FsError):
        return error.why or str(error)
    return f"{error}; {hint}" if (hint := advice(error)) else str(error)


#: What programs get where the endpoint does not make or delete a bucket, by S3's codes.
_PLAIN: Final = {
    "BucketNotEmpty": errno.ENOTEMPTY,
    "BucketAlreadyExists": errno.EEXIST,
    "BucketAlreadyOwnedByYou": errno.EEXIST,
}
#: The same where the errno does not say enough, with what can be done.
_REFUSALS: Final = {
    "InvalidBucketName": (
        errno.EINVAL,
        "most stores want 3 to 63 small letters, digits, dots and dashes",
    ),
    "TooManyBuckets": (errno.EDQUOT, "delete buckets, or have the account's limit raised"),
}


def _refusal(what: str, name: str, error: StoreError) -> FsError | StoreError:
    """What a program gets whose bucket was not made or deleted; the log hears why."""
    if error.code in _PLAIN:
        return FsError(_PLAIN[error.code])
    if not 400 <= error.status < 500:
        return error
    code, hint = _REFUSALS.get(error.code, (errno.EPERM, advice(error)))
    log.error("bucket %s is not %s: %s; %s", name, what, error, hint)
    return FsError(code)
