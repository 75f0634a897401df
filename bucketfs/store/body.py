"""Bodies that are read from a file while they are sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FileBody:
    """Bytes ``[start, stop)`` of an open file, read anew each time they are sent.

    Attributes:
        fd: File descriptor, which stays open and is not moved (pread).
    """

    fd: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The body through one buffer. Raises EOFError when the file is shorter."""
        buffer = memoryview(bytearray(min(_PIECE, len(self))))
        at = self.start
        while at < self.stop:
            count = os.preadv(self.fd, [buffer[: self.stop - at]], at)
            if not count:
                raise EOFError(f"the file ends at {at}, {self.stop - at} bytes early")
            at += count
            yield buffer[:count]
