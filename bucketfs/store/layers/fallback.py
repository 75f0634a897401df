"""Makes the requests an endpoint lacks out of those it has.

Sits on top of the retrying store, so that each request it is made of is repeated, limited and
counted for itself. What is missing is known from `Capabilities` or learned from a refusal.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import trio

from bucketfs.errors import (
    KeyTaken,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsigned,
    Unsupported,
)
from bucketfs.store.base import (
    NO_CONDITIONS,
    Body,
    Capabilities,
    Headers,
    ObjectInfo,
    Store,
    ignored,
    is_etag,
)
from bucketfs.store.capability import TARGETS, Provider
from bucketfs.store.layers.copying import CARRIED_MOST, Copies, Onto
from bucketfs.store.layers.deletion import Deletions
from bucketfs.store.layers.kept import MARKER, Kept, is_marker, no_marker, not_kept
from bucketfs.store.layers.outcome import contradiction
from bucketfs.store.layers.wrapper import StoreWrapper
from bucketfs.store.probe import Probe
from bucketfs.store.refusal import LOOKED, REFUSALS, as_taken, is_refusal, unsupported

T = TypeVar("T")

_log = logging.getLogger("bucketfs.store.layers.fallback")


class FallbackStore(StoreWrapper):
    """See the module.

    Args:
        provider: What is known of the endpoint.
        probe_prefix: What the key of the object begins with that conditions are tried out on.
    """

    def __init__(self, inner: Store, provider: Provider, *, probe_prefix: str = "") -> None:
        super().__init__(inner)
        self._provider = provider
        self._probe = Probe(inner, provider, probe_prefix)
        self._told = False
        #: One at a time finds out what a refused condition means.
        self._misread = trio.Lock()
        self._deletions = Deletions(inner, provider)
        self._copies = Copies(self, provider)
        self._kept = Kept(inner, provider, probe_prefix)

    @property
    def capabilities(self) -> Capabilities:
        return self._provider.capabilities

    async def check(self) -> bool:
        found = await self.inner.check()
        await self._probe.try_class()
        return found

    async def settle(self, *conditions: str) -> Capabilities:
        await self._probe.settle(*conditions)
        return self.capabilities

    async def head(self, key: str) -> ObjectInfo:
        if not key.endswith(MARKER):
            return self._kept.seen(await self.inner.head(key))
        if not self.capabilities.markers:
            raise NotFound("NoSuchKey", status=404, operation=LOOKED, key=key)
        return self._kept.seen(await self._head(key))

    async def heads(
        self,
        keys: Sequence[str],
        told: Callable[[ObjectInfo], None],
        failed: Callable[[StoreError], None] = ignored,
    ) -> None:
        files = [key for key in keys if not key.endswith(MARKER)]
        await self.inner.heads(files, lambda info: told(self._kept.seen(info)), failed)

    async def _head(self, key: str) -> ObjectInfo:
        try:
            return await self.inner.head(key)
        except StoreError as exc:
            if not (
                key.endswith(MARKER) and is_refusal(exc) and await self._kept.is_for_its_slash(key)
            ):
                raise
            # some gateways take it for no key at all
            raise NotFound(exc.code, status=404, operation=LOOKED, key=key) from exc

    async def put(
        self,
        key: str,
        body: Body,
        headers: Headers,
        *,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        marker = is_marker(key, len(body))
        if marker and not await self._kept.keeps_markers(key):
            return no_marker(key)
        if headers.essential and not await self._kept.keeps_metadata():
            raise not_kept("PutObject", key)
        info = await self._put(key, body, headers, if_match, if_none_match)
        self._kept.stored(info)
        if marker and not await self._kept.marker(key):
            return no_marker(key)
        if headers.essential and not await self._kept.metadata(info):
            await self.delete(key, if_match=info.etag)
            raise not_kept("PutObject", key)
        return info

    async def _put(
        self, key: str, body: Body, headers: Headers, if_match: str, if_none_match: bool
    ) -> ObjectInfo:
        needed = "put_if_match" if if_match else "put_if_none_match" if if_none_match else ""
        if needed:
            await self.settle(needed)

        async def send() -> ObjectInfo:
            if not needed:
                return await self.inner.put(key, body, headers)
            if not (getattr(self.capabilities, needed) and (if_none_match or is_etag(if_match))):
                await self._check_target(key, if_match, if_none_match)
            return await self.inner.put(
                key, body, headers, if_match=if_match, if_none_match=if_none_match
            )

        quoted = self._provider.quoted
        sent = bool(needed) and self._provider.sends(needed)
        sums, described = self._sums(), _optional(headers)
        condition = [needed] if needed else []
        for _ in range(REFUSALS):
            try:
                return await as_taken(self._provider, send, *sums, *condition, *described)
            except PreconditionFailed as exc:
                theirs = exc.status == 412 and exc.operation != LOOKED
                if not (theirs and sent):
                    raise
                await self._confirm(key, if_match, exc, needed)
        async with self._misread:
            return await self._put_misread(send, [*sums, *described], quoted=quoted)

    async def _confirm(
        self, key: str, if_match: str, answer: PreconditionFailed, needed: str
    ) -> None:
        """See whether a condition of a PUT was found false with reason, and raise if it was."""
        try:
            if not if_match:
                raise answer
            await self._check_target(key, if_match, False)
        except (PreconditionFailed, NotFound):
            self._provider.learn(**{needed: True})
            raise

    async def _put_misread(
        self, send: Callable[[], Awaitable[ObjectInfo]], optional: Sequence[str], *, quoted: bool
    ) -> ObjectInfo:
        """Put under an If-Match that is true and was found false.

        Ceph 16 wants the ETag without its quotes, and takes any for false once the bucket has
        versions.

        Args:
            send: Sends the request.
            optional: What it can do without.
            quoted: Whether the ETag had quotes.
        """
        if quoted and self._provider.sends("put_if_match"):
            with self._provider.unquoted() as trial, suppress(PreconditionFailed):
                info = await as_taken(self._provider, send, *optional)
                trial.holds()
                return info
        with self._provider.without("put_if_match", "put_if_none_match") as trial:
            info = await as_taken(self._provider, send, *optional)
            trial.holds()
        return info

    def _sums(self) -> list[str]:
        return ["checksums"] if self._provider.checksum else []

    async def create_upload(self, key: str, headers: Headers, *, copies: bool = False) -> str:
        send = functools.partial(self.inner.create_upload, key, headers, copies=copies)
        try:
            return await as_taken(self._provider, send, *self._sums(), *_optional(headers))
        except StoreError as exc:
            if not is_refusal(exc):
                raise
            # who does not say that it is not implemented may have meant this upload alone
            self._provider.learn(remember=isinstance(exc, Unsupported), multipart=False)
            raise unsupported(exc) from exc

    async def upload_part(self, key: str, upload_id: str, number: int, body: Body) -> str:
        send = functools.partial(self.inner.upload_part, key, upload_id, number, body)
        if upload_id in self._provider.summed:
            return await self._without_sums(upload_id, send)
        return await as_taken(self._provider, send, *self._sums())

    async def _without_sums(self, upload_id: str, send: Callable[[], Awaitable[T]]) -> T:
        """Make a request of an upload; where it is refused, without its CRC-32C."""
        try:
            return await send()
        except StoreError as exc:
            if upload_id not in self._provider.summed or not is_refusal(exc):
                raise
            refusal = exc
        self._provider.summed.discard(upload_id)
        try:
            answer = await send()
        except StoreError as exc:
            if not is_refusal(exc):
                raise
            self._provider.summed.add(upload_id)
            raise refusal from None
        self._provider.learn(checksums=False)
        return answer

    async def copy_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        *,
        source: str,
        start: int,
        stop: int,
        source_if_match: str = "",
    ) -> str:
        async def send() -> str:
            if not (self.capabilities.copy_condition and is_etag(source_if_match)):
                await self._check_target(source, source_if_match, False)
            return await self.inner.copy_part(
                key,
                upload_id,
                number,
                source=source,
                start=start,
                stop=stop,
                source_if_match=source_if_match,
            )

        if upload_id in self._provider.summed:
            try:
                return await self._from_source(send, source, source_if_match)
            except StoreError as exc:
                if not is_refusal(exc):
                    raise
                # MinIO wants the sum of a copied part, which no request can name
                self._provider.learn(copied_sums=False)
                raise unsupported(exc) from exc
        optional = _condition(source_if_match)
        try:
            return await self._from_source(
                lambda: as_taken(self._provider, send, *optional), source, source_if_match
            )
        except Unsupported:
            self._provider.learn(copy_part=False)
            raise

    async def _from_source(self, copy: Callable[[], Awaitable[T]], source: str, if_match: str) -> T:
        """Make a copy; if its source is said to be another version, look at that ourselves.

        Swift says so of each source that was uploaded in parts.
        """
        sent = bool(if_match) and self._provider.sends("copy_condition")
        for _ in range(REFUSALS):
            try:
                return await copy()
            except PreconditionFailed as exc:
                theirs = exc.status == 412 and exc.operation != LOOKED
                if isinstance(exc, KeyTaken) or not (theirs and sent):
                    raise
            await self._check_target(source, if_match, False)
        async with self._misread:
            with self._provider.without("copy_condition", "copy_if_match") as trial:
                answer = await copy()
                trial.holds()
        return answer

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
        async def send() -> ObjectInfo:
            can = self.capabilities
            match = can.complete_if_match and is_etag(if_match)
            if not (can.complete_if_none_match if if_none_match else match):
                await self._check_target(key, if_match, if_none_match)
            return await self.inner.complete(
                key, upload_id, parts, size=size, if_match=if_match, if_none_match=if_none_match
            )

        condition = ["complete_if_match"] if if_match else []
        condition += ["complete_if_none_match"] if if_none_match else []
        return await self._without_sums(
            upload_id, lambda: as_taken(self._provider, send, *condition)
        )

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
        onto = Onto(target, target_if_match, target_if_none_match)
        if onto.if_match or onto.if_none_match:
            await self.settle(*TARGETS)
        if onto.if_none_match and not is_marker(target, size) and await self._carries(size):
            return await self._copies.carry(source, onto, size, headers, source_if_match)
        if source == target and headers is not None and headers.metadata:
            return await self._rewrite(source, onto, size, headers, source_if_match)
        return await self._copy_as_able(source, onto, size, headers, source_if_match)

    async def _rewrite(
        self, key: str, onto: Onto, size: int, headers: Headers, if_match: str
    ) -> ObjectInfo:
        """Give an object other headers, which is what a copy onto itself is for."""
        if not await self._kept.keeps_metadata():
            return await self._as_it_is(key, if_match)
        try:
            info = await self._copy_as_able(key, onto, size, headers, if_match)
        except StoreError as exc:
            if not is_refusal(exc):
                raise
        else:
            await self._kept.metadata(info)
            return info
        found = await self._as_it_is(key, if_match)
        if self._kept.not_copied_onto_itself(found):
            return found
        onto = Onto(key, if_match, if_none_match=False)
        if size <= CARRIED_MOST:
            return await self._copies.carry(key, onto, size, headers, if_match)
        return await self._copies.otherwise(key, onto, size, headers, if_match)

    async def _copy_as_able(
        self, source: str, onto: Onto, size: int, headers: Headers | None, source_if_match: str
    ) -> ObjectInfo:
        if self.capabilities.copy and size <= self.capabilities.max_copy:
            try:
                return await self._copy(source, onto, size, headers, source_if_match)
            except Unsupported:
                self._provider.learn(copy=False)
            except NotFound:
                if not is_marker(source, size):
                    raise
                # SeaweedFS finds no marker when it is to copy one, and takes each directory that
                # has an entry by now for a marker that stands there
                onto = Onto(onto.key, "", if_none_match=False)
            except Unsigned:
                return await self._copies.by_hand(source, onto, size, headers, source_if_match)
        return await self._copies.otherwise(source, onto, size, headers, source_if_match)

    async def _copy(
        self,
        source: str,
        onto: Onto,
        size: int,
        headers: Headers | None,
        source_if_match: str,
    ) -> ObjectInfo:
        """CopyObject, without what it can do without where that is refused."""

        async def send() -> ObjectInfo:
            can = self.capabilities
            if not (can.copy_if_match and can.copy_condition and is_etag(source_if_match)):
                await self._check_target(source, source_if_match, False)
            match = can.target_if_match and is_etag(onto.if_match)
            if not (can.target_if_none_match if onto.if_none_match else match):
                await self._check_target(onto.key, onto.if_match, onto.if_none_match)
            return await self.inner.copy(
                source,
                onto.key,
                size=size,
                headers=headers,
                source_if_match=source_if_match,
                target_if_match=onto.if_match,
                target_if_none_match=onto.if_none_match,
            )

        optional = [*_condition(source_if_match), *_optional(headers or Headers())]
        optional += ["target_if_match"] if onto.if_match else []
        optional += ["target_if_none_match"] if onto.if_none_match else []
        try:
            return await self._from_source(
                lambda: as_taken(self._provider, send, *optional), source, source_if_match
            )
        except KeyTaken:
            raise
        except PreconditionFailed:
            # which of the conditions was false no answer says reliably
            await self._check_target(onto.key, "", onto.if_none_match)
            raise

    async def _as_it_is(self, key: str, if_match: str) -> ObjectInfo:
        """A version that is left as it is. Raises PreconditionFailed for another one."""
        found = await self._head(key)
        if if_match and found.etag != if_match:
            raise PreconditionFailed("PreconditionFailed", status=412, operation=LOOKED, key=key)
        return found

    async def _carries(self, size: int) -> bool:
        """Whether a PUT can see to it that a name is free, and a copy cannot."""
        if size > CARRIED_MOST or self.capabilities.target_if_none_match:
            return False
        await self.settle("put_if_none_match")
        return self._provider.sends("put_if_none_match")

    async def delete(self, key: str, *, if_match: str = "") -> None:
        if key.endswith(MARKER) and not self.capabilities.markers:
            return  # it might be taken for the file of that name
        if if_match:
            await self.settle("delete_if_match")
        await self._deletions.one(key, if_match)

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        if if_match:
            await self.settle("delete_many_if_match")
        if not self.capabilities.markers:
            keys = [key for key in keys if not key.endswith(MARKER)]
        return await self._deletions.many(keys, if_match)

    async def _check_target(self, key: str, if_match: str, if_none_match: bool) -> None:
        """Look before a request whose condition the endpoint would ignore; nearly as good."""
        if not (if_match or if_none_match):
            return
        if not self._told:
            self._told = True
            _log.info("the server does not honour all conditions: a HEAD just before replaces them")
        try:
            found = await self._head(key)
        except NotFound:
            if if_match:
                raise
            return
        if (failure := contradiction(key, found, if_match, if_none_match)) is not None:
            raise failure


def _optional(headers: Headers) -> list[str]:
    """What a request that brings an object's headers can do without."""
    metadata = ["user_metadata"] if headers.metadata and not headers.essential else []
    return [*metadata, "descriptions"] if headers.content_type or headers.other else metadata


def _condition(source_if_match: str) -> list[str]:
    """What a request that copies can do without."""
    return ["copy_condition"] if source_if_match else []
