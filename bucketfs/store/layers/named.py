"""Failures say which bucket they are about, where a mount has several."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from bucketfs.errors import StoreError
from bucketfs.store.base import Store
from bucketfs.store.layers.wrapper import Call, StoreWrapper

T = TypeVar("T")


class NamedStore(StoreWrapper):
    """Passes each call on. Sits above all others.

    Args:
        inner: The bucket.
        bucket: Its name.
    """

    def __init__(self, inner: Store, bucket: str) -> None:
        super().__init__(inner)
        self._bucket = bucket

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:  # noqa: ARG002
        try:
            return await send()
        except StoreError as error:
            error.bucket = self._bucket
            raise
