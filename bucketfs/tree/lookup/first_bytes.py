"""A question about an object that brings its first bytes along: a GET, for the price of a HEAD.

Who asks for one file mostly reads it next, and has the bytes then without another round trip.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import trio

from bucketfs.errors import FsError, NotFound, StoreError, is_denied
from bucketfs.file.context import FileContext
from bucketfs.store.base import ObjectInfo

log = logging.getLogger(__name__)

#: Files up to this size are fetched whole when they are asked for, and so much of larger ones.
WHOLE_FILE: Final = 64 << 10
#: Files fetched in a row without one opened to be read, before that is no longer expected: as many
#: as programs that begin at once.
UNREAD: Final = 16
#: Seconds after which a HEAD is sent in place of a GET that brings nothing: bytes may have to come
#: from a tape, or from a disk that is busy, and what is known of an object does not.
SLOW: Final = 2.0
#: How a GET of an object in an archive is refused; a HEAD is not.
ARCHIVED: Final = "InvalidObjectState"


@dataclass(slots=True)
class Guess:
    """Whether programs are going to read what they look up by its name, as they did lately.

    Attributes:
        unread: Files whose first bytes came since one was opened to be read.
    """

    unread: int = 0

    @property
    def first(self) -> int:
        """Bytes to fetch along with a file that is looked up, of which nothing is known."""
        return WHOLE_FILE if self.unread < UNREAD else 0

    def brought(self) -> None:
        """The first bytes of a file came with its lookup, or may not be read."""
        self.unread += 1

    def read(self) -> None:
        """A file was opened to be read."""
        self.unread = 0


async def look_inside(files: FileContext, key: str, first: int) -> ObjectInfo:
    """What a HEAD says of an object; up to `first` bytes of it are in the cache then.

    Raises StoreError as `Store.head` does.
    """
    data = bytearray()
    info = None
    try:
        with trio.move_on_after(SLOW):
            info = await files.store.get(key, data.extend, stop=first)
    except NotFound:
        raise
    except StoreError as error:
        # a HEAD may be allowed all the same: of an archived object, or without its encryption's key
        is_empty = error.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        if not (is_empty or error.code == ARCHIVED or is_denied(error)):
            raise
    if info is None:
        return await files.store.head(key)
    if data:
        _keep(files, info, data)
    return info


def _keep(files: FileContext, info: ObjectInfo, data: bytearray) -> None:
    pages = files.cache.open(info.key, info.etag, info.size)
    try:
        for start, stop in pages.valid.missing(0, min(len(data), info.size)):
            piece = memoryview(data)[start:stop]
            pages.seal(start, piece[: files.cache.write(pages, start, piece)])
    except FsError as error:
        log.info("the bytes that came with the attributes are not kept: %s", error)
    finally:
        files.cache.release(pages)
