"""Random programs, and what each of their steps does on a mount.

A step tells the oracle when it begins, what it was answered, and what bytes it has written.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import trio

from bucketfs.tree.core.inode import Inode
from tests.simulation.kernel import File, Kernel, Killed
from tests.simulation.oracle import DIRECTORY, Call, Oracle
from tests.simulation.versions import Versions

FILES = ["a", "b", "d/a", "d/b", "e/a", "d/s/a"]
DIRECTORIES = ["d", "e", "d/s", "d/s", "f"]
LINKS = ["l", "d/l"]
SIZES = [0, 10, 3_000, 3_000, 9_000, 20_000, 70_000]

#: Errors that say that nothing was done.
_NOTHING = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL}
)


@dataclass(frozen=True)
class Step:
    """One thing that a program does: the name of a method of `Steps`, and its arguments."""

    what: str
    arguments: tuple[Any, ...]
    cancelled_after: float | None = None

    def __str__(self) -> str:
        cut = "" if self.cancelled_after is None else f" !{self.cancelled_after:.3f}"
        return f"{self.what}{self.arguments}{cut}"


def program(dice: random.Random, length: int, cancelled: float) -> list[Step]:
    """So many steps; a share of them is cancelled at some moment."""
    return [_step(dice, cancelled) for _ in range(length)]


def _step(dice: random.Random, cancelled: float) -> Step:
    what, arguments = _KINDS[dice.choices(range(len(_KINDS)), _WEIGHTS)[0]]
    after = dice.random() ** 3 if dice.random() < cancelled else None
    return Step(what, tuple(draw(dice) for draw in arguments), after)


def _of(choices):
    return lambda dice: dice.choice(choices)


_file, _directory, _link = _of(FILES), _of(DIRECTORIES), _of(LINKS)
_size, _yes = _of(SIZES), _of([False, True])
_pause = _of([0.0, 0.0, 0.0, 0.02, 0.3, 1.5])

_CHOICES: list[tuple[int, str, tuple[Any, ...]]] = [
    (
        8,
        "write",
        (
            _file,
            _of(["new", "new", "patch", "append", "excl"]),
            _size,
            _pause,
            _of([0, 0, 0, 1, 2]),
        ),
    ),
    (5, "read", (_file, _pause)),
    (1, "cut", (_file, _size)),
    (1, "cut_open", (_file, _size, _yes)),
    (3, "unlink", (_file,)),
    (4, "rename", (_file, _file, _of([True, True, False]))),
    (2, "rename", (_directory, _directory, _yes)),
    (3, "mkdir", (_directory,)),
    (2, "rmdir", (_directory,)),
    (1, "empty", (_directory,)),
    (1, "symlink", (_link, _size)),
    (1, "unlink", (_link,)),
    (1, "readlink", (_link,)),
    (2, "names", (_of(["", *DIRECTORIES]),)),
    (2, "look", (_of(FILES + DIRECTORIES + LINKS),)),
    (2, "chmod", (_file, _of([0o600, 0o640, 0o755]))),
    (1, "sync_directory", (_of(["", *DIRECTORIES]),)),
    (3, "wait", (_of([0.01, 0.1, 0.6, 1.2, 5.0]),)),
]
_WEIGHTS = [weight for weight, _, _ in _CHOICES]
_KINDS = [(what, arguments) for _, what, arguments in _CHOICES]


class Steps:
    """The steps of programs on one mount, as long as it lives."""

    def __init__(
        self, kernel: Kernel, oracle: Oracle, versions: Versions, mount: str, dice: random.Random
    ) -> None:
        self._kernel = kernel
        self._oracle = oracle
        self._versions = versions
        self._mount = mount
        self._dice = dice
        self._pid = 0

    async def run(self, step: Step) -> None:
        """One step; what it is answered is the oracle's."""
        with trio.CancelScope() as scope:
            if step.cancelled_after is not None:
                scope.deadline = trio.current_time() + step.cancelled_after
            await getattr(self, step.what)(*step.arguments)

    # ---- files -----------------------------------------------------------------------------------

    async def write(self, path: str, how: str, size: int, pause: float, syncs: int) -> None:
        call = self._begin(f"write {path} {how} {size}", path)
        with self._answer(call) as answer:
            flags = os.O_WRONLY | os.O_CREAT
            if how == "new":
                flags |= os.O_TRUNC
            if how == "excl":
                flags |= os.O_EXCL
            if how in {"new", "excl", "append"}:
                self._oracle.publishable(path, b"")
            before = self._oracle.fact(path)
            try:
                file = await self._open(path, flags)
            except OSError as error:
                if error.errno == errno.EEXIST:
                    self._oracle.check_taken(self._mount, path, before)
                raise
            async with self._closed(call, path, file):
                is_new = file.content.overlay.new
                at = 0 if how in {"new", "excl"} else len(self._versions.of(file.content))
                if how == "patch":
                    at //= 3
                data = self._dice.randbytes(size)
                for start in range(0, size, 9_000):
                    await self._write(path, file, at + start, data[start : start + 9_000])
                    await trio.sleep(pause)
                    if syncs == 2 and start == 0:
                        await self._close(call, path, file, self._kernel.flush)
                if syncs:
                    await self._close(call, path, file, self._kernel.fsync)
                await trio.sleep(pause)
                content = await self._close(call, path, file, self._kernel.flush)
            answer.facts = {path: content} if size or how in {"new", "excl"} or is_new else {}

    @asynccontextmanager
    async def _closed(self, call: Call, path: str, file: File) -> AsyncIterator[None]:
        """The kernel closes what a program has open when it is killed."""
        try:
            yield
        except (OSError, Killed):
            self._kernel.release(file)
            raise
        except BaseException:  # a cancellation, alone or in a group
            content = self._versions.of(file.content)
            self._oracle.publishable(path, content)
            self._oracle.closed_unheard(call, path, content)
            self._versions.begin_closing(file.content)

            async def flush() -> None:
                try:
                    await self._kernel.flush(file)
                finally:
                    self._versions.end_closing(file.content)

            self._kernel.release(file, flush)
            raise
        self._kernel.release(file)

    async def _open(self, path: str, flags: int) -> File:
        def opened(file: File) -> None:
            self._oracle.visible(path, b"")
            if flags & os.O_TRUNC:
                self._changed(path, file, b"")

        self._pid += 1
        return await self._kernel.open(path, flags, self._pid, opened)

    async def _write(self, path: str, file: File, at: int, data: bytes) -> None:
        def begin() -> Callable[[int], None]:
            old = self._versions.before(file.content)

            def written(done: int) -> None:
                base = old if old is not None else self._versions.base(file.content)
                part = data[:done]
                content = base[:at].ljust(at, b"\0") + part + base[at + len(part) :]
                self._changed(path, file, content)

            return written

        await self._kernel.write(file, at, data, begin)

    def _changed(self, path: str, file: File, content: bytes) -> None:
        self._versions.set(file.content, path, content)
        self._oracle.visible(path, content)
        if self._versions.is_closing(file.content) or self._versions.streams(file.content):
            self._oracle.publishable(path, content)

    async def _close(self, call: Call, path: str, file: File, how: Any) -> bytes:
        """Flush or fsync; answers the content."""
        content = self._versions.of(file.content)
        self._oracle.publishable(path, content)
        try:
            with self._versions.closing(file.content):
                await how(file)
        except OSError as error:
            self._oracle.promise(call, path, content, acknowledged=False, code=error.errno)
            raise
        in_bucket = not self._versions.writeback or how == self._kernel.fsync
        self._oracle.promise(call, path, content, acknowledged=True, in_bucket=in_bucket)
        return content

    async def read(self, path: str, pause: float) -> None:
        before = self._oracle.fact(path)
        try:
            file = await self._open(path, os.O_RDONLY)
            try:
                changes = self._versions.changes
                data = await self._kernel.read(file, 0, 1 << 20)
                if changes == self._versions.changes:  # a read beside a write may be short
                    self._oracle.check_read(self._mount, path, data, before)
                await trio.sleep(pause)
                again = await self._kernel.read(file, 0, 1 << 20)
                if changes == self._versions.changes:
                    self._oracle.check_same(self._mount, path, data, again)
            finally:
                self._kernel.release(file)
        except OSError as error:
            self._oracle.check_missing(self._mount, path, before, error.errno or 0)

    async def cut(self, path: str, size: int) -> None:
        call = self._begin(f"cut {path} {size}", path)
        with self._answer(call) as answer:
            self._oracle.cutting(path, size)
            self._versions.changes += 1

            def cut(inode: Inode) -> None:
                self._versions.changes += 1
                content = inode.content
                if content is None:
                    stored = self._versions.stored(inode.etag)
                    answer.facts = {path: stored}
                    self._oracle.visible(path, stored)  # what another cut begins with
                    return
                old = self._versions.of(content)
                answer.facts = {path: old[:size].ljust(size, b"\0")}
                self._oracle.visible(path, old[:size].ljust(size, b"\0"))
                if content.unsaved:
                    self._versions.set(content, path, old[:size].ljust(size, b"\0"))

            await self._kernel.cut_path(path, size, cut)

    async def cut_open(self, path: str, size: int, more: bool) -> None:
        call = self._begin(f"cut_open {path} {size}", path)
        with self._answer(call) as answer:
            file = await self._open(path, os.O_RDWR)
            async with self._closed(call, path, file):
                first = self._versions.of(file.content)

                def begin() -> Callable[[], None]:
                    old = self._versions.of(file.content)
                    content = old[:size].ljust(size, b"\0")
                    return lambda: self._changed(path, file, content)

                await self._kernel.cut(file, size, begin)
                if more:
                    await self._write(path, file, size, self._dice.randbytes(100))
                content = await self._close(call, path, file, self._kernel.flush)
            answer.facts = {path: content} if content != first else {}

    async def chmod(self, path: str, mode: int) -> None:
        await self._try(self._kernel.chmod(path, mode))

    # ---- names -----------------------------------------------------------------------------------

    async def unlink(self, path: str) -> None:
        call = self._begin(f"unlink {path}", path)
        before = self._oracle.facts.get(path)
        with self._answer(call) as answer:
            try:
                await self._kernel.unlink(path)
            except OSError as error:
                if not call.disturbed:
                    self._oracle.check_missing(self._mount, path, before, error.errno or 0, call)
                raise
            answer.gone = path

    async def rmdir(self, path: str) -> None:
        call = self._begin(f"rmdir {path}", path)
        with self._answer(call) as answer:
            await self._kernel.rmdir(path)
            answer.gone = path

    async def empty(self, path: str) -> None:
        """Rm of what is in a directory, in the order of its listing."""
        try:
            names = sorted(await self._kernel.names(path))
        except OSError:
            return
        for name in names:
            below = f"{path}/{name}"
            await (self.rmdir(below) if below in DIRECTORIES else self.unlink(below))

    async def mkdir(self, path: str) -> None:
        self._oracle.directory(path)
        call = self._begin(f"mkdir {path}", path)
        with self._answer(call) as answer:
            await self._kernel.mkdir(path)
            answer.facts = {path: DIRECTORY}

    async def symlink(self, path: str, size: int) -> None:
        target = b"t" + self._dice.randbytes(size % 1000 + 1).hex().encode()
        call = self._begin(f"symlink {path}", path)
        self._oracle.publishable(path, target)
        with self._answer(call) as answer:
            await self._kernel.symlink(path, target)
            answer.facts = {path: target}

    async def readlink(self, path: str) -> None:
        before = self._oracle.fact(path)
        try:
            target = await self._kernel.readlink(path)
        except OSError as error:
            self._oracle.check_missing(self._mount, path, before, error.errno or 0)
        else:
            self._oracle.check_read(self._mount, path, target, before)

    async def rename(self, old: str, new: str, replace: bool) -> None:
        if old == new:
            return
        call = self._begin(f"rename {old} {new} {'' if replace else 'noreplace'}", old, new)
        self._oracle.renaming(call, old, new)
        with self._answer(call) as answer:
            asked = functools.partial(self._oracle.asked, call)
            await self._kernel.rename(old, new, replace=replace, asked=asked)
            answer.renamed = old, new

    async def names(self, path: str) -> None:
        before = dict(self._oracle.facts)
        try:
            found = await self._kernel.names(path)
        except OSError as error:
            self._oracle.check_missing(self._mount, path, before.get(path), error.errno or 0)
        else:
            self._oracle.check_names(self._mount, path, found, before)

    async def look(self, path: str) -> None:
        before = self._oracle.fact(path)
        try:
            await self._kernel.look(path)
        except OSError as error:
            self._oracle.check_missing(self._mount, path, before, error.errno or 0)

    async def sync_directory(self, path: str) -> None:
        await self._try(self._kernel.sync_directory(path))

    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def collect(self, path: str, found: dict[str, bytes]) -> None:
        """All files and links below a directory, as programs see them."""
        for name in sorted(await self._kernel.names(path)):
            below = f"{path}/{name}" if path else name
            mode = await self._kernel.look(below)
            if stat.S_ISDIR(mode):
                await self.collect(below, found)
            elif stat.S_ISLNK(mode):
                found[below] = await self._kernel.readlink(below)
            else:
                file = await self._open(below, os.O_RDONLY)
                found[below] = await self._kernel.read(file, 0, 1 << 20)
                self._kernel.release(file)

    # ---- helpers ---------------------------------------------------------------------------------

    async def _try(self, what: Any) -> None:
        try:
            await what
        except OSError as error:
            self._oracle.note(f"{self._mount} {errno.errorcode.get(error.errno or 0)}")

    def _begin(self, what: str, *paths: str) -> Call:
        return self._oracle.begin(self._mount, what, *paths)

    def _answer(self, call: Call) -> _Answer:
        return _Answer(self._oracle, call)


class _Answer:
    """Tells the oracle how a call ended, as the block ends."""

    def __init__(self, oracle: Oracle, call: Call) -> None:
        self._oracle, self._call = oracle, call
        self.facts: dict[str, bytes | None] | None = None
        self.gone = ""
        self.renamed: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        oracle, call = self._oracle, self._call
        if call.ended != float("inf"):
            return isinstance(error, OSError)  # killed: it has been told so
        if isinstance(error, OSError):
            code = error.errno or 0
            oracle.fail(call, errno.errorcode.get(code, str(code)), nothing=code in _NOTHING)
            return True
        if error is not None:
            oracle.fail(call, "killed" if isinstance(error, Killed) else "cancelled")
        elif self.gone:
            oracle.gone(call, self.gone)
        elif self.renamed:
            oracle.renamed(call, *self.renamed)
        else:
            oracle.done(call, self.facts)
        return False
