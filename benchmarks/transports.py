"""Client CPU a request of the HTTP transports that can carry aiobotocore under trio.

    python benchmarks/transports.py    # against a sink server of its own, http and https
    python benchmarks/transports.py --url http://127.0.0.1:7480 --bucket b    # keys from AWS_*

Measured is the CPU time of this process (user and system, all threads), since that is what decides
how fast small files are; the server is another process. Rounds of all transports are interleaved
and medians reported. Buffers and files are touched before the first round. The figures that chose
the transport are in ``docs/decisions/0001-transport.md``.

The transports:
    httpx     aiobotocore's own HttpxSession, with its traps avoided (256 KiB reads, bodies as
              asynchronous iterators, no compression, no pool time-out)
    httpcore  a session class straight on httpcore's connection pool
    aiohttp   aiobotocore's default on a uvloop thread, called from trio over a bridge
    ours      bucketfs.store.http.transport: llhttp and non-blocking sockets
    store     the same by the short way, with all of bucketfs.store around it: retries, limits,
              counters, headers read and translated
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpcore2
import trio
import uvloop
from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.httpxsession import HttpxSession
from aiobotocore.session import AioSession
from httpcore2._async.http11 import AsyncHTTP11Connection

from bucketfs.credentials import StaticKeys
from bucketfs.store.aws.connection import set_handlers, trim
from bucketfs.store.base import Body, BytesBody, Headers, Store
from bucketfs.store.config import StoreConfig
from bucketfs.store.http.transport import TrioSession
from bucketfs.store.opening import open_store

SMALL = 4096
MIDDLE = 64 << 10
BIG = 8 << 20
READ = 256 * 1024
OPERATIONS = {
    "HEAD": 150,
    "GET 4 KiB": 150,
    "GET 64 KiB": 150,
    "PUT 4 KiB": 150,
    "GET 8 MiB": 16,
    "PUT 8 MiB": 16,
}
WAYS = ("httpx", "httpcore", "aiohttp", "ours", "store")
METADATA = dict.fromkeys(("mode", "uid", "gid", "mtime", "ctime"), "1795246899.123456789")


class FileBody:
    """An upload from a file, in the shapes that the different transports ask for."""

    def __init__(self, fd: int, size: int = BIG) -> None:
        self.fd = fd
        self.size = size

    def __len__(self) -> int:
        return self.size

    def chunks(self) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(self.size, 1 << 20)))
        for at in range(0, self.size, 1 << 20):
            os.preadv(self.fd, [buffer], at)
            yield buffer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, self.size, 1 << 20):
            yield os.pread(self.fd, min(self.size, 1 << 20), at)

    def seek(self, at: int) -> int:
        return at

    def tell(self) -> int:
        return 0


class CoreSession(HttpxSession):
    """aiobotocore on httpcore without httpx in between."""

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=self._max_pool_connections,
            keepalive_expiry=12,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._pool.aclose()

    async def send(self, request: Any) -> AioAWSResponse:
        headers = [(b"Host", httpcore2.URL(request.url).origin.host)]
        headers += [
            (name.encode(), value if isinstance(value, bytes) else value.encode())
            for name, value in request.headers.items()
        ]
        answer = await self._pool.handle_async_request(
            httpcore2.Request(
                request.method,
                request.url,
                headers=headers,
                content=request.body,
                extensions={"timeout": {"connect": 10, "read": 60, "write": 60}},
            )
        )
        headers_of = [(name.decode(), value.decode()) for name, value in answer.headers]
        response = AioAWSResponse(request.url, answer.status, dict(headers_of), CoreBody(answer))
        if not request.stream_output:
            await response.content
        return response


class CoreBody:
    """A response's body on its way out of httpcore."""

    def __init__(self, answer: httpcore2.Response) -> None:
        self.answer = answer

    async def read(self, amount: int | None = None) -> bytes:  # noqa: ARG002
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncIterator[bytes]:
        async for piece in self.answer.stream:
            yield piece
        await self.answer.aclose()


