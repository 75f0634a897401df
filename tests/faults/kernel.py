"""`Files` of a real mount, through the kernel."""

from __future__ import annotations

import os
import stat
from collections.abc import Coroutine, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from tests.faults.scenario import Entry

T = TypeVar("T")
KINDS = {stat.S_IFDIR: "d", stat.S_IFLNK: "l"}


def done(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    with closing(work):
        try:
            work.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


class KernelFiles:
    """Files below a directory of a mount."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def save(self, path: str, data: bytes, *, piece: int) -> None:
        with (self.root / path).open("wb", buffering=0) as file:
            for start in range(0, len(data), piece):
                file.write(data[start : start + piece])

    async def save_synced(self, path: str, head: bytes, tail: bytes) -> None:
        with (self.root / path).open("wb", buffering=0) as file:
            file.write(head)
            os.fsync(file.fileno())
            file.write(tail)

    async def patch(self, path: str, offset: int, data: bytes) -> None:
        with (self.root / path).open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), data, offset)

    async def truncate(self, path: str, size: int) -> None:
        os.truncate(self.root / path, size)

    async def rename(self, old: str, new: str) -> None:
        (self.root / old).rename(self.root / new)

    async def chmod(self, path: str, perm: int) -> None:
        (self.root / path).chmod(perm)

    async def symlink(self, target: str, path: str) -> None:
        (self.root / path).symlink_to(target)

    async def mkdir(self, path: str) -> None:
        (self.root / path).mkdir(mode=0o755)

    async def rmdir(self, path: str) -> None:
        (self.root / path).rmdir()

    async def unlink(self, path: str) -> None:
        (self.root / path).unlink()

    async def read(self, path: str, start: int, length: int) -> bytes:
        with (self.root / path).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, start)

    async def entries(self, path: str) -> Mapping[str, tuple[str, int]]:
        found = {}
        with os.scandir(self.root / path) as names:
            for name in names:
                status = name.stat(follow_symlinks=False)
                found[name.name] = (KINDS.get(stat.S_IFMT(status.st_mode), "-"), status.st_size)
        return found

    async def entry(self, path: str) -> Entry:
        full = self.root / path
        status = full.lstat()
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "-")
        data = b""
        if kind == "l":
            data = os.fsencode(full.readlink())
        elif kind == "-":
            data = full.read_bytes()
        return Entry(kind, data, stat.S_IMODE(status.st_mode))
