"""Where a file's bytes are to be published."""

from __future__ import annotations

from dataclasses import dataclass

from bucketfs.store.base import Headers


@dataclass(frozen=True, slots=True)
class Target:
    """Where and under which condition an object is published.

    Attributes:
        key: Complete key.
        headers: Metadata and content type to store with it.
        changes: The owner's count of attribute changes that `headers` includes.
        if_match: ETag the key must have now, "" for no such condition.
        if_none_match: The key must be free.
    """

    key: str
    headers: Headers
    changes: int = 0
    if_match: str = ""
    if_none_match: bool = False
