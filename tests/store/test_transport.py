"""The transport and the S3 adapter against a server whose every byte the test decides."""

from __future__ import annotations

import gzip
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from aiobotocore.session import AioSession

from bucketfs.credentials import Anonymous, StaticKeys
from bucketfs.errors import (
    KeyTaken,
    NoAnswer,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsupported,
)
from bucketfs.store.aws.connection import tls_context
from bucketfs.store.base import BytesBody, Headers, Store
from bucketfs.store.capability import CONDITIONS
from bucketfs.store.config import StoreConfig
from bucketfs.store.known import Known
from bucketfs.store.opening import open_store

OK = b"HTTP/1.1 200 OK\r\n"
HEAD = (
    OK + b'Content-Length: 5\r\nETag: "e1"\r\nLast-Modified: Sat, 21 Nov 2026 07:39:22 GMT\r\n'
    b"x-amz-meta-Mode: 33188\r\nx-amz-meta-name: \xc3\xbc\r\n\r\n"
)
BODY = HEAD + b"hello"


@dataclass
class Seen:
    """One request as it arrived."""

    line: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Script:
    """A server that gives each request the next answer; None closes, `STALL` waits for ever.

    Attributes:
        speak: Gives the answers in place of `answers`.
        seen: The requests in order.
        connections: How many were opened.
        asked: Set by the first request.
    """

    answers: list[bytes | None]
    speak: Callable[[Seen], Awaitable[bytes]] | None = None
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    asked: trio.Event = field(default_factory=trio.Event)

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                try:
                    more = await stream.receive_some()
                except trio.BrokenResourceError:
                    return
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            line, *rest = head.decode().split("\r\n")
            pairs = (one.split(": ", 1) for one in rest)
            seen = Seen(line, {name.lower(): value for name, value in pairs})
            self.seen.append(seen)
            self.asked.set()
            length = int(seen.headers.get("content-length", 0))
            while len(data) < length:
                data += await stream.receive_some()
            seen.body, data = data[:length], data[length:]
            answer = await self.speak(seen) if self.speak else self.answers.pop(0)
            if answer is STALL:
                await trio.sleep_forever()
            if answer is not None:
                await stream.send_all(answer)
            if answer is None or b"\r\nConnection: close" in answer or answer.endswith(CUT):
                await stream.aclose()
                return


STALL = b"stall"
CUT = b"...cut"


@asynccontextmanager
async def scripted(
    *answers: bytes | None, speak: Callable[[Seen], Awaitable[bytes]] | None = None
) -> AsyncIterator[Script]:
    script = Script(list(answers), speak)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, script.serve, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        port = listeners[0].socket.getsockname()[1]
        script.url = f"http://127.0.0.1:{port}"
        yield script
        nursery.cancel_scope.cancel()


CONFIG = StoreConfig(
    bucket="bkt",
    credentials=StaticKeys("AK", "SK"),
    connect_timeout=20.0,
    read_timeout=20.0,
    retries=0,
)
# For a server that falls silent. Client and server share a thread, which a busy machine may stop
# for a second.
SILENCE = 1.5


@asynccontextmanager
async def talking(
    *answers: bytes | None,
    speak: Callable[[Seen], Awaitable[bytes]] | None = None,
    **settings: object,
) -> AsyncIterator[tuple[Store, Script]]:
    """A store that knows of the server that it honours conditions."""
    async with scripted(*answers, speak=speak) as script:
        with tempfile.TemporaryDirectory() as directory:
            known = Path(directory, "known")
            Known(known).note(dict.fromkeys(CONDITIONS, True) | {"compares": False})
            config = replace(CONFIG, url=script.url, known=known, **settings)  # type: ignore[arg-type]
            async with open_store(config) as store:
                yield store, script


def error(status: int, code: str, *headers: bytes) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>why</Message></Error>".encode()
    head = [b"HTTP/1.1 %d Error" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*head, b"", body])


async def code_of(call: Awaitable[object]) -> str:
    with pytest.raises(StoreError) as raised:
        await call
    return raised.value.code


