"""What commands ask of the cache: to have all bytes below a path here, or none.

Warming fetches what is missing, several pieces at a time, and never pushes out of the cache what it
has fetched, or what was used since it began: it stops when nothing older is left to make room.
Evicting drops what the bucket has; bytes that it lacks stay.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final

import trio

from bucketfs.cache.cache import DiskCache
from bucketfs.errors import FsError, NoAnswer, StoreError
from bucketfs.file import window
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.attributes import Attributes
from bucketfs.tree.lookup.find import Finder
from bucketfs.tree.prefetch.prefetcher import FILE_MAX
from bucketfs.tree.prefetch.subtree import Subtree
from bucketfs.tree.saving.open import Opener

#: One in so many of the requests that may run at once is left to programs that read meanwhile.
_LEFT_TO_OTHERS: Final = 4
#: A page file takes whole blocks of the disk.
_BLOCK: Final = 4096
#: The room in the cache is counted anew after so many bytes: programs use it, too.
_RECOUNT: Final = 64 << 20


@dataclass(slots=True)
class Warming:
    """How far the warming of a path is.

    Attributes:
        found_files / found_bytes: What is below the path, as far as it has been looked through.
        listed: All of it has been found.
        files / bytes: Files of which everything is here, and bytes that are here.
        fetched: Bytes of these that were not here before.
        skipped: Files that are not saved yet: their bytes are here anyway.
        failed: Paths and reasons.
        full: The path at which the cache had no room left, "" if it was enough.
    """

    found_files: int = 0
    found_bytes: int = 0
    listed: bool = False
    files: int = 0
    bytes: int = 0
    fetched: int = 0
    skipped: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    full: str = ""


@dataclass(slots=True)
class _File:
    """A file on its way into the cache; `left`: pieces that are not here yet."""

    path: str
    inode: Inode
    left: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes ``[start, stop)`` of a file; a small file is one, and comes with its attributes."""

    file: _File
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


class _Room:
    """Bytes that may still come into the cache and push out only what was not used lately.

    Args:
        cache: Which.
        since: Monotonic time; what was used from then on is to stay.
    """

    def __init__(self, cache: DiskCache, since: float) -> None:
        self._cache = cache
        self._since = since
        self._pending = 0
        self._count()

    def _count(self) -> None:
        self._left = self._cache.room(self._since) - self._pending
        self._taken = 0

    def take(self, size: int) -> bool:
        """Have room for so many bytes, if there is."""
        size = _on_disk(size)
        if self._taken > _RECOUNT:
            self._count()
        if size > self._left:
            return False
        self._left -= size
        self._taken += size
        self._pending += size
        return True

    def arrived(self, size: int) -> None:
        """So many of the bytes are in the cache, or will not come."""
        self._pending -= _on_disk(size)


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


