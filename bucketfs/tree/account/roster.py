"""Which buckets an account has, how long that is good for, and making and deleting them.

Invariants: a name has one `Bucket` in a mount, whatever becomes of it; what was made or deleted
here is not undone by a list that does not know of it yet.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from bucketfs import clock
from bucketfs.errors import FsError, NotFound, StoreError, advice, is_denied
from bucketfs.tasks import Shared, gather
from bucketfs.tree.account.member import Bucket, age, index_of, is_bucket_name
from bucketfs.tree.core.inode import NEVER

log = logging.getLogger(__name__)

#: Named buckets asked for side by side.
_AT_ONCE: Final = 8
#: Free names remembered.
_FREE_NAMES: Final = 10_000


class Buckets(Protocol):
    """What the endpoint is asked. All raise StoreError; FsError where there are no keys.

    Attributes:
        named: Buckets that are to be shown although the list may not have them.
    """

    named: Sequence[str]

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


class Roster:
    """The buckets of an account.

    Args:
        buckets: Asked which there are.
        ttl: Seconds for which it holds that a bucket was there.
        open_ttl: Seconds for which a list holds, and that there is no bucket of a name.
        on_change: Told of a name that stands for another thing than before.

    Attributes:
        ttl: As given.
        every: All that were ever heard of, also those that are gone, by their index.
    """

    def __init__(
        self,
        buckets: Buckets,
        *,
        ttl: float,
        open_ttl: float,
        on_change: Callable[[str], None],
    ) -> None:
        self._store = buckets
        self.trust(ttl=ttl, open_ttl=open_ttl)
        self._on_change = on_change
        self._by_name: dict[str, Bucket] = {}
        self.every: list[Bucket] = []
        self._listed = self._forgotten = NEVER
        self._denied: StoreError | None = None
        self._asking: Shared | None = None
        #: Names that were free at a monotonic time.
        self._free: dict[str, float] = {}

    def trust(self, *, ttl: float, open_ttl: float) -> None:
        """Have what is known hold for these times."""
        self.ttl = ttl
        self._open_ttl = min(ttl, open_ttl)

    @property
    def present(self) -> list[Bucket]:
        """The buckets that are there, as far as is known."""
        return [bucket for bucket in self.every if bucket.there]

    def bucket(self, number: int) -> Bucket:
        """The bucket of an inode's or handle's number. Raises FsError ESTALE."""
        index = index_of(number)
        if not 0 < index <= len(self.every):
            raise FsError(errno.ESTALE, f"no inode {number}")
        return self.every[index - 1]

    def timeout(self, bucket: Bucket) -> float:
        """Seconds for which the kernel may take it for granted that the bucket is there."""
        return max(0.0, self.ttl - age(bucket.seen))

    def negative_timeout(self, name: str) -> float:
        """Seconds for which the kernel may take a name for free."""
        if not is_bucket_name(name):
            return self.ttl
        return max(0.0, self._open_ttl - age(self._free.get(name, NEVER)))

    async def look(self) -> None:
        """Know which buckets there are, as of `open_ttl` ago at most, if the keys cover that.

        Raises:
            StoreError: The endpoint does not answer.
        """
        while age(self._listed) > self._open_ttl:
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
                await self._ask_for_named(found)
        finally:
            self._asking = None
        self._listed = asked if asked >= self._forgotten else NEVER
        for name, made in found.items():
            bucket = self.known(name)
            bucket.listed = True
            bucket.made = made
            if not bucket.is_settling:
                self.appeared(bucket, asked)
        for bucket in self.every:
            gone = bucket.there and bucket.listed and bucket.name not in found
            if gone and not bucket.is_settling and self._denied is None:
                self._vanished(bucket)

    async def _ask_for_named(self, found: Collection[str]) -> None:
        """Look after buckets that are named and not in a list."""
        jobs = [
            functools.partial(self._look_after, name)
            for name in self._store.named
            if name not in found and is_bucket_name(name) and not self._is_sure(name)
        ]
        if jobs:
            await gather(jobs, limit=_AT_ONCE)

    def _is_sure(self, name: str) -> bool:
        bucket = self._by_name.get(name)
        return bucket is not None and bucket.there and age(bucket.seen) <= self.ttl

    async def _look_after(self, name: str) -> None:
        bucket = self._by_name.get(name)
        try:
            if not await self._exists(name) and bucket is not None and bucket.there:
                self._vanished(bucket)
        except (FsError, StoreError) as error:
            log.warning(
                "cannot look for bucket %s, it may be missing in the mount point: %s", name, error
            )

    async def _names(self) -> dict[str, int]:
        """As `Buckets.names`; nothing, if the keys do not cover the question."""
        try:
            found = await self._store.names()
        except StoreError as error:
            if not is_denied(error):
                raise
            if self._denied is None:
                log.warning(
                    "cannot list the buckets, each is shown once a program has used its name: %s",
                    error,
                )
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
        began = clock.monotonic()
        bucket = self._by_name.get(name)
        if bucket is not None and self._is_sure(name):
            return bucket
        if age(self._free.get(name, NEVER)) <= self._open_ttl:
            raise FsError(errno.ENOENT)
        if self._denied is None or age(self._listed) > self.ttl:
            try:
                await self.look()
            except StoreError:
                if bucket is not None and bucket.there and bucket.tree is not None:
                    return bucket  # nobody says that it is gone, and what is here can be used
                raise
        bucket = self._by_name.get(name)
        # an answer to this very question counts, however short a time answers are trusted
        if bucket is not None and (self._is_sure(name) or (bucket.there and bucket.seen >= began)):
            return bucket
        asked = clock.monotonic()
        if self._is_listed(bucket) or not await self._exists(name):
            if bucket is not None and bucket.there:
                self._vanished(bucket)
            self._note_free(name, asked)
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
            found = await self._store.exists(name)
        except StoreError as error:
            if not is_denied(error):
                raise
            log.info("bucket %s is not shown: %s", name, error)
            found = False
        bucket = self._by_name.get(name)
        if bucket is not None and bucket.changed >= asked:
            return bucket.there  # it was made or deleted here since
        if found:
            self.appeared(self.known(name), asked)
        return found

    def known(self, name: str) -> Bucket:
        """The bucket of a name, made if it is new."""
        bucket = self._by_name.get(name)
        if bucket is None:
            bucket = self._by_name[name] = Bucket(name, len(self.every) + 1)
            self.every.append(bucket)
        return bucket

    def appeared(self, bucket: Bucket, asked: float) -> None:
        """The answer to a question of a monotonic time shows that the bucket is there."""
        bucket.seen = max(bucket.seen, asked)
        if not bucket.there:
            bucket.there = True
            if self._free.pop(bucket.name, None) is not None:
                self._on_change(bucket.name)

    def gone(self, bucket: Bucket) -> bool:
        """The endpoint says that there is no such bucket; whether that is so.

        Of one that was just made here some of its servers may not know yet.
        """
        if bucket.there and not bucket.is_settling:
            self._vanished(bucket)
        return not bucket.there

    def _vanished(self, bucket: Bucket) -> None:
        bucket.there = False
        self._on_change(bucket.name)
        tree = bucket.tree
        if tree is None:
            return
        if any(tree.outstanding.waiting()):
            log.error("bucket %s is gone, and files in it are not saved yet", bucket.name)
        # another one of that name has other files
        forget = functools.partial(tree.refresher.forget, "")
        tree.state.files.background.start(forget, "forget a bucket")

    def _note_free(self, name: str, since: float) -> None:
        if len(self._free) >= _FREE_NAMES:
            self._free.clear()
        self._free[name] = since

    async def ask_anew(self) -> None:
        """Ask again which buckets there are. Raises StoreError."""
        self._listed, self._forgotten = NEVER, clock.monotonic()
        names = list(self._free)
        self._free.clear()
        for name in names:
            self._on_change(name)
        for bucket in self.every:
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
        bucket = self.known(name)
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
