"""An S3 server that has any number of objects and keeps none: listings and bytes by arithmetic.

``python -m benchmarks.generator PORT_FILE NAME…`` serves one bucket, whatever it is called, from a
process of its own. Of the names that it is given, ``names-N`` is a directory of N small objects,
and ``bytes-N`` an object of N bytes. What is stored is counted and thrown away; only its size is
known.

A million objects on a real server take an hour to make, and to list them is mostly that server's
work. Here a page of a listing is one copy of a prepared page with another number in it, so that
what is measured is the mount. What the server itself takes is measured beside it
(`benchmarks.growth`).
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from benchmarks.data import MIB, SMALL, noise

#: Most keys in a page, and digits of a key that count pages and places in a page.
_PAGE, _PAGE_DIGITS, _PLACE_DIGITS = 1000, 4, 3

_DATE, _HTTP_DATE = "2026-01-01T00:00:00.000Z", "Thu, 01 Jan 2026 00:00:00 GMT"
_ETAG = "0123456789abcdef0123456789abcdef"

#: What takes the place of a page's number in a prepared page.
_HOLE = b"#" * _PAGE_DIGITS
#: What a GET is answered from; it repeats after a MiB.
_PIECE = 8 * MIB
_RECEIVE = 1 << 20


def key_of(directory: str, number: int) -> str:
    """The key of an object of a directory, which keys sort by."""
    return f"{directory}/{number:0{_PAGE_DIGITS + _PLACE_DIGITS}}"


def _entry(key: str, size: int) -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>{_DATE}</LastModified>"
        f"<ETag>&quot;{_ETAG}&quot;</ETag><Size>{size}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def listing(bucket: str, prefix: str, entries: bytes, following: str) -> bytes:
    """An answer of ListObjectsV2; `following` is the token of the next page, "" if none."""
    more = f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
    head = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{bucket}</Name><Prefix>{prefix}</Prefix><MaxKeys>{_PAGE}</MaxKeys>"
        f"<Delimiter>/</Delimiter><IsTruncated>{str(bool(following)).lower()}</IsTruncated>{more}"
    )
    return head.encode() + entries + b"</ListBucketResult>"


class Directory:
    """Pages of a listing of `count` objects."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count
        keys = (f"{name}/{_HOLE.decode()}{place:0{_PLACE_DIGITS}}" for place in range(_PAGE))
        self._page = "".join(_entry(key, SMALL) for key in keys).encode()

    def page(self, bucket: str, start: int, limit: int) -> bytes:
        """The answer that begins with object `start`."""
        stop = min(start + min(limit, _PAGE), self.count)
        following = str(stop) if stop < self.count else ""
        if start % _PAGE == 0 and stop - start == _PAGE:
            entries = self._page.replace(_HOLE, b"%0*d" % (_PAGE_DIGITS, start // _PAGE))
        else:
            keys = (key_of(self.name, number) for number in range(start, stop))
            entries = "".join(_entry(key, SMALL) for key in keys).encode()
        return listing(bucket, f"{self.name}/", entries, following)

    def place(self, key: str) -> int | None:
        """The number of an object, None if there is none of this key."""
        digits = key.removeprefix(f"{self.name}/")
        if not re.fullmatch(r"\d{7}", digits) or int(digits) >= self.count:
            return None
        return int(digits)


@dataclass
class Bucket:
    """What is there: by arithmetic, and stored meanwhile.

    Attributes:
        stored: Sizes and ETags of what was stored.
        uploads: Bytes that unfinished uploads have received.
    """

    names: Sequence[str]
    directories: dict[str, Directory] = field(default_factory=dict)
    stored: dict[str, tuple[int, str]] = field(default_factory=dict)
    uploads: dict[str, int] = field(default_factory=dict)
    serial: int = 0

    def __post_init__(self) -> None:
        for name in self.names:
            kind, _, number = name.partition("-")
            if kind == "names":
                self.directories[name] = Directory(name, int(number))
            else:
                self.stored[name] = (int(number), _ETAG)

    def find(self, key: str) -> tuple[int, str] | None:
        """Size and ETag of an object."""
        directory = self.directories.get(key.partition("/")[0])
        if directory is not None and directory.place(key) is not None:
            return SMALL, _ETAG
        return self.stored.get(key)

    def number(self) -> str:
        """One that was not used before, in the form of an ETag."""
        self.serial += 1
        return f"{self.serial:032x}"

    def store(self, key: str, size: int) -> str:
        """Have an object; answers its ETag."""
        etag = self.number()
        self.stored[key] = (size, etag)
        return etag

    def list(self, bucket: str, query: dict[str, str]) -> bytes:
        """An answer of ListObjectsV2."""
        prefix, limit = query.get("prefix", ""), int(query.get("max-keys") or _PAGE)
        directory = self.directories.get(prefix.removesuffix("/"))
        if directory is not None and prefix.endswith("/"):
            start = int(query.get("continuation-token") or 0)
            after = directory.place(query.get("start-after", ""))
            return directory.page(bucket, start if after is None else after + 1, limit)
        keys = sorted(key for key in self.stored if key.startswith(prefix))
        entries = "".join(_entry(key, self.stored[key][0]) for key in keys)
        entries += "".join(
            f"<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>"
            for name in sorted(self.directories)
            if f"{name}/".startswith(prefix)
        )
        return listing(bucket, prefix, entries.encode(), "")


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose body is still to be read."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", "0"))

    @classmethod
    def parse(cls, head: str) -> Request:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        url = urlsplit(target)
        bucket, _, key = url.path.lstrip("/").partition("/")
        fields = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        query = dict(parse_qsl(url.query, keep_blank_values=True)) if url.query else {}
        return cls(method, bucket, unquote(key), query, headers)

    def span(self, size: int) -> tuple[int, int]:
        """Which bytes of an object are asked for: ``[start, stop)``."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if not asked:
            return 0, size
        return int(asked[1]), min(size, int(asked[2] or size - 1) + 1)


def answer(status: str, length: int, **fields: str) -> bytes:
    """The head of an answer."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{lines}\r\n".encode()