async def test_what_is_sent_and_read() -> None:
    async with talking(HEAD, BODY) as (store, script):
        found = await store.head("dir/ü +%")
        data = bytearray()
        await store.get("k", data.extend, start=0, stop=5, if_match="e1")
    assert (found.size, found.etag, found.last_modified) == (5, "e1", 1795246762)
    assert found.headers is not None
    assert found.headers.metadata == {"mode": "33188", "name": "ü"}
    assert data == b"hello"
    head, get = script.seen
    assert head.line == "HEAD /bkt/dir/%C3%BC%20%2B%25 HTTP/1.1"
    assert head.headers["accept-encoding"] == "identity"
    assert head.headers["host"] == script.url.removeprefix("http://")
    assert head.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AK/")
    assert (get.headers["range"], get.headers["if-match"]) == ("bytes=0-4", '"e1"')
    assert script.connections == 1


async def test_a_put_is_one_request_without_a_pause() -> None:
    answer = OK + b'Content-Length: 0\r\nETag: "e2"\r\n\r\n'
    async with talking(answer, answer) as (store, script):
        await store.put("k", BytesBody(b"x" * 300_000), Headers({"mode": "1"}))
        await store.put("k", BytesBody(b""), Headers())
    big, empty = script.seen
    assert big.body == b"x" * 300_000
    assert "expect" not in big.headers
    assert "transfer-encoding" not in big.headers
    assert big.headers["x-amz-meta-mode"] == "1"
    assert len(big.headers["x-amz-content-sha256"]) == 64
    assert empty.headers["content-length"] == "0"


async def test_anonymous_requests_are_not_signed() -> None:
    async with talking(HEAD, credentials=Anonymous()) as (store, script):
        await store.head("k")
    assert "authorization" not in script.seen[0].headers


async def test_unsigned_bodies() -> None:
    answer = OK + b'Content-Length: 0\r\nETag: "e"\r\n\r\n'
    async with talking(answer, unsigned_payload=True) as (store, script):
        await store.put("k", BytesBody(b"body"), Headers())
    assert script.seen[0].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert "x-amz-content-sha256" in script.seen[0].headers["authorization"]


async def test_signature_version_2() -> None:
    async with talking(HEAD, signature_v2=True) as (store, script):
        await store.head("k")
    assert script.seen[0].headers["authorization"].startswith("AWS AK:")


async def test_requester_pays() -> None:
    async with talking(HEAD, requester_pays=True) as (store, script):
        await store.head("k")
    assert script.seen[0].headers["x-amz-request-payer"] == "requester"


async def test_silence_is_bounded() -> None:
    silent = talking(STALL, BODY[:-2] + STALL[:0], read_timeout=SILENCE)
    async with silent as (store, _):
        with trio.fail_after(60):
            assert await code_of(store.head("k")) == "ReadTimeout"
            assert await code_of(store.get("k", lambda piece: None)) == "ReadTimeout"


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 200", b"garbage\r\n\r\n" + CUT])
async def test_no_usable_answer(answer: bytes | None) -> None:
    async with talking(answer, read_timeout=SILENCE) as (store, _):
        with pytest.raises(NoAnswer):
            await store.head("k")


async def test_a_cut_body_is_noticed() -> None:
    cut = HEAD.replace(b"Content-Length: 5", b"Content-Length: 5000") + CUT
    async with talking(cut) as (store, _):
        data = bytearray()
        assert await code_of(store.get("k", data.extend)) == "ConnectionClosed"
        assert data == CUT


async def test_a_cut_body_is_continued() -> None:
    cut = HEAD.replace(b"Content-Length: 5", b"Content-Length: 11") + CUT
    rest = HEAD.replace(b"200 OK", b"206 Partial").replace(
        b"\r\nETag", b"\r\nContent-Range: bytes 6-10/11\r\nETag"
    )
    async with talking(cut, rest + b"-rest", retries=1) as (store, script):
        data = bytearray()
        await store.get("k", data.extend)
    assert data == b"...cut-rest"
    assert script.seen[1].headers["range"] == "bytes=6-"
    assert script.seen[1].headers["if-match"] == '"e1"'


async def test_a_server_that_ignores_ranges() -> None:
    async with talking(BODY) as (store, _):
        data = bytearray()
        await store.get("k", data.extend, start=1, stop=3)
    assert data == b"el"


