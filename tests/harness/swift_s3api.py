"""What OpenStack Swift's s3api does otherwise, before a server that does not."""

from __future__ import annotations

from contextlib import AbstractContextManager

from tests.harness.http import Request
from tests.harness.proxy import Fault, Proxy


def swift(proxy: Proxy) -> AbstractContextManager[Fault]:
    """Of an object of parts, the ETag of the list of them is compared: no condition is true."""

    def has_condition(request: Request) -> bool:
        return "x-amz-copy-source-if-match" in request.headers

    return proxy.fault("", when=has_condition, status=412, code="PreconditionFailed")
