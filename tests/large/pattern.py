"""The bytes of the large files: numbered blocks, which cost nothing to make, check and keep.

Block `n` is the eight bytes of `n` followed by the same random bytes as all others, so that a block
out of place is noticed, and a file is described by the runs of numbers it consists of.
"""

from __future__ import annotations

import random
import struct

BLOCK = 1 << 20
_NUMBER = struct.Struct(">Q")
_TAIL = random.Random("large").randbytes(BLOCK - _NUMBER.size)

#: First number and count of blocks that follow each other.
Run = tuple[int, int]


def block(number: int) -> bytes:
    """Block `number`."""
    return _NUMBER.pack(number) + _TAIL


class Blocks:
    """Makes blocks in one buffer: each is valid until the next is asked for."""

    def __init__(self) -> None:
        self._buffer = bytearray(block(0))

    def of(self, number: int) -> memoryview:
        """Block `number`."""
        _NUMBER.pack_into(self._buffer, 0, number)
        return memoryview(self._buffer)


def number(data: memoryview) -> int:
    """Which block this is; ValueError if it is none."""
    if len(data) != BLOCK or data[_NUMBER.size :] != _TAIL:
        raise ValueError("not a block")
    return int(_NUMBER.unpack_from(data)[0])


def span(start: int, stop: int) -> bytes:
    """Bytes ``[start, stop)`` of the file that consists of all blocks from 0 on."""
    pieces = (
        block(n)[max(0, start - n * BLOCK) : min(BLOCK, stop - n * BLOCK)]
        for n in range(start // BLOCK, -(-stop // BLOCK))
    )
    return b"".join(pieces)


def joined(runs: list[Run]) -> list[Run]:
    """The same blocks in as few runs as possible."""
    result: list[Run] = []
    for first, count in runs:
        if result and sum(result[-1]) == first:
            result[-1] = result[-1][0], result[-1][1] + count
        else:
            result.append((first, count))
    return result


def cut(runs: list[Run], start: int, stop: int) -> list[Run]:
    """Blocks ``[start, stop)``, counted in blocks from the first of these."""
    result: list[Run] = []
    position = 0
    for first, count in runs:
        a, b = max(start, position), min(stop, position + count)
        if a < b:
            result.append((first + a - position, b - a))
        position += count
    return result
