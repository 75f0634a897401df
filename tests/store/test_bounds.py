"""Answers without end: what is no file's body is read up to a limit, whichever way it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio

from bucketfs.errors import StoreError
from bucketfs.store.aws.list_answers import parse_listing
from bucketfs.store.base import BytesBody, Headers, Store
from bucketfs.store.http.transport import ANSWER_LIMIT, ERROR_LIMIT
from bucketfs.store.opening import open_store
from tests.store.test_transport import CONFIG, OK

#: Enough to see that nobody stops reading; then the server falls silent.
ENDLESS = 48 << 20
#: What the kernel may hold of a connection on both sides.
BUFFERED = 12 << 20

CHUNKED = b'Transfer-Encoding: chunked\r\nETag: "e"\r\n\r\n'
ERROR = b"HTTP/1.1 403 No\r\n" + CHUNKED


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@asynccontextmanager
async def endless(head: bytes, piece: bytes) -> AsyncIterator[tuple[Store, list[int]]]:
    """A server that answers each request with `head` and then nothing but `piece`.

    The list has the bytes that went out, a number a connection.
    """
    sent: list[int] = []
    burst = piece * max(1, (256 << 10) // len(piece))

    async def serve(stream: trio.SocketStream) -> None:
        at = len(sent)
        sent.append(0)
        try:
            await stream.receive_some()
            await stream.send_all(head)
            while sent[at] < ENDLESS:
                await stream.send_all(burst)
                sent[at] += len(burst)
            await trio.sleep_forever()
        except trio.BrokenResourceError:
            pass  # that is what the client is to do

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with open_store(replace(CONFIG, url=url)) as store:
            yield store, sent
        nursery.cancel_scope.cancel()


CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "head": lambda store: store.head("k"),
    "get": lambda store: store.get("k", lambda piece: None),
    "put": lambda store: store.put("k", BytesBody(b"x"), Headers()),
    "delete": lambda store: store.delete("k"),
    "list": lambda store: store.list(""),
    "delete many": lambda store: store.delete_many(["k"]),
    "copy": lambda store: store.copy("k", "l", size=1),
    "begin": lambda store: store.create_upload("k", Headers()),
    "complete": lambda store: store.complete("k", "u", [(1, "e")], size=1),
    "uploads": lambda store: store.list_uploads(""),
}


@pytest.mark.parametrize(
    ("head", "piece", "limit", "calls"),
    [
        (ERROR, chunk(b"<Error>" * 9000), ERROR_LIMIT, sorted(set(CALLS) - {"head"})),
        (OK + CHUNKED, chunk(b"<Key>" * 13000), ANSWER_LIMIT,
         ["put", "list", "delete many", "copy", "begin", "complete", "uploads"]),
        (OK, b"x-amz-meta-a: b\r\n", 1 << 20, ["head", "list"]),
        (OK + b"x-amz-meta-a: ", b"b", 1 << 20, ["head"]),
        (b"", b"HTTP/1.1 100 Go\r\n\r\n", 1 << 20, ["get", "list"]),
        (OK + CHUNKED + b"5;a=", b"x", 1 << 20, ["get", "list"]),
        (OK + CHUNKED + chunk(b"x") + b"0\r\nT: ", b"x", 1 << 20, ["get", "list"]),
        (OK + CHUNKED + chunk(b"x") + b"0\r\n", b"T: x\r\n", 1 << 20, ["get", "list"]),
    ],
    ids=["error", "answer", "headers", "header", "interim", "extension", "trailer", "trailers"],
)  # fmt: skip
async def test_answers_without_end(head: bytes, piece: bytes, limit: int, calls: list[str]) -> None:
    """The first call of each goes aiobotocore's way, the second the fast path."""
    async with endless(head, piece) as (store, sent):
        for name in calls:
            for _ in range(2):
                with pytest.raises(StoreError) as raised:
                    await CALLS[name](store)
                code = raised.value.code
                assert code in ("403", "BadAnswer"), (name, code)
    assert max(sent) < limit + BUFFERED


async def test_an_error_that_does_not_end_is_the_error_it_is() -> None:
    async with endless(ERROR, chunk(b"x" * 1000)) as (store, _):
        with pytest.raises(StoreError) as raised:
            await store.list("")
    assert raised.value.status == 403


@pytest.mark.parametrize(
    "piece",
    [
        b"<a/>",
        b"<Contents><Key>a</Key><Size>1</Size></Contents>",
        b'<a b="" c="" d="" e="" f="" g=""/>',
    ],
)
def test_a_page_of_nothing_but_markup(piece: bytes) -> None:
    """Each of its elements takes a hundred bytes of memory, and time."""
    count = ANSWER_LIMIT // len(piece) - 10
    assert parse_listing(b"<ListBucketResult>" + piece * count + b"</ListBucketResult>") is None


def test_a_page_of_a_server_that_knows_no_thousand() -> None:
    entry = (
        b"<Contents><Key>some/where/part=%d</Key><LastModified>2026-11-21T09:12:20.352Z"
        b"</LastModified><ETag>&quot;0123456789abcdef0123456789abcdef&quot;</ETag><Size>1</Size>"
        b"<StorageClass>STANDARD</StorageClass><Owner><ID>test</ID></Owner></Contents>"
    )
    page = parse_listing(
        b"<ListBucketResult>%s</ListBucketResult>" % b"".join(entry % i for i in range(20_000))
    )
    assert page is not None
    assert len(page.objects) == 20_000
