"""How much the cache may hold and what leaves first. Pure decisions.

Two bounds at once: `cache_size`, and a share of the disk that stays free for others.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

#: What a disk says that is full, for all or for us.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Candidate:
    """An evictable page file: its name, the bytes it holds, the time of its last use."""

    name: str
    held: int
    used: float


def excess(*, held: int, wanted: int, limit: int, disk_free: int, keep_free: int) -> int:
    """Bytes that must leave the cache before `wanted` more may come in.

    Args:
        held: Bytes the cache holds now.
        wanted: Bytes about to be written.
        limit: The configured cache size.
        disk_free: Bytes free on the disk.
        keep_free: Bytes that must stay free on it.
    """
    return max(0, held + wanted - limit, wanted + keep_free - disk_free)


def capacity(*, held: int, limit: int, disk_free: int, keep_free: int) -> int:
    """Bytes the cache may hold by both bounds; arguments as those of `excess`."""
    return max(0, min(limit, held + disk_free - keep_free))


def victims(candidates: Iterable[Candidate], needed: int) -> list[str]:
    """The least recently used candidates that together hold `needed` bytes, or all of them."""
    chosen: list[str] = []
    if needed <= 0:
        return chosen
    for candidate in sorted(candidates, key=lambda c: c.used):
        chosen.append(candidate.name)
        needed -= candidate.held
        if needed <= 0:
            break
    return chosen