class Connection:
    """Serves one client after its first byte until it goes."""

    def __init__(self, bucket: Bucket, client: socket.socket, pieces: memoryview) -> None:
        self._bucket, self._client, self._pieces = bucket, client, pieces
        self._loop = asyncio.get_running_loop()
        self._early = b""
        self._buffer = memoryview(bytearray(_RECEIVE))

    async def serve(self) -> None:
        with self._client:
            try:
                while request := await self._request():
                    await self._discard(request.length)
                    await self._answer(request)
            except ConnectionError:
                return

    async def _request(self) -> Request | None:
        while b"\r\n\r\n" not in self._early:
            data = await self._loop.sock_recv(self._client, 65536)
            if not data:
                return None
            self._early += data
        head, _, self._early = self._early.partition(b"\r\n\r\n")
        return Request.parse(head.decode("latin-1"))

    async def _discard(self, length: int) -> None:
        length -= len(self._early[:length])
        self._early = b""
        while length > 0:
            view = self._buffer[: min(length, _RECEIVE)]
            got = await self._loop.sock_recv_into(self._client, view)
            if not got:
                raise ConnectionError
            length -= got

    async def _answer(self, request: Request) -> None:
        if request.method in ("GET", "HEAD"):
            await (self._object(request) if request.key else self._whole(request))
        elif request.method == "POST":
            await self._post(request)
        elif request.method == "PUT":
            await self._put(request)
        else:
            self._bucket.stored.pop(request.key, None)
            self._bucket.uploads.pop(request.query.get("uploadId", ""), None)
            await self._send(answer("204 No Content", 0))

    async def _send(self, *pieces: bytes | memoryview) -> None:
        for piece in pieces:
            await self._loop.sock_sendall(self._client, piece)

    async def _text(self, text: bytes, status: str = "200 OK", **fields: str) -> None:
        await self._send(answer(status, len(text), **fields) + text)

    async def _whole(self, request: Request) -> None:
        """About the bucket."""
        if request.method == "HEAD":
            await self._send(answer("200 OK", 0))
        elif "uploads" in request.query:
            await self._text(b"<ListMultipartUploadsResult></ListMultipartUploadsResult>")
        else:
            await self._text(self._bucket.list(request.bucket, request.query))

    async def _object(self, request: Request) -> None:
        found = self._bucket.find(request.key)
        if found is None:
            body = b"" if request.method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>"
            await self._text(body, "404 Not Found")
            return
        size, etag = found
        if request.headers.get("if-match", etag).strip('"') != etag:
            body = b"<Error><Code>PreconditionFailed</Code></Error>"
            await self._text(body, "412 Precondition Failed")
            return
        start, stop = request.span(size)
        status, fields = "200 OK", {"ETag": f'"{etag}"', "Last_Modified": _HTTP_DATE}
        if (start, stop) != (0, size):
            status = "206 Partial Content"
            fields["Content_Range"] = f"bytes {start}-{stop - 1}/{size}"
        await self._send(answer(status, stop - start, **fields))
        while request.method == "GET" and start < stop:
            at = start % MIB
            length = min(stop - start, _PIECE)
            await self._send(self._pieces[at : at + length])
            start += length

    def _refuses(self, request: Request) -> bool:
        """Whether a condition of an upload is not met."""
        found = self._bucket.find(request.key)
        match = request.headers.get("if-match", "").strip('"')
        taken = request.headers.get("if-none-match") == "*" and found is not None
        return taken or bool(match and (found is None or found[1] != match))

    async def _put(self, request: Request) -> None:
        upload = request.query.get("uploadId")
        if upload is not None:
            self._bucket.uploads[upload] += request.length
            await self._send(answer("200 OK", 0, ETag=f'"{self._bucket.number()}"'))
        elif self._refuses(request):
            body = b"<Error><Code>PreconditionFailed</Code></Error>"
            await self._text(body, "412 Precondition Failed")
        else:
            etag = self._bucket.store(request.key, request.length)
            await self._send(answer("200 OK", 0, ETag=f'"{etag}"'))

    async def _post(self, request: Request) -> None:
        if "uploads" in request.query:
            upload = self._bucket.number()
            self._bucket.uploads[upload] = 0
            what, body = "InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>"
        elif "uploadId" in request.query:
            size = self._bucket.uploads.pop(request.query["uploadId"])
            etag = self._bucket.store(request.key, size)
            what, body = "CompleteMultipartUploadResult", f"<ETag>&quot;{etag}&quot;</ETag>"
        else:
            what, body = "DeleteResult", ""
        key = f"<Bucket>{request.bucket}</Bucket><Key>{request.key}</Key>" if request.key else ""
        await self._text(f"<{what}>{key}{body}</{what}>".encode())


async def _serve(listener: socket.socket, bucket: Bucket) -> None:
    loop = asyncio.get_running_loop()
    pieces = memoryview(noise(_PIECE + MIB))
    tasks = set()
    while True:
        client, _ = await loop.sock_accept(listener)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = loop.create_task(Connection(bucket, client, pieces).serve())
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def main(port_file: Path, names: Sequence[str]) -> None:
    """Serve until the process is ended."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        listener.setblocking(False)
        # complete as soon as it has its name
        unfinished = port_file.with_suffix(".new")
        unfinished.write_text(str(listener.getsockname()[1]))
        unfinished.rename(port_file)
        asyncio.run(_serve(listener, Bucket(names)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
