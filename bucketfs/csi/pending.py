"""One call at a time on one volume or path: orchestrators repeat calls that take long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from grpc import StatusCode

from bucketfs.csi.refused import Refused


class Pending:
    """What is worked on."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Keep others away from `name`. Raises Refused if somebody works on it already."""
        with self._lock:
            if name in self._names:
                raise Refused(StatusCode.ABORTED, f"{name}: an earlier call is still under way")
            self._names.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._names.discard(name)
