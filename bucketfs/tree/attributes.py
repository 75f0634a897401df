"""Attributes of inodes: learning them from the bucket, and changing them.

What a listing shows (size, ETag, time) is not enough for mode and owner: these stand in the
object's metadata and cost a HEAD, or a row of the index when this very version was seen before.
HEADs are asked for many neighbours at once, because whoever needs one needs the next.
"""

from __future__ import annotations

import errno
import functools
import logging
import stat
from dataclasses import dataclass

import trio

from bucketfs import clock
from bucketfs.errors import FsError, NotFound, StoreError, errno_of
from bucketfs.store.base import Headers, ObjectInfo
from bucketfs.tasks import gather
from bucketfs.tree.inode import Directory, Inode
from bucketfs.tree.names import FOLDER_SUFFIX
from bucketfs.tree.posix import NANO, Posix, decode
from bucketfs.tree.state import TreeState

log = logging.getLogger(__name__)

#: Neighbours whose HEADs are sent along with one that is needed: enough to keep all connections
#: busy for a few round trips, few enough to be wasted on a single stat in a large directory.
NEIGHBOURS = 256
#: A symbolic link's target, and so the object of one, has at most PATH_MAX bytes.
LINK_MAX = 4096


@dataclass(frozen=True, slots=True)
class Change:
    """A setattr: what is None stays. `size` is not part of it, it belongs to the content."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class Attributes:
    """Reads and changes attributes."""

    def __init__(self, state: TreeState) -> None:
        self._state = state
        self._asking: dict[Inode, trio.Event] = {}

    def kind_known(self, inode: Inode) -> bool:
        """Whether the type of the file is certain without asking."""
        return (
            isinstance(inode, Directory)
            or inode.posix is not None
            or self._state.config.listed_attributes
            or inode.size > LINK_MAX
        )

    def recall(self, inode: Inode) -> bool:
        """Fill in attributes without a request, if that is possible.

        Answers whether they are known now.
        """
        if inode.posix is not None:
            return True
        is_bucket = inode.parent is None and not self._state.config.prefix
        if self._state.config.listed_attributes or is_bucket:
            self._learn(inode, None)
            return True
        if inode.etag and inode.modified:
            key = self._object_key(inode)
            headers = self._state.index.headers(key, inode.etag, inode.modified)
            if headers is not None:
                self._learn(inode, headers)
                return True
        return False

    async def ensure(self, inode: Inode) -> Inode:
        """Have the attributes known.

        Returns:
            The inode that stands for the name: another one when the bucket holds something else
            now.

        Raises:
            FsError: ENOENT when the object is gone.
            StoreError: The bucket could not be asked.
        """
        while not self.recall(inode):
            asked = self._asking.get(inode)
            if asked is not None:
                await asked.wait()
                if inode.posix is None and inode.parent is not None:
                    now = inode.parent.children.get(inode.name)
                    if now is not None:
                        inode = now
                        continue
                    raise FsError(errno.ENOENT)
                continue
            if inode.parent is not None and self._state.is_listed(inode.parent):
                self._ask_neighbours(inode)
            return await self._ask(inode)
        return self._as_directory(inode)

    async def revalidate(self, inode: Inode) -> Inode:
        """Ask the bucket for the current version of a file (or directory marker); as `ensure`."""
        return await self._ask(inode)

    def accept(self, inode: Inode, info: ObjectInfo) -> Inode:
        """A HEAD or GET answered for the inode's name: take over version and attributes."""
        if isinstance(inode, Directory):
            inode.etag, inode.modified, inode.size = info.etag, info.last_modified, info.size
        else:
            inode = self._state.adopt(
                inode, etag=info.etag, size=info.size, modified=info.last_modified
            )
        if inode.posix is None or isinstance(inode, Directory):
            self.reread(inode, info)
            return self._as_directory(inode)
        inode.checked = clock.monotonic()
        return inode

    def reread(self, inode: Inode, info: ObjectInfo) -> None:
        """Replace the attributes by those a HEAD has just shown."""
        self._learn(inode, info.headers)
        inode.checked = clock.monotonic()
        if info.headers is not None:
            self._state.index.put_headers(info.key, info.etag, info.last_modified, info.headers)

    def _as_directory(self, inode: Inode) -> Inode:
        """An object without slash that says it is a directory becomes one."""
        if (
            isinstance(inode, Directory)
            or inode.posix is None
            or not stat.S_ISDIR(inode.posix.mode)
            or inode.parent is None
        ):
            return inode
        now = inode.parent.children.get(inode.name)
        if isinstance(now, Directory):
            return now
        directory = self._state.new_directory(inode.parent, inode.name)
        directory.markers = frozenset({""})
        directory.etag, directory.modified, directory.posix = (
            inode.etag,
            inode.modified,
            inode.posix,
        )
        return directory

    def _learn(self, inode: Inode, headers: Headers | None) -> None:
        directory = isinstance(inode, Directory)
        modified = inode.modified
        if directory and not modified:
            # an implicit directory has no time of its own; the mount's is stable and not 1970
            modified = self._state.mounted_ns // NANO
        inode.posix = decode(
            headers, size=inode.size, modified=modified, directory=directory,
            defaults=self._state.config.defaults,
        )  # fmt: skip

    def _object_key(self, inode: Inode) -> str:
        path = self._state.path(inode)
        if isinstance(inode, Directory):
            markers = inode.markers or frozenset({"/"})
            return path + next((m for m in ("/", "", FOLDER_SUFFIX) if m in markers), "/")
        return path

    async def _ask(self, inode: Inode) -> Inode:
        event = self._asking[inode] = trio.Event()
        try:
            return await self._head(inode)
        finally:
            event.set()
            if self._asking.get(inode) is event:
                del self._asking[inode]

    async def _head(self, inode: Inode) -> Inode:
        if isinstance(inode, Directory) and inode.markers is not None and not inode.markers:
            self._learn(inode, None)
            return inode
        since = self._state.changes
        try:
            info = await self._state.store.head(self._object_key(inode))
        except NotFound:
            return self._absent(inode, since)
        except StoreError as error:
            if errno_of(error) != errno.EACCES or inode.posix is not None:
                raise
            # listed but not readable: shown, as s3fs does, as a file nobody may touch
            log.warning("the attributes of a listed object are not readable: %s", error)
            self._learn(inode, Headers(metadata={"mode": str(stat.S_IFREG)}))
            return inode
        if inode.changed > since:
            return inode if inode.posix is not None else self.accept(inode, info)
        return self.accept(inode, info)

    def _absent(self, inode: Inode, since: int) -> Inode:
        if isinstance(inode, Directory):
            if inode.markers == frozenset({""}):
                inode.markers = None
            else:
                inode.markers = (inode.markers or frozenset()) - {"/"}
            if inode.posix is None:
                self._learn(inode, None)
            inode.checked = clock.monotonic()
            return inode
        if inode.changed > since or (inode.content is not None and inode.content.unsaved):
            return inode
        self._state.unlink(inode)
        raise FsError(errno.ENOENT, "the object was removed by someone else")

    def _ask_neighbours(self, inode: Inode) -> None:
        assert inode.parent is not None
        jobs = []
        for neighbour in inode.parent.children.values():
            if neighbour is inode or neighbour in self._asking or self.recall(neighbour):
                continue
            jobs.append(functools.partial(self._ask_quietly, neighbour))
            if len(jobs) == NEIGHBOURS:
                break
        if jobs:
            limit = self._state.files.parallel
            self._state.background.start(
                lambda: gather(jobs, limit=limit), "attributes of neighbours"
            )

    async def _ask_quietly(self, inode: Inode) -> None:
        if inode.posix is not None or inode.parent is None or inode in self._asking:
            return
        try:
            await self._ask(inode)
        except (StoreError, FsError) as error:
            # nobody asked for this one yet; who does will meet the error again
            log.debug("attributes fetched ahead: %s", error)

    def change(self, inode: Inode, change: Change) -> bool:
        """Apply a change to the known attributes; answers whether anything has to be saved."""
        posix = inode.posix
        assert posix is not None, "attributes are looked up before they are changed"
        wanted: dict[str, object] = {}
        if change.mode is not None:
            wanted["mode"] = stat.S_IFMT(posix.mode) | stat.S_IMODE(change.mode)
        if change.mtime_ns is not None and isinstance(inode, Directory):
            inode.touched_ns = 0
        for name in ("uid", "gid", "atime_ns", "mtime_ns"):
            if (value := getattr(change, name)) is not None:
                wanted[name] = value
        if not wanted:
            return False
        self.replace(inode, posix.changed(clock.wall_ns(), **wanted))
        return True

    def replace(self, inode: Inode, posix: Posix) -> None:
        """New attributes, which the bucket does not have yet."""
        live = self._state.enliven(inode)
        inode.posix = posix
        live.attributes_unsaved = True
        live.attribute_changes += 1
        self._state.note_change(inode)

    def touch_content(self, inode: Inode) -> None:
        """A program changed the bytes: mtime and ctime are now; saved along with the bytes."""
        if inode.posix is not None:
            now = clock.wall_ns()
            inode.posix = inode.posix.changed(now, mtime_ns=now)
            self._state.enliven(inode).attribute_changes += 1
