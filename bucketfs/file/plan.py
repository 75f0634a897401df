"""How a changed file becomes an object: the plan of its upload. Pure decisions.

`plan_upload` turns (old object, changed extents, new size, limits) into either one PutObject or a
list of parts, each uploaded from here or copied by the store from the old object. Every byte of the
new object comes from exactly one step, in order, and no byte travels that the store could copy,
except where the minimum part size forces an edge along.

Part sizes of uploads follow a schedule that depends on nothing but the offset: `FIRST_PART` bytes
at first, doubling every `period` parts up to the store's largest part. The period is as long as it
can be while the store's part count still reaches its largest object, so that no file is too large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from bucketfs.cache.extents import Extent, Extents
from bucketfs.store.base import Capabilities

#: First part of the schedule. Large enough that the 20 ms of a round trip are small beside its
#: transfer (100 ms at 80 MB/s), small enough that a 64 MiB file still leaves in eight streams.
FIRST_PART = 8 << 20
#: Files up to this size go out in one PutObject: one request instead of at least three.
SINGLE_PUT = 16 << 20
#: A range copied by the store is cut into about so many pieces that run side by side, none smaller
#: or larger than these, unless it is to be copied whole (`bucketfs.file.copy_speed`).
COPY_PIECES = 16
COPY_LEAST, COPY_MOST = 16 << 20, 1 << 30
#: Lengths of the schedule's steps that are tried, in parts.
_PERIODS = (1000, 500, 250, 125, 64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True, slots=True)
class Put:
    """Send the whole file in one PutObject."""

    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes ``[start, stop)`` of the new object, uploaded or copied from there in the old one."""

    start: int
    stop: int
    copied: bool


@dataclass(frozen=True, slots=True)
class Multipart:
    """Assemble the object from parts in this order, numbered from 1."""

    parts: tuple[Part, ...]


Plan = Put | Multipart


class TooLarge(ValueError):
    """The limits (or the configured part size) cannot hold a file of this size."""


def plan_upload(
    *,
    base: int,
    dirty: Extents,
    size: int,
    limits: Capabilities,
    part_size: int | None = None,
    whole_copies: bool = False,
) -> Plan:
    """The cheapest way to publish a file.

    Args:
        base: How many leading bytes of the old object are still meant (0 without one; less than its
            size after a truncation).
        dirty: Extents that differ from the old object.
        size: Length of the new object in bytes.
        limits: What the store accepts.
        part_size: Fixed size of uploaded parts in bytes; None for the growing schedule.
        whole_copies: Copy each unchanged range in as few requests as the store's limits allow,
            rather than in pieces side by side.

    Raises:
        TooLarge: No plan fits the limits.
    """
    base = min(base, size)
    if size > limits.max_object:
        raise TooLarge(f"{size} bytes exceed the largest object of this store")
    copying = limits.multipart and limits.copy_part
    copies = _copyable(base, dirty, size, limits) if copying else []
    if not copies and (size <= _single_put(limits, part_size) or not limits.multipart):
        if size > limits.max_put:
            raise TooLarge(f"{size} bytes exceed the largest single upload of this store")
        return Put(size)
    pieces = 1 if whole_copies else COPY_PIECES
    parts = _parts(copies, base, dirty, size, limits, part_size, pieces)
    if not parts[0].copied and len(parts) == 1 and size <= limits.max_put:
        return Put(size)
    return Multipart(tuple(parts))


def part_at(offset: int, limits: Capabilities, part_size: int | None = None) -> int:
    """Size in bytes of the part that begins at `offset` of a file written from its start.

    `offset` must be a boundary the schedule itself produced.

    Raises:
        TooLarge: All part numbers lie before `offset`.
    """
    if part_size is not None:
        if offset // part_size >= limits.max_parts:
            reach = part_size * limits.max_parts
            raise TooLarge(
                f"{limits.max_parts} parts of {part_size >> 20} MiB end at {reach >> 30} GiB:"
                " raise multipart_size, or leave it out"
            )
        return part_size
    position = 0
    for size, count in _steps(limits, _period(limits)):
        position += count * size
        if offset < position:
            return size
    raise TooLarge(f"{limits.max_parts} parts end at {position >> 40} TiB")


def reach(limits: Capabilities) -> int:
    """Bytes the growing schedule can hold with all part numbers used."""
    return _reach(limits, _period(limits))


def _steps(limits: Capabilities, period: int) -> Iterator[tuple[int, int]]:
    """The growing schedule: sizes of parts and how many there are of each."""
    left = limits.max_parts
    size = max(FIRST_PART, limits.min_part)
    while left:
        size = min(size, limits.max_part)
        count = min(period, left) if size < limits.max_part else left
        yield size, count
        left -= count
        size *= 2


