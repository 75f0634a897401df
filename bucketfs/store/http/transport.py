"""HTTP/1.1 for aiobotocore on trio: `http1` for the grammar, non-blocking sockets for the bytes.

This module owns connections: it opens, reuses and closes them, sends one request on each at a time
and hands the body of the answer on. It knows nothing of S3, retries nothing but a GET or HEAD whose
kept-alive connection turned out dead, and logs nothing (requests carry signatures).

Bodies of known length, which is all that carries file data, go around the parser: they are sent as
they are and received into one buffer that all connections share. That is safe because nothing is
awaited between filling the buffer and emptying it.
``docs/decisions/0001-transport.md`` has the measurements that led here.

Invariants: a connection is either idle in `TrioSession._idle`, or owned by exactly one request or
response; it returns to `_idle` only after its body was read to the end; any exception or
cancellation closes it. Every wait for the network is bounded: connecting with the TLS handshake by
the connect timeout, any other wait by the read timeout as the longest silence.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import urlsplit

import trio
from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.httpxsession import HttpxSession
from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import (
    BotoCoreError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.httpsession import ProxyConfiguration

from bucketfs.store.http.http1 import Answer, Malformed, request_head
from bucketfs.store.http.wire import Wire, discard, open_wire

#: Read at once. 64 KiB took twice the CPU a byte, 1 MiB no less than this.
_READ: Final = 256 * 1024
#: A head with its body up to this size leaves in one packet train and one system call.
_JOIN: Final = 64 * 1024
#: After this many bytes without a wait other tasks get a turn.
_TURN: Final = 1 << 20
#: Servers and balancers close idle connections after 15 s (RGW, nginx: 65 s); stay below.
_KEEP_ALIVE: Final = 12.0
#: A response head is read in small bites: what it brings along of the body is copied thrice.
_HEAD_READ: Final = 16 * 1024
#: Seconds, where botocore gave no time-out.
_SILENCE: Final = 60.0
#: What is read of an error: it stands in the first lines, and the status says the most.
ERROR_LIMIT: Final = 64 * 1024
#: Longest answer that is no file: a listing of 1,000 keys of 1,024 bytes takes half of it.
ANSWER_LIMIT: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a URL's requests go.

    Attributes:
        scheme: http or https.
        host: Name or address, without brackets.
        port: TCP port.
        header: Value of the Host header, as botocore signs it.
        proxy: URL of the proxy in between, "" for none.
    """

    scheme: str
    host: str
    port: int
    header: str
    proxy: str

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self.header}"

    @classmethod
    def of(cls, base: str, proxy: str | None) -> Origin:
        """Take ``scheme://host:port`` apart."""
        parts = urlsplit(base)
        default = {"http": 80, "https": 443}[parts.scheme]
        host = (parts.hostname or "").lower()
        header = f"[{host}]" if ":" in host else host
        if parts.port not in (None, default):
            header = f"{header}:{parts.port}"
        return cls(parts.scheme, host, parts.port or default, header, proxy or "")


class Incomplete(HTTPClientError):
    """The connection ended before the body did."""

    fmt = "The body ended early: {error}"


class TooLong(HTTPClientError):
    """An answer that is no file's body does not end where it should have."""

    fmt = "The answer is longer than {limit} bytes"


class Unsendable(BotoCoreError):
    """A request that HTTP has no way to write."""

    fmt = "The request cannot be sent: {error}"


