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


def careless(proxy: Proxy) -> AbstractContextManager[Fault]:
    """All conditions of PutObject are refused."""

    def has_condition(request: Request) -> bool:
        return not request.headers.keys().isdisjoint({"if-match", "if-none-match"})

    return proxy.fault("PutObject", when=has_condition, status=501, code="NotImplemented")
