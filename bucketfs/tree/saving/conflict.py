"""Two writers, one name: what becomes of a file whose object others have replaced or removed.

Ours is kept beside theirs, theirs beside ours, or theirs is overwritten: as the mount is told, and
as the bytes allow.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from dataclasses import dataclass, replace

from bucketfs import clock
from bucketfs.errors import FsError, NotFound, PreconditionFailed
from bucketfs.file import upload
from bucketfs.file.content import Content
from bucketfs.file.target import Target
from bucketfs.store.base import ObjectInfo
from bucketfs.tree.core.inode import NEVER, Directory, Inode, OpenState
from bucketfs.tree.core.names import NAME_MAX
from bucketfs.tree.core.posix import NANO
from bucketfs.tree.core.state import TreeState

log = logging.getLogger(__name__)

#: How often others may replace an object while ours is to take its place.
CONFLICT_TRIES = 5
#: How many names for the copy of one version are tried, one of each second from now on.
CONFLICT_NAMES = 5


@dataclass(frozen=True, slots=True)
class Published:
    """Where a file's bytes are now.

    Attributes:
        info: The version.
        target: With the headers that it carries.
        conflict: Set where that is a conflict copy, to be raised as soon as all is noted.
    """

    info: ObjectInfo
    target: Target
    conflict: FsError | None = None


class Conflicts:
    """Publishes where the usual way is barred by others' version.

    Attributes:
        met: How often ours was stored beside theirs, or over it, or theirs beside ours.
    """

    def __init__(self, state: TreeState) -> None:
        self.met = 0
        self._state = state
        self._store = state.files.store

    def take_name_back(self, inode: Inode, lost: tuple[Directory, str]) -> bool:
        """Have an inode under the name that others gave to another object, if it may have it."""
        parent, name = lost
        theirs = parent.children.get(name)
        if not self._state.config.overwrite or isinstance(theirs, Directory):
            return False
        self._state.link(parent, name, inode)
        return True

    async def resolve(
        self, inode: Inode, open_state: OpenState, target: Target, cause: Exception
    ) -> Published:
        """Publish although others have the name: over theirs if that is wanted, else beside it.

        Raises:
            FsError, StoreError: As `keep_ours_beside`, and as publishing does.
        """
        content = open_state.content
        assert content is not None
        if content.early_upload.has_upload_only and not self._state.config.shared_locks:
            return await self._replace_theirs(inode, target, content)
        whole = not content.local.missing(0, content.size)
        if not self._state.config.overwrite or open_state.exclusive or not whole:
            return await self.keep_ours_beside(inode, open_state, content, cause)
        content.drop_base()
        return await self._overwrite(inode, target, content)

    async def keep_ours_beside(
        self, inode: Inode, open_state: OpenState, content: Content, cause: Exception | None
    ) -> Published:
        """Store our bytes under a conflict name; the inode goes on there, with all later writes.

        The answer's `conflict` is ESTALE (EEXIST for a file created with O_EXCL, EIO for one whose
        lock was lost).

        Raises:
            FsError: EIO, and nothing has changed, when that would lose bytes, or all names for the
                copy are taken.
            StoreError: The upload failed, nothing has changed.
        """
        if content.early_upload.has_upload_only:
            raise FsError(errno.EIO, f"{inode.name!r} has bytes in an upload of its old name only")
        parent, name = open_state.lost or (inode.parent, inode.name)
        assert parent is not None
        code = errno.EEXIST if open_state.exclusive else errno.ESTALE
        line = "%r was changed by someone else; what was written here is in %r"
        if open_state.fenced:
            code = errno.EIO
            line = "%r had a lock that was lost; what was written here is in %r"
        await self._gather_bytes(name, content)
        now = clock.wall_ns()
        for tries in range(1, CONFLICT_NAMES + 1):
            new_name = conflict_name(name, now)
            target = Target(
                self._state.child_key(parent, new_name),
                inode.headers(),
                changes=open_state.attribute_changes,
                if_none_match=True,
            )
            try:
                info, target = await upload.publish(self._state.files, content, target)
                break
            except PreconditionFailed as taken:  # by a conflict of the same second
                if tries == CONFLICT_NAMES:
                    raise _all_taken(target.key) from taken
                now += NANO
        self.met += 1
        open_state.fenced = False
        log.error(line, name, target.key)
        parent.listed = NEVER
        self._state.unlink(inode)
        self._state.link(parent, new_name, inode)
        self._state.table.aside.add(inode.ino)
        self._state.watcher.moved(parent, name)
        failure = FsError(code, line % (name, target.key))
        failure.__cause__ = cause
        return Published(info, target, failure)

    async def _gather_bytes(self, name: str, content: Content) -> None:
        """Have as much of the base version here as there is of it, and do without it then."""
        try:
            await content.local.load(0, content.size)  # the version may be there after all
        except FsError as error:
            if error.errno != errno.ESTALE:
                raise
        gaps = content.local.missing(0, content.size)
        if gaps:
            log.error(
                "%r was changed by someone else; bytes %s of the version that was changed here"
                " are lost",
                name, ", ".join(f"{start}-{stop - 1}" for start, stop in gaps),
            )  # fmt: skip
        content.drop_base()

    async def _replace_theirs(self, inode: Inode, target: Target, content: Content) -> Published:
        """Publish over others' version, which is kept beside unless it is to be overwritten.

        An upload that alone has some bytes cannot be completed under another name.
        """
        if self._state.config.overwrite:
            return await self._overwrite(inode, target, content)
        for last in (*[False] * (CONFLICT_TRIES - 1), True):
            try:
                theirs = await self.copy_theirs_aside(inode, target.key)
                again = replace(target, if_match=theirs, if_none_match=not theirs)
                return Published(*await upload.publish(self._state.files, content, again))
            except (PreconditionFailed, NotFound):
                if last:
                    raise
        raise AssertionError("unreachable")

    async def _overwrite(self, inode: Inode, target: Target, content: Content) -> Published:
        self.met += 1
        log.warning(
            "%r was changed by someone else; ours replaces it, as conflict=overwrite says",
            inode.name,
        )
        unconditional = replace(target, if_match="", if_none_match=False)
        return Published(*await upload.publish(self._state.files, content, unconditional))

    async def copy_theirs_aside(self, inode: Inode, key: str) -> str:
        """Copy an object to a conflict name; answers its ETag, "" if there is none."""
        try:
            found = await self._store.head(key)
        except NotFound:
            return ""
        parent, now = inode.parent, clock.wall_ns()
        assert parent is not None
        for tries in range(1, CONFLICT_NAMES + 1):
            copy = self._state.child_key(parent, conflict_name(inode.name, now))
            if not await self._exists(copy):
                break
            if tries == CONFLICT_NAMES:
                raise _all_taken(copy)
            now += NANO
        await self._store.copy(key, copy, size=found.size, source_if_match=found.etag)
        self.met += 1
        log.error("%r was changed by someone else; their version is in %r", inode.name, copy)
        parent.listed = NEVER
        return found.etag

    async def _exists(self, key: str) -> bool:
        try:
            await self._store.head(key)
        except NotFound:
            return False
        return True


def _all_taken(last: str) -> FsError:
    return FsError(errno.EIO, f"all names for a copy are taken, up to {last!r}")


def conflict_name(name: str, now_ns: int) -> str:
    """``NAME.conflict-HOST-TIME``, cut to what a name may have."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ns // NANO))
    suffix = f".conflict-{socket.gethostname()}-{moment}"
    kept = name.encode()[: NAME_MAX - len(suffix.encode())]
    return kept.decode(errors="ignore") + suffix
