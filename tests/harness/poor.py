"""Endpoints that can do less than S3: what they refuse, ignore or lose, in front of one that can.

What they lose is taken out of requests on their way, which breaks signatures: before moto alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from tests.harness.http import Request
from tests.harness.proxy import Fault, Proxy

_CONDITIONS = ("if-match", "if-none-match", "x-amz-copy-source-if-match")


@contextmanager
def refusing(proxy: Proxy, *operations: str, status: int = 501, code: str = "") -> Iterator[None]:
    """Operations are not implemented."""
    with ExitStack() as stack:
        for operation in operations:
            told = code or "NotImplemented"
            stack.enter_context(proxy.fault(operation, status=status, code=told))
        yield


def without(*headers: str) -> Callable[[bytes], bytes]:
    """A request without the headers whose names begin like this."""

    def rewrite(raw: bytes) -> bytes:
        first, *lines = raw.split(b"\r\n")
        left_out = tuple(name.encode() for name in headers)
        kept = [line for line in lines if not line.lower().startswith(left_out)]
        return b"\r\n".join([first, *kept])

    return rewrite


def forgetful(proxy: Proxy) -> AbstractContextManager[Fault]:
    """User metadata is not kept."""
    return proxy.fault("", rewrite=without("x-amz-meta-"), when=_is_put)


def _is_put(request: Request) -> bool:
    return request.method in ("PUT", "POST")


def trimming(proxy: Proxy) -> AbstractContextManager[Fault]:
    """Keys lose the slash that they end in: ``PUT d/`` stores ``d``."""

    def trimmed(raw: bytes) -> bytes:
        return re.sub(rb"^(\S+ [^ ?]+)/((?:\?\S*)? HTTP)", rb"\1\2", raw, count=1)

    return proxy.fault("", rewrite=trimmed, when=_of_a_marker)


def _of_a_marker(request: Request) -> bool:
    return request.key.endswith("/")


def blind(proxy: Proxy) -> AbstractContextManager[Fault]:
    """Conditions are ignored."""
    return proxy.fault("", rewrite=without(*_CONDITIONS), when=_is_conditional)


def _is_conditional(request: Request) -> bool:
    return any(name in request.headers for name in _CONDITIONS)
