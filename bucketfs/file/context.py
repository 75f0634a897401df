"""What all files of a mount share: the store, the cache, the background tasks, sizes."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from http import HTTPStatus

from bucketfs.cache.cache import DiskCache
from bucketfs.errors import FsError, StoreError
from bucketfs.file.copy_speed import CopySpeed
from bucketfs.file.readers import Readers, Served
from bucketfs.store.base import Store
from bucketfs.tasks import Background


@dataclass(frozen=True, slots=True)
class FileContext:
    """The surroundings of a file's bytes.

    Attributes:
        store: The bucket.
        cache: Page files on disk.
        background: Where fetches run that outlive the read which began them.
        part_size: Fixed upload part size in bytes, None for the growing schedule.
        parallel: Requests one transfer may have under way at once.
        held_back: Files get to the bucket at the end of the mount only, or at a flush: no part of
            one leaves early that the disk can hold until then.
        readers: Who reads ahead.
        served: How much they have read, and from where.
        copy_speed: How fast the store copies.
    """

    store: Store
    cache: DiskCache
    background: Background
    part_size: int | None
    parallel: int
    held_back: bool = False
    readers: Readers = field(default_factory=Readers)
    served: Served = field(default_factory=Served)
    copy_speed: CopySpeed = field(default_factory=CopySpeed)

    @property
    def largest(self) -> int:
        """Bytes of the largest file that an upload from here can make."""
        limits = self.store.capabilities
        if self.part_size is None or not limits.multipart:
            return limits.max_object if limits.multipart else limits.max_put
        return min(limits.max_object, self.part_size * limits.max_parts)

    @property
    def can_stream(self) -> bool:
        """Whether parts may be sent before the file's length is known."""
        limits = self.store.capabilities
        return limits.multipart and (self.part_size is not None or not limits.equal_parts)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one object: where bytes that are not in the cache come from."""

    key: str
    etag: str
    size: int


async def copy_range(
    store: Store, base: Version, key: str, upload_id: str, number: int, start: int, stop: int
) -> str:
    """Make a part of bytes ``[start, stop)`` of a version; answers its ETag.

    Raises:
        FsError: ESTALE, when what is there now is too short to be that version.
        StoreError: As `Store.copy_part` does; PreconditionFailed where the store looks at the ETag.
    """
    try:
        return await store.copy_part(
            key, upload_id, number,
            source=base.key, start=start, stop=stop, source_if_match=base.etag,
        )  # fmt: skip
    except StoreError as error:
        if error.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise FsError(errno.ESTALE, f"{base.key!r} was replaced by someone else") from error
        raise
