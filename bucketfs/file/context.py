"""What all files of a mount share: the store, the cache, the background tasks, sizes."""

from __future__ import annotations

from dataclasses import dataclass, field

from bucketfs.cache.cache import PageCache
from bucketfs.file.readers import Readers
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
        readers: Who reads ahead.
    """

    store: Store
    cache: PageCache
    background: Background
    part_size: int | None
    parallel: int
    readers: Readers = field(default_factory=Readers)

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
