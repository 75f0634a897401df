"""What the credentials may not do: learned from refusals, and how one gets along with less.

Nothing is written to find out. Three things are known afterwards:

- *The mount's prefix may not be listed.* S3 then answers 403 to a HEAD of any name that is not
  there, as it does for one that may not be read. A mount that may write goes on, and such a name
  counts as free (`Unseen`): whoever may only publish has to be able to make it. One that is
  read-only goes on as well, and leaves the refusal to those who ask.
- *Objects may be deleted, but not many together*, as Ceph has it. Each goes by itself then.
- *A write or a deletion was refused in a directory.* `foresee` then asks, before a program's bytes
  or copies are made, with a request that changes nothing.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from cachetools import LRUCache

from bucketfs.errors import StoreError, Unseen, is_denied
from bucketfs.store.base import (
    NO_CONDITIONS,
    BytesBody,
    Foreseen,
    ObjectInfo,
    Sink,
    Store,
    ignored,
)
from bucketfs.store.layers.wrapper import Call, StoreWrapper
from bucketfs.tasks import gather

T = TypeVar("T")

_log = logging.getLogger("bucketfs.store.layers.rights")

#: Operations that one right covers, by the one that `foresee` names.
_COVERED: Final[Mapping[str, Foreseen]] = {
    "PutObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CopyObject": "PutObject",  # or reading its source; that is found out
    "DeleteObject": "DeleteObject",
    "DeleteObjects": "DeleteObject",
}
#: Neither an upload nor an object nor a version has these.
_NO_UPLOAD: Final = "bucketfs-no-such-upload"
_NO_KEY: Final = ".bucketfs-no-such-key"
_NO_VERSION: Final = "0" * 32
#: Deletions one by one under way at once, at most.
_SIDE_BY_SIDE: Final = 64
#: Directories with refusals that are remembered.
_REMEMBERED: Final = 1024


class RightsStore(StoreWrapper):
    """Learns what is refused.

    Args:
        prefix: What the mount shows of the bucket.
        read_only: Whether it never writes.
    """

    def __init__(self, inner: Store, *, prefix: str = "", read_only: bool = False) -> None:
        super().__init__(inner)
        self._prefix = prefix
        self._read_only = read_only
        self._blind = False
        self._has_seen = False
        self._singly = False
        self._refused: LRUCache[tuple[Foreseen, str], None] = LRUCache(_REMEMBERED)

    async def check(self) -> bool:
        try:
            return await super().check()
        except StoreError as refusal:
            if not is_denied(refusal):
                raise
            await self._do_without_listing(refusal)
            return True  # nobody may look

    async def _do_without_listing(self, refusal: StoreError) -> None:
        """Go on where objects can be made, or only read. Raises StoreError."""
        if not self._read_only:
            try:
                await self._ask("PutObject", self._prefix + _NO_KEY)
            except StoreError:
                raise StoreError(
                    "NoRights",
                    status=refusal.status,
                    operation=refusal.operation,
                    key=refusal.key,
                    request_id=refusal.request_id,
                    message="neither listing nor writing is allowed here",
                ) from refusal
        self._blind = True
        _log.warning(
            "listing is not allowed (s3:ListBucket): directories cannot be shown, and files are"
            " found by their names only%s",
            "" if self._read_only else "; a name that cannot be looked at counts as free",
        )

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        covered = _COVERED.get(call.operation)
        if covered is None:
            return await send()
        where = covered, _directory(call.key)
        try:
            answer = await send()
        except StoreError as exc:
            if is_denied(exc):
                self._refused[where] = None
            raise
        self._refused.pop(where, None)
        return answer

    async def head(self, key: str) -> ObjectInfo:
        try:
            info = await super().head(key)
        except StoreError as refusal:
            if not self._blind or self._read_only or not is_denied(refusal):
                raise
            # who has seen objects sees all that are there
            raise Unseen(refusal, certain=self._has_seen) from refusal
        self._has_seen = True
        return info

    async def heads(
        self,
        keys: Sequence[str],
        told: Callable[[ObjectInfo], None],
        failed: Callable[[StoreError], None] = ignored,
    ) -> None:
        def take(info: ObjectInfo) -> None:
            self._has_seen = True
            told(info)

        await super().heads(keys, take, failed)

    async def get(
        self,
        key: str,
        sink: Sink,
        *,
        start: int = 0,
        stop: int | None = None,
        if_match: str = "",
        size: int | None = None,
    ) -> ObjectInfo:
        info = await super().get(key, sink, start=start, stop=stop, if_match=if_match, size=size)
        self._has_seen = True
        return info

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        if not self._singly:
            try:
                stayed = await super().delete_many(keys, if_match=if_match)
            except StoreError as exc:
                if not is_denied(exc):
                    raise
                return await self._delete_singly(keys, if_match, exc)
            for key, error in stayed.items():
                if is_denied(error):
                    self._refused["DeleteObject", _directory(key)] = None
            return stayed
        return await self._delete_singly(keys, if_match)

    async def _delete_singly(
        self, keys: Sequence[str], if_match: Mapping[str, str], refusal: StoreError | None = None
    ) -> Mapping[str, StoreError]:
        """As `delete_many`, key by key: Ceph wants the right to delete on the bucket for many.

        Args:
            keys: What to delete.
            if_match: As `delete_many` takes it.
            refusal: What many together were answered.

        Raises:
            StoreError: The refusal, where the first key is refused, too.
        """
        stayed: dict[str, StoreError] = {}

        async def delete(key: str) -> None:
            try:
                await self.delete(key, if_match=if_match.get(key, ""))
            except StoreError as exc:
                stayed[key] = exc

        first, *others = keys
        await delete(first)
        if refusal is not None:
            if first in stayed and is_denied(stayed[first]):
                raise refusal
            self._singly = True
            _log.info("many objects may not be deleted together: each is by itself")
        await gather([functools.partial(delete, key) for key in others], limit=_SIDE_BY_SIDE)
        return stayed

    async def foresee(self, operation: Foreseen, key: str) -> None:
        for directory in self._suspects(operation, key):
            asked = key if operation == "PutObject" else directory + _NO_KEY
            try:
                await self._ask(operation, asked)
            except StoreError as exc:
                raise StoreError(
                    exc.code,
                    status=exc.status,
                    operation=operation,
                    key=key,
                    request_id=exc.request_id,
                    message="was asked about beforehand; nothing has changed",
                ) from exc
            self._refused.pop((operation, directory), None)

    def _suspects(self, operation: Foreseen, key: str) -> list[str]:
        """Directories in which such a request for a key, or for all below it, was refused."""
        own = _directory(key)
        return [
            where
            for covered, where in self._refused
            if covered == operation
            and (where == own or (key.endswith("/") and where.startswith(key)))
        ]

    async def _ask(self, operation: Foreseen, key: str) -> None:
        """Send a request that changes nothing; raises StoreError if the right is missing."""
        try:
            if operation == "PutObject":
                await self.inner.upload_part(key, _NO_UPLOAD, 1, BytesBody(b""))
            else:
                await self.inner.delete(key, if_match=_NO_VERSION)
        except StoreError as exc:
            if is_denied(exc):
                raise


def _directory(key: str) -> str:
    """The prefix of the directory that a key is in; a marker is in the one above its own."""
    return key[: key.rstrip("/").rfind("/") + 1]
