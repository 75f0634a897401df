"""Parts of an unsaved file that rest in the bucket, so that the local disk need not hold them.

A multipart upload is no place for the only copy of a byte: what it has received cannot be read
before it is completed, it is bound to one key and one condition, and lifecycle rules throw it away.
So a part whose pages have to leave the disk is first stored as a small object of its own under a
hidden key. From there it can be read again, and the store itself copies it into whatever upload
publishes the file in the end: under the name it was begun with, under the name it was renamed to,
or under that of a conflict copy. Nothing is visible under a file's name before it is whole, and no
byte travels twice. The hidden objects are deleted when the file has been published.

Hidden keys lie below one component that is too long for a file name, so no mount shows them and no
program can reach them, and one LIST finds those that a crash left behind.

Invariants: pages are dropped only where an object has the bytes they held; an object never
overwrites valid pages; what was written over since is `stale` and still tells the rest of its part.
"""

from __future__ import annotations

import errno
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from bucketfs.cache.extents import Extents
from bucketfs.cache.pages import PageBody, PageFile
from bucketfs.errors import FsError, NotFound, PreconditionFailed, StoreError
from bucketfs.file.context import FileContext
from bucketfs.store.base import Headers

log = logging.getLogger(__name__)

#: What the keys begin with, after the mounted prefix: one byte more than NAME_MAX and a slash.
HIDDEN = ".bucketfs-parts".ljust(256, "-") + "/"
#: Seconds that deleting the hidden objects of one file may take.
DELETE_TIMEOUT = 30
#: Bytes a file may always have on disk: enough to keep several small parts under way.
ALLOWANCE = 64 << 20
#: A read of what rests here fetches at least so much, as reads go on where they ended.
_FETCH = 8 << 20


@dataclass(slots=True, eq=False)
class _Rest:
    """The object `key` has bytes ``[start, stop)`` of the file, `stale` if some changed since."""

    key: str
    start: int
    stop: int
    etag: str = ""
    stale: bool = False


