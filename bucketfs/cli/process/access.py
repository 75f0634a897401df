"""All buckets of an account, each with its own keys and settings."""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from bucketfs.cli.failure import Failure
from bucketfs.cli.options.bucket import tell_keys
from bucketfs.credentials import Anonymous
from bucketfs.errors import FsError
from bucketfs.store.aws.buckets import AccountBuckets
from bucketfs.store.base import Store
from bucketfs.store.config import StoreConfig
from bucketfs.store.layers.trace import TraceStore
from bucketfs.store.opening import open_account, open_store

log = logging.getLogger("bucketfs.serve")


class AccountAccess:
    """Implements `bucketfs.fuse.account_session.Access`.

    Args:
        account: The buckets of who has the mount's own keys.
        config: With these keys.
        config_of: How a bucket is reached; raises Failure.
        trace: Is given each layer that counts requests.
        named: Buckets with keys of their own, which no list of the account need have.

    Attributes:
        named: As given.
    """

    def __init__(
        self,
        account: AccountBuckets,
        config: StoreConfig,
        config_of: Callable[[str], StoreConfig],
        trace: Callable[[TraceStore], None],
        named: Sequence[str],
    ) -> None:
        self.named = named
        self._account = account
        self._config = config
        self._config_of = config_of
        self._trace = trace

    async def names(self) -> dict[str, int]:
        """As `AccountBuckets.names`, of the mount's own keys; nothing without such keys."""
        if self._has_no_keys:
            return {}
        return await self._account.names()

    async def exists(self, name: str) -> bool:
        """Whether the keys that are written down for a bucket find it."""
        if self._has_no_keys and name not in self.named:
            return False
        async with self._owner(name) as account:
            return await account.exists(name)

    async def create(self, name: str) -> None:
        """Make a bucket, with the keys that are written down for it."""
        async with self._owner(name) as account:
            await account.create(name)

    async def delete(self, name: str) -> None:
        """Delete a bucket, with the keys that are written down for it."""
        async with self._owner(name) as account:
            await account.delete(name)

    @property
    def _has_no_keys(self) -> bool:
        """Whether only single buckets have keys."""
        return isinstance(self._config.credentials, Anonymous)

    @asynccontextmanager
    async def open(self, bucket: str, on_gone: Callable[[], bool]) -> AsyncIterator[Store]:
        """A bucket; nothing is asked of it yet."""
        config = self._usable(bucket)
        if config.credentials != self._config.credentials:
            tell_keys(config.credentials, f"bucket {bucket}: ")
        config = replace(config, named=True, on_gone=on_gone)
        async with open_store(config, trace=self._trace) as store:
            yield store

    @asynccontextmanager
    async def _owner(self, name: str) -> AsyncIterator[AccountBuckets]:
        config = self._usable(name)
        if config.credentials == self._config.credentials:
            yield self._account
            return
        async with open_account(config, trace=self._trace) as account:
            yield account

    def _usable(self, bucket: str) -> StoreConfig:
        try:
            return self._config_of(bucket)
        except Failure as failure:
            log.error("bucket %s: %s", bucket, failure)
            raise FsError(errno.EACCES) from None
