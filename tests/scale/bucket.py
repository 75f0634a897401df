"""The bucket that all mounts share: it counts, and turns away what is too much in one second."""

from __future__ import annotations

from collections import Counter

import trio

from bucketfs.errors import StoreError
from tests.harness.memory import Fault, MemoryStore

#: Seconds from a request to its answer.
ROUND_TRIP = 0.02

#: How a request is charged and limited, by its operation; DELETE is free, and counts as a write.
KIND = {
    "ListObjectsV2": "LIST",
    "HeadObject": "HEAD",
    "GetObject": "GET",
    "PutObject": "PUT",
    "CopyObject": "PUT",
    "DeleteObject": "DELETE",
    "DeleteObjects": "DELETE",
    "CreateMultipartUpload": "PUT",
    "UploadPart": "PUT",
    "UploadPartCopy": "PUT",
    "CompleteMultipartUpload": "PUT",
}


class CountingBucket(MemoryStore):
    """The objects.

    Attributes:
        limit: Requests that read which one second may have; others are answered 503. 0: no limit.
        seconds: Requests since `counted`, by second and kind.
        refused: How many were turned away.
        total: Requests since `counted`, by kind.
    """

    def __init__(self) -> None:
        super().__init__(latency=ROUND_TRIP, fault=self._arrives)
        self.limit = 0
        self.seconds: dict[int, Counter[str]] = {}
        self.refused = 0
        self.total: Counter[str] = Counter()

    def counted(self) -> None:
        """Count from now on."""
        self.seconds.clear()
        self.total.clear()
        self.refused = 0

    def busiest(self, *kinds: str) -> int:
        """Most requests of these kinds in one second."""
        return max((sum(s[kind] for kind in kinds) for s in self.seconds.values()), default=0)

    def _arrives(self, operation: str, key: str, _count: int) -> Fault | None:
        kind = KIND[operation]
        second = self.seconds.setdefault(int(trio.current_time()), Counter())
        second[kind] += 1
        self.total[kind] += 1
        if not self.limit or second["LIST"] + second["HEAD"] + second["GET"] <= self.limit:
            return None
        self.refused += 1
        return Fault(StoreError("SlowDown", status=503, operation=operation, key=key))
