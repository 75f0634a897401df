"""What SeaweedFS 4.48 does otherwise, before a server that does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.http import Request
from tests.harness.proxy import Fault, Proxy


@contextmanager
def seaweedfs(proxy: Proxy) -> Iterator[Fault]:
    """Copies no object whose key ends with a slash, and takes any directory for such an object.

    Every directory that somebody wants to make during the block has an entry already.
    """

    def is_of_marker(request: Request) -> bool:
        return request.headers.get("x-amz-copy-source", "").endswith("/")

    def is_new_marker(request: Request) -> bool:
        return request.key.endswith("/") and "if-none-match" in request.headers

    taken = proxy.fault("PutObject", when=is_new_marker, status=412, code="PreconditionFailed")
    copied = proxy.fault("CopyObject", when=is_of_marker, status=404, code="NoSuchKey")
    with taken, copied as fault:
        yield fault
