"""Counts what is sent: requests, failures, bytes and seconds by S3 operation; logs each request."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bucketfs import clock
from bucketfs.errors import NotFound, PreconditionFailed, StoreError
from bucketfs.store.base import ObjectInfo, Sink, Store, ignored
from bucketfs.store.layers.wrapper import Call, StoreWrapper

T = TypeVar("T")

_log = logging.getLogger("bucketfs.store.layers.trace")


@dataclass(slots=True)
class Tally:
    """Sums over the requests of one operation.

    Attributes:
        requests: How many were sent, each attempt for itself.
        failures: How many of them ended in an error; that something is not there, or is not as
            asked, is an answer.
        repeated: How many of those were sent again.
        sent / received: Bytes of bodies.
        seconds: Time they took together; of HEADs that one task sent, until the last was answered.
    """

    requests: int = 0
    failures: int = 0
    repeated: int = 0
    sent: int = 0
    received: int = 0
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Count what another one has counted."""
        self.requests += other.requests
        self.failures += other.failures
        self.repeated += other.repeated
        self.sent += other.sent
        self.received += other.received
        self.seconds += other.seconds


class TraceStore(StoreWrapper):
    """Keeps a `Tally` by operation name. Sits right above the store that sends."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._tallies: defaultdict[str, Tally] = defaultdict(Tally)

    @property
    def tallies(self) -> Mapping[str, Tally]:
        return self._tallies

    def repeated(self, call: Call) -> None:
        """A failed request is about to be sent again."""
        self._tallies[call.operation].repeated += 1

    async def heads(
        self,
        keys: Sequence[str],
        told: Callable[[ObjectInfo], None],
        failed: Callable[[StoreError], None] = ignored,
    ) -> None:
        tally = self._tallies["HeadObject"]

        def take(info: ObjectInfo) -> None:
            tally.requests += 1
            told(info)

        def note(exc: StoreError) -> None:
            tally.requests += 1
            tally.failures += not isinstance(exc, NotFound | PreconditionFailed)
            _log.debug("HeadObject %r, one of many: %s", exc.key, exc.code)
            failed(exc)

        began = clock.monotonic()
        try:
            await super().heads(keys, take, note)
        finally:
            took = clock.monotonic() - began
            tally.seconds += took
            _log.debug("%d times HeadObject: %.1f ms", len(keys), took * 1e3)

    async def get(
        self,
        key: str,
        sink: Sink,
        *,
        start: int = 0,
        stop: int | None = None,
        if_match: str = "",
        size: int | None = None,
    ) -> ObjectInfo:
        tally = self._tallies["GetObject"]

        def count(piece: bytes | memoryview) -> None:
            tally.received += len(piece)
            sink(piece)

        return await super().get(key, count, start=start, stop=stop, if_match=if_match, size=size)

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        tally = self._tallies[call.operation]
        tally.requests += 1
        began = clock.monotonic()
        outcome = "cancelled"
        try:
            result = await send()
            outcome = "ok"
            if call.operation in ("PutObject", "UploadPart"):
                tally.sent += call.size
            return result
        except StoreError as exc:
            tally.failures += not isinstance(exc, NotFound | PreconditionFailed)
            outcome = exc.code
            raise
        finally:
            took = clock.monotonic() - began
            tally.seconds += took
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("%s %r: %s, %.1f ms", call.operation, call.key, outcome, took * 1e3)
