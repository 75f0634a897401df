"""What MinIO does otherwise, before a server that does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape, unescape

from tests.harness.http import Request
from tests.harness.proxy import Fault, Proxy


@contextmanager
def minio(proxy: Proxy) -> Iterator[Fault]:
    """An upload that was begun with a checksum wants one of each part, and no copy can bring it."""
    summed: dict[str, bool] = {}

    def lacks_sum(request: Request) -> bool:
        if request.operation == "CreateMultipartUpload":
            summed[request.key] = "x-amz-checksum-algorithm" in request.headers
        is_part = request.operation in ("UploadPart", "UploadPartCopy")
        return (
            is_part
            and summed[request.key]
            and not any(name.startswith("x-amz-checksum-") for name in request.headers)
        )

    with proxy.fault("", when=lacks_sum, status=400, code="InvalidArgument") as fault:
        yield fault


@contextmanager
def listed_headers(proxy: Proxy, client: Any, bucket: str) -> Iterator[Fault]:
    """``ListObjectsV2`` with ``metadata=true`` brings what was stored with each object.

    As minio/minio, cmd/api-response.go writes it: an element for each header, and an ``expires``
    also where there is none.
    """

    def stored(key: str) -> str:
        head = client.head_object(Bucket=bucket, Key=key)
        said = {f"X-Amz-Meta-{name.title()}": value for name, value in head["Metadata"].items()}
        said["content-type"] = head.get("ContentType", "binary/octet-stream")
        for name in ("CacheControl", "ContentEncoding"):
            if name in head:
                said[re.sub("(?<=[a-z])(?=[A-Z])", "-", name)] = head[name]
        said["expires"] = "Mon, 01 Jan 0001 00:00:00 GMT"
        elements = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in said.items())
        return f"<UserMetadata>{elements}</UserMetadata><Internal><K>1</K><M>0</M></Internal>"

    def rewrite(body: bytes) -> bytes:
        def add(found: re.Match[str]) -> str:
            return found[0] + stored(unquote(unescape(found[1])))

        text = re.sub("<Key>(.*?)</Key>", add, body.decode())
        return text.encode()

    def is_asked(request: Request) -> bool:
        return request.operation == "ListObjectsV2" and request.query.get("metadata") == "true"

    with proxy.fault("", when=is_asked, rewrite_answer=rewrite) as fault:
        yield fault
