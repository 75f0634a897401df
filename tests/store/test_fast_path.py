"""The fast path of a request beside the long one: a server cannot tell them apart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from bucketfs.credentials import StaticKeys
from bucketfs.errors import NotFound, PreconditionFailed, StoreError, Unsupported
from bucketfs.store import capability
from bucketfs.store.base import BytesBody, Capabilities, Headers, Store
from bucketfs.store.config import Encryption
from bucketfs.store.layers.fallback import FallbackStore
from bucketfs.store.layers.wrapper import StoreWrapper
from tests.store.test_transport import BODY, HEAD, OK, Seen, error, talking

DONE = OK + b'Content-Length: 0\r\nETag: "e"\r\n\r\n'
KEY = "dir/ü +%&?~.txt"
RICH = Headers({"mode": "1", "name": "ü  two spaces"}, "text/plain", {"cache-control": "no-store"})


async def delete_this(store: Store) -> None:
    """Past the layer that does not trust an unknown endpoint with this condition."""
    while not isinstance(store, FallbackStore):
        assert isinstance(store, StoreWrapper)
        store = store.inner
    await store.inner.delete(KEY, if_match="e0")


CALLS: dict[str, tuple[bytes, Callable[[Store], Awaitable[object]]]] = {
    "head": (HEAD, lambda s: s.head(KEY)),
    "get": (BODY, lambda s: s.get(KEY, lambda piece: None)),
    "range": (BODY, lambda s: s.get(KEY, lambda piece: None, start=0, stop=5, if_match="e1")),
    "put": (DONE, lambda s: s.put(KEY, BytesBody(b"body"), RICH)),
    "empty": (DONE, lambda s: s.put(KEY, BytesBody(b""), RICH)),
    "replace": (DONE, lambda s: s.put(KEY, BytesBody(b"body"), RICH, if_match="e0")),
    "create": (DONE, lambda s: s.put(KEY, BytesBody(b"body"), RICH, if_none_match=True)),
    "delete": (DONE, lambda s: s.delete(KEY)),
    "delete this": (DONE, delete_this),
    "part": (DONE, lambda s: s.upload_part(KEY, "id+/=&", 7, BytesBody(b"part"))),
}

SETTINGS: dict[str, dict[str, object]] = {
    "plain": {},
    "token": {"credentials": StaticKeys("AK", "SK", "TOKEN")},
    "payer": {"requester_pays": True, "acl": "private", "storage_class": "GLACIER"},
    "unsigned": {"unsigned_payload": True, "region": "eu-1"},
    "customer key": {"encryption": Encryption(customer_key=b"k" * 32)},
}


def told(seen: Seen) -> tuple[str, dict[str, str], bytes]:
    """A request without what changes with the second; the signature is `test_signing`'s."""
    headers = dict(seen.headers)
    del headers["x-amz-date"]
    headers["authorization"], _ = headers["authorization"].split(", Signature=")
    return seen.line, headers, seen.body


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", CALLS)
async def test_the_same_request(monkeypatch: pytest.MonkeyPatch, name: str, settings: str) -> None:
    able = replace(capability.UNKNOWN, capabilities=Capabilities())
    monkeypatch.setattr(capability, "UNKNOWN", able)  # which is sent conditions on deletions, too
    answer, call = CALLS[name]
    async with talking(answer, answer, **SETTINGS[settings]) as (store, script):
        first = await call(store)
        second = await call(store)
    long, short = script.seen
    assert told(long) == told(short)
    assert first == second
    assert script.connections == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(404, "NoSuchKey"), NotFound),
        (error(412, "PreconditionFailed"), PreconditionFailed),
        (error(501, "NotImplemented"), Unsupported),
        (error(403, "AccessDenied"), StoreError),
        (error(503, "SlowDown"), StoreError),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", StoreError),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\nugh!", StoreError),
    ],
)
@pytest.mark.parametrize("name", ["get", "put"])
async def test_the_same_refusal(name: str, answer: bytes, kind: type[StoreError]) -> None:
    async def refusal(*before: bytes) -> StoreError:
        # a 501 may be meant for a header that the same call can do without
        async with talking(*before, *[answer] * 8) as (store, _):
            for _ in before:
                await call(store)
            with pytest.raises(StoreError) as raised:
                await call(store)
        return raised.value

    good, call = CALLS[name]
    long, short = await refusal(), await refusal(good)
    assert type(long) is type(short) is kind
    assert vars(long) == vars(short)


async def test_a_missing_object() -> None:
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 219\r\n\r\n"
    async with talking(HEAD, missing, HEAD) as (store, script):
        await store.head("k")
        with pytest.raises(NotFound):
            await store.head("k")
        await store.head("k")
    assert script.connections == 1


async def test_200_with_an_error_inside() -> None:
    async with talking(DONE, error(200, "InternalError")) as (store, _):
        await store.put("k", BytesBody(b"x"), Headers())
        with pytest.raises(StoreError) as raised:
            await store.put("k", BytesBody(b"x"), Headers())
    assert (raised.value.code, raised.value.status) == ("InternalError", 500)


async def test_a_bucket_that_turns_out_to_be_in_another_region() -> None:
    """Who is sent elsewhere goes aiobotocore's way; the fast path knows the region afterwards."""
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-9</Region></Error>"
    away = b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with talking(BODY, away, away, BODY, BODY) as (store, script):
        for _ in range(3):
            await store.get("k", lambda piece: None)
    regions = [seen.headers["authorization"].split("/")[2] for seen in script.seen]
    assert regions == ["us-east-1", "us-east-1", "us-east-1", "eu-9", "eu-9"]
