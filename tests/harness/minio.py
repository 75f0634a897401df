"""What MinIO does otherwise, before a server that does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
