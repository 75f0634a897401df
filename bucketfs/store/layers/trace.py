"""Counts what is sent: requests, failures, bytes and seconds by S3 operation; logs each request."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from bucketfs import clock
from bucketfs.durations import duration_class, none_yet
from bucketfs.errors import NotFound, PreconditionFailed, StoreError
from bucketfs.store.base import Hear, ObjectInfo, Sink, VersionPage, ignored
from bucketfs.store.layers.wrapper import Call, StoreWrapper, VersionedStore, get_call

T = TypeVar("T")

_log = logging.getLogger("bucketfs.store.layers.trace")

#: Error codes told apart for one operation: servers make up their own, and might without end.
_MOST_CODES: Final = 32
_OTHER: Final = "other"


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
        codes: How many of the failures had which code.
        durations: How many requests took how long, by class (`bucketfs.durations`); HEADs that one
            task sent, counted from the beginning of all.
    """

    requests: int = 0
    failures: int = 0
    repeated: int = 0
    sent: int = 0
    received: int = 0
    seconds: float = 0.0
    codes: dict[str, int] = field(default_factory=dict)
    durations: list[int] = field(default_factory=none_yet)

    def ended(self, seconds: float) -> None:
        """A request has ended, in whatever way."""
        self.seconds += seconds
        self.durations[duration_class(seconds)] += 1

    def failed(self, code: str) -> None:
        """A request has failed."""
        self.failures += 1
        self._note_code(code, 1)

    def _note_code(self, code: str, times: int) -> None:
        known = code in self.codes or len(self.codes) < _MOST_CODES
        name = code if known else _OTHER
        self.codes[name] = self.codes.get(name, 0) + times

    def add(self, other: Tally) -> None:
        """Count what another one has counted."""
        self.requests += other.requests
        self.failures += other.failures
        for code, times in other.codes.items():
            self._note_code(code, times)
        self.durations = [a + b for a, b in zip(self.durations, other.durations, strict=True)]
        self.repeated += other.repeated
        self.sent += other.sent
        self.received += other.received
        self.seconds += other.seconds


class TraceStore(StoreWrapper):
    """Keeps a `Tally` by operation name. Sits right above the store that sends.

    Args:
        inner: That store, which need know of versions only where they are asked for.
    """

    def __init__(self, inner: VersionedStore) -> None:
        super().__init__(inner)
        self._bucket = inner
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

        def count() -> None:
            tally.requests += 1
            tally.durations[duration_class(clock.monotonic() - began)] += 1

        def take(info: ObjectInfo) -> None:
            count()
            told(info)

        def note(exc: StoreError) -> None:
            count()
            if not isinstance(exc, NotFound | PreconditionFailed):
                tally.failed(exc.code)
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
        version: str = "",
    ) -> ObjectInfo:
        tally = self._tallies["GetObject"]

        def count(piece: bytes | memoryview) -> None:
            tally.received += len(piece)
            sink(piece)

        if not version:
            return await super().get(
                key, count, start=start, stop=stop, if_match=if_match, size=size
            )
        return await self.around(
            get_call(key, start, stop),
            lambda: self._bucket.get(
                key, count, start=start, stop=stop, if_match=if_match, size=size, version=version
            ),
        )

    async def head(self, key: str, *, version: str = "") -> ObjectInfo:
        if not version:
            return await super().head(key)
        return await self.around(
            Call("HeadObject", key), lambda: self._bucket.head(key, version=version)
        )

    async def details(self, key: str, *, version: str = "") -> Mapping[str, str]:
        if not version:
            return await super().details(key)
        return await self.around(
            Call("HeadObject", key), lambda: self._bucket.details(key, version=version)
        )

    async def tags(self, key: str, *, version: str = "") -> Mapping[str, str]:
        if not version:
            return await super().tags(key)
        return await self.around(
            Call("GetObjectTagging", key), lambda: self._bucket.tags(key, version=version)
        )

    async def presigned_url(self, key: str, seconds: int, *, version: str = "") -> str:
        if not version:
            return await super().presigned_url(key, seconds)
        return await self._bucket.presigned_url(key, seconds, version=version)

    async def list_versions(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        markers: tuple[str, str] | None = None,
        limit: int = 1000,
    ) -> VersionPage:
        return await self.around(
            Call("ListObjectVersions", prefix),
            lambda: self._bucket.list_versions(
                prefix, delimiter=delimiter, markers=markers, limit=limit
            ),
        )

    async def keeps_versions(self) -> bool:
        return await self.around(Call("GetBucketVersioning", ""), self._bucket.keeps_versions)

    async def follow(self, prefix: str, hear: Hear) -> None:
        call = Call("ListenNotification", prefix)
        await self.around(call, lambda: super(TraceStore, self).follow(prefix, hear))

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
            if not isinstance(exc, NotFound | PreconditionFailed):
                tally.failed(exc.code)
            outcome = exc.code
            raise
        finally:
            took = clock.monotonic() - began
            tally.ended(took)
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("%s %r: %s, %.1f ms", call.operation, call.key, outcome, took * 1e3)
