"""Requests to an S3 server by bare sockets, with URLs signed beforehand and answers thrown away."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from benchmarks.data import MIB, Scale
from tests.harness.witness import Witness

_HEAD, _BLOCK = 4096, 64 * 1024

#: Most keys in one page of a listing.
_KEYS = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """One request, signed; `start` and `length` name the range of a GET (0: all)."""

    method: str
    url: str
    start: int = 0
    length: int = 0
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is kept of an answer: header fields by lower-case names, and a body that is short."""

    headers: Mapping[bytes, bytes]
    body: bytes


def send(connection: socket.socket, request: Request) -> Answer:
    """Make a request and read its answer to the end.

    Raises:
        RuntimeError: The server refuses it.
        ConnectionError: It ends the connection.
    """
    parts = urlsplit(request.url)
    last = request.start + request.length - 1
    fields = dict(request.headers)
    if request.length:
        fields["Range"] = f"bytes={request.start}-{last}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    head = (
        f"{request.method} {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"{lines}Content-Length: {len(request.body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + request.body)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _some(connection)
    text, _, early = answer.partition(b"\r\n\r\n")
    found = dict(line.lower().split(b": ", 1) for line in text.split(b"\r\n")[1:])
    body = b"" if request.method == "HEAD" else _body(connection, found, early)
    if not text.startswith(b"HTTP/1.1 2") or b"<Error>" in body:
        what = (text + b" " + body).decode(errors="replace")
        raise RuntimeError(f"{request.method} {parts.path}: {what}")
    return Answer(found, body)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(_BLOCK)
    if not data:
        raise ConnectionError("the server ended the connection")
    return data


def _body(connection: socket.socket, fields: Mapping[bytes, bytes], early: bytes) -> bytes:
    """The body of an answer, "" where it is long."""
    if b"transfer-encoding" in fields:
        while not early.endswith(b"0\r\n\r\n"):
            early += _some(connection)
        return early
    left = int(fields.get(b"content-length", b"0")) - len(early)
    if left + len(early) <= _BLOCK:
        while left > 0:
            early += (piece := _some(connection))
            left -= len(piece)
        return early
    buffer = memoryview(bytearray(MIB))
    while left > 0:
        got = connection.recv_into(buffer[: min(left, MIB)])
        if not got:
            raise ConnectionError("the server ended the connection")
        left -= got
    return b""


class Bare:
    """Makes requests to one bucket over a fixed number of connections.

    Args:
        bucket: With the address that is to be asked.
        connections: How many `connect` opens; each carries one request at a time.
    """

    def __init__(self, bucket: Witness, scale: Scale, connections: int) -> None:
        self.bucket, self.scale, self._number = bucket, scale, connections
        self._sockets: list[socket.socket] = []

    def connect(self) -> None:
        """Open all connections."""
        parts = urlsplit(self.bucket.endpoint.url)
        for _ in range(self._number):
            one = socket.create_connection((parts.hostname or "", parts.port or 80))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(one)

    def all(self, requests: Sequence[Request]) -> list[Answer]:
        """Make requests side by side, as many at once as there are connections."""
        answers: list[Answer | None] = [None] * len(requests)
        waiting = iter(enumerate(requests))
        if self._number == 1 or len(requests) == 1:
            _work(self._sockets[0], waiting, answers)
        else:
            with ThreadPoolExecutor(self._number) as pool:
                done = [pool.submit(_work, one, waiting, answers) for one in self._sockets]
            for each in done:
                each.result()
        return [answer for answer in answers if answer is not None]

    def one_by_one(self, requests: Sequence[Request]) -> list[Answer]:
        """Make requests one after the other."""
        return [send(self._sockets[0], request) for request in requests]

    def sign(
        self,
        operation: str,
        method: str,
        params: Mapping[str, object],
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Request:
        """A request; `headers` are those that the parameters stand for, and that are sent."""
        url = self.bucket.client.generate_presigned_url(
            operation, Params={"Bucket": self.bucket.name, **params}
        )
        return Request(method, url, body=body, headers=headers or {})

    def gets(self, key: str, size: int, length: int, count: int = 0) -> list[Request]:
        """GETs of ranges of an object: all of it in order, or `count` spread over it."""
        one = self.sign("get_object", "GET", {"Key": key})
        step = length if not count else (size - length) // count
        return [
            Request("GET", one.url, start, min(length, size - start))
            for start in range(0, step * count if count else size, step)
        ]

    def each(self, operation: str, method: str, keys: Sequence[str], body: bytes) -> list[Request]:
        """One request a key."""
        return [self.sign(operation, method, {"Key": key}, body=body) for key in keys]

    def listing(self, keys: Sequence[str]) -> list[Request]:
        """The pages of a listing whose keys are known."""
        after = [{"StartAfter": key} for key in keys[_KEYS - 1 : -1 : _KEYS]]
        return [self.sign("list_objects_v2", "GET", where) for where in ({}, *after)]

    def copy(self, source: str, key: str) -> Request:
        """A copy inside the bucket."""
        where = f"{self.bucket.name}/{source}"
        headers = {"x-amz-copy-source": where}
        return self.sign("copy_object", "PUT", {"Key": key, "CopySource": where}, headers=headers)

    def delete(self, keys: Sequence[str]) -> Request:
        """Deletes up to a thousand objects; the client has no signed URL for that."""
        objects = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys)
        body = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
        endpoint = self.bucket.endpoint
        request = AWSRequest("POST", url=f"{endpoint.url}/{self.bucket.name}?delete")
        keys_of = Credentials(endpoint.access_key, endpoint.secret_key)
        S3SigV4QueryAuth(keys_of, "s3", endpoint.region).add_auth(request)
        # stores insist on it, as the signature does not cover the body
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        return Request("POST", str(request.url), body=body, headers={"Content-MD5": digest})

    def multipart(self, key: str, parts: Sequence[bytes | tuple[int, int]]) -> None:
        """Replace an object by parts: bytes, or ranges ``[start, stop)`` of what it was.

        Only the parts go side by side. What belongs to the upload is signed while the clock runs,
        0.4 ms a request.
        """
        begin = self.sign("create_multipart_upload", "POST", {"Key": key})
        (begun,) = self.one_by_one([begin])
        found = re.search(rb"<UploadId>(.*?)</UploadId>", begun.body)
        assert found is not None, begun.body
        upload = {"Key": key, "UploadId": found[1].decode()}
        done = self.all([self._part(upload, at, part) for at, part in enumerate(parts, 1)])
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{_etag(answer)}</ETag></Part>"
            for number, answer in enumerate(done, 1)
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        self.one_by_one([self.sign("complete_multipart_upload", "POST", upload, body=body)])

    def _part(
        self, upload: Mapping[str, str], number: int, part: bytes | tuple[int, int]
    ) -> Request:
        where: dict[str, object] = {**upload, "PartNumber": number}
        if isinstance(part, bytes):
            return self.sign("upload_part", "PUT", where, body=part)
        source, span = f"{self.bucket.name}/{upload['Key']}", f"bytes={part[0]}-{part[1] - 1}"
        headers = {"x-amz-copy-source": source, "x-amz-copy-source-range": span}
        where |= {"CopySource": source, "CopySourceRange": span}
        return self.sign("upload_part_copy", "PUT", where, headers=headers)


def _etag(answer: Answer) -> str:
    """Of a part: in a header, or in the body where it was copied."""
    if b"etag" in answer.headers:
        return answer.headers[b"etag"].decode().strip('"')
    found = re.search(rb"<ETag>(?:&quot;|\")?([^<&\"]*)", answer.body)
    assert found is not None, answer.body
    return found[1].decode()


def _work(
    connection: socket.socket,
    waiting: Iterator[tuple[int, Request]],
    answers: list[Answer | None],
) -> None:
    for number, request in waiting:
        answers[number] = send(connection, request)
