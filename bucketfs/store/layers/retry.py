"""Repeats requests that failed for a reason that passes, and finds out what a lost answer said.

Four rules. A request that may be repeated freely is, with growing, jittered pauses, until it
succeeds, fails for good, or attempts or time are used up. A GET goes on behind the last byte
delivered, pinned to the version it began with. A conditional PUT or a Complete whose answer was
lost may have happened: when the repetition is refused, a HEAD tells whether the object that stands
there is ours. Where the endpoint honours no condition, that is asked before the repetition. A
multipart upload whose beginning was answered into nowhere is thrown away.

What is repeated elsewhere, and why, is listed in ``docs/concurrency.md``.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from bucketfs import clock
from bucketfs.errors import (
    BrokenBody,
    Damaged,
    NoAnswer,
    NotFound,
    PreconditionFailed,
    StoreError,
    advice,
    is_denied,
)
from bucketfs.store.aws.sums import multipart_etag
from bucketfs.store.base import NO_CONDITIONS, Body, Headers, ObjectInfo, Sink, Store, ignored
from bucketfs.store.config import SLOW
from bucketfs.store.layers.limit import SMALL
from bucketfs.store.layers.outage import Outage
from bucketfs.store.layers.outcome import Condition, is_open, lost_uploads
from bucketfs.store.layers.wrapper import Call, StoreWrapper, get_call
from bucketfs.tasks import gather

T = TypeVar("T")

_log = logging.getLogger("bucketfs.store.layers.retry")

_TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT_CODES: Final = frozenset(
    {
        "BadDigest",  # so are bodies that were changed on their way
        "ConditionalRequestConflict",
        "InternalError",
        "InvalidDigest",  # Garage says this in the place of BadDigest
        "KMS.ThrottlingException",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
#: Answers to a HEAD have no code: 400 is what Amazon says to an expired token.
_REFUSED_KEYS: Final = frozenset(
    {"400", "403", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
)
#: Requests of `Store.check` at most: somebody waits for the mount, and wants to hear what is wrong.
_CHECKS: Final = 2
#: Seconds for finding out what became of a request, once it has been given up; a quarter of the
#: patience where that is less.
_LOOK: Final = 10.0
#: Objects that are looked at side by side before their deletion is repeated.
_LOOKS: Final = 64


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again.

    Attributes:
        attempts: Requests at most, the first included.
        seconds: No new attempt begins this long after the first.
        patience: Seconds after which a call is given up, whatever it is doing, except one that
            moves many bytes, or that the server works on for long: these are bounded by `seconds`
            and the transport's longest silence.
        first_pause / growth / longest_pause: Pauses in seconds grow geometrically. With the values
            given, five of them outlast a restart of a server or of a network interface.
    """

    attempts: int = 6
    seconds: float = 240.0
    patience: float = 300.0
    first_pause: float = 0.2
    growth: float = 3.0
    longest_pause: float = 20.0

    def pause(self, failures: int, luck: float, retry_after: float | None) -> float:
        """Seconds to wait after so many failures (from 1).

        `luck` in [0, 1) spreads clients that failed together over half of the pause. A server's
        Retry-After is a lower bound, and is itself bounded by `seconds`.
        """
        exponent = min(failures - 1, 64)
        pause = min(self.longest_pause, self.first_pause * self.growth**exponent)
        return max(pause * (0.5 + luck / 2), min(retry_after or 0.0, self.seconds))


def is_transient(exc: StoreError) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(exc, NoAnswer):
        return exc.code != "TlsFailed"
    if isinstance(exc, Damaged):
        # what stands there would be kept by our own condition; only who made it can replace it,
        # except for a part, whose number the next one takes
        return exc.operation == "UploadPart"
    return exc.status in _TRANSIENT_STATUS or exc.code in _TRANSIENT_CODES