class Shelf:
    """The parts of one file that have an object of their own.

    Attributes:
        urgent: Every further part goes here: the disk was full before the parts had left.
    """

    def __init__(self, context: FileContext, pages: Callable[[], PageFile]) -> None:
        self.urgent = False
        self._context = context
        self._pages = pages
        self._rests: dict[int, _Rest] = {}
        #: Those of them that may have pages on disk.
        self._paged: dict[int, _Rest] = {}
        self._coming: list[_Rest] = []
        #: Nothing of it lies at or after this position: writing on at the end costs no search.
        self._end = 0

    def __bool__(self) -> bool:
        return bool(self._rests)

    @property
    def keys(self) -> list[str]:
        """Keys of the hidden objects."""
        return [rest.key for rest in self._rests.values()]

    def wanted(self) -> bool:
        """Whether parts that leave now should come here, as their pages may have to be dropped.

        Half of what the cache can hold still goes the direct way: most files are smaller than that.
        """
        limits = self._context.store.capabilities
        if not (limits.copy_part and limits.multipart):
            return False
        allowed = max(ALLOWANCE, self._context.cache.capacity // 2)
        return self.urgent or self._pages().held > allowed

    def home(self, start: int, stop: int) -> str:
        """Key of the object that is ``[start, stop)`` as it is now, "" without one."""
        rest = self._rests.get(start)
        return rest.key if rest is not None and rest.stop == stop and not rest.stale else ""

    async def put(self, start: int, stop: int) -> str:
        """Store ``[start, stop)``, which is all here, as an object; answers its key.

        The answer is "" when the bytes changed meanwhile.

        Raises:
            StoreError: It could not be stored.
        """
        rest = _Rest(f"{self._context.hidden}{HIDDEN}{secrets.token_hex(16)}", start, stop)
        self._coming.append(rest)
        self._end = max(self._end, stop)
        try:
            info = await self._context.store.put(
                rest.key, PageBody(self._pages(), start, stop), Headers()
            )
        except BaseException:
            rest.stale = True  # whether it was stored or not
            raise
        finally:
            self._coming.remove(rest)
            if rest.stale:
                self._delete([rest.key])
        if rest.stale:
            return ""
        rest.etag = info.etag
        old = self._rests.pop(start, None)
        if old is not None:
            self._delete([old.key])
        self._rests[start] = self._paged[start] = rest
        return rest.key

    def spoil(self, start: int, stop: int) -> None:
        """``[start, stop)`` is being written: objects with bytes of it are not the whole truth."""
        if start >= self._end:
            return
        for rest in (*_overlapping(self._rests.values(), start, stop), *self._coming):
            rest.stale = rest.stale or (rest.start < stop and start < rest.stop)

    def cut(self, size: int) -> None:
        """The file ends at `size` now."""
        for rest in self._coming:
            rest.stale = rest.stale or rest.stop > size
        gone = [rest for rest in self._rests.values() if rest.start >= size]
        for rest in gone:
            del self._rests[rest.start]
            self._paged.pop(rest.start, None)
        for rest in self._rests.values():
            if rest.stop > size:
                rest.stale, rest.stop = True, size
        self._delete([rest.key for rest in gone])

    async def bring(self, start: int, stop: int) -> bool:
        """Have here again what of ``[start, stop)`` is only in objects.

        Returns:
            Whether anything had to be fetched.

        Raises:
            FsError: EIO, when someone removed an object; ENOSPC.
            StoreError: It could not be read.
        """
        fetched = False
        for rest in _overlapping(list(self._rests.values()), start, stop):
            first, last = max(start, rest.start), min(stop, rest.stop)
            for a, b in self._pages().valid.missing(first, last):
                await self._fetch(rest, a, max(b, min(a + _FETCH, rest.stop)))
                fetched = True
        return fetched

    async def _fetch(self, rest: _Rest, start: int, stop: int) -> None:
        position = start
        self._paged[rest.start] = rest

        def sink(chunk: bytes | memoryview) -> None:
            nonlocal position
            view, pages = memoryview(chunk), self._pages()
            if self._rests.get(rest.start) is rest:
                for a, b in pages.valid.missing(position, min(position + len(view), rest.stop)):
                    self._context.cache.write(pages, a, view[a - position : b - position])
            position += len(view)

        try:
            await self._context.store.get(
                rest.key, sink, start=start - rest.start, stop=stop - rest.start, if_match=rest.etag
            )
        except (NotFound, PreconditionFailed) as error:
            # the file may have been published, or the part replaced, while this was under way
            if self._rests.get(rest.start) is rest:
                raise self.lost(rest.key) from error

    @staticmethod
    def lost(key: str) -> FsError:
        """The error for an object that someone removed."""
        return FsError(errno.EIO, f"the bytes of an unsaved file in {key!r} were removed by others")

    def drop(self, wanted: int, keep: Extents, after: int) -> int:
        """Drop about `wanted` bytes of pages that objects have; answers how many went.

        Args:
            wanted: Bytes.
            keep: What is to stay.
            after: Pages before this position have another origin, too, and are left alone.
        """
        freed = 0
        pages = self._pages()
        for rest in [rest for rest in self._paged.values() if not rest.stale]:
            if freed >= wanted:
                break
            for start, stop in pages.valid.within(max(after, rest.start), rest.stop):
                for a, b in keep.missing(start, stop):
                    self._context.cache.shrink(pages, a, b)
                    freed += b - a
            if not pages.valid.overlaps(rest.start, rest.stop):
                del self._paged[rest.start]
        return freed

    async def clear(self) -> None:
        """The file has been published (or is unwanted): delete the objects."""
        keys = self._forget()
        if keys:
            await _deleted(self._context, keys)

    def discard(self) -> None:
        """As `clear`, in the background."""
        self._delete(self._forget())

    def _forget(self) -> list[str]:
        keys = self.keys
        self.urgent = False
        self._rests.clear()
        self._paged.clear()
        for rest in self._coming:
            rest.stale = True
        return keys

    def leave(self) -> list[str]:
        """Leave the objects for whoever rescues the file; answers what is in which."""
        rests = sorted(self._rests.values(), key=lambda rest: rest.start)
        self._rests.clear()
        self._paged.clear()
        return [f"bytes {rest.start}-{rest.stop - 1} in {rest.key!r}" for rest in rests]

    def _delete(self, keys: list[str]) -> None:
        if keys:
            self._context.background.start(
                lambda: _deleted(self._context, keys), "delete hidden parts"
            )


def _overlapping(rests: Iterable[_Rest], start: int, stop: int) -> list[_Rest]:
    return [rest for rest in rests if rest.start < stop and start < rest.stop]


async def _deleted(context: FileContext, keys: list[str]) -> None:
    # shielded: objects that nobody sees cost their owner money
    with trio.CancelScope(shield=True), trio.move_on_after(DELETE_TIMEOUT) as scope:
        try:
            stayed = await context.store.delete_many(keys)
        except StoreError as error:
            log.warning("%d hidden parts stay behind: %s", len(keys), error)
        else:
            if stayed:
                why = next(iter(stayed.values()))
                log.warning("%d hidden parts stay behind: %s", len(stayed), why)
    if scope.cancelled_caught:
        log.warning("%d hidden parts may stay behind: deleting them took too long", len(keys))
