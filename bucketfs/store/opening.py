"""Opens a bucket or an account: connects to the endpoint and puts the layers on top.

A module of its own, which only those import who open one: the AWS library is half of what a mount
loads, and a wrong option is reported without it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from bucketfs.store.aws.buckets import AccountBuckets
from bucketfs.store.aws.connection import connect
from bucketfs.store.aws.s3 import S3Store
from bucketfs.store.base import Store
from bucketfs.store.capability import Provider
from bucketfs.store.config import StoreConfig
from bucketfs.store.layers.fallback import FallbackStore
from bucketfs.store.layers.history import HistoryStore
from bucketfs.store.layers.large import LargeStore
from bucketfs.store.layers.limit import LimitStore
from bucketfs.store.layers.named import NamedStore
from bucketfs.store.layers.outage import Outage
from bucketfs.store.layers.own import OwnStore
from bucketfs.store.layers.past import PastStore
from bucketfs.store.layers.retry import RetryPolicy, RetryStore
from bucketfs.store.layers.rights import RightsStore
from bucketfs.store.layers.single import SingleStore
from bucketfs.store.layers.tagging import TagStore
from bucketfs.store.layers.trace import TraceStore
from bucketfs.store.layers.wrapper import Call
from bucketfs.tasks import alongside

T = TypeVar("T")


@asynccontextmanager
async def open_store(
    config: StoreConfig, *, trace: Callable[[TraceStore], None] | None = None
) -> AsyncIterator[Store]:
    """Open the configured bucket; nothing is asked of it yet (see `Store.check`).

    Args:
        config: The bucket and how to reach it.
        trace: Is given the layer that counts requests.
    """
    async with connect(config) as connection:
        provider = Provider(config)
        counted = TraceStore(S3Store(connection, config, provider))
        if trace is not None:
            trace(counted)
        limited = LimitStore(
            _shown(counted, config), bulk=config.max_connections, small=2 * config.max_connections
        )
        outage = Outage(config.patience)
        retried = RetryStore(
            limited,
            _policy(config),
            outage=outage,
            renew=connection.renew_credentials,
            on_retry=counted.repeated,
        )
        async with alongside(lambda: outage.watch(counted.check), "watch for outages"):
            allowed = RightsStore(retried, prefix=config.prefix, read_only=config.read_only)
            able = FallbackStore(
                TagStore(allowed, provider), provider, probe_prefix=config.probe_prefix
            )
            # Amazon has no other API to its buckets
            whole = able if config.is_aws else LargeStore(able)
            top = SingleStore(whole) if config.single_puts else whole
            told = OwnStore(top) if config.follow else top
            yield NamedStore(told, config.bucket, config.on_gone) if config.named else told


@asynccontextmanager
async def open_account(
    config: StoreConfig, *, trace: Callable[[TraceStore], None]
) -> AsyncIterator[AccountBuckets]:
    """Open the account that the configured keys belong to; nothing is asked of it yet.

    Args:
        config: How to reach the endpoint; its bucket does not matter.
        trace: Is given the layer that counts requests.
    """
    async with connect(config) as connection:
        counted = TraceStore(S3Store(connection, config, Provider(config)))
        trace(counted)
        outage = Outage(config.patience)
        retried = RetryStore(
            counted,
            _policy(config),
            outage=outage,
            renew=connection.renew_credentials,
            on_retry=counted.repeated,
        )

        async def repeat(operation: str, name: str, send: Callable[[], Awaitable[T]]) -> T:
            call = Call(operation, name)
            return await retried.around(call, lambda: counted.around(call, send))

        buckets = AccountBuckets(connection, config, repeat)

        async def ask() -> None:
            await counted.around(Call("ListBuckets", ""), buckets.check)

        async with alongside(lambda: outage.watch(ask), "watch for outages"):
            yield buckets


def _shown(bucket: TraceStore, config: StoreConfig) -> Store:
    """The bucket as it is, as it was, or with what it was beside it."""
    if config.at is not None:
        return PastStore(bucket, config.at)
    if config.history is not None:
        return HistoryStore(bucket, prefix=config.prefix, keep=config.history)
    return bucket


def _policy(config: StoreConfig) -> RetryPolicy:
    return RetryPolicy(
        attempts=config.retries + 1,
        seconds=config.patience - config.silence,
        patience=config.patience,
    )
