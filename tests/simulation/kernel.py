"""What the kernel does between a program and the FUSE handlers: paths, locks, names it remembers.

As Linux has it: a change of a directory holds its lock, lookups of different names in it share it,
a write and a truncation hold that of the file; a removal also that of what is removed; a name is
looked up again when its time is over or ESTALE is answered. A close flushes, and its release is
waited for by nobody.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TypeVar

import pyfuse3
import trio

from bucketfs.file.content import Content
from bucketfs.fuse import operations
from bucketfs.fuse.operations import Operations
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.core.inode import ROOT_INO, Inode
from tests.simulation import chance

T = TypeVar("T")


#: The kernel's side of each mount, by name.
kernels: dict[str, Kernel] = {}


class Killed(Exception):
    """The mount is gone; what was being asked has no answer."""


@dataclass(eq=False)
class File:
    """An open file of a program."""

    fh: int
    ino: int
    content: Content


class InodeLock:
    """Held by one who changes an inode, or shared by those who look names up in it.

    Who changes it waits for those who look, and keeps others from beginning to.
    """

    def __init__(self) -> None:
        self._turn = trio.Lock()
        self._lookers = 0
        self._nobody_looks = trio.Event()

    async def __aenter__(self) -> None:
        await self._turn.acquire()
        try:
            if self._lookers:
                await self._nobody_looks.wait()
        except BaseException:
            self._turn.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._turn.release()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Look a name up in the block."""
        async with self._turn:
            if not self._lookers:
                self._nobody_looks = trio.Event()
            self._lookers += 1
        try:
            yield
        finally:
            self._lookers -= 1
            if not self._lookers:
                self._nobody_looks.set()


