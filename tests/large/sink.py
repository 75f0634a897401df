"""An S3 server that keeps what objects consist of, and not a byte of them.

It lacks UploadPartCopy, as some do: nothing about a file larger than the cache may need that.

``python -m tests.large.sink PORT_FILE`` serves one bucket from a process of its own: whatever is
sent must be blocks of `tests.large.pattern`, of which it keeps the numbers, or small. It checks
each block it receives, makes the bytes it sends, and answers ``GET /sink`` with a JSON account of
its objects, unfinished uploads, part sizes and requests. ``PUT /sink?key=K&blocks=N`` makes an
object of the first N blocks.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.large.pattern import BLOCK, Blocks, Run, cut, joined, number

PR_SET_PDEATHSIG = 1
#: Bodies that are not blocks may have so many bytes.
SMALL = 1 << 20
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Thing:
    """An object or a part: blocks, or a few bytes."""

    runs: list[Run] = field(default_factory=list)
    data: bytes = b""
    etag: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(count for _, count in self.runs) * BLOCK + len(self.data)


class Bucket:
    """What all connections share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, Thing] = {}
        self.uploads: dict[str, tuple[str, dict[str, str], dict[int, Thing]]] = {}
        self.completed: dict[str, list[int]] = {}
        self.requests: Counter[str] = Counter()
        self.problems: list[str] = []
        self.received = self.sent = self._serial = 0

    def tag(self) -> str:
        self._serial += 1
        return f"{self._serial:032x}"

    def account(self) -> str:
        """The state as JSON."""
        with self.lock:
            return json.dumps(
                {
                    "objects": {k: [t.size, joined(t.runs)] for k, t in self.objects.items()},
                    "uploads": [key for key, _, _ in self.uploads.values()],
                    "parts": self.completed,
                    "requests": self.requests,
                    "problems": self.problems,
                    "received": self.received,
                    "sent": self.sent,
                }
            )


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = 1 << 20
    wbufsize = 1 << 16
    bucket: Bucket

    def log_message(self, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def _serve(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        top, _, key = unquote(url.path).lstrip("/").partition("/")
        try:
            body = self._receive()
        except ValueError:
            self.bucket.problems.append(f"{self.command} {key}: a body that is not blocks")
            self._error(400, "InvalidRequest")
            self.close_connection = True
            return
        if top == "sink":
            self._control(query)
            return
        name = self._name(key, query)
        self.bucket.requests[name] += 1
        with self.bucket.lock:
            self.bucket.received += body.size
        getattr(self, f"_{name}")(key, query, body)

    def _name(self, key: str, query: dict[str, str]) -> str:
        copied = "x-amz-copy-source" in self.headers
        if not key:
            if self.command == "GET":
                return "uploads" if "uploads" in query else "list"
            return "delete_many" if "delete" in query else "head_bucket"
        if self.command == "PUT" and "uploadId" in query:
            return "copy_part" if copied else "part"
        if self.command == "POST":
            return "create" if "uploads" in query else "complete"
        if self.command == "DELETE":
            return "abort" if "uploadId" in query else "delete"
        return {"PUT": "copy" if copied else "put", "GET": "get", "HEAD": "get"}[self.command]

    def _receive(self) -> Thing:
        left = int(self.headers.get("content-length") or 0)
        if left % BLOCK or not left:
            if left > SMALL:
                raise ValueError
            return Thing(data=self.rfile.read(left))
        buffer = memoryview(bytearray(BLOCK))
        runs: list[Run] = []
        for _ in range(left // BLOCK):
            got = 0
            while got < BLOCK:
                step = self.rfile.readinto(buffer[got:])  # type: ignore[attr-defined]
                if not step:
                    raise ConnectionError
                got += step
            runs.append((number(buffer), 1))
        return Thing(joined(runs))

    def _control(self, query: dict[str, str]) -> None:
        if self.command == "PUT":
            thing = Thing([(0, int(query["blocks"]))], etag=self.bucket.tag())
            self.bucket.objects[query["key"]] = thing
        self._answer(200, self.bucket.account().encode())

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def _metadata(self) -> dict[str, str]:
        return {n: v for n, v in self.headers.items() if n.lower().startswith("x-amz-meta-")}

    def _refused(self, key: str) -> bool:
        found = self.bucket.objects.get(key)
        match = (self.headers.get("if-match") or "").strip('"')
        free = self.headers.get("if-none-match") == "*"
        if (free and found) or (match and (found is None or match != found.etag)):
            self._error(412, "PreconditionFailed")
            return True
        return False

    def _keep(self, key: str, thing: Thing) -> Thing:
        thing.etag = self.bucket.tag()
        self.bucket.objects[key] = thing
        return thing

    def _source(self) -> Thing | None:
        source = unquote(self.headers["x-amz-copy-source"]).lstrip("/").partition("/")[2]
        thing = self.bucket.objects.get(source)
        if thing is None:
            self._error(404, "NoSuchKey")
        return thing

    def _copied(self, what: str, etag: str) -> None:
        self._answer(
            200,
            f"<{what}><LastModified>{DATE}</LastModified><ETag>{etag}</ETag></{what}>".encode(),
        )

    # the operations, by the names of `_name`

    def _put(self, key: str, _query: dict[str, str], body: Thing) -> None:
        if not self._refused(key):
            body.metadata = self._metadata()
            self._answer(200, headers={"ETag": self._keep(key, body).etag})

    def _copy(self, key: str, _query: dict[str, str], _body: Thing) -> None:
        if (source := self._source()) is not None:
            replaced = self.headers.get("x-amz-metadata-directive") == "REPLACE"
            kept = self._metadata() if replaced else source.metadata
            copy = self._keep(key, Thing(source.runs, source.data, metadata=kept))
            self._copied("CopyObjectResult", copy.etag)

    def _get(self, key: str, _query: dict[str, str], _body: Thing) -> None:
        thing = self.bucket.objects.get(key)
        if thing is None:
            self._error(404, "NoSuchKey")
            return
        if self._refused(key):
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range") or "")
        start, stop = 0, thing.size
        if asked:
            start = int(asked[1])
            stop = min(stop, int(asked[2] or stop) + 1)
        self.send_response(206 if asked else 200)
        headers = {
            "Content-Length": str(stop - start),
            "ETag": f'"{thing.etag}"',
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
            **thing.metadata,
        }
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{thing.size}"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send(thing, start, stop)

    def _send(self, thing: Thing, start: int, stop: int) -> None:
        with self.bucket.lock:
            self.bucket.sent += stop - start
        self.wfile.write(thing.data[start:stop])
        if not thing.runs or start >= stop:
            return
        position = start - start % BLOCK
        blocks = Blocks()
        for first, count in cut(thing.runs, start // BLOCK, -(-stop // BLOCK)):
            for n in range(first, first + count):
                view = blocks.of(n)
                self.wfile.write(view[max(0, start - position) : min(BLOCK, stop - position)])
                position += BLOCK

    def _delete(self, key: str, _query: dict[str, str], _body: Thing) -> None:
        self.bucket.objects.pop(key, None)
        self._answer(204)

    def _delete_many(self, _key: str, _query: dict[str, str], body: Thing) -> None:
        for key in re.findall(rb"<Key>([^<]*)</Key>", body.data):
            self.bucket.objects.pop(key.decode(), None)
        self._answer(200, b"<DeleteResult></DeleteResult>")

    def _head_bucket(self, _key: str, _query: dict[str, str], _body: Thing) -> None:
        self._answer(200)

    def _list(self, _key: str, query: dict[str, str], _body: Thing) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        contents, prefixes = [], set()
        for key, thing in sorted(self.bucket.objects.copy().items()):
            if not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter or "\0")
            if found:
                prefixes.add(prefix + head + delimiter)
            else:
                contents.append(
                    f"<Contents><Key>{escape(key)}</Key><Size>{thing.size}</Size><ETag>"
                    f"{thing.etag}</ETag><LastModified>{DATE}</LastModified></Contents>"
                )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in prefixes
        )
        inside = f"<IsTruncated>false</IsTruncated>{''.join(contents)}{common}"
        self._answer(200, f"<ListBucketResult>{inside}</ListBucketResult>".encode())

    def _uploads(self, _key: str, _query: dict[str, str], _body: Thing) -> None:
        self._answer(200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>")

    def _create(self, key: str, _query: dict[str, str], _body: Thing) -> None:
        upload_id = self.bucket.tag()
        self.bucket.uploads[upload_id] = key, self._metadata(), {}
        inside = f"<UploadId>{upload_id}</UploadId>"
        result = f"<InitiateMultipartUploadResult>{inside}</InitiateMultipartUploadResult>"
        self._answer(200, result.encode())

    def _part(self, _key: str, query: dict[str, str], body: Thing) -> None:
        if (etag := self._store_part(query, body)) is not None:
            self._answer(200, headers={"ETag": etag})

    def _copy_part(self, _key: str, _query: dict[str, str], _body: Thing) -> None:
        self._error(501, "NotImplemented")

    def _store_part(self, query: dict[str, str], part: Thing) -> str | None:
        upload = self.bucket.uploads.get(query["uploadId"])
        if upload is None:
            self._error(404, "NoSuchUpload")
            return None
        part.etag = self.bucket.tag()
        upload[2][int(query["partNumber"])] = part
        return part.etag

    def _complete(self, key: str, query: dict[str, str], body: Thing) -> None:
        upload = self.bucket.uploads.get(query["uploadId"])
        if upload is None:
            self._error(404, "NoSuchUpload")
            return
        if self._refused(key):
            return
        numbers = [int(n) for n in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body.data)]
        _, metadata, parts = self.bucket.uploads.pop(query["uploadId"])
        chosen = [parts[n] for n in numbers]
        self.bucket.completed[key] = [part.size for part in chosen]
        runs = joined([run for part in chosen for run in part.runs])
        data = b"".join(part.data for part in chosen)
        whole = self._keep(key, Thing(runs, data, metadata=metadata))
        inside = f"<Key>{escape(key)}</Key><ETag>{whole.etag}</ETag>"
        result = f"<CompleteMultipartUploadResult>{inside}</CompleteMultipartUploadResult>"
        self._answer(200, result.encode())

    def _abort(self, _key: str, query: dict[str, str], _body: Thing) -> None:
        self.bucket.uploads.pop(query["uploadId"], None)
        self._answer(204)


def main(port_file: str) -> None:
    """Serve until killed, or until the parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    Handler.bucket = Bucket()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fresh = Path(port_file + ".new")
    fresh.write_text(str(server.server_address[1]))
    os.replace(fresh, port_file)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
