"""The stores that the conformance suite runs on, and a server whose every byte a test decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest

from bucketfs.credentials import StaticKeys
from bucketfs.store.base import Store
from bucketfs.store.config import StoreConfig
from bucketfs.store.opening import open_store
from tests.harness.memory import MemoryStore
from tests.harness.witness import Witness


@dataclass(frozen=True)
class Subject:
    """A store under test.

    Attributes:
        open: Opens it on a fresh bucket.
        kind: "memory", "moto" or "real".
    """

    open: Callable[[], AbstractAsyncContextManager[Store]]
    kind: str


@asynccontextmanager
async def _memory() -> AsyncIterator[Store]:
    yield MemoryStore()


def config_of(bucket: Witness) -> StoreConfig:
    endpoint = bucket.endpoint
    return StoreConfig(
        bucket=bucket.name,
        credentials=StaticKeys(endpoint.access_key, endpoint.secret_key),
        url=endpoint.url,
        region=endpoint.region,
        retries=1,
    )


@pytest.fixture(params=["memory", "endpoint"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """Each implementation of `Store` in turn, on a fresh bucket."""
    if request.param == "memory":
        return Subject(_memory, "memory")
    bucket: Witness = request.getfixturevalue("bucket")

    @asynccontextmanager
    async def connect() -> AsyncIterator[Store]:
        async with open_store(config_of(bucket)) as store:
            await store.check()
            yield store

    return Subject(connect, "moto" if bucket.endpoint.moto else "real")
