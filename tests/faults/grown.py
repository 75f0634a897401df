"""A tree on a bucket in memory behind the retrying store: what the full matrix runs on."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from bucketfs.cache.cache import DiskCache, Pool
from bucketfs.errors import FsError, StoreError, errno_of
from bucketfs.file.context import FileContext
from bucketfs.store.layers.fallback import FallbackStore
from bucketfs.store.layers.retry import RetryPolicy, RetryStore
from bucketfs.tasks import Background
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.saving.change import Change
from bucketfs.tree.tree import Tree
from tests.faults.scenario import Entry, World, of_objects
from tests.harness.providers import provider_with
from tests.tree.builder import CONFIG, Bucket, Mount, in_place

KINDS = {stat.S_IFDIR: "d", stat.S_IFLNK: "l"}


@contextmanager
def errnos() -> Iterator[None]:
    """What the guard of the handlers does: each failure is an errno."""
    try:
        yield
    except (FsError, StoreError) as failure:
        raise OSError(errno_of(failure), str(failure)) from failure
    except Exception as failure:
        raise OSError(errno.EIO, str(failure)) from failure


class TreeFiles:
    """`Files` of a tree without a kernel."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount

    async def save(self, path: str, data: bytes, *, piece: int) -> None:
        with errnos():
            try:
                handle = await self.mount.create(path)
            except FsError:
                handle = await self.mount.open(path, os.O_WRONLY | os.O_TRUNC)
            try:
                for start in range(0, len(data), piece):
                    await self.mount.write(handle, start, data[start : start + piece])
            finally:
                await self.mount.close(handle)

    async def save_synced(self, path: str, head: bytes, tail: bytes) -> None:
        with errnos():
            handle = await self.mount.create(path)
            try:
                await self.mount.write(handle, 0, head)
                await self.mount.tree.saver.sync(handle)
                await self.mount.write(handle, len(head), tail)
            finally:
                await self.mount.close(handle)

    async def patch(self, path: str, offset: int, data: bytes) -> None:
        with errnos():
            handle = await self.mount.open(path, os.O_RDWR)
            try:
                await self.mount.write(handle, offset, data)
            finally:
                await self.mount.close(handle)

    async def truncate(self, path: str, size: int) -> None:
        with errnos():
            inode = await self.mount.find(path)
            await self.mount.tree.attributes.ensure(inode)
            await self.mount.tree.opener.truncate(inode, size, publish=True)

    async def rename(self, old: str, new: str) -> None:
        with errnos():
            await self.mount.rename(old, new)

    async def chmod(self, path: str, perm: int) -> None:
        with errnos():
            inode = await self.mount.find(path)
            await self.mount.tree.attributes.ensure(inode)
            if self.mount.tree.changer.change(inode, Change(mode=perm)):
                self.mount.tree.later.attributes(inode)

    async def symlink(self, target: str, path: str) -> None:
        with errnos():
            mode = stat.S_IFLNK | 0o777
            await self.mount.tree.entries.make(
                self.mount.root, path, mode, 0, 0, body=target.encode()
            )

    async def mkdir(self, path: str) -> None:
        with errnos():
            await self.mount.mkdir(path)

    async def rmdir(self, path: str) -> None:
        with errnos():
            await self.mount.rmdir(path)

    async def unlink(self, path: str) -> None:
        with errnos():
            await self.mount.unlink(path)

    async def read(self, path: str, start: int, length: int) -> bytes:
        with errnos():
            handle = await self.mount.open(path)
            try:
                return await self.mount.pread(handle, start, length)
            finally:
                await self.mount.close(handle)

    async def entries(self, path: str) -> Mapping[str, tuple[str, int]]:
        with errnos():
            directory = await self.mount.directory(path)
            await self.mount.tree.subtree.ensure(directory)
            found = {}
            for name, inode in list(directory.children.items()):
                await self.mount.tree.attributes.ensure(inode)
                posix = self.mount.tree.posix(inode)
                found[name] = (KINDS.get(stat.S_IFMT(posix.mode), "-"), inode.size)
            return found

    async def entry(self, path: str) -> Entry:
        with errnos():
            inode = await self.mount.find(path)
            await self.mount.tree.attributes.ensure(inode)
            mode = self.mount.tree.posix(inode).mode
            kind = KINDS.get(stat.S_IFMT(mode), "-")
            data = b""
            if kind == "l":
                data = await self.mount.tree.read_link(inode)
            elif not isinstance(inode, Directory):
                data = await self.mount.read(path)
            return Entry(kind, data, stat.S_IMODE(mode))


@asynccontextmanager
async def grown(
    bucket: Bucket,
    directory: Path,
    *,
    part_size: int,
    renew: Callable[[float], Awaitable[bool]] | None = None,
) -> AsyncIterator[Mount]:
    """A mount of the bucket as `open_store` builds its store, with its cache in `directory`."""
    provider = provider_with(bucket.capabilities)
    dice = random.Random(1)
    retried = RetryStore(bucket, RetryPolicy(), renew=renew, luck=dice.random)
    store = FallbackStore(retried, provider)
    cache = DiskCache(directory, name="bucket", pool=Pool(1 << 30, lambda disk: 0))
    cache.journal.in_thread = in_place
    try:
        async with trio.open_nursery() as nursery:
            files = FileContext(store, cache, Background(nursery), part_size, parallel=8)
            tree = Tree(files, CONFIG)
            await tree.attributes.ensure(tree.state.root)
            yield Mount(tree, bucket, cache)
            nursery.cancel_scope.cancel()
    finally:
        cache.close()


def contents(bucket: Bucket) -> World:
    """What the bucket says, asked behind everyone's back."""
    return of_objects(
        (key, stored.data, stored.headers.metadata) for key, stored in bucket.objects.items()
    )


def fill(bucket: Bucket, world: World) -> None:
    """Put a step's objects into the bucket."""
    for path, entry in world.items():
        bucket.poke(path + "/" if entry.kind == "d" else path, entry.data)
