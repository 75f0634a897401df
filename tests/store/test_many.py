"""Many HEADs by one task, against a server that answers as the test wants."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trustme

from bucketfs.credentials import StaticKeys
from bucketfs.errors import NotFound, StoreError
from bucketfs.store.base import ObjectInfo, Store
from bucketfs.store.config import Encryption
from bucketfs.store.layers.trace import TraceStore
from bucketfs.store.opening import open_store
from tests.store.test_transport import CONFIG as IMPATIENT
from tests.store.test_transport import scripted

CONFIG = replace(IMPATIENT, read_timeout=10.0, connect_timeout=20.0)
OK = (
    b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "e%d"\r\nx-amz-meta-mode: 33188\r\n'
    b"Last-Modified: Sat, 21 Nov 2026 07:39:22 GMT\r\n\r\n"
)
GONE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"
CLOSES = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

#: What to say to a key; None: hang up; "": say nothing.
Says = Callable[[str], bytes | None]


def number_of(key: str) -> int:
    return int(key.rpartition("/")[2] or 0)


def plain(key: str) -> bytes:
    return OK % (number_of(key), number_of(key))


@dataclass
class Server:
    """Answers HEADs.

    Attributes:
        asked: How often each key was asked for.
        takes: Connections at once; others are closed.
        together / most: Requests under way, and the most there were.
    """

    says: Says
    url: str = ""
    delay: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    takes: int = 1000
    open: int = 0
    together: int = 0
    most: int = 0

    async def serve(self, stream: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError):
            await self._serve(stream)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        self.open += 1
        try:
            if self.open <= self.takes:
                await self._answer(stream)
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.abc.Stream) -> None:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = await stream.receive_some()
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            assert not data, "no request before the answer to the one before"
            key = head.decode().split(" ")[1].removeprefix("/bkt/")
            self.asked[key] += 1
            self.together += 1
            self.most = max(self.most, self.together)
            await trio.sleep(self.delay)
            answer = plain(key) if key.startswith("first/") else self.says(key)
            self.together -= 1
            if answer == b"":
                await trio.sleep_forever()
            if answer is None:
                await stream.aclose()
                return
            await stream.send_all(answer[:20])
            await trio.lowlevel.checkpoint()
            await stream.send_all(answer[20:])
            if b"Connection: close" in answer:
                await stream.aclose()
                return


@asynccontextmanager
async def asking(
    says: Says = plain, *, delay: float = 0.0, takes: int = 1000, **settings: object
) -> AsyncIterator[tuple[Store, Server, TraceStore]]:
    """A store whose first HEAD has been sent: from then on it knows the way."""
    server = Server(says, delay=delay, takes=takes)
    traced: list[TraceStore] = []
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        config = replace(CONFIG, url=server.url, **settings)  # type: ignore[arg-type]
        async with open_store(config, trace=traced.append) as store:
            await store.head("first/0")
            server.asked.clear()
            server.most = 0
            yield store, server, traced[0]
        nursery.cancel_scope.cancel()


KEYS = [f"d/{number:03}" for number in range(300)]


async def told_of(store: Store, keys: list[str]) -> tuple[dict[str, ObjectInfo], list[StoreError]]:
    found: dict[str, ObjectInfo] = {}
    failures: list[StoreError] = []

    def take(info: ObjectInfo) -> None:
        assert info.key not in found
        found[info.key] = info

    await store.heads(keys, take, failures.append)
    return found, failures


async def test_each_is_asked_for_once_and_answered_as_by_a_head() -> None:
    async with asking() as (store, server, traced):
        found, failures = await told_of(store, KEYS)
        assert found == {key: await store.head(key) for key in KEYS}
        assert not failures
        assert traced.tallies["HeadObject"].requests == 1 + 2 * len(KEYS)
        assert set(server.asked.values()) == {2}


async def test_names_are_sent_as_any_others() -> None:
    keys = ["ü/1", "a b+c%/2", "d/" + "x" * 1000 + "/3"]
    async with asking() as (store, _, _):
        found, _ = await told_of(store, keys)
        assert sorted(found) == sorted(keys)


async def test_the_width_grows_and_is_shared() -> None:
    async with asking(delay=0.02) as (store, server, _):
        await told_of(store, KEYS)
        assert 2 * CONFIG.max_connections < server.most <= 8 * CONFIG.max_connections
        connections = server.connections
        await told_of(store, KEYS)
        assert server.connections <= max(connections, 8 * CONFIG.max_connections + 1), "kept"
        server.most = 0
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(told_of, store, KEYS)
        assert server.most <= 2 * 8 * CONFIG.max_connections, "the others' share leaves as it ends"


async def test_a_server_that_has_enough_is_asked_for_less() -> None:
    async with asking(lambda _: SLOW_DOWN, delay=0.005) as (store, server, traced):
        await trio.lowlevel.checkpoint()
        server.most = 0
        found, failures = await told_of(store, KEYS)
        assert not found
        assert {exc.status for exc in failures} == {503}
        assert traced.tallies["HeadObject"].failures >= len(KEYS)
        server.most = 0
        await told_of(store, KEYS[:50])
        assert server.most <= 2


async def test_what_is_gone_is_a_failure_and_no_end() -> None:
    async with asking(lambda key: GONE if key == KEYS[5] else plain(key)) as (store, _, _):
        found, failures = await told_of(store, KEYS)
        assert len(found) == len(KEYS) - 1
        assert [(type(exc), exc.key) for exc in failures] == [(NotFound, KEYS[5])]


@pytest.mark.parametrize("says", [None, b""], ids=["hangs up", "silent"])
async def test_a_connection_that_fails_ends_the_batch_for_others_to_ask(
    says: bytes | None,
) -> None:
    def answer(key: str) -> bytes | None:
        return says if key == KEYS[40] else plain(key)

    # Client and server share a thread, which a busy machine may stop for a second.
    async with asking(answer, delay=0.001, read_timeout=3.0) as (store, server, _):
        with trio.fail_after(60):
            found, failures = await told_of(store, KEYS)
        assert [exc.key for exc in failures] == [KEYS[40]]
        assert KEYS[40] not in found
        assert set(server.asked.values()) == {1}, "nothing is repeated"
        assert server.asked.keys() == found.keys() | {KEYS[40]}


async def test_a_server_that_takes_few_connections_gets_few() -> None:
    async with asking(delay=0.01, takes=8) as (store, server, _):
        left = list(KEYS)
        for _ in range(20):
            found, _ = await told_of(store, left)
            left = [key for key in left if key not in found]
        assert not left
        assert server.most <= 8


async def test_a_server_that_closes_after_each_answer() -> None:
    def answer(key: str) -> bytes:
        return CLOSES % (number_of(key), number_of(key))

    async with asking(answer) as (store, _, _):
        found, failures = await told_of(store, KEYS)
        assert len(found) == len(KEYS)
        assert not failures


async def test_answers_that_are_none() -> None:
    wrong = {KEYS[1]: b"nonsense\r\n\r\n" + b" " * 20, KEYS[2]: OK.replace(b"ETag", b"E") % (1, 1)}
    wrong[KEYS[2]] = wrong[KEYS[2]].replace(b"Last-Modified", b"L")
    async with asking(lambda key: wrong.get(key, plain(key)), delay=0.01) as (store, _, _):
        found, failures = await told_of(store, KEYS[:20])
        assert {exc.key: exc.code for exc in failures} == dict.fromkeys(wrong, "BadAnswer")
        assert len(found) == 18


async def test_a_cancelled_batch_leaves_nothing_behind() -> None:
    async with asking(delay=0.01) as (store, server, _):
        with trio.move_on_after(0.05):
            await told_of(store, KEYS)
        await trio.sleep(0.1)  # what was sent arrives
        seen = sum(server.asked.values())
        await trio.sleep(0.1)
        assert sum(server.asked.values()) == seen
        found, _ = await told_of(store, KEYS)
        assert len(found) == len(KEYS)


async def test_nothing_is_sent_before_the_way_is_known() -> None:
    async with asking() as (_, server, _), open_store(replace(CONFIG, url=server.url)) as other:
        found, failures = await told_of(other, KEYS)
        assert not found
        assert not failures
        assert not server.asked


async def test_over_tls(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority")
    server = Server(plain)
    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.SocketStream) -> None:
            await server.serve(trio.SSLStream(stream, context, server_side=True))

        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        config = replace(CONFIG, url=url, verify=str(tmp_path / "authority"))
        async with open_store(config) as store:
            await store.head("first/0")
            found, failures = await told_of(store, KEYS)
            assert len(found) == len(KEYS)
            assert not failures
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"credentials": StaticKeys("AK", "SK", token="T")},
        {"encryption": Encryption(customer_key=b"k" * 32), "requester_pays": True},
    ],
    ids=["plain", "token", "more headers"],
)
async def test_a_request_is_written_as_by_a_head(settings: dict[str, object]) -> None:
    """Byte for byte, but for the time and what depends on it."""
    keys = ["a", "ü/1", "a b+c%/2&=?#", "x~y_z.-*'()!$@:,;", "bucketfs-any-key", "//x", " ", "\n\r"]
    async with scripted(*[OK % (1, 1)] * (1 + 2 * len(keys))) as script:
        config = replace(CONFIG, url=script.url, **settings)  # type: ignore[arg-type]
        async with open_store(config) as store:
            await store.head("first/0")
            for key in keys:
                script.seen.clear()
                while True:
                    await store.head(key)
                    await store.heads([key], lambda _: None)
                    one, other = script.seen
                    if one.headers["x-amz-date"] == other.headers["x-amz-date"]:
                        break
                    script.seen.clear()
                    script.answers += [OK % (1, 1)] * 2
                assert (one.line, one.headers) == (other.line, other.headers)
