"""Open files, written down as they are opened, saved and moved: after a crash they go on.

Only where somebody keeps the mount. A file in the cache directory has a line for each change, which
kill -9 does not take away once it is written; of a request whose change is not written yet, the
kernel has no answer, and asks the next daemon. Three things are told of:

- handles that have been open for a moment (`_MOMENT`), to the last close: most are closed before;
- files *at rest* that have handles: the bucket has all their bytes, under the place that they have.
  What is being written is not at rest: a crash loses some of it, which programs may have read;
- places of the directories above these files.

The next daemon gets the handles of the files that were at rest, for reading and for writing, as
after an orderly restart. The other handles are stale.
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio

from bucketfs import owned
from bucketfs.owned import NotOwnError
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.core.inode import ROOT_INO, Directory, Inode
from bucketfs.tree.saving.handover import Picture

log = logging.getLogger(__name__)

_NAME: Final = "diary"
#: The file is written anew when it has so many lines, and four times as many as are needed.
_MANY: Final = 10_000

#: Seconds between the opening of a file and its line. A crash in between makes the handle stale.
_MOMENT: Final = 0.1

#: The first word of a line. Behind it: handle, inode, writable, process.
_OPENED: Final = "o"
#: Handle.
_CLOSED: Final = "c"
#: Inode, its directory's number, name, ETag, size, modified.
_AT_REST: Final = "f"
#: Inode.
_CHANGES: Final = "x"
#: Directory, the number of the one above it (0: it has lost its place), name.
_PLACE: Final = "d"

_Line = tuple[Any, ...]

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Diary:
    """Writes down what is open. Implements `bucketfs.tree.core.state.Scribe`.

    Args:
        directory: Of the cache.
        mount: As `Record.mount`.
        handles: What is open already, by number.
    """

    def __init__(self, directory: Path, mount: str, handles: Mapping[int, object]) -> None:
        self._path = directory / _NAME
        self._mount = mount
        #: Those that are written down, by the numbers of their inodes; and those that are not yet.
        self._handles: defaultdict[int, dict[int, Handle]] = defaultdict(dict)
        self._new: dict[int, Handle] = {}
        self._any_new = trio.Event()
        for number, handle in handles.items():
            if isinstance(handle, Handle):
                self._handles[handle.inode.ino][number] = handle
        self._at_rest: dict[int, _Line] = {}
        self._places: dict[int, _Line] = {}
        self._lines = 0
        self._needed = 0
        self._fd = -1
        self._rewrite()

    async def run(self) -> None:
        """Write down what has been open for a moment, until cancelled."""
        while True:
            await self._any_new.wait()
            await trio.sleep(_MOMENT)
            self._any_new = trio.Event()
            self.catch_up()

    def catch_up(self) -> None:
        """Write down now what has been opened."""
        lines: list[_Line] = []
        for number, handle in self._new.items():
            self._handles[handle.inode.ino][number] = handle
            lines += [_opened(number, handle), *self._news(handle.inode)]
        self._new.clear()
        if lines:
            self._write(lines)

    def opened(self, number: int, handle: Handle) -> None:
        """A program has opened a file."""
        self._new[number] = handle
        self._any_new.set()

    def closed(self, number: int, inode: Inode) -> None:
        """A handle is gone."""
        if self._new.pop(number, None) is not None:
            return
        of_same = self._handles.get(inode.ino)
        if of_same is None or of_same.pop(number, None) is None:
            return
        if not of_same:
            del self._handles[inode.ino]
            self._at_rest.pop(inode.ino, None)
        self._write([(_CLOSED, number)])

    def changed(self, inode: Inode) -> None:
        """The bytes of an inode, or its place, are others now."""
        if inode.ino in self._handles:
            if lines := list(self._news(inode)):
                self._write(lines)
        elif inode.ino in self._places:
            assert isinstance(inode, Directory)
            if lines := list(self._place(inode)):
                self._write(lines)

    def close(self) -> None:
        """Nothing goes on after a crash any more; what it says is removed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._path.unlink(missing_ok=True)

    def _news(self, inode: Inode) -> Iterator[_Line]:
        """What has to be written of a file."""
        now = _at_rest(inode)
        if now == self._at_rest.get(inode.ino):
            return
        if now is None:
            del self._at_rest[inode.ino]
            yield _CHANGES, inode.ino
            return
        node = inode.parent
        while node is not None and node.parent is not None:
            yield from self._place(node)
            node = node.parent
        self._at_rest[inode.ino] = now
        yield now

    def _place(self, directory: Directory) -> Iterator[_Line]:
        above = directory.parent.ino if directory.parent is not None else 0
        place = _PLACE, directory.ino, above, directory.name
        if self._places.get(directory.ino) != place:
            self._places[directory.ino] = place
            yield place

    def _write(self, lines: Iterable[_Line]) -> None:
        if self._fd < 0:
            return
        text = _text(lines)
        self._lines += text.count(b"\n")
        try:
            if os.write(self._fd, text) < len(text):
                raise OSError("no space left for a whole line")
        except OSError as error:
            self._give_up(error)
            return
        if self._lines > _MANY and self._lines > 4 * self._needed:
            self._rewrite()

    def _rewrite(self) -> None:
        """Write all lines that are needed, and no other."""
        self._at_rest.clear()
        self._places.clear()
        lines: list[_Line] = [(self._mount,)]
        for of_same in self._handles.values():
            lines += [_opened(number, handle) for number, handle in of_same.items()]
            lines += self._news(next(iter(of_same.values())).inode)
        fresh = self._path.with_suffix(".new")
        old, self._fd = self._fd, -1
        try:
            fresh.unlink(missing_ok=True)
            self._fd = owned.open_file(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
            with open(self._fd, "wb", closefd=False) as file:
                file.write(_text(lines))
            fresh.replace(self._path)
        except (OSError, NotOwnError) as error:
            self._give_up(error)
        finally:
            if old >= 0:
                os.close(old)
        self._lines = self._needed = len(lines)

    def _give_up(self, error: Exception) -> None:
        """What is written no more must not be believed."""
        log.warning("%s: files that are open now are stale after a crash: %s", self._path, error)
        with suppress(OSError):
            os.truncate(self._path, 0)
        with suppress(OSError):
            self.close()


def _opened(number: int, handle: Handle) -> _Line:
    return _OPENED, number, handle.inode.ino, handle.writable, handle.pid


def _at_rest(inode: Inode) -> _Line | None:
    """The line of a file at rest; None for any other."""
    content, parent = inode.content, inode.parent
    if content is None or parent is None or content.unsaved or inode.unlinked:
        return None
    base = content.base
    if base is None or not base.etag or base.etag != inode.etag:
        return None
    return _AT_REST, inode.ino, parent.ino, inode.name, base.etag, base.size, inode.modified


def _text(lines: Iterable[_Line]) -> bytes:
    return b"".join(_encode(line).encode() + b"\n" for line in lines)


# ---- the next daemon -----------------------------------------------------------------------------


def find(
    directory: Path, mount: str, is_leaving: Callable[[str], bool]
) -> tuple[Picture | None, int]:
    """What the daemon of a mount had open when it died.

    Args:
        directory: Of the cache.
        mount: As `Record.mount`.
        is_leaving: Whether a path below the mount point was being renamed or removed. What is open
            of it is stale: it may be somewhere else, or nowhere, when that has been done.

    Returns:
        As an orderly end would have left it (`picture`), and how many handles are stale; None
        where nothing was written down.
    """
    path = directory / _NAME
    try:
        with open(owned.open_file(path, os.O_RDONLY), "rb") as file:
            first, *lines, _ = file.read().split(b"\n")
        if json.loads(first) != [mount]:
            return None, 0
        return _picture([json.loads(line) for line in lines], is_leaving)
    except FileNotFoundError:
        return None, 0
    except (OSError, NotOwnError, ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be read, what was open is stale: %s", path, error)
        return None, 0


def _picture(lines: Iterable[list[Any]], is_leaving: Callable[[str], bool]) -> tuple[Picture, int]:
    files: dict[int, list[Any]] = {}
    places: dict[int, tuple[int, str]] = {}
    handles: dict[int, tuple[int, bool, int]] = {}
    open_of: defaultdict[int, int] = defaultdict(int)
    for kind, number, *facts in lines:
        if kind == _OPENED:
            ino, writable, pid = facts
            handles[number] = ino, writable, pid
            open_of[ino] += 1
        elif kind == _CLOSED:
            ino = handles.pop(number)[0]
            open_of[ino] -= 1
            if not open_of[ino]:
                files.pop(ino, None)
        elif kind == _AT_REST:
            files[number] = facts
        elif kind == _CHANGES:
            files.pop(number, None)
        elif kind == _PLACE:
            above, name = facts
            places[number] = above, name
        else:
            raise ValueError(f"unknown line {kind!r}")
    nodes: dict[int, list[Any]] = {ROOT_INO: [ROOT_INO, 0, "", "d", 1, {}]}
    for ino, (parent, name, etag, size, modified) in files.items():
        way = _way(parent, places)
        if way is None or is_leaving("/".join([*(places[each][1] for each in way), name])):
            continue
        for each in way:
            above, name_of_directory = places[each]
            nodes[each] = [each, above, name_of_directory, "d", 1, {}]
        # the kernel has counted more, and gives all back at once
        nodes[ino] = [ino, parent, name, "f", 1, {"etag": etag, "size": size, "modified": modified}]
    known = [
        [number, ino, {"writable": writable, "pid": pid, "untold": 0}]
        for number, (ino, writable, pid) in handles.items()
        if ino in nodes
    ]
    picture = {"nodes": [*nodes.values()], "unfinished": [], "handles": known}
    return picture, len(handles) - len(known)


def _way(number: int, places: Mapping[int, tuple[int, str]]) -> list[int] | None:
    """The directories on the way to one, from below the root on; None if it is not there."""
    way: list[int] = []
    while number != ROOT_INO:
        if number not in places or number in way:
            return None
        way.append(number)
        number = places[number][0]
    return way[::-1]
