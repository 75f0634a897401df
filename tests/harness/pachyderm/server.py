"""The HTTP of the gateway."""

from __future__ import annotations

import base64
import binascii
import hashlib
import posixpath
import re
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.harness.pachyderm.repositories import Branch, File, Gateway, S3Error
from tests.harness.pachyderm.signing import refusal

MIB = 1 << 20
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_BUCKET = re.compile(r"[a-zA-Z0-9\-_.]{1,255}")
_UNKNOWN = (
    "accelerate", "acl", "analytics", "cors", "encryption", "inventory", "lifecycle", "logging",
    "metrics", "notification", "object-lock", "policy", "replication", "requestPayment", "tagging",
    "website", "legal-hold", "retention", "torrent", "restore", "select",
)  # fmt: skip
_SPECIAL = ("delete", "uploads", "uploadId", "versioning", "versions", "location")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server
    query: dict[str, str]
    sent: dict[str, str]
    bucket: str
    key: str
    body: bytes

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _xml(self, name: str, inner: str, status: int = 200, **headers: str) -> None:
        space = "" if name == "Error" else f' xmlns="{_NAMESPACE}"'
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}{space}>{inner}</{name}>'
        self._answer(status, text.encode(), Content_Type="application/xml", **headers)

    def _serve(self) -> None:
        try:
            self._take()
        except ConnectionError:
            self.close_connection = True  # the client has given up

    def _take(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.sent = {name.lower(): value for name, value in self.headers.items()}
        self.body = self.rfile.read(int(self.sent.get("content-length") or 0))
        gateway = self.server.gateway
        try:
            clean = posixpath.normpath("/" + path.lstrip("/")) + (
                "/" if path[1:].endswith("/") else ""
            )
            if clean != path:
                self._answer(301, Location=clean)
                return
            if denied := refusal(self.command, path, self.query, self.sent, gateway.token):
                raise S3Error(*denied)
            self._check_body()
            self.bucket, _, self.key = path[1:].partition("/")
            with gateway.lock:
                self._route(gateway)
        except S3Error as exc:
            inner = f"<Code>{exc.code}</Code><Message>{escape(exc.message)}</Message>"
            self._xml("Error", inner, exc.status)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - what the base class looks for

    def _check_body(self) -> None:
        length = len(self.body)
        if self.server.gateway.major == 1 and length > 128 * MIB:
            raise S3Error(400, "EntityTooLarge")
        if named := self.sent.get("content-md5"):
            try:
                right = base64.b64decode(named)
            except binascii.Error:
                raise S3Error(400, "InvalidDigest") from None
            if right != hashlib.md5(self.body, usedforsecurity=False).digest():
                raise S3Error(400, "BadDigest")

    def _route(self, gateway: Gateway) -> None:
        if self.bucket and not _BUCKET.fullmatch(self.bucket):
            raise S3Error(400, "InvalidBucketName")
        if any(name in self.query for name in _UNKNOWN):
            raise S3Error(501, "NotImplemented")
        level = "Object" if self.key else "Bucket" if self.bucket else "Service"
        special = next((name for name in _SPECIAL if name in self.query), "")
        if (
            special == ""
            and self.command == "PUT"
            and "x-amz-copy-source" in self.sent
            and self.key
        ):
            special = "copy"
        asked = f"{self.command} {level} {special}".strip()
        gateway.requests[asked] += 1
        action = _ACTIONS.get(asked)
        if action is None:
            raise S3Error(501 if level == "Bucket" else 405, "NotImplemented")
        action(self, gateway)

    def list_buckets(self, gateway: Gateway) -> None:
        suffix = ".default" if gateway.major > 1 else ""
        names = "".join(
            f"<Bucket><Name>{name}{suffix}</Name><CreationDate>2020-01-01T00:00:00Z</CreationDate></Bucket>"
            for name in gateway.branches
        )
        self._xml("ListAllMyBucketsResult", f"<Buckets>{names}</Buckets>")

    def location(self, gateway: Gateway) -> None:
        gateway.branch(gateway.place(self.bucket))
        self._xml("LocationConstraint", "PACHYDERM")

    def versioning(self, gateway: Gateway) -> None:
        gateway.branch(gateway.place(self.bucket))
        self._xml("VersioningConfiguration", "<Status>Enabled</Status>")

    def make_bucket(self, gateway: Gateway) -> None:
        place = gateway.place(self.bucket)
        if place.name in gateway.branches:
            raise S3Error(409, "BucketAlreadyOwnedByYou")
        gateway.branches[place.name] = Branch()
        self._answer(200)

    def remove_bucket(self, gateway: Gateway) -> None:
        place = gateway.place(self.bucket)
        if gateway.branch(place).files:
            raise S3Error(409, "BucketNotEmpty")
        del gateway.branches[place.name]
        self._answer(204)

    def list_objects(self, gateway: Gateway) -> None:
        place = gateway.place(self.bucket)
        prefix = self.query.get("prefix", "").removeprefix("/")
        marker, delimiter = self.query.get("marker", ""), self.query.get("delimiter", "")
        most = int(self.query.get("max-keys") or 1000)
        if delimiter not in ("", "/"):
            raise S3Error(400, "InvalidDelimiter")
        files = gateway.files(place) if gateway.branch(place).readable else {}
        names = dict.fromkeys(
            _entries(sorted(files, key=gateway.place_in_order), prefix, delimiter)
        )
        # 1.x compares a directory without its slash
        bare = "/" if gateway.major == 1 else ""
        left = [name for name in names if (name.rstrip(bare) if bare else name) > marker]
        page = left[:most]
        inner = [f"<Contents>{_entry(n, files[n])}</Contents>" for n in page if n in files]
        inner += [
            f"<CommonPrefixes><Prefix>{escape(n)}</Prefix></CommonPrefixes>"
            for n in page
            if n not in files
        ]
        cut = 0 < most < len(left)
        inner += [f"<IsTruncated>{str(cut).lower()}</IsTruncated><Name>{self.bucket}</Name>"]
        inner += [f"<Marker>{escape(marker)}</Marker><MaxKeys>{most}</MaxKeys>"]
        inner += [f"<NextMarker>{escape(max(page))}</NextMarker>"] if cut else []
        inner += [f"<Prefix>{escape(self.query.get('prefix', ''))}</Prefix>"]
        self._xml("ListBucketResult", "".join(inner))

    def get_object(self, gateway: Gateway) -> None:
        place = gateway.place(self.bucket)
        file, version = gateway.find(place, self.key, self.query.get("versionId", ""))
        headers = {"ETag": f'"{file.etag}"', **({"x_amz_version_id": version} if version else {})}
        headers |= {
            "Last_Modified": formatdate(file.modified, usegmt=True),
            "Accept_Ranges": "bytes",
        }
        wanted = self.sent.get("if-match", "*").strip('"')
        if wanted not in ("*", file.etag):
            self._answer(412, b"", **headers)
        elif self.sent.get("if-none-match", "").strip('"') in ("*", file.etag):
            self._answer(304, b"", **headers)
        else:
            self._content(file.body, headers)

    def _content(self, body: bytes, headers: dict[str, str]) -> None:
        size, kind = len(body), {"Content_Type": "application/octet-stream"}
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.sent.get("range", ""))
        if found is None or not size:
            self._answer(200, body, **headers, **kind, Content_Length=str(size))
            return
        start = int(found[1]) if found[1] else max(0, size - int(found[2]))
        stop = min(size, int(found[2]) + 1) if found[1] and found[2] else size
        if start >= size:
            self._answer(
                416,
                b"invalid range: failed to overlap\n",
                **headers,
                Content_Range=f"bytes */{size}",
            )
            return
        span = f"bytes {start}-{stop - 1}/{size}"
        length = str(stop - start)
        self._answer(
            206, body[start:stop], **headers, **kind, Content_Range=span, Content_Length=length
        )

    def put_object(self, gateway: Gateway) -> None:
        file = gateway.file(self.body)
        version = gateway.commit(gateway.place(self.bucket), "PUT", self.key, file)
        self._answer(200, ETag=f'"{file.etag}"', x_amz_version_id=version)

    def copy_object(self, gateway: Gateway) -> None:
        source = urlsplit(self.sent["x-amz-copy-source"])
        bucket, _, key = unquote(source.path).removeprefix("/").partition("/")
        version = dict(parse_qsl(source.query)).get("versionId", "")
        if (bucket, key, version) == (self.bucket, self.key, ""):
            raise S3Error(400, "InvalidRequest", "source and destination are the same")
        file, _ = gateway.find(gateway.place(bucket), key, version)
        if self.sent.get("x-amz-copy-source-if-match", "*") != "*":
            raise S3Error(412, "PreconditionFailed")
        gateway.commit(gateway.place(self.bucket), "COPY", self.key, gateway.file(file.body))
        # no version: the gateway names the source's, which is none
        self._xml(
            "CopyObjectResult",
            f"<LastModified>{_stamp(file.modified)}</LastModified><ETag>{file.etag}</ETag>",
        )

    def delete_object(self, gateway: Gateway) -> None:
        if self.query.get("versionId"):
            raise S3Error(501, "NotImplemented")
        gateway.commit(gateway.place(self.bucket), "DELETE", self.key, None)
        self._answer(204)

    def delete_objects(self, gateway: Gateway) -> None:
        stayed = ""
        for node in ET.fromstring(self.body).iter(f"{{{_NAMESPACE}}}Object"):
            key = node.findtext(f"{{{_NAMESPACE}}}Key", "")
            try:
                gateway.commit(gateway.place(self.bucket), "DELETE", key, None)
            except S3Error as exc:
                stayed += f"<Error><Key>{escape(key)}</Key><Code>{exc.code}</Code></Error>"
        self._xml("DeleteResult", stayed)

    def list_uploads(self, gateway: Gateway) -> None:
        inner = "".join(
            f"<Upload><Key>{escape(key)}</Key><UploadId>{number}</UploadId><Initiated>{_stamp(time.time())}</Initiated></Upload>"
            for number, (key, _) in gateway.uploads.items()
        )
        self._xml("ListMultipartUploadsResult", f"<IsTruncated>false</IsTruncated>{inner}")

    def begin(self, gateway: Gateway) -> None:
        if not gateway.branch(gateway.place(self.bucket)).writable:
            raise S3Error(501, "NotImplemented")
        number = gateway.fresh()
        gateway.uploads[number] = (self.key, {})
        gateway.staged += 1
        self._xml("InitiateMultipartUploadResult", f"<UploadId>{number}</UploadId>")

    def _upload(self, gateway: Gateway) -> dict[int, File]:
        try:
            return gateway.uploads[self.query["uploadId"]][1]
        except KeyError:
            raise S3Error(404, "NoSuchUpload") from None

    def put_part(self, gateway: Gateway) -> None:
        file = gateway.file(self.body)  # what it should be copied from is not looked at
        self._upload(gateway)[int(self.query["partNumber"])] = file
        gateway.staged += 1
        self._answer(200, ETag=f'"{file.etag}"')

    def complete(self, gateway: Gateway) -> None:
        parts = self._upload(gateway)
        named = ET.fromstring(self.body).iter(f"{{{_NAMESPACE}}}PartNumber")
        numbers = [int(node.text or 0) for node in named]
        if any(number not in parts for number in numbers):
            raise S3Error(400, "InvalidPart")
        if any(len(parts[number].body) < 5 * MIB for number in numbers[:-1]):
            raise S3Error(400, "EntityTooSmall")
        file = gateway.file(b"".join(parts[number].body for number in numbers))
        version = gateway.commit(gateway.place(self.bucket), "COMPLETE", self.key, file)
        del gateway.uploads[self.query["uploadId"]]
        gateway.staged += len(numbers) + 1
        inner = f'<Location>PACHYDERM</Location><ETag>"{file.etag}"</ETag>'
        self._xml("CompleteMultipartUploadResult", inner, x_amz_version_id=version)

    def abort(self, gateway: Gateway) -> None:
        self._upload(gateway)
        del gateway.uploads[self.query["uploadId"]]
        gateway.staged += 1
        self._answer(204)


