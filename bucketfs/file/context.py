"""What all files of a mount share: the store, the cache, the background tasks.

The configured sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from bucketfs.cache.cache import PageCache
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
    """

    store: Store
    cache: PageCache
    background: Background
    part_size: int | None
    parallel: int


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one object: where bytes that are not in the cache come from."""

    key: str
    etag: str
    size: int