def _reach(limits: Capabilities, period: int) -> int:
    return sum(size * count for size, count in _steps(limits, period))


@cache
def _period(limits: Capabilities) -> int:
    """Parts of each size before it doubles: the most that still reach the largest object.

    Every small part is a large one less, so the full product of part count and largest part cannot
    be reached by growing; 64 stays within six per cent of it, and beyond AWS's 50 TB.
    """
    for period in _PERIODS:
        if _reach(limits, period) >= limits.max_object:
            return period
    return min(64, max(1, limits.max_parts // 80))


def _single_put(limits: Capabilities, part_size: int | None) -> int:
    return min(limits.max_put, SINGLE_PUT if part_size is None else part_size)


def _even_size(size: int, limits: Capabilities, part_size: int | None) -> int:
    """One size for all parts: the configured one, or the first one doubled until it fits."""
    even = part_size or max(FIRST_PART, limits.min_part)
    while even * limits.max_parts < size and part_size is None and even < limits.max_part:
        even = min(even * 2, limits.max_part)
    if even * limits.max_parts < size:
        raise TooLarge(
            f"{limits.max_parts} parts of {even >> 20} MiB end at"
            f" {even * limits.max_parts >> 30} GiB: raise multipart_size, or leave it out"
        )
    return even


def _copyable(base: int, dirty: Extents, size: int, limits: Capabilities) -> list[Extent]:
    """Unchanged ranges of the old object that can be parts, and leave what lies between possible.

    A range is long enough when it holds a minimum part, or when it ends the object. A changed
    stretch shorter than a minimum part takes what it lacks from the range after it. Less than a
    minimum part altogether is not worth the requests of a multipart upload (and S3 refuses to copy
    a range of an object that small).
    """
    chosen: list[Extent] = []
    for first, stop in dirty.missing(0, base):
        previous = chosen[-1][1] if chosen else 0
        start = first if first == previous else max(first, previous + limits.min_part)
        if stop - start >= limits.min_part or (stop == size and start < stop):
            chosen.append((start, stop))
    worth = sum(stop - start for start, stop in chosen) >= limits.min_part
    return chosen if worth else []


def _parts(
    copies: Sequence[Extent],
    base: int,
    dirty: Extents,
    size: int,
    limits: Capabilities,
    part_size: int | None,
    pieces: int,
) -> list[Part]:
    if not limits.equal_parts and (part_size is not None or size <= reach(limits)):
        parts = list(_regions(copies, size, limits, part_size, pieces))
        if len(parts) <= limits.max_parts:
            return parts
    return _grid(size, _even_size(size, limits, part_size), base, dirty, limits)


def _regions(
    copies: Sequence[Extent],
    size: int,
    limits: Capabilities,
    part_size: int | None,
    pieces: int,
) -> Iterator[Part]:
    wanted = max(COPY_LEAST, -(-size // pieces))
    if pieces > 1:
        wanted = min(COPY_MOST, wanted)
    # half of the part numbers must do for the copies of a very large object
    most = min(limits.max_part, max(wanted, -(-2 * size // limits.max_parts)))
    position = 0
    for start, stop in [*copies, (size, size)]:
        yield from _uploads(position, start, limits, part_size)
        yield from _cut(start, stop, most)
        position = stop


def _uploads(start: int, stop: int, limits: Capabilities, part_size: int | None) -> Iterator[Part]:
    """Cut an uploaded stretch along the schedule; no rest below the minimum part is left over."""
    length = stop - start
    position = 0
    while position < length:
        step = part_at(position, limits, part_size)
        rest = length - position - step
        if 0 < rest < limits.min_part:
            step += rest if step + rest <= limits.max_part else -limits.min_part
        step = min(step, length - position)
        yield Part(start + position, start + position + step, copied=False)
        position += step


def _cut(start: int, stop: int, most: int) -> Iterator[Part]:
    """Cut a copied range into even pieces of at most `most` bytes."""
    length = stop - start
    pieces = -(-length // most)
    for number in range(pieces):
        first, last = (start + length * at // pieces for at in (number, number + 1))
        yield Part(first, last, copied=True)


def _grid(size: int, even: int, base: int, dirty: Extents, limits: Capabilities) -> list[Part]:
    """Parts of one size; a part is copied when the old object has all of it unchanged."""
    parts = []
    for start in range(0, size, even):
        stop = min(start + even, size)
        copied = limits.copy_part and stop <= base and not dirty.overlaps(start, stop)
        parts.append(Part(start, stop, copied))
    return parts
