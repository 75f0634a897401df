"""A feed of changes over the wire: what it brings, when it is none, and how it ends."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from bucketfs.credentials import Anonymous
from bucketfs.errors import NoAnswer, StoreError, Unsupported
from bucketfs.store.base import BytesBody, Change, Headers, Store
from bucketfs.store.config import StoreConfig
from bucketfs.store.feed import PING
from bucketfs.store.opening import open_store
from bucketfs.tasks import Turns
from tests.harness.feed import Feed
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness
from tests.store.conftest import config_of

PART = 5 << 20


@pytest.fixture
def config(bucket: Witness, counted: Proxy) -> StoreConfig:
    counted.feed = Feed(ping=0.05)
    return replace(config_of(bucket), url=counted.url, follow=True)


class Ear:
    """Listens to a store, and keeps what it hears."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.alive = trio.Event()
        self.ended = trio.Event()
        self.failure: StoreError | None = None

        self._turns = Turns()

    def hear(self, changes: Sequence[Change]) -> None:
        self.alive.set()
        self.changes += changes
        self._turns.moved()

    async def listen(self, store: Store, prefix: str = "") -> None:
        try:
            await store.follow(prefix, self.hear)
        except StoreError as failure:
            self.failure = failure
            self.alive.set()
            self.ended.set()

    async def heard(self, count: int) -> list[Change]:
        with trio.fail_after(10):
            while len(self.changes) < count:
                await self._turns.next()
        return self.changes


@asynccontextmanager
async def listening(config: StoreConfig, prefix: str = "") -> AsyncIterator[tuple[Store, Ear]]:
    ear = Ear()
    async with open_store(config) as store, trio.open_nursery() as nursery:
        nursery.start_soon(ear.listen, store, prefix)
        with trio.fail_after(10):
            await ear.alive.wait()
        yield store, ear
        nursery.cancel_scope.cancel()


def others(bucket: Witness, counted: Proxy) -> Witness:
    endpoint = bucket.endpoint.at(counted.url)
    return Witness(endpoint, bucket.name, endpoint.client())


async def test_what_others_do_is_heard(
    config: StoreConfig, bucket: Witness, counted: Proxy
) -> None:
    other = others(bucket, counted)
    async with listening(config, "d/") as (_, ear):
        etag = await trio.to_thread.run_sync(other.put, "d/ü +", b"1")
        await trio.to_thread.run_sync(other.put, "elsewhere", b"1")
        await trio.to_thread.run_sync(other.delete, "d/ü +")
        made, gone = await ear.heard(2)
        assert "d/ü +" in made.keys
        assert (made.etag, made.removed, gone.removed) == (etag, False, True)


async def test_what_we_do_is_not(config: StoreConfig, bucket: Witness, counted: Proxy) -> None:
    feed = counted.feed
    assert feed is not None
    other = others(bucket, counted)
    async with listening(config) as (store, ear):
        await store.put("a", BytesBody(b"1"), Headers())
        await store.copy("a", "b", size=1)
        await store.copy("a", "a", size=1, headers=Headers({"mode": "33188"}))
        await store.delete("a")
        assert not await store.delete_many(["b"])
        upload = await store.create_upload("c", Headers())
        part = await store.upload_part("c", upload, 1, BytesBody(os.urandom(PART)))
        await store.complete("c", upload, [(1, part)], size=PART)
        assert len(feed.told) == 6
        await trio.to_thread.run_sync(other.put, "last", b"1")
        (change,) = await ear.heard(1)
        assert change.keys == ("last",)


async def test_the_end_of_a_feed(config: StoreConfig, counted: Proxy) -> None:
    async with listening(config) as (_, ear):
        counted.cut_feed()
        with trio.fail_after(10):
            await ear.ended.wait()
        assert isinstance(ear.failure, NoAnswer)


async def test_a_feed_may_be_quiet_for_longer_than_other_answers(
    config: StoreConfig, counted: Proxy
) -> None:
    assert counted.feed is not None
    counted.feed.ping = None  # as it is asked for
    async with listening(replace(config, read_timeout=PING / 4)) as (_, ear):
        await trio.sleep(PING * 1.5)
        assert ear.failure is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (0, ""), (400, "InvalidArgument"), (404, "NotFound"), (405, "MethodNotAllowed"),
        (501, "NotImplemented"), (403, "SignatureDoesNotMatch"),
    ],
)  # fmt: skip
async def test_no_feed(config: StoreConfig, counted: Proxy, status: int, code: str) -> None:
    counted.feed = None
    refusal: dict[str, object] = {"status": status, "code": code}
    with counted.fault("ListenNotification" if status else "none", **refusal):
        async with open_store(config) as store:
            assert store.capabilities.feed
            for _ in range(2):
                with pytest.raises(Unsupported):
                    await store.follow("", lambda _: None)
            assert not store.capabilities.feed
    assert counted.count("ListenNotification") == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (404, "NoSuchBucket"), (400, "ExpiredToken"), (503, "SlowDown")],
)
async def test_a_refusal_that_says_nothing_of_the_endpoint(
    config: StoreConfig, counted: Proxy, status: int, code: str
) -> None:
    with counted.fault("ListenNotification", status=status, code=code):
        async with open_store(config) as store:
            with pytest.raises(StoreError, match=code) as caught:
                await store.follow("", lambda _: None)
            assert not isinstance(caught.value, Unsupported)
            assert store.capabilities.feed


@pytest.mark.parametrize("change", [{"signature_v2": True}, {"credentials": Anonymous()}])
async def test_however_it_is_signed(config: StoreConfig, change: dict[str, object]) -> None:
    async with listening(replace(config, **change)) as (_, ear):  # type: ignore[arg-type]
        assert ear.failure is None
