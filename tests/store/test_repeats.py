"""No answer of a server has the same asked of it again and again: requests are counted."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import pytest

from bucketfs.errors import NoAnswer, StoreError, Unsupported
from bucketfs.store.base import BytesBody, Headers, Store
from bucketfs.store.long_listing import EMPTY_PAGES, read_pages
from tests.store.test_transport import BODY, HEAD, OK, scripted, talking

CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "head": lambda s: s.head("k"),
    "get": lambda s: s.get("k", lambda piece: None),
    "put": lambda s: s.put("k", BytesBody(b"body"), Headers()),
    "delete": lambda s: s.delete("k"),
    "list": lambda s: s.list(""),
    "create": lambda s: s.create_upload("k", Headers()),
}
ELSEWHERE = {
    "itself": b"Location: http://127.0.0.1/bkt/k\r\n",
    "its own region": b"x-amz-bucket-region: us-east-1\r\n",
    "another region": b"x-amz-bucket-region: eu-9\r\n",
    "no region": b"",
    "a region of nonsense": b"x-amz-bucket-region: /../?\r\n",
}


@pytest.mark.slow("a client a case: 8 s for all")
@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("status", [301, 302, 307, 308, 400])
@pytest.mark.parametrize("name", CALLS)
async def test_a_redirect_to_itself(name: str, status: int, where: str) -> None:
    """At most: the fast path, aiobotocore's way, where the bucket is, and once more there."""
    away = b"HTTP/1.1 %d Away\r\n%sContent-Length: 0\r\n\r\n" % (status, ELSEWHERE[where])
    async with talking(*[away] * 100, retries=3) as (store, script):
        for _ in range(2):
            script.seen.clear()
            with pytest.raises(StoreError):
                await CALLS[name](store)
            assert len(script.seen) <= 4


async def test_a_redirect_after_the_first_request() -> None:
    away = b"HTTP/1.1 307 Away\r\nLocation: /bkt/k\r\nContent-Length: 0\r\n\r\n"
    async with talking(HEAD, BODY, *[away] * 100, retries=3) as (store, script):
        await store.head("k")
        await store.get("k", lambda piece: None)
        for name in ("head", "get"):
            script.seen.clear()
            with pytest.raises(StoreError):
                await CALLS[name](store)
            assert len(script.seen) <= 4


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("known", [True, False], ids=["later", "at first"])
async def test_no_key_is_sent_to_another_host(status: int, known: bool) -> None:
    """Whoever answers may be anybody, and signatures and bytes are of use to who gets them."""
    async with scripted(*[HEAD] * 8) as other:
        location = other.url.encode()
        away = b"HTTP/1.1 %d Away\r\nLocation: %s/bkt/k\r\nContent-Length: 0\r\n\r\n"
        before = [HEAD] if known else []
        async with talking(*before, *[away % (status, location)] * 100) as (store, script):
            for _ in before:
                await store.head("k")
            for name in ("head", "get", "put", "list"):
                script.seen.clear()
                with pytest.raises(StoreError):
                    await CALLS[name](store)
                assert len(script.seen) <= 4
        assert other.connections == 0


async def test_a_copied_part_without_an_etag_is_none() -> None:
    body = b"<CopyPartResult></CopyPartResult>"
    answer = OK + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with talking(*[answer] * 20, retries=3) as (store, script):
        with pytest.raises(Unsupported):
            await store.copy_part("k", "u", 1, source="s", start=0, stop=5)
        assert not store.capabilities.copy_part
    assert len(script.seen) == 1


def listing(kind: str, token: str, *, keys: str = "") -> bytes:
    body = (
        f"<{kind}><IsTruncated>true</IsTruncated>{keys}"
        f"<NextContinuationToken>{token}</NextContinuationToken>"
        f"<NextKeyMarker>{token}</NextKeyMarker></{kind}>"
    ).encode()
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_pages_that_lead_back() -> None:
    key = "<Contents><Key>a</Key><Size>1</Size></Contents>"
    pages = [listing("ListBucketResult", token, keys=key) for token in "abc"]
    async with talking(*pages * 20) as (store, script):
        with pytest.raises(NoAnswer):
            await read_pages(store, "", lambda page: None)
    assert len(script.seen) <= 8  # some are sent ahead


async def test_empty_pages_without_an_end() -> None:
    pages = [listing("ListBucketResult", f"t{number}") for number in range(3 * EMPTY_PAGES)]
    async with talking(*pages) as (store, script):
        with pytest.raises(NoAnswer):
            await read_pages(store, "", lambda page: None)
    assert len(script.seen) <= EMPTY_PAGES + 5  # some are sent ahead


@pytest.mark.parametrize("markers", ["ab", [str(n) for n in range(1000)]], ids=["back", "empty"])
async def test_uploads_without_an_end(markers: list[str]) -> None:
    pages = itertools.islice(itertools.cycle(markers), 1000)
    answers = [listing("ListMultipartUploadsResult", f"d/{token}") for token in pages]
    async with talking(*answers) as (store, script):
        with pytest.raises(NoAnswer):
            await store.list_uploads("d/")
    assert len(script.seen) <= EMPTY_PAGES