class RetryStore(StoreWrapper):
    """Makes each call of the inner store until it holds.

    Args:
        policy: When to give up.
        outage: Told how each request ends; ends calls early that wait for a silent endpoint.
        renew: Asked when the server refuses the keys; whether there are others than those that
            were in use at the given time of the trio clock.
        on_retry: Told of each request before it is sent again.
        luck: Source of jitter, uniform in [0, 1).
    """

    def __init__(
        self,
        inner: Store,
        policy: RetryPolicy,
        *,
        outage: Outage | None = None,
        renew: Callable[[float], Awaitable[bool]] | None = None,
        on_retry: Callable[[Call], None] = lambda _: None,
        luck: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(inner)
        self._policy = policy
        self._outage = outage or Outage(policy.patience)
        self._renew = renew
        self._on_retry = on_retry
        self._luck = luck
        #: The uploads that were begun here and have not ended: what they are to carry, by id.
        self._uploads: dict[str, Headers] = {}

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        if self._outage.over:
            raise self._outage.failure(call)
        if call.size > SMALL or call.operation in SLOW:
            return await self._repeat(call, send)
        with self._outage.waiting():
            return await self._repeat(call, send)
        if self._outage.over:
            raise self._outage.failure(call)
        raise NoAnswer("ReadTimeout", operation=call.operation, key=call.key)

    async def _repeat(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        began = clock.monotonic()
        failures = 0
        renewed = False
        while True:
            sent = clock.monotonic()
            try:
                answer = await send()
                self._outage.heard()
                return answer
            except StoreError as exc:
                self._outage.failed(exc, sent)
                if not renewed and await self._has_new_keys(exc, sent):
                    renewed = True
                else:
                    failures += 1
                    await self._pause_or_raise(exc, call, failures, began)
            self._on_retry(call)

    async def _has_new_keys(self, exc: StoreError, sent: float) -> bool:
        return self._renew is not None and exc.code in _REFUSED_KEYS and await self._renew(sent)

    async def _pause_or_raise(
        self, exc: StoreError, call: Call, failures: int, began: float
    ) -> None:
        """Sleep until the next attempt, or raise `exc` when there is to be none."""
        if not is_transient(exc):
            raise exc
        pause = self._policy.pause(failures, self._luck(), exc.retry_after)
        over = clock.monotonic() - began + pause > self._policy.seconds
        attempts = self._policy.attempts
        if call.operation == "Check":
            attempts = min(attempts, _CHECKS)
        if over or failures >= attempts or self._outage.over:
            self._outage.gave_up(call)
            _log.info("giving up after %d attempts: %s; %s", failures, exc, advice(exc))
            raise exc
        _log.debug("%s; again in %.2f s", exc, pause)
        await trio.sleep(pause)

    async def heads(
        self,
        keys: Sequence[str],
        told: Callable[[ObjectInfo], None],
        failed: Callable[[StoreError], None] = ignored,
    ) -> None:
        """As that of `Store`: an answer that failed is asked for again by who needs it."""
        began = clock.monotonic()

        def take(info: ObjectInfo) -> None:
            self._outage.heard()
            told(info)

        def note(exc: StoreError) -> None:
            self._outage.failed(exc, began)
            failed(exc)

        if not self._outage.over:
            with self._outage.waiting():
                await self.inner.heads(keys, take, note)

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
        at = start
        pin, whole = if_match, size

        def count(piece: bytes | memoryview) -> None:
            nonlocal at
            sink(piece)
            at += len(piece)

        async def send() -> ObjectInfo:
            nonlocal pin, whole
            try:
                return await self.inner.get(
                    key, count, start=at, stop=stop, if_match=pin, size=whole
                )
            except BrokenBody as exc:
                pin = pin or exc.etag
                whole = exc.size if whole is None else whole
                # Nothing could tell whether the rest is of the same version, or there is none.
                if (at > start and not pin) or at in (stop, whole):
                    raise StoreError(
                        exc.code, operation="GetObject", key=key, message=exc.message
                    ) from exc
                raise

        return await self.around(get_call(key, start, stop), send)

    async def put(
        self,
        key: str,
        body: Body,
        headers: Headers,
        *,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        def send() -> Awaitable[ObjectInfo]:
            return self.inner.put(
                key, body, headers, if_match=if_match, if_none_match=if_none_match
            )

        async def is_ours(found: ObjectInfo) -> bool:
            digest = hashlib.md5(usedforsecurity=False)
            for piece in body.chunks():
                digest.update(piece)
            same = found.etag == digest.hexdigest()
            # the bytes of lock files and markers are alike, and those of a file that is written
            # anew may be the old ones: times of a nanosecond tell which this is
            alike = if_none_match or (same and if_match == found.etag)
            if alike and self._tells(headers):
                same = False
            # Encrypted objects have other ETags; then what we wrote about the object must do.
            return found.size == len(body) and (same or _same_metadata(found, headers))

        call = Call("PutObject", key, len(body))
        if not (if_match or if_none_match):
            return await self.around(call, send)
        condition = Condition("put", key, if_match, if_none_match)
        return await self._with_known_outcome(call, condition, send, is_ours)

    async def copy(
        self,
        source: str,
        target: str,
        *,
        size: int,
        headers: Headers | None = None,
        source_if_match: str = "",
        target_if_match: str = "",
        target_if_none_match: bool = False,
    ) -> ObjectInfo:
        def send() -> Awaitable[ObjectInfo]:
            return self.inner.copy(
                source,
                target,
                size=size,
                headers=headers,
                source_if_match=source_if_match,
                target_if_match=target_if_match,
                target_if_none_match=target_if_none_match,
            )

        async def is_ours(found: ObjectInfo) -> bool:
            stands = target_if_match != source_if_match and found.etag == target_if_match
            if found.size != size or stands:
                return False
            if headers is not None:
                return _same_metadata(found, headers)
            # it has taken the place of nothing, or of another version
            is_new = target_if_none_match or target_if_match not in ("", source_if_match)
            return is_new and (found.etag == source_if_match or await self._is_copy(found, source))

        # A copy onto itself may change the ETag, and so make its own repetition fail.
        condition = Condition("target", target, target_if_match, target_if_none_match)
        return await self._with_known_outcome(Call("CopyObject", target), condition, send, is_ours)

    async def delete(self, key: str, *, if_match: str = "") -> None:
        condition = Condition("delete", key, if_match, if_none_match=False)
        unknown: StoreError | None = None

        async def send() -> None:
            nonlocal unknown
            if unknown is not None and not await self._is_to_go(condition, unknown):
                return
            try:
                await self.inner.delete(key, if_match=if_match)
            except StoreError as exc:
                unknown = unknown or (exc if is_open(exc) else None)
                raise

        await self.around(Call("DeleteObject", key), send)

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        """As that of `Store`; keys that an answer names for a reason that passes are sent again."""
        left = keys
        stayed: dict[str, StoreError] = {}
        unknown: StoreError | None = None

        async def look_again(key: str, failure: StoreError) -> bool:
            condition = Condition("delete_many", key, if_match.get(key, ""), if_none_match=False)
            try:
                return await self._is_to_go(condition, failure)
            except PreconditionFailed as exc:
                stayed[key] = exc
                return False

        async def send() -> None:
            nonlocal left, unknown
            if unknown is not None:
                looks = [functools.partial(look_again, key, unknown) for key in left]
                to_go = await gather(looks, limit=_LOOKS)
                left = [key for key, goes in zip(left, to_go, strict=True) if goes]
                if not left:
                    return
            try:
                failed = await self.inner.delete_many(left, if_match=if_match)
            except StoreError as exc:
                unknown = unknown or (exc if is_open(exc) else None)
                raise
            stayed.update({key: exc for key, exc in failed.items() if not is_transient(exc)})
            passing = [key for key, exc in failed.items() if is_transient(exc)]
            if passing:
                left = passing
                raise failed[passing[0]]

        try:
            await self.around(Call("DeleteObjects", keys[0] if keys else ""), send)
        except StoreError as exc:
            if left is keys:
                raise
            stayed.update(dict.fromkeys(left, exc))
        return stayed

    async def create_upload(self, key: str, headers: Headers, *, copies: bool = False) -> str:
        began = clock.monotonic()
        lost = False

        async def send() -> str:
            nonlocal lost
            try:
                return await self.inner.create_upload(key, headers, copies=copies)
            except StoreError as exc:
                lost = lost or is_open(exc)
                raise

        upload_id = await self.around(Call("CreateMultipartUpload", key), send)
        self._uploads[upload_id] = headers
        if lost:
            await self._abort_lost(key, upload_id, clock.monotonic() - began)
        return upload_id

    async def _abort_lost(self, key: str, upload_id: str, seconds: float) -> None:
        """Throw away what attempts of the last `seconds` began, of whose ids nobody was told."""
        try:
            listed = await self.list_uploads(key)
            for lost in lost_uploads(listed, key, upload_id, self._uploads, seconds):
                await self.inner.abort(key, lost)
        except StoreError as exc:
            _log.warning("an upload whose beginning was not answered may stay behind: %s", exc)

    async def abort(self, key: str, upload_id: str) -> None:
        await super().abort(key, upload_id)
        self._uploads.pop(upload_id, None)

    async def complete(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        *,
        size: int,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        def send() -> Awaitable[ObjectInfo]:
            return self.inner.complete(
                key, upload_id, parts, size=size, if_match=if_match, if_none_match=if_none_match
            )

        async def is_ours(found: ObjectInfo) -> bool:
            if found.size != size:
                return False
            headers = self._uploads.get(upload_id, Headers())
            same = found.etag == multipart_etag([etag for _, etag in parts])
            if same and not (found.etag == if_match and self._tells(headers)):
                return True
            # Encrypted objects have other ETags; then what we wrote about the object must do. That
            # it is new, as long, and of as many parts says nothing: so is what another client made.
            return _same_metadata(found, headers)

        call = Call("CompleteMultipartUpload", key)
        condition = Condition("complete", key, if_match, if_none_match)
        info = await self._with_known_outcome(call, condition, send, is_ours)
        self._uploads.pop(upload_id, None)
        return info

    async def _with_known_outcome(
        self,
        call: Call,
        condition: Condition,
        send: Callable[[], Awaitable[ObjectInfo]],
        is_ours: Callable[[ObjectInfo], Awaitable[bool]],
    ) -> ObjectInfo:
        """Make a call that must not be reported as refused when its first try went through."""
        unknown: StoreError | None = None

        async def attempt() -> ObjectInfo:
            nonlocal unknown
            if unknown is not None and not condition.is_guarded(self.capabilities):
                found = await self._done_before(condition, unknown, is_ours)
                if found is not None:
                    return found
            try:
                return await send()
            except (NotFound, PreconditionFailed):
                if unknown is None:
                    raise
                found = await self._find(call.key, unknown)
                if found is not None and await is_ours(found):
                    return found
                raise
            except StoreError as exc:
                unknown = unknown or (exc if is_open(exc) else None)
                raise

        try:
            return await self.around(call, attempt)
        except StoreError as exc:
            # Ceph answers 500 for ever to the repetition of a Complete that went through.
            if is_transient(exc):
                found = await self._find(call.key, exc)
                if found is not None and await is_ours(found):
                    return found
            raise

    def _tells(self, headers: Headers) -> bool:
        """Whether an object that has these headers can be told by them from all others."""
        return bool(headers.metadata) and self.capabilities.user_metadata

    async def _is_copy(self, found: ObjectInfo, source: str) -> bool:
        """Whether an object has the bytes and the metadata of another one. Raises StoreError."""
        try:
            original = await self.head(source)
        except NotFound:
            return False
        # a copy of what was uploaded in parts has an ETag of its own
        same = original.headers is not None and _same_metadata(found, original.headers)
        return same or found.etag == original.etag

    async def _done_before(
        self,
        condition: Condition,
        failure: StoreError,
        is_ours: Callable[[ObjectInfo], Awaitable[bool]],
    ) -> ObjectInfo | None:
        """Look whether a request that met `failure` was carried out, before it is repeated.

        Raises StoreError: Its condition is false now, or nobody can tell.
        """
        try:
            found = await self._find(condition.key, failure)
        except StoreError as exc:
            if exc.__cause__ is not None and is_denied(exc.__cause__):
                return None  # who may only write may not look
            raise
        if found is not None and await is_ours(found):
            return found
        if (refusal := condition.contradiction(found)) is not None:
            raise refusal
        return None

    async def _is_to_go(self, condition: Condition, failure: StoreError) -> bool:
        """Whether a deletion that met `failure` is to be repeated; not where nothing is left.

        Raises:
            PreconditionFailed: What is there now is another version.
            StoreError: Nobody can tell.
        """
        if condition.is_guarded(self.capabilities):
            return True
        try:
            await self._done_before(condition, failure, _is_none)
        except NotFound:
            return False
        return True

    async def _find(self, key: str, failure: StoreError) -> ObjectInfo | None:
        """What a request that met `failure` has left; raises that when nobody can tell."""
        with trio.move_on_after(min(_LOOK, self._policy.patience / 4)):
            try:
                return await self.head(key)
            except NotFound:
                return None
            except StoreError as exc:
                raise failure from exc
        raise failure


async def _is_none(_found: ObjectInfo) -> bool:
    """What a deletion has left is never what it was to make."""
    return False


def _same_metadata(found: ObjectInfo, headers: Headers) -> bool:
    """Whether an object carries metadata as unique as ours, nanosecond times among it."""
    return (
        found.headers is not None
        and bool(headers.metadata)
        and dict(found.headers.metadata) == dict(headers.metadata)
    )