class Caching:
    """Fills and empties the cache on request."""

    def __init__(
        self,
        state: TreeState,
        finder: Finder,
        subtree: Subtree,
        attributes: Attributes,
        opener: Opener,
    ) -> None:
        self._state = state
        self._cache = state.files.cache
        self._finder = finder
        self._subtree = subtree
        self._attributes = attributes
        self._opener = opener

    def evict(self, path: str) -> tuple[int, int]:
        """Drop what the cache has of all below a path, but for unsaved files and near readers.

        Returns:
            How many page files lost bytes, and how many bytes.
        """
        key = self._state.config.prefix + path
        below = key if not path else f"{key}/"
        files, freed = self._cache.evict(lambda name: name == key or name.startswith(below))
        for inode in list(self._state.open_inodes):
            content = inode.content
            if content is None or content.unsaved or inode.parent is None:
                continue
            name = self._state.path(inode)
            if name == key or name.startswith(below):
                gone = content.reclaim(content.size)
                files, freed = files + (gone > 0), freed + gone
        return files, freed

    async def warm(self, path: str, since: float, told: Warming) -> None:
        """Fetch what is missing here of all files below a path.

        Args:
            path: Below the mount point, without slashes around it.
            since: Monotonic time; what was used from then on is not pushed out.
            told: Is kept up to date.

        Raises:
            FsError: ENOENT and the like, of the path itself.
            StoreError: The bucket could not be listed, or does not answer.
        """
        found = [each async for each in self._found(path, told)]
        told.listed = True
        failure: NoAnswer | None = None
        room = _Room(self._cache, since)
        parallel = self._state.files.parallel
        workers = max(1, parallel - parallel // _LEFT_TO_OTHERS)
        send, receive = trio.open_memory_channel[_Piece](0)

        async def work(scope: trio.CancelScope) -> None:
            nonlocal failure
            async for piece in receive:
                try:
                    await self._fetch(piece, told)
                except NoAnswer as error:
                    failure = error
                    scope.cancel()
                finally:
                    room.arrived(piece.size)

        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(work, nursery.cancel_scope)
            async with send:
                for name in found:
                    if not await self._send(name, send, room, told):
                        told.full = name
                        break
        if failure is not None:
            raise failure

    async def _found(self, path: str, told: Warming) -> AsyncIterator[str]:
        """The files below a path."""
        start = await self._find(path)
        if start is None:
            raise FsError(errno.ENOENT)
        waiting = [(path, start)]
        while waiting:
            at, inode = waiting.pop()
            if not isinstance(inode, Directory):
                told.found_files += 1
                told.found_bytes += inode.current_size
                yield at
                continue
            try:
                await self._subtree.ensure(inode)
            except FsError:
                if at == path:
                    raise
                continue  # removed meanwhile
            except NoAnswer:
                raise
            except StoreError as error:
                if at == path:
                    raise
                told.failed.append((f"{at}/", str(error)))
                continue
            children = sorted(inode.children.items(), reverse=True)
            waiting += [(f"{at}/{name}" if at else name, child) for name, child in children]

    async def _find(self, path: str) -> Inode | None:
        """What has a path; of its attributes nothing need be known."""
        inode: Inode | None = self._state.root
        for name in filter(None, path.split("/")):
            if not isinstance(inode, Directory):
                return None
            inode = await self._finder.find_or_none(inode, name)
        return inode

    async def _send(
        self, path: str, to: trio.MemorySendChannel[_Piece], room: _Room, told: Warming
    ) -> bool:
        """Have a file fetched by the next workers that are free; whether there is room for it."""
        inode = await self._find(path)
        if inode is None or isinstance(inode, Directory):
            return True  # removed meanwhile
        if inode.open_state is not None and inode.open_state.unsaved:
            told.skipped += 1
            return True
        if self._attributes.is_here(inode):
            self._cache.touch(self._state.path(inode), inode.etag)
            room.take(inode.size)
            room.arrived(inode.size)
            told.files += 1
            told.bytes += inode.size
            return True
        spans = list(_spans(inode.size))
        file = _File(path, inode, len(spans))
        for start, stop in spans:
            if not room.take(stop - start):
                return False
            await to.send(_Piece(file, start, stop))
        return True

    async def _fetch(self, piece: _Piece, told: Warming) -> None:
        """Have a piece here. Raises NoAnswer."""
        file = piece.file
        try:
            fetched = 0 if file.failed else await self._load(piece)
        except NoAnswer:
            raise
        except (StoreError, FsError) as error:
            if not file.failed:
                told.failed.append((file.path, str(error)))
            file.failed = True
        else:
            file.left -= 1
            told.fetched += fetched
            told.bytes += 0 if file.failed else piece.size
            told.files += not file.left

    async def _load(self, piece: _Piece) -> int:
        """Have a piece here; how many bytes of it were not. Raises FsError, StoreError."""
        inode = piece.file.inode
        if not piece.start:
            whole = FILE_MAX if inode.open_state is None else 0
            if inode.size <= whole:
                inode = await self._attributes.revalidate(inode, whole=whole)
                if self._attributes.is_here(inode):
                    return piece.size
            else:
                await self._attributes.ensure(inode)
        async with self._opener.held(inode) as content:
            stop = min(piece.stop, content.size)
            missing = sum(b - a for a, b in content.local.missing(piece.start, stop))
            await content.local.load(piece.start, stop)
        return missing


def _spans(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, window.FETCH):
        yield start, min(start + window.FETCH, size)
