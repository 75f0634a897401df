"""Wrong clocks, expired keys and lost answers: what mends itself without a remount."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import trio
from aiobotocore.credentials import AioRefreshableCredentials
from hypothesis import given
from hypothesis import strategies as st

from bucketfs import clock
from bucketfs.credentials import StaticKeys
from bucketfs.errors import NoAnswer, StoreError
from bucketfs.store.base import BytesBody, Headers, Store, UploadInfo
from bucketfs.store.layers.outcome import lost_uploads
from bucketfs.store.layers.retry import RetryPolicy, RetryStore
from bucketfs.store.layers.trace import TraceStore
from tests.harness.memory import Fault, MemoryStore
from tests.store.test_transport import BODY, HEAD, OK, Script, Seen, code_of, error, talking

LOST = NoAnswer("ConnectionClosed")
HOUR = 3600
PAGE = b"<?xml version='1.0'?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
LISTING = OK + b"Content-Length: %d\r\n\r\n" % len(PAGE) + PAGE


def date(ahead: float) -> bytes:
    """The Date header of a server whose clock is ahead of ours."""
    moment = datetime.now(UTC) + timedelta(seconds=ahead)
    return b"Date: " + format_datetime(moment, usegmt=True).encode()


def skewed(ahead: float) -> bytes:
    return error(403, "RequestTimeTooSkewed", date(ahead))


def ahead(seen: Seen) -> float:
    """Seconds by which a request's time is ahead of ours."""
    signed = datetime.strptime(seen.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return signed.timestamp() - time.time()


@pytest.mark.parametrize("off", [-20 * HOUR, 2 * HOUR])
async def test_the_endpoints_clock_counts(off: float, caplog: pytest.LogCaptureFixture) -> None:
    """Both ways of a request, and the long one of a listing, sign with what was learned."""
    async with talking(skewed(off), BODY, BODY, LISTING) as (store, script):
        await store.get("k", lambda piece: None)
        await store.get("k", lambda piece: None)
        await store.list("")
    assert abs(ahead(script.seen[0])) < 60
    assert all(abs(ahead(seen) - off) < 60 for seen in script.seen[1:])
    assert "clock" in caplog.text


async def test_a_clock_that_jumps_while_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path is refused; a HEAD has no body to say why."""
    refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n%s\r\n\r\n" % date(0)
    async with talking(HEAD, refused, HEAD, HEAD) as (store, script):
        await store.head("k")
        now = clock.wall_ns
        monkeypatch.setattr(clock, "wall_ns", lambda: now() + 5 * HOUR * 10**9)
        await store.head("k")
        await store.head("k")
    assert [round(ahead(seen) / HOUR) for seen in script.seen] == [0, 5, 0, 0]


class Ahead(list[bytes | None]):
    """Answers of a server that lives an hour ahead."""

    script: Script

    def pop(self, _: object = 0) -> bytes:
        if ahead(self.script.seen[-1]) > HOUR / 2:
            return HEAD
        return b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n%s\r\n\r\n" % date(HOUR)


async def test_many_requests_with_the_wrong_time() -> None:
    """The first refusal sets the clock right for those that were signed before it came."""
    async with talking() as (store, script):
        script.answers = there = Ahead()
        there.script = script
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(store.head, "k")
    assert len(script.seen) == 8


async def test_a_refusal_that_time_does_not_explain() -> None:
    async with talking(error(403, "AccessDenied", date(HOUR)), skewed(10)) as (store, script):
        assert await code_of(store.get("k", lambda piece: None)) == "AccessDenied"
        assert await code_of(store.get("k", lambda piece: None)) == "RequestTimeTooSkewed"
    assert len(script.seen) == 2


async def test_a_server_that_is_never_content() -> None:
    async with talking(skewed(HOUR), skewed(2 * HOUR)) as (store, script):
        assert await code_of(store.get("k", lambda piece: None)) == "RequestTimeTooSkewed"
    assert len(script.seen) == 2


async def test_a_proxy_whose_clock_is_wrong() -> None:
    """A forbidden object teaches the wrong time, which the endpoint behind the proxy refuses."""

    async def speak(seen: Seen) -> bytes:
        if seen.line.startswith("HEAD"):
            return b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n%s\r\n\r\n" % date(-HOUR)
        return BODY if abs(ahead(seen)) < HOUR / 4 else skewed(-HOUR)

    async with talking(speak=speak) as (store, script):
        for _ in range(2):
            assert await code_of(store.head("k")) == "403"
            await store.get("k", lambda piece: None)
    assert [round(ahead(seen) / HOUR) for seen in script.seen] == [0, -1, -1, 0, 0, 0]


class Judge(list[bytes | None]):
    """Answers that depend on who asks: the old keys have expired."""

    script: Script

    def pop(self, _: object = 0) -> bytes:
        seen = self.script.seen[-1]
        bodiless = seen.line.startswith("HEAD")
        if "Credential=OLD/" in seen.headers["authorization"]:
            return SILENT if bodiless else error(400, "ExpiredToken")
        return HEAD if bodiless else BODY


SILENT = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("operation", ["head", "get"])
async def test_keys_that_expire_under_many_requests(operation: str) -> None:
    """The first refusal brings the new keys, and the others go on with them.

    To a HEAD, S3 does not say what was bad about the request.
    """
    old, new = StaticKeys("OLD", "KEY"), StaticKeys("NEW", "KEY")
    calls: dict[str, Callable[[Store], Awaitable[object]]] = {
        "head": lambda store: store.head("k"),
        "get": lambda store: store.get("k", lambda piece: None),
    }
    async with talking(HEAD, credentials=old, reload_credentials=lambda: new) as (store, script):
        await store.head("k")
        script.answers = judge = Judge()
        judge.script = script
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(lambda: calls[operation](store))
    assert "Credential=NEW/" in script.seen[-1].headers["authorization"]


async def test_keys_that_are_being_edited() -> None:
    """A file that is of no use at the moment leaves the keys as they are."""
    denied = error(403, "InvalidAccessKeyId")
    async with talking(denied, BODY, reload_credentials=lambda: None) as (store, script):
        assert await code_of(store.get("k", lambda piece: None)) == "InvalidAccessKeyId"
        await store.get("k", lambda piece: None)
    assert all("Credential=AK/" in seen.headers["authorization"] for seen in script.seen)


async def test_session_keys_renew_themselves() -> None:
    """Credentials with an end are renewed before it, once, for many requests at a time."""
    asked = 0

    async def renew() -> dict[str, str]:
        nonlocal asked
        asked += 1
        await trio.sleep(0.01)
        return _session(f"AK{asked}", HOUR)

    async with talking(*[HEAD] * 9) as (store, script):
        await store.head("k")
        short = _session("AK0", 1)
        keys = AioRefreshableCredentials.create_from_metadata(short, renew, "test")
        import anyio

        keys._refresh_lock = anyio.Lock()
        _signer(store)._credentials = keys
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(store.head, "k")
    assert asked == 1
    assert all("Credential=AK1/" in seen.headers["authorization"] for seen in script.seen[1:])


def _session(access_key: str, seconds: float) -> dict[str, str]:
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    return {
        "access_key": access_key,
        "secret_key": "S",
        "token": "T",
        "expiry_time": ends.isoformat(),
    }


def _signer(store: Store) -> object:
    while hasattr(store, "inner"):
        store = store.inner
    return store._connection.client._request_signer  # type: ignore[attr-defined]


def retrying(
    hook: Callable[[str, str, int], Fault | None], **policy: float
) -> tuple[RetryStore, MemoryStore, TraceStore]:
    memory = MemoryStore(fault=hook, latency=0.01)
    counted = TraceStore(memory)
    store = RetryStore(counted, RetryPolicy(**policy), on_retry=counted.repeated)  # type: ignore[arg-type]
    return store, memory, counted


@pytest.mark.mock_clock
async def test_an_upload_begun_into_nowhere_is_thrown_away() -> None:
    def hook(operation: str, key: str, number: int) -> Fault | None:
        lost = operation == "CreateMultipartUpload" and number in (2, 3)
        return Fault(LOST, after=True) if lost else None

    store, memory, _ = retrying(hook)
    first = await store.create_upload("k", Headers())
    second = await store.create_upload("k", Headers())
    assert set(memory.uploads) == {first, second}


NAMES = st.sampled_from("abc")


@given(
    st.lists(st.tuples(NAMES, st.sampled_from(["k", "kk"]), st.integers(0, 50)), max_size=6),
    st.sets(NAMES),
    st.floats(0, 50),
)
def test_only_lost_uploads_are_thrown_away(
    listed: list[tuple[str, str, int]], known: set[str], seconds: float
) -> None:
    uploads = [UploadInfo(key, name, at) for name, key, at in listed]
    ours = UploadInfo("k", "ours", 30)
    found = lost_uploads([*uploads, ours], "k", "ours", {*known, "ours"}, seconds)
    assert not {"ours", *known} & {*found}
    for name in found:
        assert any(
            u.key == "k" and 30 - seconds - 1 <= u.initiated <= 30
            for u in uploads
            if u.upload_id == name
        )
    assert lost_uploads(uploads, "k", "ours", known, seconds) == []


@pytest.mark.mock_clock
@pytest.mark.parametrize("operation", ["HeadObject", "PutObject"])
async def test_a_call_that_hangs_ends_within_its_bound(operation: str) -> None:
    store, memory, _ = retrying(
        lambda name, *_: Fault(hang=True) if name == operation else None, patience=30
    )
    memory.poke("k", b"")
    began = trio.current_time()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "HeadObject": lambda: store.head("k"),
        "PutObject": lambda: store.put("n", BytesBody(b""), Headers(), if_none_match=True),
    }
    with pytest.raises(NoAnswer) as raised:
        await calls[operation]()
    assert raised.value.code == "ReadTimeout"
    assert trio.current_time() - began <= 30 + 10


@pytest.mark.mock_clock
async def test_a_long_get_may_take_its_time() -> None:
    """Many bytes over a slow line, or behind others in the queue, are no call that hangs."""
    store, memory, _ = retrying(lambda *_: None, patience=30)
    memory.poke("k", bytes(1 << 20))
    memory.latency = 40
    await store.get("k", lambda piece: None, stop=1 << 20)
    await store.get("k", lambda piece: None)
    with pytest.raises(NoAnswer):
        await store.get("k", lambda piece: None, stop=10)


@pytest.mark.mock_clock
async def test_repetitions_are_counted() -> None:
    busy = StoreError("SlowDown", status=503)
    store, memory, counted = retrying(
        lambda _name, _key, number: Fault(busy) if number < 4 else None
    )
    memory.poke("k", b"")
    await store.head("k")
    tally = counted.tallies["HeadObject"]
    assert (tally.requests, tally.failures, tally.repeated) == (4, 3, 3)


@pytest.mark.parametrize("operation", ["head", "get"])
async def test_a_page_that_answers_anything(operation: str) -> None:
    """Hotel networks do: nothing of it is taken for an object."""
    page = OK + b"Content-Type: text/html\r\nContent-Length: 6\r\n\r\n"
    pieces: list[bytes] = []
    if operation == "head":
        async with talking(page) as (store, _):
            assert await code_of(store.head("k")) == "BadAnswer"
    else:
        async with talking(page + b"<html>", page + b"<html>") as (store, _):
            for _ in range(2):
                got = store.get("k", lambda piece: pieces.append(bytes(piece)))
                assert await code_of(got) == "BadAnswer"
    assert not pieces