class Bridge:
    """An asyncio loop on a thread of its own that runs coroutines for trio."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        token = trio.lowlevel.current_trio_token()
        done = trio.Event()
        result: list[Any] = []

        async def work() -> None:
            try:
                result.append(await call())
            finally:
                token.run_sync_soon(done.set)

        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(work()))
        await done.wait()
        return result[0]


class Client:
    """One transport with its four operations."""

    def __init__(self, way: str, client: Any, bucket: str, bridge: Bridge | None) -> None:
        self.way, self.client, self.bucket, self.bridge = way, client, bucket, bridge

    async def do(self, operation: str, fd: int) -> None:
        call = {
            "HEAD": lambda: self.client.head_object(Bucket=self.bucket, Key="bench/small"),
            "GET 4 KiB": lambda: self.get("bench/small", SMALL, fd),
            "GET 64 KiB": lambda: self.get("bench/middle", MIDDLE, fd),
            "PUT 4 KiB": lambda: self.client.put_object(
                Bucket=self.bucket, Key="bench/put", Body=FileBody(fd, SMALL), Metadata=METADATA
            ),
            "GET 8 MiB": lambda: self.get("bench/big", BIG, fd),
            "PUT 8 MiB": lambda: self.client.put_object(
                Bucket=self.bucket, Key="bench/put", Body=FileBody(fd)
            ),
        }[operation]
        await (self.bridge.run(call) if self.bridge else call())

    async def get(self, key: str, size: int, fd: int) -> None:
        answer = await self.client.get_object(
            Bucket=self.bucket, Key=key, Range=f"bytes=0-{size - 1}"
        )
        raw = answer["Body"].raw_stream
        at = 0

        def sink(piece: bytes | memoryview) -> None:
            nonlocal at
            at += os.pwrite(fd, piece, at)

        if self.way == "ours":
            await raw.feed(sink)
        elif self.way == "aiohttp":
            async for piece in raw.content.iter_any():
                sink(piece)
        else:
            async for piece in raw.aiter_raw() if self.way == "httpx" else raw.pieces():
                sink(piece)
            if self.way == "httpx":
                await raw.aclose()
        if at != size:
            raise SystemExit(f"{self.way}: {at} of {size} bytes")


class StoreClient(Client):
    """The whole of `bucketfs.store`."""

    async def do(self, operation: str, fd: int) -> None:
        call = {
            "HEAD": lambda: self.client.head("bench/small"),
            "GET 4 KiB": lambda: self.get("bench/small", SMALL, fd),
            "GET 64 KiB": lambda: self.get("bench/middle", MIDDLE, fd),
            "PUT 4 KiB": lambda: self.put(FileBody(fd, SMALL)),
            "GET 8 MiB": lambda: self.get("bench/big", BIG, fd),
            "PUT 8 MiB": lambda: self.put(FileBody(fd)),
        }[operation]
        await call()

    async def put(self, body: Body) -> None:
        await self.client.put("bench/put", body, Headers(METADATA))

    async def get(self, key: str, size: int, fd: int) -> None:
        at = 0

        def sink(piece: bytes | memoryview) -> None:
            nonlocal at
            at += os.pwrite(fd, piece, at)

        await self.client.get(key, sink, start=0, stop=size)
        if at != size:
            raise SystemExit(f"{self.way}: {at} of {size} bytes")


def config_of(args: argparse.Namespace) -> StoreConfig:
    """What the store needs to work under the conditions of the others."""
    keys = StaticKeys(
        os.environ.get("AWS_ACCESS_KEY_ID", "key"),
        os.environ.get("AWS_SECRET_ACCESS_KEY", "secret"),
    )
    return StoreConfig(
        bucket=args.bucket, credentials=keys, url=args.url, verify=False, unsigned_payload=True
    )


async def open_client(way: str, args: argparse.Namespace) -> Any:
    """An aiobotocore client on one of the transports."""
    session_class = {
        "httpx": HttpxSession,
        "httpcore": CoreSession,
        "aiohttp": AIOHTTPSession,
        "ours": TrioSession,
    }[way]
    connector: dict[str, Any] = {}
    if way == "httpx":
        connector |= {"pool_timeout": None, "write_timeout": 60}
    session = AioSession()
    session.set_default_client_config(
        AioConfig(
            http_session_cls=session_class,
            connector_args=connector,
            max_pool_connections=32,
            parameter_validation=False,
            retries={"total_max_attempts": 1, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path", "payload_signing_enabled": False},
        )
    )
    client = await session.create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=args.url,
        verify=False,
        aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID", "key"),
        aws_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY", "secret"),
    ).__aenter__()
    if not args.untrimmed:
        set_handlers(client)
        trim(client)
    client.meta.events.register("before-send.s3", _no_compression)
    return client


def _no_compression(request: Any, **_: object) -> None:
    request.headers["Accept-Encoding"] = "identity"


async def round_of(client: Client, operation: str, together: int, count: int, fd: int) -> float:
    """CPU seconds an operation, over `count` of them."""
    limit = trio.CapacityLimiter(together)

    async def one() -> None:
        async with limit:
            await client.do(operation, fd)

    before = time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return (time.process_time() - before) / count


async def measure(args: argparse.Namespace) -> None:
    """Print a line an operation with the medians of all transports."""
    async with open_store(config_of(args)) as store:
        await compare(args, store)


async def compare(args: argparse.Namespace, store: Store) -> None:
    """The same, beside an open store."""
    bridge = Bridge()
    clients: list[Client] = []
    for way in args.ways:
        if way == "store":
            clients.append(StoreClient(way, store, args.bucket, None))
            continue
        on_thread = bridge if way == "aiohttp" else None
        opening = lambda way=way: open_client(way, args)  # noqa: E731
        client = await (on_thread.run(opening) if on_thread else opening())
        clients.append(Client(way, client, args.bucket, on_thread))
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(BIG))
        file.flush()
        fd = file.fileno()
        await store.put("bench/small", BytesBody(bytes(SMALL)), Headers())
        await store.put("bench/middle", BytesBody(bytes(MIDDLE)), Headers())
        await store.put("bench/big", FileBody(fd), Headers())
        for together in (1, 16):
            for operation, count in OPERATIONS.items():
                results: dict[str, list[float]] = {way: [] for way in args.ways}
                for turn in range(args.rounds + 1):
                    for client in clients:
                        cpu = await round_of(client, operation, together, count, fd)
                        if turn:  # the first warms up
                            results[client.way].append(cpu)
                cells = "".join(f"{statistics.median(r) * 1e3:10.2f}" for r in results.values())
                print(f"{args.url.split(':')[0]:6}{operation:10}{together:4}{cells}", flush=True)
    os._exit(0)  # the sessions of four libraries have four ideas of an orderly end


def serve(listener: Any, tls: ssl.SSLContext | None) -> None:
    """A server that answers HEAD, GET of a range and PUT as S3 would, and stores nothing."""
    zeros = memoryview(bytearray(BIG))
    scratch = bytearray(1 << 20)

    def talk(sock: Any) -> None:
        with contextlib.suppress(OSError):
            if tls:
                sock = tls.wrap_socket(sock, server_side=True)
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    if not (more := sock.recv(65536)):
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:])
                left = int(headers.get("content-length", 0)) - len(data)
                data = b""
                while left > 0:
                    left -= sock.recv_into(scratch, min(left, len(scratch)))
                method, path, _ = lines[0].split()
                size = 0 if method == "PUT" else _size_of(path)
                extra = f"Content-Range: bytes 0-{size - 1}/{size}\r\n" if size else ""
                status = "206 Partial Content" if method == "GET" else "200 OK"
                sock.sendall(_ANSWER.format(status=status, size=size, extra=extra).encode())
                if method == "GET":
                    sock.sendall(zeros[:size])

    while True:
        sock, _ = listener.accept()
        sock.setsockopt(6, 1, 1)
        threading.Thread(target=talk, args=(sock,), daemon=True).start()


def _size_of(path: str) -> int:
    return BIG if "big" in path else MIDDLE if "middle" in path else SMALL


_ANSWER = (
    "HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{extra}Accept-Ranges: bytes\r\n"
    'Last-Modified: Sat, 21 Nov 2026 07:39:22 GMT\r\nETag: "5d41402abc4b2a76b9719d911017c592"\r\n'
    "x-amz-meta-mode: 33188\r\nx-amz-meta-uid: 0\r\nx-amz-meta-gid: 0\r\n"
    "x-amz-meta-mtime: 1795246899.123456789\r\nx-amz-request-id: tx00000c5cbbfb6700329a1\r\n"
    "Content-Type: application/octet-stream\r\nDate: Sat, 21 Nov 2026 07:39:22 GMT\r\n\r\n"
)


def start_sink(scheme: str, directory: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Run `serve` in a process of its own; answers its URL."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", scheme, "--directory", str(directory)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, f"{scheme}://127.0.0.1:{process.stdout.readline().decode().strip()}"


def serve_main(scheme: str, directory: Path) -> None:
    """The server's process: prints its port and serves."""
    tls = None
    if scheme == "https":
        certificate, key = directory / "cert.pem", directory / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
             "-keyout", key, "-out", certificate, "-subj", "/CN=127.0.0.1"],
            check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listener.getsockname()[1], flush=True)
    serve(listener, tls)


def main() -> None:
    """Run the measurement, or with ``--serve`` the server it starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="an S3 endpoint in place of the sink server")
    parser.add_argument("--bucket", default="bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--untrimmed", action="store_true", help="aiobotocore as it comes")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve_main(args.serve, args.directory)
    AsyncHTTP11Connection.READ_NUM_BYTES = READ
    if args.url:
        print(f"CPU ms a request{'':4}{''.join(f'{way:>10}' for way in args.ways)}")
        return trio.run(measure, args)
    with tempfile.TemporaryDirectory() as directory:
        for scheme in ("http", "https"):
            process, url = start_sink(scheme, Path(directory))
            try:
                own = [arg for arg in sys.argv[1:] if not arg.startswith("--url")]
                subprocess.run([sys.executable, __file__, *own, "--url", url], check=True)
            finally:
                process.kill()
    return None


if __name__ == "__main__":
    main()