class RawResponse:
    """The body of one answer, still on its connection."""

    __slots__ = ("_answer", "_origin", "_session", "_wire")

    def __init__(self, session: TrioSession, origin: Origin, wire: Wire, answer: Answer) -> None:
        self._session = session
        self._origin = origin
        self._wire: Wire | None = wire
        self._answer = answer
        if answer.length == 0:
            self._finish(wire)

    async def feed(self, sink: Callable[[bytes | memoryview], None]) -> None:
        """Hand the body to `sink` piece by piece; a piece is valid during the call only.

        Raises Incomplete when the connection ends or falls silent early. Whatever is raised, the
        connection is closed.
        """
        try:
            if self._answer.length is None:
                await self._feed_framed(sink)
            else:
                await self._feed_counted(sink, self._answer.length)
        except (OSError, Malformed) as exc:
            raise Incomplete(error=exc) from exc
        finally:
            self.close()

    async def read(self, amount: int | None = None) -> bytes:  # noqa: ARG002
        """The whole body of an answer that is no file; of an error the first `ERROR_LIMIT` bytes.

        `amount` exists for botocore, which passes none. Raises TooLong beyond `ANSWER_LIMIT`, and
        as `feed` does.
        """
        is_error = self._answer.status >= HTTPStatus.MULTIPLE_CHOICES
        limit = ERROR_LIMIT if is_error else ANSWER_LIMIT
        pieces: list[bytes] = []
        room = limit

        def take(piece: bytes | memoryview) -> None:
            nonlocal room
            pieces.append(bytes(piece[:room]))
            room -= len(pieces[-1])
            if len(piece) > len(pieces[-1]):
                raise TooLong(limit=limit)

        try:
            await self.feed(take)
        except TooLong:
            if not is_error:
                raise
        return b"".join(pieces)

    def close(self) -> None:
        """Drop the connection unless the body was read to its end."""
        discard(self._wire)
        self._wire = None

    def _finish(self, wire: Wire) -> None:
        self._wire = None
        if self._answer.keeps_alive:
            self._session.keep(self._origin, wire)
        else:
            wire.close()

    async def _feed_counted(self, sink: Callable[[bytes | memoryview], None], length: int) -> None:
        wire = self._wire
        if wire is None:
            return
        early = self._answer.taken()
        if early:
            sink(early)
        remaining = length - len(early)
        buffer = self._session.buffer
        turn = _TURN
        while remaining:
            count = await wire.gather_into(buffer, remaining)
            if not count:
                raise ConnectionResetError(errno.ECONNRESET, f"{remaining} bytes missing")
            sink(buffer[:count])
            remaining -= count
            turn -= count
            if turn < 0:
                turn = _TURN
                await trio.lowlevel.checkpoint()
        wire.wake_at_first_byte()
        self._finish(wire)

    async def _feed_framed(self, sink: Callable[[bytes | memoryview], None]) -> None:
        wire = self._wire
        if wire is None:
            return
        answer = self._answer
        buffer = self._session.buffer
        while True:
            if piece := answer.taken():
                sink(piece)
            if answer.complete:
                break
            count = await wire.read_into(buffer)
            if count:
                answer.feed(buffer[:count])
            elif answer.ends_with_connection:
                break
            else:
                raise ConnectionResetError(errno.ECONNRESET, "the last chunk is missing")
        self._finish(wire)


