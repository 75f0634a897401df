"""What SeaweedFS 4.48 does otherwise, before a server that does not."""

from __future__ import annotations

from contextlib import AbstractContextManager

from tests.harness.http import Request
from tests.harness.proxy import Fault, Proxy


def seaweedfs(proxy: Proxy) -> AbstractContextManager[Fault]:
    """Copies no object whose key ends with a slash: it says that there is none."""

    def is_of_marker(request: Request) -> bool:
        return request.headers.get("x-amz-copy-source", "").endswith("/")

    return proxy.fault("CopyObject", when=is_of_marker, status=404, code="NoSuchKey")