async def test_a_slow_body_is_not_a_silent_one() -> None:
    """Bytes that come one by one, all in more than the time-out, and a small answer behind."""
    size = 300_000
    head = HEAD.replace(b"Length: 5", b"Length: %d" % size)

    async def drip(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(head)
        for _ in range(10):
            await trio.sleep(SILENCE / 5)
            await stream.send_all(b"x")
        await stream.send_all(b"y" * (size - 10))
        await stream.receive_some()
        await stream.send_all(HEAD)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, drip, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with open_store(replace(CONFIG, url=url, read_timeout=SILENCE)) as store:
            data = bytearray()
            await store.get("k", data.extend)
            assert (await store.head("k")).size == 5
        nursery.cancel_scope.cancel()
    assert data == b"x" * 10 + b"y" * (size - 10)


@pytest.mark.parametrize("end", ["silence", "close"])
async def test_a_body_that_stops_in_the_middle(end: str) -> None:
    async def stop(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(HEAD.replace(b"Length: 5", b"Length: 300000") + b"x" * 1000)
        await trio.sleep(0.05)
        await stream.send_all(b"y" * 1000)
        if end == "silence":
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, stop, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with open_store(replace(CONFIG, url=url, read_timeout=SILENCE)) as store:
            data = bytearray()
            with trio.fail_after(60):
                code = await code_of(store.get("k", data.extend))
        nursery.cancel_scope.cancel()
    assert code == {"silence": "ReadTimeout", "close": "ConnectionClosed"}[end]
    assert data == b"x" * 1000 + b"y" * 1000


async def test_a_dead_kept_connection_is_replaced() -> None:
    async with talking(HEAD, None, HEAD) as (store, script):
        await store.head("k")
        await store.head("k")
    assert script.connections == 2


async def test_connections_that_the_server_closes_are_not_reused() -> None:
    closing = HEAD.replace(b"\r\nETag", b"\r\nConnection: close\r\nETag")
    async with talking(closing, HEAD) as (store, script):
        await store.head("k")
        await store.head("k")
    assert script.connections == 2


async def test_a_cancelled_request_closes_its_connection() -> None:
    async with talking(STALL, HEAD) as (store, script):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.head, "k")
            await script.asked.wait()
            nursery.cancel_scope.cancel()
        await store.head("k")
    assert script.connections == 2


async def test_busy_and_when_to_come_back() -> None:
    async with talking(error(503, "SlowDown", b"Retry-After: 7")) as (store, _):
        with pytest.raises(StoreError) as raised:
            await store.check()
    assert (raised.value.status, raised.value.retry_after) == (503, 7.0)
    assert raised.value.message == "why"


async def test_200_with_an_error_inside() -> None:
    inside = error(200, "InternalError")
    async with talking(inside, inside) as (store, _):
        copy = store.copy("a", "b", size=1, headers=Headers())
        with pytest.raises(StoreError) as raised:
            await copy
    assert (raised.value.code, raised.value.status) == ("InternalError", 500)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(404, "NoSuchKey"), NotFound),
        (error(412, "PreconditionFailed"), PreconditionFailed),
        (error(501, "NotImplemented"), Unsupported),
        (error(405, "MethodNotAllowed"), Unsupported),
        (error(403, "AccessDenied"), StoreError),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", StoreError),
        (b"HTTP/1.1 400 Bad\r\nContent-Length: 4\r\n\r\nugh!", StoreError),
    ],
)
async def test_refusals(answer: bytes, kind: type[StoreError]) -> None:
    async with talking(answer) as (store, _):
        with pytest.raises(StoreError) as raised:
            await store.get("k", lambda piece: None)
    assert type(raised.value) is kind


async def test_a_taken_key() -> None:
    async with talking(error(412, "PreconditionFailed"), HEAD) as (store, script):
        with pytest.raises(KeyTaken):
            await store.put("k", BytesBody(b"x"), Headers(), if_none_match=True)
    assert script.seen[0].headers["if-none-match"] == "*"


async def test_an_object_that_is_stored_encoded_stays_so() -> None:
    packed = gzip.compress(b"hello")
    answer = OK + b'Content-Encoding: gzip\r\nETag: "e"\r\nContent-Length: %d\r\n\r\n' % len(packed)
    async with talking(answer + packed) as (store, _):
        data = bytearray()
        info = await store.get("k", data.extend, size=len(packed))
    assert data == packed
    assert info.headers is not None
    assert info.headers.other == {"content-encoding": "gzip"}


async def test_chunked_answers() -> None:
    listing = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(listing), listing)
    answer = OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    async with talking(answer, answer) as (store, script):
        assert (await store.list("")).next_token is None
        await store.check()
    assert script.connections == 1


