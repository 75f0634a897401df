"""Makes the requests an endpoint lacks out of those it has.

Sits on top of the retrying store, so that each request it is made of is repeated, limited and
counted for itself. What is missing is known from `Capabilities` or learned from a refusal.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import IO, Final, TypeVar

import trio

from bucketfs.errors import KeyTaken, NotFound, PreconditionFailed, StoreError, Unsupported
from bucketfs.store.base import (
    NO_CONDITIONS,
    Body,
    Capabilities,
    Headers,
    ObjectInfo,
    Store,
    is_etag,
)
from bucketfs.store.body import FileBody
from bucketfs.store.capability import Provider, probe
from bucketfs.store.layers.deletion import Deletions
from bucketfs.store.layers.tagging import with_tags_of
from bucketfs.store.layers.wrapper import StoreWrapper
from bucketfs.store.refusal import as_taken, is_refusal, unsupported
from bucketfs.tasks import gather

T = TypeVar("T")

_log = logging.getLogger("bucketfs.store.layers.fallback")

#: Parts of a server-side copy: large, since no byte of them travels, but many run side by side.
_COPY_PART: Final = 256 << 20
_UPLOAD_PART: Final = 64 << 20
_CLEAN_UP: Final = 30.0
#: Ways to copy by parts: with sums, and without.
_WAYS: Final = 2
#: What the local disk says when it is full, for all or for us.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class _Part:
    number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Onto:
    """What a copy makes, and what may be there before."""

    key: str
    if_match: str
    if_none_match: bool


def part_plan(size: int, wish: int, max_parts: int) -> list[_Part]:
    """Cut `size` bytes into equal parts of `wish` bytes, or larger where they would be too many."""
    length = max(wish, -(-size // max_parts))
    starts = range(0, max(size, 1), length)
    return [_Part(n, at, min(at + length, size)) for n, at in enumerate(starts, 1)]


class FallbackStore(StoreWrapper):
    """See the module.

    Args:
        provider: What is known of the endpoint.
        probe_prefix: Where `check` may put its test key.
    """

    def __init__(self, inner: Store, provider: Provider, *, probe_prefix: str = "") -> None:
        super().__init__(inner)
        self._provider = provider
        self._probe_prefix = probe_prefix
        self._told = False
        self._deletions = Deletions(inner, provider)

    @property
    def capabilities(self) -> Capabilities:
        return self._provider.capabilities

    async def check(self) -> None:
        await self.inner.check()
        if self._provider.probes:
            self._provider.probes = False
            await probe(self.inner, self._provider, self._probe_prefix)

    async def put(
        self,
        key: str,
        body: Body,
        headers: Headers,
        *,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        async def send() -> ObjectInfo:
            can = self.capabilities
            known = bool(if_match) and is_etag(if_match)
            if (known and can.put_if_match) or (if_none_match and can.put_if_none_match):
                return await self.inner.put(
                    key, body, headers, if_match=if_match, if_none_match=if_none_match
                )
            await self._check_target(key, if_match, if_none_match)
            return await self.inner.put(key, body, headers)

        condition = ["put_if_match"] if if_match else ["put_if_none_match"] if if_none_match else []
        optional = (*self._sums(), *condition, *_optional(headers))
        try:
            return await as_taken(self._provider, send, *optional)
        except PreconditionFailed as exc:
            if exc.status != 412 or not (if_match and self.capabilities.put_if_match):
                raise
        # Ceph 16 says so of a condition that is true, once the bucket has versions
        with self._provider.without("put_if_match", "put_if_none_match") as trial:
            info = await as_taken(self._provider, send, *self._sums(), *_optional(headers))
            trial.holds()
        return info

    def _sums(self) -> list[str]:
        return ["checksums"] if self._provider.checksum else []

    async def create_upload(self, key: str, headers: Headers, *, copies: bool = False) -> str:
        send = functools.partial(self.inner.create_upload, key, headers, copies=copies)
        try:
            return await as_taken(self._provider, send, *self._sums(), *_optional(headers))
        except Unsupported:
            self._provider.demote(multipart=False)
            raise

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
        self._provider.demote(checksums=False)
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
                return await send()
            except StoreError as exc:
                if not is_refusal(exc):
                    raise
                # MinIO wants the sum of a copied part, which no request can name
                self._provider.demote(copied_sums=False)
                raise unsupported(exc) from exc
        try:
            return await as_taken(self._provider, send, *_condition(source_if_match))
        except Unsupported:
            self._provider.demote(copy_part=False)
            raise

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
            match = if_match if can.complete_if_match and is_etag(if_match) else ""
            none_match = if_none_match and can.complete_if_none_match
            if (match, none_match) != (if_match, if_none_match):
                await self._check_target(key, if_match, if_none_match)
            return await self.inner.complete(
                key, upload_id, parts, size=size, if_match=match, if_none_match=none_match
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
        async def send() -> ObjectInfo:
            can = self.capabilities
            if not (can.copy_if_match and can.copy_condition and is_etag(source_if_match)):
                await self._check_target(source, source_if_match, False)
            match = target_if_match if can.target_if_match and is_etag(target_if_match) else ""
            none_match = target_if_none_match and can.target_if_none_match
            if (match, none_match) != (target_if_match, target_if_none_match):
                await self._check_target(target, target_if_match, target_if_none_match)
            return await self.inner.copy(
                source,
                target,
                size=size,
                headers=headers,
                source_if_match=source_if_match,
                target_if_match=match,
                target_if_none_match=none_match,
            )

        if self.capabilities.copy and size <= self.capabilities.max_copy:
            optional = [*_condition(source_if_match), *_optional(headers or Headers())]
            optional += ["target_if_match"] if target_if_match else []
            optional += ["target_if_none_match"] if target_if_none_match else []
            try:
                return await as_taken(self._provider, send, *optional)
            except Unsupported:
                self._provider.demote(copy=False)
            except KeyTaken:
                raise
            except PreconditionFailed:
                # which of the conditions was false no answer says reliably
                await self._check_target(target, "", target_if_none_match)
                raise
        onto = _Onto(target, target_if_match, target_if_none_match)
        return await self._copy_otherwise(source, onto, size, headers, source_if_match)

    async def _copy_otherwise(
        self, source: str, onto: _Onto, size: int, headers: Headers | None, source_if_match: str
    ) -> ObjectInfo:
        """Copy by parts, or through this machine."""
        if headers is None or not source_if_match:
            found = await self.inner.head(source)
            headers = headers or _as_found(found.headers)
            source_if_match = source_if_match or found.etag
        headers = await with_tags_of(self.inner, self._provider, source, headers)
        for _ in range(_WAYS):
            able = self.capabilities
            if not (able.copy and able.copy_part):
                break
            try:
                return await self._copy_parts(source, onto, size, headers, source_if_match)
            except Unsupported:
                if self.capabilities == able:
                    raise
        return await self._copy_by_hand(source, onto, size, headers, source_if_match)

    async def delete(self, key: str, *, if_match: str = "") -> None:
        await self._deletions.one(key, if_match)

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        return await self._deletions.many(keys, if_match)

    async def _check_target(self, key: str, if_match: str, if_none_match: bool) -> None:
        """Look before a request whose condition the endpoint would ignore; nearly as good."""
        if not (if_match or if_none_match):
            return
        if not self._told:
            self._told = True
            _log.info("the server does not honour all conditions: a HEAD just before replaces them")
        try:
            found = await self.inner.head(key)
        except NotFound:
            if if_match:
                raise
            return
        if if_none_match:
            raise KeyTaken("PreconditionFailed", status=412, operation="HeadObject", key=key)
        if found.etag != if_match:
            raise PreconditionFailed(
                "PreconditionFailed", status=412, operation="HeadObject", key=key
            )

    async def _copy_parts(
        self, source: str, onto: _Onto, size: int, headers: Headers, etag: str
    ) -> ObjectInfo:
        """Copy on the server by parts, side by side."""

        async def copy(upload_id: str, part: _Part) -> str:
            return await self.copy_part(
                onto.key,
                upload_id,
                part.number,
                source=source,
                start=part.start,
                stop=part.stop,
                source_if_match=etag,
            )

        wish = min(_COPY_PART, self.capabilities.max_copy)
        return await self._multipart(onto, size, headers, wish, copy, copies=True)

    async def _copy_by_hand(
        self, source: str, onto: _Onto, size: int, headers: Headers, etag: str
    ) -> ObjectInfo:
        """Copy through this machine: download into an unnamed file, upload from it.

        Raises:
            StoreError: As the requests do; or the local disk has no room, which is said at once.
            PreconditionFailed: The source is not of the size that it was known with.
        """
        with _spool(size) as file:
            await self.inner.get(
                source,
                lambda piece: _write(file, piece),
                if_match=etag,
                size=size if etag else None,
            )
            if (came := os.fstat(file.fileno()).st_size) != size:
                why = f"{came} bytes came, not {size}"
                raise PreconditionFailed(
                    "PreconditionFailed", status=412, operation="GetObject", key=source, message=why
                )
            whole = FileBody(file.fileno(), 0, size)
            if size <= min(_UPLOAD_PART, self.capabilities.max_put):
                return await self.put(
                    onto.key,
                    whole,
                    headers,
                    if_match=onto.if_match,
                    if_none_match=onto.if_none_match,
                )

            async def upload(upload_id: str, part: _Part) -> str:
                body = FileBody(file.fileno(), part.start, part.stop)
                return await self.upload_part(onto.key, upload_id, part.number, body)

            return await self._multipart(onto, size, headers, _UPLOAD_PART, upload)

    async def _multipart(
        self,
        onto: _Onto,
        size: int,
        headers: Headers,
        wish: int,
        send: Callable[[str, _Part], Awaitable[str]],
        *,
        copies: bool = False,
    ) -> ObjectInfo:
        """Make an object of parts that `send` brings; nothing is left behind on failure."""
        upload_id = await self.create_upload(onto.key, headers, copies=copies)
        parts = part_plan(size, wish, self.capabilities.max_parts)
        try:
            etags = await gather(
                [functools.partial(send, upload_id, part) for part in parts], limit=len(parts)
            )
            done = [(part.number, etag) for part, etag in zip(parts, etags, strict=True)]
            return await self.complete(
                onto.key,
                upload_id,
                done,
                size=size,
                if_match=onto.if_match,
                if_none_match=onto.if_none_match,
            )
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEAN_UP):
                await self._abort(onto.key, upload_id)
            raise

    async def _abort(self, key: str, upload_id: str) -> None:
        try:
            await self.inner.abort(key, upload_id)
        except StoreError as exc:
            _log.warning("an unfinished upload stays in the bucket: %s", exc)


def _as_found(headers: Headers | None) -> Headers:
    """What a copy carries that is to be like its original."""
    return replace(headers, keep_tags=headers.tag_count != 0) if headers else Headers()


def _optional(headers: Headers) -> list[str]:
    """What a request that brings an object's headers can do without."""
    metadata = ["user_metadata"] if headers.metadata and not headers.essential else []
    return [*metadata, "descriptions"] if headers.content_type or headers.other else metadata


def _condition(source_if_match: str) -> list[str]:
    """What a request that copies can do without."""
    return ["copy_condition"] if source_if_match else []


@contextmanager
def _local_disk() -> Iterator[None]:
    """Have an OSError be none of the connection, for which a download would be tried again.

    Raises:
        StoreError: In its place.
    """
    try:
        yield
    except OSError as error:
        code = "LocalDiskFull" if error.errno in _NO_ROOM else "LocalDiskFailed"
        where = tempfile.tempdir or "the directory for temporary files"
        message = f"copying by hand, in {where}: {error.strerror}"
        raise StoreError(code, operation="CopyObject", message=message) from error


def _spool(size: int) -> IO[bytes]:
    """An unnamed file that has room for so many bytes. Raises StoreError."""
    with _local_disk(), ExitStack() as undone:
        file = undone.enter_context(tempfile.TemporaryFile(buffering=0))
        disk = os.fstatvfs(file.fileno())
        if disk.f_bavail * disk.f_frsize < size:  # better now than after all that fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        undone.pop_all()
        return file


def _write(file: IO[bytes], piece: bytes | memoryview) -> None:
    with _local_disk(), memoryview(piece) as left:
        written = 0
        while written < len(left):
            written += file.write(left[written:])
