"""How a changed file becomes an object: the flush plan. Pure decisions.

`plan_flush` turns (old object, changed extents, new size, limits) into either one PutObject or a
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
#: Ranges copied by the store are cut to this, so that a large copy runs in parallel.
COPY_PART = 1 << 30


@dataclass(frozen=True, slots=True)
class Put:
    """Send the whole file in one PutObject."""

    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes ``[start, stop)`` of the new object.

    Copied from the same range of the old one or uploaded.
    """

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


def plan_flush(
    *, base: int, dirty: Extents, size: int, limits: Capabilities, part_size: int | None = None
) -> Plan:
    """The cheapest way to publish a file.

    Args:
        base: How many leading bytes of the old object are still meant (0 without one; less than its
            size after a truncation).
        dirty: Extents that differ from the old object.
        size: Length of the new object in bytes.
        limits: What the store accepts.
        part_size: Fixed size of uploaded parts in bytes; None for the growing schedule.

    Raises:
        TooLarge: No plan fits the limits.
    """
    base = min(base, size)
    if size > limits.max_object:
        raise TooLarge(f"{size} bytes exceed the largest object of this store")
    copies = _copyable(base, dirty, size, limits) if limits.multipart and limits.copy_part else []
    if not copies and (size <= _single_put(limits, part_size) or not limits.multipart):
        if size > limits.max_put:
            raise TooLarge(f"{size} bytes exceed the largest single upload of this store")
        return Put(size)
    parts: Sequence[Part]
    if limits.equal_parts:
        parts = _grid(size, _even_size(size, limits, part_size), base, dirty, limits)
    else:
        parts = list(_regions(copies, size, limits, part_size))
        if len(parts) > limits.max_parts:
            parts = _grid(size, _even_size(size, limits, part_size), base, dirty, limits)
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
    position, number, period = 0, 0, _period(limits)
    for size in _sizes(limits):
        count = period if size < limits.max_part else limits.max_parts - number
        if offset < position + count * size:
            return size
        position += count * size
        number += count
    raise TooLarge(f"{limits.max_parts} parts end at {position >> 40} TiB")


def reach(limits: Capabilities) -> int:
    """Bytes the growing schedule can hold with all part numbers used."""
    return _reach(limits, _period(limits))


def _sizes(limits: Capabilities) -> Iterator[int]:
    size = max(FIRST_PART, limits.min_part)
    while size < limits.max_part:
        yield size
        size *= 2
    yield limits.max_part


def _reach(limits: Capabilities, period: int) -> int:
    number = total = 0
    for size in _sizes(limits):
        count = period if size < limits.max_part else limits.max_parts
        count = min(count, limits.max_parts - number)
        total += count * size
        number += count
    return total


@cache
def _period(limits: Capabilities) -> int:
    """Parts of each size before it doubles: the most that still reach the largest object.

    Every small part is a large one less, so the full product of part count and largest part cannot
    be reached by growing; 64 stays within six per cent of it, and beyond AWS's 50 TB.
    """
    for period in (1000, 500, 250, 125):
        if _reach(limits, period) >= limits.max_object:
            return period
    return 64 if limits.max_parts >= 5000 else max(1, limits.max_parts // 80)


def _single_put(limits: Capabilities, part_size: int | None) -> int:
    return min(limits.max_put, SINGLE_PUT if part_size is None else part_size)


def _even_size(size: int, limits: Capabilities, part_size: int | None) -> int:
    """One size for all parts: the configured one.

    Or the smallest power-of-two multiple of the first that fits.
    """
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
    stretch shorter than a minimum part takes what it lacks from the range after it, or else from
    the one before.
    """
    chosen: list[Extent] = []
    for start, stop in dirty.missing(0, base):
        previous = chosen[-1][1] if chosen else 0
        between = start - previous
        if 0 < between < limits.min_part:
            start = previous + limits.min_part
        if stop - start >= limits.min_part or (stop == size and start < stop):
            chosen.append((start, stop))
    if chosen and chosen[0] == (0, size):
        # unchanged bytes only: a truncation to a shorter length, or nothing at all
        return chosen
    return chosen


def _regions(
    copies: Sequence[Extent], size: int, limits: Capabilities, part_size: int | None
) -> Iterator[Part]:
    position = 0
    for start, stop in [*copies, (size, size)]:
        yield from _uploads(position, start, limits, part_size)
        yield from _cut(start, stop, min(COPY_PART, limits.max_part), limits)
        position = stop


def _uploads(start: int, stop: int, limits: Capabilities, part_size: int | None) -> Iterator[Part]:
    """Cut an uploaded stretch along the schedule.

    The last piece takes a rest below the minimum along.
    """
    length = stop - start
    position = 0
    while position < length:
        step = part_at(position, limits, part_size)
        rest = length - position - step
        if 0 < rest < limits.min_part and step + rest <= limits.max_part:
            step += rest
        step = min(step, length - position)
        yield Part(start + position, start + position + step, copied=False)
        position += step


def _cut(start: int, stop: int, most: int, limits: Capabilities) -> Iterator[Part]:
    """Cut a copied range into even pieces of at most `most` bytes."""
    length = stop - start
    if not length:
        return
    pieces = -(-length // most)
    step = max(-(-length // pieces), min(limits.min_part, length))
    for at in range(start, stop, step):
        yield Part(at, min(at + step, stop), copied=True)


def _grid(size: int, even: int, base: int, dirty: Extents, limits: Capabilities) -> list[Part]:
    """Parts of one size; a part is copied when the old object has all of it unchanged."""
    parts = []
    for start in range(0, size, even):
        stop = min(start + even, size)
        copied = limits.copy_part and stop <= base and not dirty.overlaps(start, stop)
        parts.append(Part(start, stop, copied))
    return parts
