"""A bucket among others of a mount: failures say which it is, and it may be gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from bucketfs.errors import NotFound, StoreError
from bucketfs.store.base import Store
from bucketfs.store.layers.wrapper import Call, StoreWrapper

T = TypeVar("T")

#: Calls whose callers get along with something that is not there. Who writes must not take it so.
_READING: Final = frozenset({"Check", "GetObject", "HeadObject", "ListObjectsV2"})


class NamedStore(StoreWrapper):
    """Passes each call on. Sits above all others.

    Args:
        inner: The bucket.
        bucket: Its name.
        on_gone: As `StoreConfig` has it.
    """

    def __init__(
        self, inner: Store, bucket: str, on_gone: Callable[[], bool] | None = None
    ) -> None:
        super().__init__(inner)
        self._bucket = bucket
        self._on_gone = on_gone

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        try:
            return await send()
        except StoreError as error:
            error.bucket = self._bucket
            gone = error.code == "NoSuchBucket" and self._on_gone is not None and self._on_gone()
            if not gone or call.operation not in _READING:
                raise
            raise NotFound(
                "NoSuchKey", status=404, operation=call.operation, key=call.key,
                message=f"bucket {self._bucket} is gone",
            ) from error  # fmt: skip