async def test_a_server_that_knows_only_the_old_listing() -> None:
    def page(key: str, more: str) -> bytes:
        body = (
            f"<ListBucketResult><IsTruncated>{more}</IsTruncated>"
            f"<Contents><Key>{key}</Key><Size>1</Size></Contents></ListBucketResult>"
        ).encode()
        return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body

    answers = [page("a", "true"), page("a", "true"), page("b", "false")]
    async with talking(*answers) as (store, script):
        first = await store.list("")
        second = await store.list("", token=first.next_token)
    assert [found.key for found in (*first.objects, *second.objects)] == ["a", "b"]
    assert second.next_token is None
    assert "list-type" not in script.seen[2].line
    assert "marker=a" in script.seen[2].line


async def test_nobody_listens() -> None:
    async with scripted() as script:
        url = script.url
    async with open_store(replace(CONFIG, url=url)) as store:
        assert await code_of(store.head("k")) == "ConnectFailed"


async def test_an_unknown_host() -> None:
    async with open_store(replace(CONFIG, url="http://bucketfs.invalid")) as store:
        assert await code_of(store.head("k")) == "UnknownHost"


async def test_plain_http_where_tls_is_expected() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with open_store(replace(CONFIG, url=url)) as store:
            assert await code_of(store.head("k")) == "TlsFailed"
        nursery.cancel_scope.cancel()


async def test_what_comes_behind_an_answer_over_tls_answers_nothing_else(tmp_path: Path) -> None:
    """It is decrypted with the end of the answer, and no longer in the socket then."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority")
    body = bytes(40_000)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError):
            while asked := await stream.receive_some():
                if asked.startswith(b"HEAD"):
                    await stream.send_all(HEAD)
                    continue
                await stream.send_all(HEAD.replace(b"Length: 5", b"Length: 40000") + body[1000:])
                await trio.sleep(0.05)  # what follows is a record of its own
                await stream.send_all(body[:1000] + HEAD.replace(b"e1", b"e2"))

    async with trio.open_nursery() as nursery:
        listen = partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1")
        listeners = await nursery.start(listen)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        config = replace(CONFIG, url=f"https://127.0.0.1:{port}", read_timeout=10.0)
        async with open_store(replace(config, verify=str(tmp_path / "authority"))) as store:
            data = bytearray()
            await store.get("a", data.extend)
            assert data == body
            assert (await store.head("b")).etag == "e1"
        nursery.cancel_scope.cancel()


async def test_keys_are_read_again_after_a_refusal() -> None:
    fresh: list[StaticKeys] = [StaticKeys("AK", "SK"), StaticKeys("NEW", "KEY")]
    reload: Callable[[], StaticKeys] = lambda: fresh[0]  # noqa: E731
    denied = error(403, "InvalidAccessKeyId")
    async with talking(denied, denied, BODY, reload_credentials=reload) as (store, script):
        assert await code_of(store.get("k", lambda piece: None)) == "InvalidAccessKeyId"
        del fresh[0]
        await store.get("k", lambda piece: None)
    assert len(script.seen) == 3
    assert "Credential=NEW/" in script.seen[2].headers["authorization"]


async def test_secrets_show_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="bucketfs")
    keys = StaticKeys("AK", "VERYSECRET", "VERYTOKEN")
    async with talking(error(403, "AccessDenied"), credentials=keys) as (store, _):
        with pytest.raises(StoreError) as raised:
            await store.head("k")
    shown = (
        f"{caplog.text}{raised.value}{raised.value!r}{keys!r}{replace(CONFIG, credentials=keys)!r}"
    )
    assert "VERY" not in shown


def test_tls_is_verified_by_default() -> None:
    assert tls_context(CONFIG, AioSession()).verify_mode is ssl.CERT_REQUIRED
    trusting = tls_context(replace(CONFIG, verify=False), AioSession())
    assert trusting.verify_mode is ssl.CERT_NONE


async def test_a_proxy_is_told_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(HEAD, HEAD) as script:
        monkeypatch.setenv("http_proxy", script.url.replace("://", "://user:pass@"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with open_store(replace(CONFIG, url="http://far.example:9")) as store:
            await store.head("k")
            await store.head("k")
    for seen in script.seen:
        assert seen.line == "HEAD http://far.example:9/bkt/k HTTP/1.1"
        assert seen.headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"
