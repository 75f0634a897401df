"""The buckets of an account: what is asked, and how answers are read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from bucketfs.errors import StoreError
from bucketfs.store.aws.buckets import AccountBuckets
from bucketfs.store.config import StoreConfig
from bucketfs.store.layers.trace import TraceStore
from bucketfs.store.opening import open_account
from tests.store.test_transport import CONFIG, OK, Script, error, scripted

DONE = OK + b"Content-Length: 0\r\n\r\n"
ELSEWHERE = b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\nx-amz-bucket-region: eu-9\r\n\r\n"
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
DENIED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


def names(*found: str, token: str = "") -> bytes:
    buckets = "".join(
        f"<Bucket><Name>{name}</Name><CreationDate>2026-01-02T03:04:05.000Z</CreationDate></Bucket>"
        for name in found
    )
    more = f"<ContinuationToken>{token}</ContinuationToken>" if token else ""
    body = (
        '<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Buckets>{buckets}</Buckets>{more}</ListAllMyBucketsResult>"
    ).encode()
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


def objects(*keys: str) -> bytes:
    contents = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    body = f"<ListBucketResult><Name>a</Name>{contents}</ListBucketResult>".encode()
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


@asynccontextmanager
async def account(
    *answers: bytes | None, **settings: object
) -> AsyncIterator[tuple[AccountBuckets, Script, list[TraceStore]]]:
    async with scripted(*answers) as script:
        traced: list[TraceStore] = []
        config = replace(CONFIG, url=script.url, bucket="", path_style=True, **settings)  # type: ignore[arg-type]
        async with open_account(config, trace=traced.append) as buckets:
            yield buckets, script, traced


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoreConfig, "is_aws", property(lambda _: True))


def lines(script: Script) -> list[str]:
    return [seen.line.removesuffix(" HTTP/1.1") for seen in script.seen]


async def test_all_of_them() -> None:
    async with account(names("a", "B_c.d")) as (buckets, script, traced):
        assert await buckets.names() == {"a": 1767323045, "B_c.d": 1767323045}
    assert lines(script) == ["GET /"]
    assert traced[0].tallies["ListBuckets"].requests == 1


async def test_none() -> None:
    async with account(names()) as (buckets, _, _traced):
        assert await buckets.names() == {}


async def test_in_pages(amazon: None) -> None:
    async with account(names("a", token="t+1"), names("b")) as (buckets, script, _):
        assert list(await buckets.names()) == ["a", "b"]
    assert lines(script) == [
        "GET /?max-buckets=10000",
        "GET /?max-buckets=10000&continuation-token=t%2B1",
    ]


async def test_a_failure_is_tried_again() -> None:
    answers = (error(503, "SlowDown"), names("a"))
    async with account(*answers, retries=1) as (buckets, _, traced):
        assert list(await buckets.names()) == ["a"]
    tally = traced[0].tallies["ListBuckets"]
    assert (tally.requests, tally.failures, tally.repeated) == (2, 1, 1)


async def test_what_exists() -> None:
    async with account(DONE, MISSING, DENIED) as (buckets, script, _):
        assert await buckets.exists("a")
        assert not await buckets.exists("b")
        with pytest.raises(StoreError) as raised:
            await buckets.exists("c")
    assert raised.value.status == 403
    assert lines(script) == ["HEAD /a", "HEAD /b", "HEAD /c"]


async def test_one_in_another_region_exists() -> None:
    async with account(*[ELSEWHERE] * 4) as (buckets, _, _traced):
        assert await buckets.exists("a")


@pytest.mark.parametrize(
    ("region", "at_amazon", "told"),
    [("us-east-1", True, b""), ("eu-9", True, b"eu-9"), ("eu-9", False, b"")],
)
async def test_where_it_is_made(
    monkeypatch: pytest.MonkeyPatch, region: str, at_amazon: bool, told: bytes
) -> None:
    monkeypatch.setattr(StoreConfig, "is_aws", property(lambda _: at_amazon))
    async with account(DONE, region=region) as (buckets, script, _):
        await buckets.create("a")
    (seen,) = script.seen
    assert seen.line.startswith("PUT /a ")
    assert (b"<LocationConstraint>%b<" % told in seen.body) if told else not seen.body


async def test_a_server_that_wants_the_region() -> None:
    refusal = error(400, "IllegalLocationConstraintException")
    async with account(refusal, DONE, region="eu-9") as (buckets, script, _):
        await buckets.create("a")
    assert b"eu-9" in script.seen[1].body
    async with account(refusal, region="us-east-1") as (buckets, _, _traced):
        with pytest.raises(StoreError):
            await buckets.create("a")


async def test_none_is_deleted_that_is_not_empty() -> None:
    """SeaweedFS would delete it with all that is in it."""
    async with account(objects(), DONE) as (buckets, script, _):
        await buckets.delete("a")
    assert lines(script) == ["GET /a?max-keys=1&encoding-type=url", "DELETE /a"]
    async with account(objects("k"), DONE) as (buckets, script, _):
        with pytest.raises(StoreError, match="BucketNotEmpty"):
            await buckets.delete("a")
    assert len(script.seen) == 1


async def test_a_lost_answer() -> None:
    owned = error(409, "BucketAlreadyOwnedByYou")
    async with account(None, owned, retries=1) as (buckets, _, _traced):
        await buckets.create("a")
    gone = error(404, "NoSuchBucket")
    async with account(objects(), None, gone, retries=1) as (buckets, _, _traced):
        await buckets.delete("a")
    for answer in (owned, gone):
        async with account(answer, answer) as (buckets, _, _traced):
            with pytest.raises(StoreError):
                await (buckets.create("a") if answer is owned else buckets.delete("a"))
