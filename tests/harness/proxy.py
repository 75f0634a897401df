"""A proxy before the endpoint that counts requests by S3 operation and makes chosen ones fail.

It passes bytes on unchanged, the Host header too, so that signatures stay valid at endpoints that
verify them. It runs in a thread of the test process: never block that process without releasing
the interpreter (a page fault on a mapped file of the mount does) while a request needs the proxy.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from tests.harness.feed import MAKING, REMOVING, Feed
from tests.harness.http import Head, Request, parse_request, pass_body, read_body, read_head
from tests.harness.lies import Lie, Truth


@dataclass
class Fault:
    """What shall happen to some requests instead of an answer.

    Attributes:
        operation: S3 operation it is for; "" is for all.
        key: Only requests for this key, if not "".
        skip: How many matching requests pass before it strikes.
        times: How often it strikes; None: always.
        status / code: Answer this HTTP status with this S3 error code; the endpoint gets nothing.
        reset: "before": drop the connection, the endpoint gets nothing; "after": drop it when the
            endpoint has answered, so that the client cannot know.
        truncate: Pass so many bytes of the answer's body, then drop the connection.
        flip_sent: Change one bit of the byte at this position of the request's body.
        acts: The endpoint gets the request and does it; only its answer is lost, and what is said
            above takes its place.
        when: Only requests of which this is true.
        strip: Header that the answer loses on its way, in lower case.
        date: Value of the answer's Date header, "" for none.
        lie: Put this answer in the place of a GET's, whose headers it is told.
        rewrite: What the endpoint gets in the place of the request's head; signatures break.
        rewrite_answer: Put what this makes of an answer's body in its place.
        ask: Text of the request line and another that takes its place.
        stall: Hold the request until the fault is lifted or its client hangs up.
        delay: Seconds to wait before passing the request on.
    """

    operation: str = ""
    key: str = ""
    skip: int = 0
    times: int | None = None
    status: int = 0
    code: str = "InternalError"
    reset: str = ""
    truncate: int | None = None
    flip_sent: int | None = None
    acts: bool = False
    when: Callable[[Request], bool] = lambda _: True
    strip: str = ""
    date: str = ""
    lie: Lie | None = None
    rewrite: Callable[[bytes], bytes] | None = None
    rewrite_answer: Callable[[bytes], bytes] | None = None
    ask: tuple[str, str] = ("", "")
    stall: bool = False
    delay: float = 0.0
    struck: int = 0
    seen: int = 0

    def strikes(self, request: Request) -> bool:
        """Whether this request is one of those; counts it."""
        if self.operation not in ("", request.operation) or self.key not in ("", request.key):
            return False
        if not self.when(request):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.struck >= self.times):
            return False
        self.struck += 1
        return True


@dataclass
class Proxy:
    """A running proxy, as tests use it.

    Attributes:
        feed: Tells of the changes that pass, to those who ask for it.
    """

    url: str
    feed: Feed | None = None
    requests: list[Request] = field(default_factory=list)
    _faults: list[tuple[Fault, asyncio.Event]] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop | None = None

    def count(self, *operations: str) -> int:
        """How many requests of these operations (of all, if none is named) since `clear`."""
        return sum(not operations or request.operation in operations for request in self.requests)

    def counts(self) -> dict[str, int]:
        """Requests since `clear` by operation; operations that did not happen are missing."""
        return dict(Counter(request.operation for request in self.requests))

    def story(self) -> str:
        """The requests since `clear` one by one, for the message of a failure."""
        return "\n".join(f"{r.operation} {r.key} {r.query} -> {r.status}" for r in self.requests)

    def clear(self) -> None:
        self.requests.clear()

    def cut_feed(self) -> None:
        """Drop all who listen to the feed."""
        assert self._loop is not None
        assert self.feed is not None
        self._loop.call_soon_threadsafe(self.feed.cut)

    @contextmanager
    def fault(self, operation: str = "", **what: object) -> Iterator[Fault]:
        """Let a `Fault` strike for the length of the block."""
        fault = Fault(operation, **what)  # type: ignore[arg-type]
        lifted = asyncio.Event()
        self._faults.append((fault, lifted))
        try:
            yield fault
        finally:
            self._faults.remove((fault, lifted))
            assert self._loop is not None
            self._loop.call_soon_threadsafe(lifted.set)

    def _striking(self, request: Request) -> tuple[Fault, asyncio.Event] | None:
        return next((pair for pair in self._faults if pair[0].strikes(request)), None)


def _for_here(head: Head, upstream: tuple[str, int]) -> bytes:
    """A request as the endpoint wants it, that was sent to the proxy for another host.

    Its signature, which is of that host, is not good any more.
    """
    target = head.line.split(" ", 2)[1]
    if not target.startswith("http://"):
        return head.raw
    host = target.split("/")[2]
    here = ":".join(map(str, upstream))
    raw = head.raw.replace(f"http://{host}".encode(), b"", 1)
    return re.sub(rb"(?im)^host:[^\r]*", f"Host: {here}".encode(), raw, count=1)


class _Connection:
    """One client connection and the connection to the endpoint that mirrors it."""

    def __init__(
        self,
        proxy: Proxy,
        upstream: tuple[str, int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._upstream = upstream
        self._reader, self._writer = reader, writer
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def serve(self) -> None:
        try:
            while (head := await read_head(self._reader)) is not None:
                request = parse_request(head)
                self._proxy.requests.append(request)
                if not await self._one(head, request):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._close()

    def _close(self) -> None:
        self._writer.transport.abort() if self._aborting else self._writer.close()
        if self._server is not None:
            self._server[1].close()

    _aborting = False

    async def _one(self, head: Head, request: Request) -> bool:
        """Serve one request; False ends the connection."""
        striking = self._proxy._striking(request)
        fault = None
        if striking is not None:
            fault, lifted = striking
            if fault.delay:
                await asyncio.sleep(fault.delay)
            if fault.acts:
                head = await self._act(head, request)
            if fault.stall:
                await self._stall(lifted)
                return False
            if fault.status:
                await self._refuse(head, request, fault)
                return False
            if fault.reset == "before":
                self._aborting = True
                return False
        feed = self._proxy.feed
        if feed is not None and request.operation == "ListenNotification":
            await feed.serve(request, self._writer)
            self._aborting = True
            return False
        if feed is not None and fault is None and request.operation in (*MAKING, *REMOVING):
            return await self._forward_and_tell(head, request, feed)
        return await self._forward(head, request, fault)

    async def _forward_and_tell(self, head: Head, request: Request, feed: Feed) -> bool:
        reader, writer = await self._connected()
        if head.headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(head.raw)
        sent = b""
        if request.operation == "DeleteObjects":
            sent = await self._reader.readexactly(int(head.headers["content-length"]))
            writer.write(sent)
        else:
            await pass_body(head, self._reader, writer)
        await writer.drain()
        answer = await read_head(reader)
        while answer is not None and " 100 " in answer.line:
            answer = await read_head(reader)
        if answer is None:
            return False
        request.status = int(answer.line.split(" ")[1])
        body = b"" if request.status in (204, 304) else await read_body(answer, reader)
        if request.status < 300:
            feed.passed(request, sent, answer.headers, body)
        if request.status in (204, 304):
            self._writer.write(answer.raw)
            await self._writer.drain()
        else:
            await self._rewrite(answer, body)
        return answer.headers.get("connection", "").lower() != "close"

    async def _forward(self, head: Head, request: Request, fault: Fault | None) -> bool:
        reader, writer = await self._connected()
        said, meant = fault.ask if fault is not None else ("", "")
        raw = _for_here(head, self._upstream)
        raw = raw.replace(said.encode(), meant.encode(), 1) if said else raw
        rewrite = fault.rewrite if fault is not None else None
        writer.write(rewrite(raw) if rewrite is not None else raw)
        if head.headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        flip = fault.flip_sent if fault is not None else None
        request.sent = await pass_body(head, self._reader, writer, flip=flip)
        await writer.drain()
        answer = await read_head(reader)
        while answer is not None and " 100 " in answer.line:
            answer = await read_head(reader)
        if answer is None or (fault is not None and fault.reset == "after"):
            self._aborting = True
            return False
        request.status = int(answer.line.split(" ")[1])
        if fault is not None and fault.lie is not None and request.status < 300:
            self._writer.write(fault.lie(Truth.of(answer)))
            await self._writer.drain()
            return False
        if fault is not None and fault.rewrite_answer is not None:
            await self._rewrite(answer, fault.rewrite_answer(await read_body(answer, reader)))
            return True
        self._writer.write(_without(answer.raw, fault.strip if fault is not None else ""))
        bodyless = request.method == "HEAD" or request.status in (204, 304)
        if not bodyless:
            limit = fault.truncate if fault is not None else None
            request.received = await pass_body(answer, reader, self._writer, limit=limit)
            if limit is not None:
                return False
        elif "transfer-encoding" in answer.headers:
            # Swift sends the last chunk of a body that HEAD does not have
            writer.close()
            self._server = None
        await self._writer.drain()
        return answer.headers.get("connection", "").lower() != "close"

    async def _rewrite(self, answer: Head, body: bytes) -> None:
        raw = _without(_without(answer.raw, "content-length"), "transfer-encoding")
        length = f"Content-Length: {len(body)}\r\n\r\n".encode()
        self._writer.write(raw.removesuffix(b"\r\n") + length + body)
        await self._writer.drain()

    async def _act(self, head: Head, request: Request) -> Head:
        """Have the endpoint do it and keep the answer to ourselves; the head of what is left."""
        reader, writer = await self._connected()
        writer.write(head.raw)
        if head.headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.sent = await pass_body(head, self._reader, writer)
        await writer.drain()
        answer = await read_head(reader)
        while answer is not None and " 100 " in answer.line:
            answer = await read_head(reader)
        return Head(head.line, {}, b"")

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._server is None:
            self._server = await asyncio.open_connection(*self._upstream, limit=1 << 20)
        return self._server

    async def _stall(self, lifted: asyncio.Event) -> None:
        """Take what comes and answer nothing until lifted or the client is gone."""
        release = asyncio.create_task(lifted.wait())
        while not release.done():
            read = asyncio.create_task(self._reader.read(1 << 16))
            await asyncio.wait({read, release}, return_when=asyncio.FIRST_COMPLETED)
            if not read.done():
                read.cancel()
            elif not read.result():
                break
        release.cancel()
        self._aborting = True

    async def _refuse(self, head: Head, request: Request, fault: Fault) -> None:
        """Answer an S3 error without asking the endpoint; the body is taken first, as S3 does."""
        left = int(head.headers.get("content-length", 0))
        if head.headers.get("expect", "").lower() != "100-continue":
            while left > 0 and (data := await self._reader.read(min(left, 1 << 18))):
                left -= len(data)
        request.status = fault.status
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{escape(fault.code)}</Code>'
            f"<Message>made up by the proxy</Message><RequestId>FAULT{fault.struck}</RequestId>"
            "</Error>"
        ).encode()
        lines = (
            f"HTTP/1.1 {fault.status} Fault\r\nContent-Type: application/xml\r\n"
            f"Content-Length: {len(body)}\r\nx-amz-request-id: FAULT{fault.struck}\r\n"
            + (f"Date: {fault.date}\r\n" if fault.date else "")
            + "Connection: close\r\n\r\n"
        )
        self._writer.write(lines.encode() + (b"" if request.method == "HEAD" else body))
        await self._writer.drain()


def _without(head: bytes, name: str) -> bytes:
    lines = head.split(b"\r\n")
    kept = [line for line in lines if not name or line.split(b":")[0].lower() != name.encode()]
    return b"\r\n".join(kept)


@contextmanager
def proxy(
    upstream_url: str, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1"
) -> Iterator[Proxy]:
    """A proxy before `upstream_url` (plain http) for the length of the block.

    With `tls`, the certificate it shows, it speaks https with its clients. `host` is its address.
    """
    parts = urlsplit(upstream_url)
    upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
    started: list[Proxy] = []
    ready, stop = threading.Event(), asyncio.Event()

    def run() -> None:
        asyncio.run(_serve(upstream, started.append, ready, stop, tls, host))

    thread = threading.Thread(target=run, name="proxy", daemon=True)
    thread.start()
    assert ready.wait(20), "the proxy did not start"
    running = started[0]
    assert running._loop is not None
    try:
        yield running
    finally:
        with suppress(RuntimeError):
            running._loop.call_soon_threadsafe(stop.set)
        thread.join(10)


async def _serve(
    upstream: tuple[str, int],
    started: Callable[[Proxy], None],
    ready: threading.Event,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None,
    host: str,
) -> None:
    running = Proxy(url="")
    running._loop = asyncio.get_running_loop()
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await _Connection(running, upstream, reader, writer).serve()
        except asyncio.CancelledError:
            writer.transport.abort()  # the proxy stops; asyncio would log what is raised here
        finally:
            connections.discard(task)

    server = await asyncio.start_server(serve, host, 0, limit=1 << 20, ssl=tls)
    running.url = f"{'https' if tls else 'http'}://{host}:{server.sockets[0].getsockname()[1]}"
    started(running)
    ready.set()
    await stop.wait()
    server.close()
    for task in list(connections):
        task.cancel()
    await asyncio.gather(*connections, return_exceptions=True)
