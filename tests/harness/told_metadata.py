"""Listings that tell user metadata and nothing else, as those of Tigris and of Yandex do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape, unescape

from tests.harness.http import Request
from tests.harness.proxy import Fault, Proxy

#: Hosts by which bucketfs knows them; mount through the proxy as ``http_proxy``.
TIGRIS = "http://fly.storage.tigris.dev"
YANDEX = "http://storage.yandexcloud.net"


@contextmanager
def tigris(proxy: Proxy, client: Any, bucket: str) -> Iterator[Fault]:
    """``X-Tigris-List-Metadata`` brings user metadata."""

    def is_asked(request: Request) -> bool:
        is_listing = request.operation == "ListObjectsV2"
        return is_listing and request.headers.get("x-tigris-list-metadata") == "true"

    with proxy.fault("", when=is_asked, rewrite_answer=_telling(client, bucket)) as fault:
        yield fault


@contextmanager
def yandex(proxy: Proxy, client: Any, bucket: str) -> Iterator[Fault]:
    """``list-type=ext-v1`` brings user metadata, and is version 2 in all else."""
    with proxy.fault(
        "",
        when=is_extended,
        ask=("list-type=ext-v1", "list-type=2"),
        rewrite_answer=_telling(client, bucket),
    ) as fault:
        yield fault


def is_extended(request: Request) -> bool:
    """Whether a request asks for a listing with metadata in Yandex's way."""
    return request.query.get("list-type") == "ext-v1"


def _telling(client: Any, bucket: str) -> Callable[[bytes], bytes]:
    def told(found: re.Match[str]) -> str:
        key = unquote(unescape(found[1]))
        metadata = client.head_object(Bucket=bucket, Key=key)["Metadata"]
        return found[0] + "".join(
            f"<Metadata><Name>{escape(name)}</Name><Value>{escape(value)}</Value></Metadata>"
            for name, value in metadata.items()
        )

    return lambda body: re.sub("<Key>(.*?)</Key>", told, body.decode()).encode()