class TrioSession(HttpxSession):  # type: ignore[misc]
    """The ``http_session_cls`` that aiobotocore builds; its base only marks it as fit for trio.

    Args:
        timeout: Seconds to connect within, and of the longest silence.
        proxies: URLs by scheme.
        verify: Whether to check certificates, where no TLS context is given.
        max_pool_connections: How many idle connections to keep, an origin.
        proxies_config: botocore's settings of proxies.
        connector_args: A TLS context as ``ssl_context``.
    """

    def __init__(
        self,
        *,
        timeout: tuple[float | None, float | None] = (None, None),
        proxies: dict[str, str] | None = None,
        verify: bool | str | None = None,
        max_pool_connections: int = 10,
        proxies_config: dict[str, Any] | None = None,
        connector_args: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        self._connect_limit, self.silence = (limit or _SILENCE for limit in timeout)
        self._most_idle = max_pool_connections
        self._proxies = ProxyConfiguration(proxies, proxies_config)
        self._verify: object = (connector_args or {}).get("ssl_context", verify)

    async def __aenter__(self) -> Self:
        self.buffer = memoryview(bytearray(_READ))
        self._idle: dict[Origin, list[Wire]] = {}
        self._origins: dict[str, Origin] = {}
        return self

    async def __aexit__(self, *exc: object) -> None:
        for wires in self._idle.values():
            for wire in wires:
                wire.close()
        self._idle.clear()

    def keep(self, origin: Origin, wire: Wire) -> None:
        """Take a connection back that is at rest between two requests."""
        wires = self._idle.setdefault(origin, [])
        if len(wires) < self._most_idle:
            wire.expires = trio.current_time() + _KEEP_ALIVE
            wires.append(wire)
        else:
            wire.close()

    async def send(self, request: AWSPreparedRequest) -> AioAWSResponse:
        """Send a signed request and answer its response with the body unread.

        Raises botocore's exceptions for a connection that could not be made or broke.
        """
        origin, target = self.locate(request.url)
        override = (getattr(request, "context", None) or {}).get("read_timeout")
        timeout = override or self.silence
        wire = self.take_idle(origin)
        try:
            if wire is not None:
                wire.timeout = timeout
                try:
                    return await self._exchange(request, origin, target, wire)
                except ConnectionError:
                    if request.method not in ("GET", "HEAD"):
                        raise
            wire = await self.connect(origin)
            wire.timeout = timeout
            return await self._exchange(request, origin, target, wire)
        except (OSError, Malformed) as exc:
            raise as_failure(exc, request.url) from exc

    def take_idle(self, origin: Origin) -> Wire | None:
        """A connection at rest, which the caller owns from now on."""
        wires = self._idle.get(origin, [])
        while wires:
            wire = wires.pop()
            if not wire.is_stale():
                return wire
            wire.close()
        return None

    async def _exchange(
        self, request: AWSPreparedRequest, origin: Origin, target: str, wire: Wire
    ) -> AioAWSResponse:
        """One request and the head of its response on a connection, which is closed on failure."""
        try:
            try:
                await _send_request(wire, request, origin, target, self._proxy_headers(origin))
            except (BrokenPipeError, ConnectionResetError):
                # A server that refuses an upload may answer and close before it has read it all.
                if request.body is None:
                    raise
            answer = await _read_head(wire, request.method, self.buffer)
            raw = RawResponse(self, origin, wire, answer)
        except BaseException:
            wire.close()
            raise
        response = AioAWSResponse(request.url, answer.status, {}, raw)
        response.headers = answer.headers
        if not request.stream_output:
            await response.content
        return response

    def locate(self, url: str) -> tuple[Origin, str]:
        """Where to send a request, and what stands in its request line: the path as signed."""
        slash = url.find("/", url.index("://") + 3)
        base = url[:slash] if slash >= 0 else url
        origin = self._origins.get(base)
        if origin is None:
            origin = Origin.of(base, self._proxies.proxy_url_for(base))
            self._origins[base] = origin
        if origin.proxy and origin.scheme == "http":
            return origin, url
        return origin, url[slash:] if slash >= 0 else "/"

    async def connect(self, origin: Origin) -> Wire:
        """A new connection to the endpoint, through its proxy if it has one."""
        url = origin.url
        limit = self._connect_limit
        wire: Wire | None = None
        try:
            with trio.fail_after(limit):
                via = urlsplit(origin.proxy)
                host, port = via.hostname or origin.host, via.port or origin.port
                wire = await open_wire(host, port, limit)
                if origin.scheme == "https":
                    if origin.proxy:
                        await self._tunnel(wire, origin)
                    await wire.handshake(self._tls_context(), origin.host)
        except trio.TooSlowError as exc:
            discard(wire)
            raise ConnectTimeoutError(endpoint_url=url, error=exc) from exc
        except ssl.SSLError:
            discard(wire)
            raise
        except OSError as exc:
            discard(wire)
            if origin.proxy:
                raise ProxyConnectionError(proxy_url=str(via.hostname), error=exc) from exc
            raise EndpointConnectionError(endpoint_url=url, error=exc) from exc
        except BaseException:
            discard(wire)
            raise
        return wire

    async def _tunnel(self, wire: Wire, origin: Origin) -> None:
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        authority = f"{host}:{origin.port}"
        headers = self._proxies.proxy_headers_for(origin.proxy)
        await wire.write(request_head("CONNECT", authority, authority, headers.items()))
        answer = await _read_head(wire, "CONNECT", self.buffer)
        if answer.status >= 300:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"proxy said {answer.status}")

    def written(self, request: AWSPreparedRequest) -> bytes:
        """A request without a body, as it is sent. Raises Unsendable."""
        origin, target = self.locate(request.url)
        return _written(request, origin, target, self._proxy_headers(origin))

    def _proxy_headers(self, origin: Origin) -> Mapping[str, str]:
        """What a proxy that is sent the requests themselves wants to see with each."""
        if not origin.proxy or origin.scheme != "http":
            return {}
        headers: Mapping[str, str] = self._proxies.proxy_headers_for(origin.proxy)
        return headers

    def _tls_context(self) -> ssl.SSLContext:
        context: Any = self._verify
        if not isinstance(context, ssl.SSLContext):
            self._verify = fresh = ssl.create_default_context()
            if not context:
                fresh.check_hostname = False
                fresh.verify_mode = ssl.CERT_NONE
            return fresh
        return context


