"""A `Tree` over a bucket in memory, without kernel: what the tests of this package stand on.

`planted` gives a `Mount`; its verbs are those of the FUSE layer, in its order of calls, so that a
test reads like what a program does. Tests that use it run under trio's MockClock.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import pytest
import trio

from bucketfs.cache.cache import DiskCache, Pool
from bucketfs.errors import StoreError
from bucketfs.file.context import FileContext
from bucketfs.store.base import Headers, ObjectInfo, Store
from bucketfs.tasks import Background
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.posix import Defaults
from bucketfs.tree.core.state import TreeConfig, Watcher
from bucketfs.tree.tree import Tree
from tests.harness.memory import Fault, MemoryStore
from tests.tree.check import check

P = ParamSpec("P")
R = TypeVar("R")

MIB = 1 << 20
#: Trees up to so many names are looked at after each verb.
CHECKED = 100
TTL = 60.0


class Bucket(MemoryStore):
    """A bucket whose answers take time, too: a request is carried out `answer` seconds earlier."""

    answer: float = 0.0

    def requested(self) -> dict[str, int]:
        """Requests since the last call, by operation."""
        counts = dict(self.requests)
        self.requests.clear()
        return counts

    async def delete(self, key: str, *, if_match: str = "") -> None:
        await super().delete(key, if_match=if_match)
        await trio.sleep(self.answer)

    async def put(self, key: str, *args: object, **conditions: object) -> ObjectInfo:
        info = await super().put(key, *args, **conditions)  # type: ignore[arg-type]
        await trio.sleep(self.answer)
        return info

    async def complete(self, key: str, *args: object, **conditions: object) -> ObjectInfo:
        info = await super().complete(key, *args, **conditions)  # type: ignore[arg-type]
        await trio.sleep(self.answer)
        return info

    async def head(self, key: str) -> ObjectInfo:
        info = await super().head(key)
        await trio.sleep(self.answer)
        return info

    def refuse(self, operation: str, code: str = "AccessDenied", *, key: str = "") -> None:
        """Fail all requests of an operation (for one key) from now on."""

        def hook(asked: str, name: str, _count: int) -> Fault | None:
            if asked != operation or key not in ("", name):
                return None
            return Fault(StoreError(code, status=403, operation=operation, key=name))

        self.fault = hook


def verb(
    method: Callable[Concatenate[Mount, P], Awaitable[R]],
) -> Callable[Concatenate[Mount, P], Awaitable[R]]:
    """What a program does: whether it succeeds or not, the tree is as it should be afterwards."""

    @functools.wraps(method)
    async def checked(self: Mount, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(self, *args, **kwargs)
        finally:
            # of many files only the end is looked at: it would take longer than the test
            if self.tree.state.entries <= CHECKED and sys.exc_info()[0] is not trio.Cancelled:
                check(self.tree)

    return checked


@dataclass(slots=True)
class Mount:
    """A planted tree with its bucket; the methods are what programs do."""

    tree: Tree
    bucket: Bucket
    cache: DiskCache

    @property
    def root(self) -> Directory:
        """The mounted directory."""
        return self.tree.state.root

    async def find(self, path: str) -> Inode:
        """Inode of a path, looked up name by name as the kernel does."""
        inode: Inode = self.root
        for name in path.split("/"):
            assert isinstance(inode, Directory)
            inode = await self.tree.finder.find(inode, name)
        return inode

    @verb
    async def root_listed(self) -> None:
        """Have names in the root cost no request."""
        await self.tree.lister.ensure(self.root)

    def expire(self) -> None:
        """Have everything asked of the bucket again."""
        waiting = [self.root]
        while waiting:
            directory = waiting.pop()
            directory.listed = directory.checked = NEVER
            directory.negatives.clear()
            for child in directory.children.values():
                child.checked = NEVER
                if isinstance(child, Directory):
                    waiting.append(child)

    async def directory(self, path: str) -> Directory:
        """Directory of a path, "" for the root."""
        inode = await self.find(path) if path else self.root
        assert isinstance(inode, Directory)
        return inode

    @verb
    async def names(self, path: str = "") -> set[str]:
        """Entries of a directory."""
        directory = await self.directory(path)
        await self.tree.lister.ensure(directory)
        return set(directory.children)

    @verb
    async def open(self, path: str, flags: int = os.O_RDONLY) -> Handle:
        """An existing file, opened."""
        return await self.tree.opener.open(await self.find(path), flags, uid=0, pid=0)

    @verb
    async def create(self, path: str) -> Handle:
        """A new file, opened."""
        parent, _, name = path.rpartition("/")
        inode = await self.tree.entries.create(
            await self.directory(parent), name, 0o644, uid=0, gid=0
        )
        return self.tree.opener.open_new(inode, pid=0)

    @verb
    async def write(self, handle: Handle, offset: int, data: bytes) -> None:
        """Write to an open file."""
        assert await self.tree.opener.write(handle, offset, data) == len(data)

    @verb
    async def pread(self, handle: Handle, start: int, length: int) -> bytes:
        """Read from an open file."""
        return await self.tree.opener.read(handle, start, length)

    @verb
    async def flush(self, handle: Handle) -> None:
        """What close(2) waits for."""
        await self.tree.saver.flush(handle)

    @verb
    async def close(self, handle: Handle) -> None:
        """Flush and let go, as the kernel does at the last close; raises what flush did."""
        try:
            await self.flush(handle)
        finally:
            await self.tree.opener.release(handle)

    @verb
    async def read(self, path: str) -> bytes:
        """All bytes of a file."""
        handle = await self.open(path)
        try:
            return await self.pread(handle, 0, handle.content.size)
        finally:
            await self.close(handle)

    @verb
    async def save(self, path: str, data: bytes) -> None:
        """A new file with these bytes."""
        handle = await self.create(path)
        await self.write(handle, 0, data)
        await self.close(handle)

    @verb
    async def unlink(self, path: str) -> None:
        """Remove a file."""
        parent, _, name = path.rpartition("/")
        await self.tree.entries.unlink(await self.directory(parent), name)

    @verb
    async def mkdir(self, path: str) -> Directory:
        """Make a directory."""
        parent, _, name = path.rpartition("/")
        return await self.tree.entries.make_directory(
            await self.directory(parent), name, 0o755, 0, 0
        )

    @verb
    async def rmdir(self, path: str) -> None:
        """Remove a directory."""
        parent, _, name = path.rpartition("/")
        await self.tree.entries.remove_directory(await self.directory(parent), name)

    @verb
    async def rename(self, old: str, new: str, *, over: bool = True) -> None:
        """Give a path another name."""
        old_parent, _, old_name = old.rpartition("/")
        new_parent, _, new_name = new.rpartition("/")
        await self.tree.renamer.rename(
            await self.directory(old_parent),
            old_name,
            await self.directory(new_parent),
            new_name,
            replace=over,
        )

    def stored(self) -> list[str]:
        """Keys in the bucket."""
        return list(self.bucket.objects)


async def in_place(job: Callable[[], object]) -> object:
    """Instead of a thread, for which the virtual clock would not wait."""
    await trio.lowlevel.checkpoint()
    result = job()
    await trio.lowlevel.checkpoint()
    return result


def killed(bucket: Bucket, directory: Path, copy: Path) -> Bucket:
    """What kill -9 would leave of the bucket and (in `copy`) of the cache at this moment."""
    shutil.copytree(directory, copy)
    left = Bucket(latency=bucket.latency)
    left.objects.update(bucket.objects)
    left.uploads.update(deepcopy(bucket.uploads))
    left._serial = bucket._serial
    return left


CONFIG = TreeConfig(prefix="", ttl=TTL, open_ttl=1.0, defaults=Defaults(uid=1, gid=1))


@asynccontextmanager
async def planted(
    bucket: Bucket,
    directory: Path,
    *,
    part_size: int | None = None,
    cache_size: int = 1 << 30,
    replay: bool = True,
    watcher: Watcher | None = None,
    store: Store | None = None,
    **config: object,
) -> AsyncIterator[Mount]:
    """A mount of the bucket with its cache in `directory`; nothing is drained at the end.

    It asks the `store`, if there is one on top of the bucket.
    """
    prefix = str(config.get("prefix", ""))
    cache = DiskCache(
        directory, name="bucket", pool=Pool(cache_size, lambda disk: 0), prefix=prefix
    )
    cache.journal.in_thread = in_place
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            files = FileContext(store or bucket, cache, Background(nursery), part_size, parallel=8)
            tree = Tree(files, replace(CONFIG, **config), watcher)  # type: ignore[arg-type]
            await tree.attributes.ensure(tree.state.root)
            if replay:
                await tree.replay.run()
            bucket.requested()
            try:
                yield Mount(tree, bucket, cache)
                check(tree)
            except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - re-raised
                failure = error  # raised below as it is, not as a group
            nursery.cancel_scope.cancel()
        if failure is None:
            check(tree, ended=True)
    finally:
        cache.close()
    if failure is not None:
        raise failure


def said(mode: int, **other: str) -> Headers:
    """Headers of an object that says its mode."""
    return Headers(metadata={"mode": str(mode), **other})


def noise(length: int, seed: int = 1) -> bytes:
    """Bytes that differ everywhere."""
    return random.Random(seed).randbytes(length)
