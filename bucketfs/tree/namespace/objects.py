"""What commands ask of single objects: what they are, which versions there are, having them back.

A path is that below the mount point; of a file that was deleted there is one, too.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bucketfs.errors import FsError
from bucketfs.store.base import Headers, ObjectVersion
from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.stages import Stage
from bucketfs.tree.core.state import TreeState, check_key
from bucketfs.tree.lookup.attributes import Attributes
from bucketfs.tree.lookup.find import Finder


@dataclass(frozen=True, slots=True)
class ObjectReport:
    """What is known of the object of a path.

    Attributes:
        key: Complete key; of a directory that of its marker, with its slash.
        exists: Whether the bucket has it; a directory may do without.
        size: Bytes, as programs here see it.
        etag: Of the version in the bucket, "" for none.
        modified: When that was stored, in Unix seconds, 0 where it is not known.
        stage: Where the file is on its way to the bucket.
        cached: How many of the version's bytes are on the local disk.
        headers: What is stored with it.
        details: See `Store.details`.
    """

    key: str
    exists: bool
    size: int
    etag: str
    modified: int
    stage: Stage
    cached: int
    headers: Headers
    details: Mapping[str, str]


class Objects:
    """Answers the commands."""

    def __init__(self, state: TreeState, finder: Finder, attributes: Attributes) -> None:
        self._state = state
        self._store = state.files.store
        self._finder = finder
        self._attributes = attributes

    async def info(self, path: str) -> ObjectReport:
        """What is known of a path.

        Raises:
            FsError: ENOENT and the like.
            StoreError: The endpoint could not be asked.
        """
        inode = await self._find(path)
        await self._attributes.complete(inode)
        key = self._attributes.object_key(inode)
        exists = bool(inode.etag)
        return ObjectReport(
            key=key,
            exists=exists,
            size=inode.current_size,
            etag=inode.etag,
            modified=inode.modified,
            stage=inode.open_state.stage if inode.open_state else Stage.CLEAN,
            cached=self._state.files.cache.cached(key, inode.etag),
            headers=(inode.posix.foreign if inode.posix else None) or Headers(),
            details=await self._store.details(key) if exists else {},
        )

    async def versions(self, path: str) -> Sequence[ObjectVersion]:
        """Versions of the file at a path, the newest first.

        Raises:
            FsError: ENOENT: there never was one, or none is kept.
            StoreError: The endpoint could not be asked, or knows no versions.
        """
        found = await self._store.versions(self._key(path))
        if not found:
            raise FsError(errno.ENOENT, "the bucket has no version of it")
        return found

    async def restore_version(self, path: str, version_id: str) -> Directory | None:
        """Make an old version the current one again.

        Returns:
            The directory that has the name now, which the kernel may take for a free one.

        Raises:
            FsError: EBUSY while the file has changes that the bucket lacks.
            StoreError: As `Store.restore_version`.
        """
        key = self._key(path)
        parent, name = await self._place(path)
        inode = parent.children.get(name) if parent is not None else None
        if inode is not None and inode.open_state is not None and inode.open_state.unsaved:
            raise FsError(errno.EBUSY, "it has changes that are not in the bucket yet")
        await self._store.restore_version(key, version_id)
        if parent is None:
            return None
        parent.listed = NEVER
        parent.negatives.pop(name, None)
        if inode is not None:
            inode.checked, inode.opened = NEVER, ""
        return parent

    async def restore_archived(self, path: str, *, days: int, tier: str) -> None:
        """Have an archived object made readable; raises as `Store.restore_archived`."""
        await self._store.restore_archived(self._key(path), days=days, tier=tier)

    async def presigned_url(self, path: str, seconds: int) -> str:
        """An address at which anybody can read the file.

        Raises:
            FsError: ENOENT; EISDIR; ENODATA while the bucket has no version of the file.
            StoreError: There are no keys to sign with.
        """
        inode = await self._find(path)
        if isinstance(inode, Directory):
            raise FsError(errno.EISDIR, "only a file has an address")
        if not inode.etag:
            raise FsError(errno.ENODATA, "it is not in the bucket yet")
        return await self._store.presigned_url(self._state.key(inode), seconds)

    def _key(self, path: str) -> str:
        if not path:
            raise FsError(errno.EISDIR, "name a file in the mount")
        return check_key(self._state.config.prefix + path)

    async def _find(self, path: str) -> Inode:
        inode: Inode = self._state.root
        for name in filter(None, path.split("/")):
            if not isinstance(inode, Directory):
                raise FsError(errno.ENOTDIR)
            inode = await self._finder.find(inode, name)
        return inode

    async def _place(self, path: str) -> tuple[Directory | None, str]:
        """The directory of a path, None if there is none any more, and the name in it."""
        above, _, name = path.rpartition("/")
        try:
            parent = await self._find(above)
        except FsError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            return None, name
        return (parent if isinstance(parent, Directory) else None), name
