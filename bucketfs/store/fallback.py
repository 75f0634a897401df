"""Makes the requests an endpoint lacks out of those it has.

Sits on top of the retrying store, so that each request it is made of is repeated, limited and
counted for itself. What is missing is known from `Capabilities` or learned from a refusal.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Final, TypeVar

import trio

from bucketfs.errors import KeyTaken, NotFound, PreconditionFailed, StoreError, Unsupported
from bucketfs.store.base import Body, Capabilities, Headers, ObjectInfo, Store
from bucketfs.store.body import FileBody
from bucketfs.store.capability import Provider, probe
from bucketfs.store.wrapper import StoreWrapper
from bucketfs.tasks import gather

T = TypeVar("T")

_log = logging.getLogger("bucketfs.store.fallback")

#: Parts of a server-side copy: large, since no byte of them travels, but many run side by side.
_COPY_PART: Final = 256 << 20
_UPLOAD_PART: Final = 64 << 20
_CLEAN_UP: Final = 30.0
#: Codes, beside the status 501, that servers give for headers of checksums they do not serve.
_NOT_UNDERSTOOD: Final = frozenset({"InvalidArgument", "InvalidDigest", "InvalidRequest"})
#: Section 2.2 of XML 1.0; tabs and line ends, which it has, do not survive all parsers.
_NOT_XML: Final = re.compile("[\x00-\x1f\ufffe\uffff]")
#: What the local disk says when it is full, for all or for us.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class _Part:
    number: int
    start: int
    stop: int


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
        can = self.capabilities
        if (if_match and can.put_if_match) or (if_none_match and can.put_if_none_match):
            try:
                return await self._with_sums(
                    lambda: self.inner.put(
                        key, body, headers, if_match=if_match, if_none_match=if_none_match
                    )
                )
            except Unsupported:
                lost = "put_if_match" if if_match else "put_if_none_match"
                self._provider.demote(**{lost: False})
        await self._check_target(key, if_match, if_none_match)
        return await self._with_sums(lambda: self.inner.put(key, body, headers))

    async def create_upload(self, key: str, headers: Headers) -> str:
        return await self._with_sums(lambda: self.inner.create_upload(key, headers))

    async def _with_sums(self, send: Callable[[], Awaitable[T]]) -> T:
        """Make a request that may say something of checksums; once more without, if refused."""
        try:
            return await send()
        except StoreError as exc:
            if not self._may_be_for_sums(exc):
                raise
        self._provider.checksum = False
        try:
            answer = await send()
        except StoreError:
            self._provider.checksum = True  # it was refused for something else
            raise
        _log.info("%s takes no CRC-32C checksums", self._provider.name)
        return answer

    def _may_be_for_sums(self, exc: StoreError) -> bool:
        refused = exc.code in _NOT_UNDERSTOOD or isinstance(exc, Unsupported)
        return refused and self._provider.checksum

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
        can = self.capabilities
        if if_match and not can.complete_if_match:
            await self._check_target(key, if_match, False)
            if_match = ""
        if if_none_match and not can.complete_if_none_match:
            await self._check_target(key, "", True)
            if_none_match = False
        try:
            return await self.inner.complete(
                key, upload_id, parts, size=size, if_match=if_match, if_none_match=if_none_match
            )
        except StoreError as exc:
            if self._may_be_for_sums(exc):
                self._provider.checksum = False  # the next try begins an upload without
            raise

    async def copy(
        self,
        source: str,
        target: str,
        *,
        size: int,
        headers: Headers | None = None,
        source_if_match: str = "",
    ) -> ObjectInfo:
        can = self.capabilities
        if source_if_match and not can.copy_if_match:
            await self._check_target(source, source_if_match, False)
        if can.copy and size <= can.max_copy:
            try:
                return await self.inner.copy(
                    source, target, size=size, headers=headers, source_if_match=source_if_match
                )
            except Unsupported:
                self._provider.demote(copy=False)
        if headers is None or not source_if_match:
            found = await self.inner.head(source)
            headers = headers or found.headers or Headers()
            source_if_match = source_if_match or found.etag
        if self.capabilities.copy and self.capabilities.copy_part:
            return await self._copy_parts(source, target, size, headers, source_if_match)
        return await self._copy_by_hand(source, target, size, headers, source_if_match)

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, StoreError]:
        stayed: dict[str, StoreError] = {}
        # XML 1.0 has no way to write some characters, so that such keys go one by one.
        alone = [key for key in keys if not key.isprintable() and _NOT_XML.search(key)]
        batch = [key for key in keys if key not in set(alone)] if alone else list(keys)
        if self.capabilities.delete_many and batch:
            try:
                stayed.update(await self.inner.delete_many(batch))
                batch = []
            except Unsupported:
                self._provider.demote(delete_many=False)

        async def delete(key: str) -> None:
            try:
                await self.inner.delete(key)
            except StoreError as exc:
                stayed[key] = exc

        async with trio.open_nursery() as nursery:
            for key in [*alone, *batch]:
                nursery.start_soon(delete, key)
        return stayed

    async def _check_target(self, key: str, if_match: str, if_none_match: bool) -> None:
        """Look before a request whose condition the endpoint would ignore; nearly as good."""
        if not (if_match or if_none_match):
            return
        if not self._told:
            self._told = True
            _log.info("not all conditions are the server's: the object is looked at just before")
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
        self, source: str, target: str, size: int, headers: Headers, etag: str
    ) -> ObjectInfo:
        """Copy on the server by parts, side by side."""

        async def copy(upload_id: str, part: _Part) -> str:
            return await self.inner.copy_part(
                target,
                upload_id,
                part.number,
                source=source,
                start=part.start,
                stop=part.stop,
                source_if_match=etag,
            )

        wish = min(_COPY_PART, self.capabilities.max_copy)
        return await self._multipart(target, size, headers, wish, copy)

    async def _copy_by_hand(
        self, source: str, target: str, size: int, headers: Headers, etag: str
    ) -> ObjectInfo:
        """Copy through this machine: download into an unnamed file, upload from it.

        Raises:
            StoreError: As the requests do; or the local disk has no room, which is said at once.
        """
        with _spool(size) as file:
            await self.inner.get(source, lambda piece: _write(file, piece), if_match=etag)
            whole = FileBody(file.fileno(), 0, size)
            if size <= min(_UPLOAD_PART, self.capabilities.max_put):
                return await self.inner.put(target, whole, headers)

            async def upload(upload_id: str, part: _Part) -> str:
                body = FileBody(file.fileno(), part.start, part.stop)
                return await self.inner.upload_part(target, upload_id, part.number, body)

            return await self._multipart(target, size, headers, _UPLOAD_PART, upload)

    async def _multipart(
        self,
        target: str,
        size: int,
        headers: Headers,
        wish: int,
        send: Callable[[str, _Part], Awaitable[str]],
    ) -> ObjectInfo:
        """Make `target` of parts that `send` brings; nothing is left behind on failure."""
        upload_id = await self.create_upload(target, headers)
        parts = part_plan(size, wish, self.capabilities.max_parts)
        try:
            etags = await gather(
                [functools.partial(send, upload_id, part) for part in parts], limit=len(parts)
            )
            done = [(part.number, etag) for part, etag in zip(parts, etags, strict=True)]
            return await self.inner.complete(target, upload_id, done, size=size)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEAN_UP):
                await self._abort(target, upload_id)
            raise

    async def _abort(self, key: str, upload_id: str) -> None:
        try:
            await self.inner.abort(key, upload_id)
        except StoreError as exc:
            _log.warning("an unfinished upload stays in the bucket: %s", exc)


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