class Kernel:
    """Asks the handlers of one mount for programs.

    Each method raises OSError with what the handlers answer, and `Killed`.
    """

    def __init__(self, handlers: Operations, nursery: trio.Nursery, dice: random.Random) -> None:
        self.dead = False
        self._operations = handlers
        self._nursery = nursery
        self._dice = dice
        self._locks: dict[int, InodeLock] = defaultdict(InodeLock)
        #: By directory and name: held by who looks it up.
        self._looking: dict[tuple[int, str], trio.Lock] = defaultdict(trio.Lock)
        #: By directory and name: the inode's number (0: none) and until when that is believed.
        self._names: dict[tuple[int, str], tuple[int, float]] = {}
        self._lookups: Counter[int] = Counter()
        self._used: Counter[int] = Counter()
        self._rename = trio.Lock()
        #: Calls under way that have found inodes by their paths.
        self._walks = 0
        kernels[chance.mount_name.get()] = self

    def forget(self, parent: int, name: str) -> None:
        """Look a name up again (FUSE_NOTIFY_INVAL_ENTRY)."""
        self._names.pop((parent, name), None)

    # ---- files -----------------------------------------------------------------------------------

    async def open(self, path: str, flags: int, pid: int, then: Callable[[File], None]) -> File:
        """The system call open; O_CREAT, O_EXCL and O_TRUNC count.

        `then` is told at the moment when it has been done.
        """
        return await self._again(lambda: self._open(path, flags, pid, then))

    async def _open(self, path: str, flags: int, pid: int, then: Callable[[File], None]) -> File:
        async with self._parent(path) as (parent, name):
            if flags & os.O_CREAT:
                async with self._locks[parent]:
                    ino = await self._look_up(parent, name)
                    if not ino:
                        answer, entry = await self._ask(
                            self._operations.create(
                                parent, name.encode(), 0o644, flags, _context(pid)
                            )
                        )
                        self._learn(parent, name, entry)
                        return self._file(answer.fh, entry.st_ino, then)
                    if flags & os.O_EXCL:
                        raise OSError(errno.EEXIST, name)
            else:
                ino = await self._find(parent, name)
            async with AsyncExitStack() as held:
                if flags & os.O_TRUNC:
                    await held.enter_async_context(self._locks[ino])
                flags &= ~(os.O_CREAT | os.O_EXCL)
                answer = await self._ask(self._operations.open(ino, flags, _context(pid)))
                return self._file(answer.fh, ino, then)

    async def read(self, file: File, start: int, length: int) -> bytes:
        """pread(2)."""
        return await self._ask(self._operations.read(file.fh, start, length))

    async def write(
        self, file: File, offset: int, data: bytes, begin: Callable[[], Callable[[int], None]]
    ) -> None:
        """pwrite(2) of all the data.

        `begin` is called when nobody else can write to the file any more; what it answers is told
        how much has been stored, at that moment.
        """
        async with self._locks[file.ino]:
            done, then = 0, begin()
            while done < len(data):
                done += await self._ask(self._operations.write(file.fh, offset + done, data[done:]))
                then(done)

    async def cut(self, file: File, size: int, begin: Callable[[], Callable[[], None]]) -> None:
        """ftruncate(2); `begin` as for `write`."""
        async with self._locks[file.ino]:
            then = begin()
            await self._set(file.ino, file.fh, st_size=size)
            then()

    async def cut_path(self, path: str, size: int, then: Callable[[Inode], None]) -> None:
        """truncate(2); `then` is told at the moment when it has been done."""
        await self._again(lambda: self._cut_path(path, size, then))

    async def _cut_path(self, path: str, size: int, then: Callable[[Inode], None]) -> None:
        async with self._parent(path) as (parent, name):
            ino = await self._find(parent, name)
            async with self._locks[ino]:
                await self._set(ino, None, st_size=size)
                then(self._operations._table.get(ino))

    async def flush(self, file: File) -> None:
        """close(2) of one of several descriptors."""
        await self._ask(self._operations.flush(file.fh))

    async def fsync(self, file: File) -> None:
        """The system call fsync."""
        async with self._locks[file.ino]:
            await self._ask(self._operations.fsync(file.fh, datasync=False))

    def release(self, file: File, first: Callable[[], Awaitable[object]] | None = None) -> None:
        """The last descriptor is gone: RELEASE, and `first` what comes before that."""
        if not self.dead:
            self._nursery.start_soon(self._release, file, first)

    async def _release(self, file: File, first: Callable[[], Awaitable[object]] | None) -> None:
        with contextlib.suppress(OSError, Killed):
            if first is not None:
                await first()
        with contextlib.suppress(OSError, Killed):
            await self._ask(self._operations.release(file.fh))
        self._leave(file.ino)

    # ---- names -----------------------------------------------------------------------------------

    async def unlink(self, path: str) -> None:
        """The system call unlink."""
        await self._remove(path, self._operations.unlink)

    async def rmdir(self, path: str) -> None:
        """The system call rmdir."""
        await self._remove(path, self._operations.rmdir)

    async def mkdir(self, path: str) -> None:
        """The system call mkdir."""
        await self._make(
            path,
            lambda parent, name: self._operations.mkdir(
                parent, name, stat.S_IFDIR | 0o755, _context(0)
            ),
        )

    async def symlink(self, path: str, target: bytes) -> None:
        """The system call symlink."""
        await self._make(
            path,
            lambda parent, name: self._operations.symlink(parent, name, target, _context(0)),
        )

    async def rename(self, old: str, new: str, *, replace: bool, asked: Callable[[], None]) -> None:
        """renameat2(2); `asked` hears of each request."""

        def ask() -> Awaitable[None]:
            asked()
            return self._rename_once(old, new, replace=replace)

        await self._again(ask)

    async def names(self, path: str) -> set[str]:
        """All of readdir(3)."""
        return await self._again(lambda: self._names_once(path))

    async def sync_directory(self, path: str) -> None:
        """fsync(2) of a directory."""
        async with self._directory(path) as ino:
            fh = await self._ask(self._operations.opendir(ino, _context(0)))
            try:
                await self._ask(self._operations.fsyncdir(fh, datasync=False))
            finally:
                await self._operations.releasedir(fh)

    async def look(self, path: str) -> int:
        """stat(2): the mode."""
        return await self._again(lambda: self._look(path))

    async def readlink(self, path: str) -> bytes:
        """The system call readlink."""
        async with self._parent(path) as (parent, name):
            ino = await self._find(parent, name)
            return await self._ask(self._operations.readlink(ino, _context(0)))

    async def chmod(self, path: str, mode: int) -> None:
        """The system call chmod."""
        async with self._parent(path) as (parent, name):
            ino = await self._find(parent, name)
            async with self._locks[ino]:
                await self._set(ino, None, st_mode=mode)

    # ---- helpers ---------------------------------------------------------------------------------

    async def _ask(self, handler: Awaitable[T]) -> T:
        try:
            answer = await handler
        except pyfuse3.FUSEError as error:
            if self.dead:
                raise Killed from error
            raise OSError(error.errno, os.strerror(error.errno)) from error
        if self.dead:
            raise Killed
        return answer

    async def _again(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            return await ask()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        self._names.clear()
        return await ask()

    def _file(self, fh: int, ino: int, then: Callable[[File], None]) -> File:
        handle = self._operations.handles[fh]
        assert isinstance(handle, Handle)
        self._used[ino] += 1
        file = File(fh, ino, handle.content)
        then(file)
        return file

    async def _set(self, ino: int, fh: int | None, **changes: int) -> None:
        attributes = pyfuse3.EntryAttributes()
        for name, value in changes.items():
            setattr(attributes, name, value)
        fields = SimpleNamespace(
            update_size="st_size" in changes,
            update_mode="st_mode" in changes,
            update_uid=False,
            update_gid=False,
            update_atime=False,
            update_mtime=False,
        )
        await self._ask(self._operations.setattr(ino, attributes, fields, fh, _context(0)))

    async def _remove(self, path: str, handler: Callable[..., Awaitable[None]]) -> None:
        async with self._parent(path) as (parent, name), self._locks[parent]:
            ino = await self._look_up(parent, name)
            if not ino:
                raise OSError(errno.ENOENT, path)
            async with self._locks[ino]:
                try:
                    await self._ask(handler(parent, name.encode(), _context(0)))
                finally:
                    self._names.pop((parent, name), None)

    async def _make(
        self,
        path: str,
        handler: Callable[[int, bytes], Awaitable[pyfuse3.EntryAttributes]],
    ) -> None:
        async with self._parent(path) as (parent, name), self._locks[parent]:
            if await self._look_up(parent, name):
                raise OSError(errno.EEXIST, path)
            self._names.pop((parent, name), None)
            self._learn(parent, name, await self._ask(handler(parent, name.encode())))

    async def _rename_once(self, old: str, new: str, *, replace: bool) -> None:
        async with AsyncExitStack() as held:
            from_, old_name = await held.enter_async_context(self._parent(old))
            into, new_name = await held.enter_async_context(self._parent(new))
            if from_ != into:
                await held.enter_async_context(self._rename)
            for parent in sorted({from_, into}):
                await held.enter_async_context(self._locks[parent])
            source = await self._look_up(from_, old_name)
            target = await self._look_up(into, new_name)
            if not source:
                raise OSError(errno.ENOENT, old)
            if target and not replace:
                raise OSError(errno.EEXIST, new)
            if source == target:
                return
            for ino in sorted({source, target} - {0, from_, into}):
                await held.enter_async_context(self._locks[ino])
            flags = 0 if replace else pyfuse3.RENAME_NOREPLACE
            try:
                await self._ask(
                    self._operations.rename(
                        from_, old_name.encode(), into, new_name.encode(), flags, _context(0)
                    )
                )
            finally:
                self._names.pop((from_, old_name), None)
                self._names.pop((into, new_name), None)

    async def _names_once(self, path: str) -> set[str]:
        found: set[str] = set()
        read = 0

        def take(name: bytes, entry: pyfuse3.EntryAttributes, position: int) -> bool:
            nonlocal read
            read = position
            if name not in {b".", b".."}:
                found.add(name.decode())
                self._lookups[entry.st_ino] += 1
            return True

        async with self._directory(path) as ino:
            fh = await self._ask(self._operations.opendir(ino, _context(0)))
            try:
                start = -1
                while read != start:
                    start = read
                    await self._ask(self._operations.readdir(fh, start, take))
            finally:
                await self._operations.releasedir(fh)
        return found

    async def _look(self, path: str) -> int:
        async with self._parent(path) as (parent, name):
            ino = await self._find(parent, name)
            entry = await self._ask(self._operations.getattr(ino, _context(0)))
            return int(entry.st_mode)

    @asynccontextmanager
    async def _directory(self, path: str) -> AsyncIterator[int]:
        async with self._parent(path + "/.") as (ino, _):
            yield ino

    @asynccontextmanager
    async def _parent(self, path: str) -> AsyncIterator[tuple[int, str]]:
        """The directory of a path, which the kernel holds meanwhile, and the last name."""
        *above, name = path.removeprefix("/").split("/")
        used = [ROOT_INO]
        self._used[ROOT_INO] += 1
        self._walks += 1
        try:
            for each in above:
                ino = await self._find(used[-1], each)
                used.append(ino)
                self._used[ino] += 1
            yield used[-1], name
        finally:
            self._walks -= 1
            for ino in used:
                self._leave(ino)

    async def _find(self, parent: int, name: str) -> int:
        async with self._locks[parent].shared(), self._looking[parent, name]:
            ino = await self._look_up(parent, name)
        if not ino:
            raise OSError(errno.ENOENT, name)
        return ino

    async def _look_up(self, parent: int, name: str) -> int:
        """The number of a name, 0 for none; who asks has the directory's lock, or the name's."""
        ino, until = self._names.get((parent, name), (0, -1.0))
        if trio.current_time() < until:
            return ino
        try:
            entry = await self._ask(self._operations.lookup(parent, name.encode(), _context(0)))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return 0
        self._learn(parent, name, entry)
        return int(entry.st_ino)

    def _learn(self, parent: int, name: str, entry: pyfuse3.EntryAttributes) -> None:
        ino = int(entry.st_ino)
        self._lookups[ino] += bool(ino)
        self._names[parent, name] = ino, trio.current_time() + entry.entry_timeout

    def _leave(self, ino: int) -> None:
        """A use of an inode has ended; the kernel may forget it."""
        self._used[ino] -= 1
        if (
            self._walks
            or self._used[ino]
            or ino == ROOT_INO
            or self.dead
            or self._dice.random() < 0.7
        ):
            return
        if any(parent == ino for (parent, _), _ in self._names.items()):
            return
        self._names = {key: known for key, known in self._names.items() if known[0] != ino}
        self._operations._table.forget(ino, self._lookups.pop(ino, 0))


def install() -> None:
    """Take the place of the kernel for all mounts of this process."""
    pyfuse3.invalidate_inode = lambda *_args, **_options: None  # no page is remembered here
    pyfuse3.invalidate_entry = pyfuse3.invalidate_entry_async = _invalidate_entry
    pyfuse3.readdir_reply = lambda token, *answer: token(*answer)
    operations.is_open_for_writing = lambda *_args: False


def _invalidate_entry(parent: int, name: bytes, **_options: object) -> None:
    """The calling mount's kernel is to forget a name."""
    kernels[chance.mount_name.get()].forget(parent, name.decode())


def _context(pid: int) -> SimpleNamespace:
    return SimpleNamespace(uid=0, gid=0, pid=pid, umask=0o022)