_ACTIONS: dict[str, Any] = {
    "GET Service": Handler.list_buckets,
    "GET Bucket": Handler.list_objects,
    "HEAD Bucket": Handler.list_objects,
    "GET Bucket location": Handler.location,
    "GET Bucket versioning": Handler.versioning,
    "GET Bucket uploads": Handler.list_uploads,
    "PUT Bucket": Handler.make_bucket,
    "DELETE Bucket": Handler.remove_bucket,
    "POST Bucket delete": Handler.delete_objects,
    "GET Object": Handler.get_object,
    "HEAD Object": Handler.get_object,
    "PUT Object": Handler.put_object,
    "PUT Object copy": Handler.copy_object,
    "DELETE Object": Handler.delete_object,
    "POST Object uploads": Handler.begin,
    "PUT Object uploadId": Handler.put_part,
    "POST Object uploadId": Handler.complete,
    "DELETE Object uploadId": Handler.abort,
}


class Server(ThreadingHTTPServer):
    """Has one gateway."""

    daemon_threads = True
    disable_nagle_algorithm = True

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.gateway = gateway


@contextmanager
def pachyderm(major: int, *buckets: str, token: str | None = None) -> Iterator[Gateway]:
    """A gateway with these buckets for the length of the block."""
    gateway = Gateway(major, token)
    gateway.branches.update((name, Branch()) for name in buckets)
    server = Server(gateway)
    gateway.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, name="pachyderm", daemon=True)
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _entries(keys: list[str], prefix: str, delimiter: str) -> Iterator[str]:
    """What a listing shows of sorted keys."""
    for key in keys:
        if key.startswith(prefix):
            head, slash, _ = key[len(prefix) :].partition(delimiter or "/")
            yield prefix + head + slash if delimiter and slash else key


def _entry(key: str, file: File) -> str:
    return (
        f"<Key>{escape(key)}</Key><LastModified>{_stamp(file.modified)}</LastModified>"
        f'<ETag>"{file.etag}"</ETag><Size>{len(file.body)}</Size>'
        "<StorageClass>STANDARD</StorageClass>"
    )


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