def as_failure(error: Exception, url: str) -> BotoCoreError:
    """What went wrong on a connection, by botocore's name."""
    if isinstance(error, TimeoutError):
        return ReadTimeoutError(endpoint_url=url, error=error)
    if isinstance(error, ssl.SSLError):
        return SSLError(endpoint_url=url, error=error)
    if isinstance(error, ConnectionError):
        return ConnectionClosedError(endpoint_url=url, error=error)
    return HTTPClientError(error=error)


def _chunks(body: Any) -> Iterator[bytes | memoryview]:
    """The pieces of a request body: bytes, a `store.base.Body`, or a file botocore made."""
    if body is None:
        return
    if isinstance(body, (bytes, bytearray)):
        yield memoryview(body)
    elif isinstance(body, str):
        yield body.encode()
    elif hasattr(body, "chunks"):
        yield from body.chunks()
    else:
        while piece := body.read(_READ):
            yield piece


def _written(
    request: AWSPreparedRequest, origin: Origin, target: str, added: Mapping[str, str]
) -> bytes:
    headers = [*request.headers.items(), *added.items()]
    try:
        return request_head(request.method, target, origin.header, headers)
    except Malformed as exc:
        raise Unsendable(error=exc) from exc


async def _send_request(
    wire: Wire,
    request: AWSPreparedRequest,
    origin: Origin,
    target: str,
    added: Mapping[str, str],
) -> None:
    head = _written(request, origin, target, added)
    length = int(request.headers.get("Content-Length", 0))
    pieces = _chunks(request.body)
    if length <= _JOIN:
        message = b"".join([head, *pieces])
        if len(message) != len(head) + length:
            raise ConnectionAbortedError(errno.ECONNABORTED, f"a body other than {length} bytes")
        await wire.write(message)
        return
    await wire.write(head)
    sent = 0
    for piece in pieces:
        await wire.write(piece)
        sent += len(piece)
        await trio.lowlevel.checkpoint()
    if sent != length:
        raise ConnectionAbortedError(errno.ECONNABORTED, f"body has {sent} of {length} bytes")


async def _read_head(wire: Wire, method: str, buffer: memoryview) -> Answer:
    """The response up to the end of its head; interim responses (100, 103) are skipped."""
    answer = Answer(method)
    bite = buffer[:_HEAD_READ]
    await wire.arrival()
    while not answer.status:
        count = await wire.read_into(bite)
        if not count:
            raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
        answer.feed(bite[:count])
    return answer
