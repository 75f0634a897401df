"""Copies of objects that CopyObject cannot make: too large, without it, or to a name that is free.

Used by `bucketfs.store.layers.fallback`, whose own requests the copies are made of.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import IO, Final

import trio

from bucketfs.errors import PreconditionFailed, StoreError, Unsupported
from bucketfs.store.base import BytesBody, Headers, ObjectInfo, Store
from bucketfs.store.body import FileBody
from bucketfs.store.capability import Provider
from bucketfs.store.layers.tagging import with_tags_of
from bucketfs.tasks import gather

_log = logging.getLogger("bucketfs.store.layers.copying")

#: Objects up to this size are carried to a name that must be free: a GET and a PUT of so much take
#: no longer than a HEAD and a copy.
CARRIED_MOST: Final = 1 << 20
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
class Onto:
    """What a copy makes, and what may be there before."""

    key: str
    if_match: str
    if_none_match: bool


def part_plan(size: int, wish: int, max_parts: int) -> list[_Part]:
    """Cut `size` bytes into equal parts of `wish` bytes, or larger where they would be too many."""
    length = max(wish, -(-size // max_parts))
    starts = range(0, max(size, 1), length)
    return [_Part(n, at, min(at + length, size)) for n, at in enumerate(starts, 1)]


class Copies:
    """Makes copies in one bucket.

    Args:
        store: What they are made of: a store whose requests have their fallbacks.
        provider: What is known of the endpoint.
    """

    def __init__(self, store: Store, provider: Provider) -> None:
        self._store = store
        self._provider = provider

    async def otherwise(
        self, source: str, onto: Onto, size: int, headers: Headers | None, source_if_match: str
    ) -> ObjectInfo:
        """Copy by parts, or through this machine."""
        headers, source_if_match = await self._known(source, headers, source_if_match)
        for _ in range(_WAYS):
            able = self._store.capabilities
            if not (size and able.copy and able.copy_part):
                break
            try:
                return await self._copy_parts(source, onto, size, headers, source_if_match)
            except Unsupported:
                if self._store.capabilities == able:
                    raise
        return await self.by_hand(source, onto, size, headers, source_if_match)

    async def _known(self, source: str, headers: Headers | None, etag: str) -> tuple[Headers, str]:
        """The headers of a copy, with the tags it is to keep, and the version of its source."""
        if headers is None or not etag:
            found = await self._store.head(source)
            headers, etag = headers or _as_found(found.headers), etag or found.etag
        return await with_tags_of(self._store, self._provider, source, headers), etag

    async def carry(
        self, source: str, onto: Onto, size: int, headers: Headers | None, source_if_match: str
    ) -> ObjectInfo:
        """Copy a small object by a GET and a PUT, whose conditions nearly all stores honour.

        Raises:
            KeyTaken: There is one of that name, which had to be free.
            PreconditionFailed: The source, or what is replaced, is another version.
        """
        body = bytearray()
        info = await self._store.get(
            source, body.extend, if_match=source_if_match, size=size if source_if_match else None
        )
        _check_length(source, len(body), size)
        given = headers or _as_found(info.headers)
        return await self._store.put(
            onto.key,
            BytesBody(bytes(body)),
            await with_tags_of(self._store, self._provider, source, given),
            if_match=onto.if_match,
            if_none_match=onto.if_none_match,
        )

    async def _copy_parts(
        self, source: str, onto: Onto, size: int, headers: Headers, etag: str
    ) -> ObjectInfo:
        """Copy on the server by parts, side by side."""

        async def copy(upload_id: str, part: _Part) -> str:
            return await self._store.copy_part(
                onto.key,
                upload_id,
                part.number,
                source=source,
                start=part.start,
                stop=part.stop,
                source_if_match=etag,
            )

        wish = min(_COPY_PART, self._store.capabilities.max_copy)
        return await self._multipart(onto, size, headers, wish, copy, copies=True)

    async def by_hand(
        self, source: str, onto: Onto, size: int, headers: Headers | None, etag: str
    ) -> ObjectInfo:
        """Copy through this machine: download into an unnamed file, upload from it.

        Raises:
            StoreError: As the requests do; or the local disk has no room, which is said at once.
            PreconditionFailed: The source is not of the size that it was known with.
        """
        headers, etag = await self._known(source, headers, etag)
        with _spool(size) as file:
            await self._store.get(
                source,
                lambda piece: _write(file, piece),
                if_match=etag,
                size=size if etag else None,
            )
            _check_length(source, os.fstat(file.fileno()).st_size, size)
            whole = FileBody(file.fileno(), 0, size)
            if size <= min(_UPLOAD_PART, self._store.capabilities.max_put):
                return await self._store.put(
                    onto.key,
                    whole,
                    headers,
                    if_match=onto.if_match,
                    if_none_match=onto.if_none_match,
                )

            async def upload(upload_id: str, part: _Part) -> str:
                body = FileBody(file.fileno(), part.start, part.stop)
                return await self._store.upload_part(onto.key, upload_id, part.number, body)

            return await self._multipart(onto, size, headers, _UPLOAD_PART, upload)

    async def _multipart(
        self,
        onto: Onto,
        size: int,
        headers: Headers,
        wish: int,
        send: Callable[[str, _Part], Awaitable[str]],
        *,
        copies: bool = False,
    ) -> ObjectInfo:
        """Make an object of parts that `send` brings; nothing is left behind on failure."""
        upload_id = await self._store.create_upload(onto.key, headers, copies=copies)
        parts = part_plan(size, wish, self._store.capabilities.max_parts)
        try:
            etags = await gather(
                [functools.partial(send, upload_id, part) for part in parts], limit=len(parts)
            )
            done = [(part.number, etag) for part, etag in zip(parts, etags, strict=True)]
            return await self._store.complete(
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
            await self._store.abort(key, upload_id)
        except StoreError as exc:
            _log.warning("an unfinished upload stays in the bucket: %s", exc)


def _as_found(headers: Headers | None) -> Headers:
    """What a copy carries that is to be like its original."""
    return replace(headers, keep_tags=headers.tag_count != 0) if headers else Headers()


def _check_length(source: str, came: int, size: int) -> None:
    """Raises PreconditionFailed for the bytes of another version."""
    if came != size:
        why = f"{came} bytes came, not {size}"
        raise PreconditionFailed(
            "PreconditionFailed", status=412, operation="GetObject", key=source, message=why
        )


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
