"""Just enough HTTP/1.1 for a proxy before an S3 endpoint, and the names of S3's operations."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

#: Bytes passed on at a time.
CHUNK = 1 << 18


@dataclass
class Head:
    """First line and headers of a message, and the bytes they came as."""

    line: str
    headers: dict[str, str]
    raw: bytes


@dataclass
class Request:
    """One request as the endpoint got it, and what came back.

    Attributes:
        operation: S3's name for it, see `operation`.
        bucket / key: From the path, decoded.
        status: HTTP status of the answer, 0 when there was none.
        sent / received: Body bytes to and from the endpoint.
    """

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    operation: str
    status: int = 0
    sent: int = 0
    received: int = 0


async def read_head(stream: asyncio.StreamReader) -> Head | None:
    """The next message's head, None at the end of the connection."""
    try:
        raw = await stream.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *rest = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.split(":", 1) for line in rest)
    return Head(first, {name.strip().lower(): value.strip() for name, value in pairs}, raw)


async def pass_body(
    head: Head,
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    *,
    limit: int | None = None,
    flip: int | None = None,
) -> int:
    """Hand a message's body on as it comes, at most `limit` bytes; answers how many.

    One bit of the byte at `flip` changes on the way.
    """
    if "chunked" in head.headers.get("transfer-encoding", ""):
        return await _pass_chunked(source, sink)
    left = int(head.headers.get("content-length", 0))
    if limit is not None:
        left = min(left, limit)
    passed = 0
    while passed < left:
        data = await source.read(min(CHUNK, left - passed))
        if not data:
            break
        if flip is not None and passed <= flip < passed + len(data):
            at = flip - passed
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        sink.write(data)
        await sink.drain()
        passed += len(data)
    return passed


async def read_body(head: Head, source: asyncio.StreamReader) -> bytes:
    """A message's whole body, without the framing it came in."""
    if "chunked" not in head.headers.get("transfer-encoding", ""):
        return await source.readexactly(int(head.headers.get("content-length", 0)))
    body = b""
    while size := int((await source.readline()).split(b";")[0], 16):
        body += (await source.readexactly(size + 2))[:-2]
    await _trailers(source)
    return body


async def _pass_chunked(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> int:
    passed = 0
    while True:
        line = await source.readline()
        size = int(line.split(b";")[0], 16)
        data = await source.readexactly(size + 2) if size else await _trailers(source)
        sink.write(line + data)
        await sink.drain()
        passed += size
        if not size:
            return passed


async def _trailers(source: asyncio.StreamReader) -> bytes:
    lines = b""
    while True:
        line = await source.readline()
        lines += line
        if line in (b"\r\n", b""):
            return lines


def parse_request(head: Head) -> Request:
    """A path-style S3 request from its head; the target may be absolute (``GET http://host/b/k``)."""
    method, target, _ = head.line.split(" ", 2)
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    bucket, _, key = parts.path.lstrip("/").partition("/")
    request = Request(method, unquote(bucket), unquote(key), query, head.headers, "")
    request.operation = operation(request)
    return request


def operation(request: Request) -> str:
    """S3's name for a request, by method, path and query."""
    method, query = request.method, request.query
    copying = "x-amz-copy-source" in request.headers
    if not request.bucket:
        return "ListBuckets"
    if not request.key:
        return _bucket_operation(method, query)
    if "uploadId" in query:
        if method == "PUT":
            return "UploadPartCopy" if copying else "UploadPart"
        names = {"POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}
        return names.get(method, "ListParts")
    if method == "POST" and "uploads" in query:
        return "CreateMultipartUpload"
    if method == "PUT" and copying:
        return "CopyObject"
    verb = {"HEAD": "Head", "GET": "Get", "PUT": "Put", "DELETE": "Delete"}[method]
    return verb + ("ObjectTagging" if "tagging" in query else "Object")


def _bucket_operation(method: str, query: dict[str, str]) -> str:
    if method == "POST" and "delete" in query:
        return "DeleteObjects"
    if method == "GET":
        if "events" in query:
            return "ListenNotification"
        if "uploads" in query:
            return "ListMultipartUploads"
        if "location" in query:
            return "GetBucketLocation"
        if "versions" in query:
            return "ListObjectVersions"
        return "ListObjectsV2" if query.get("list-type") in ("2", "ext-v1") else "ListObjects"
    return {"HEAD": "Head", "PUT": "Create", "DELETE": "Delete"}.get(method, method) + "Bucket"
