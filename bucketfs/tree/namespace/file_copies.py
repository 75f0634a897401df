"""The object of a renamed file: copied to its new key, and the original deleted.

The caller holds the locks of the file, of both directories, and of what had the new name.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
from dataclasses import dataclass
from typing import Final

from bucketfs.errors import FsError, KeyTaken, NotFound, PreconditionFailed, StoreError
from bucketfs.file.context import Version
from bucketfs.store.base import Headers, ObjectInfo
from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.posix import content_type_of, encode
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.saving.lost_answers import delete_attempt
from bucketfs.tree.saving.markers import Markers

log = logging.getLogger(__name__)

_THEIRS_STAY: Final = (
    "%r was stored by someone else while it was renamed: their object keeps the old name"
)


@dataclass(frozen=True, slots=True)
class Onto:
    """The new name of a file, and what may stand there before.

    Attributes:
        key: Its key.
        parent / name: What it is made of.
        target: The file that had it, if any.
        if_match: ETag that has to be replaced, "" for any.
        free: Nothing may be there.
        claim: That has to be the store's decision, whatever it takes.
    """

    key: str
    parent: Directory
    name: str
    target: Inode | None
    if_match: str = ""
    free: bool = False
    claim: bool = False

    def outdate(self) -> None:
        """Have the bucket asked what is there."""
        self.parent.listed = NEVER
        self.parent.negatives.pop(self.name, None)
        if self.target is not None:
            self.target.checked = NEVER


class FileCopies:
    """Moves objects of files inside the bucket, for `Renamer`."""

    def __init__(self, state: TreeState, markers: Markers) -> None:
        self._state = state
        self._store = state.files.store
        self._index = state.files.cache.index
        self._markers = markers

    async def onto(
        self, target: Inode | None, new_parent: Directory, new_name: str, *, claim: bool
    ) -> Onto:
        """What a copy to a name may replace, where the store looks at that.

        Anything elsewhere: a HEAD before the copy would but make the time shorter in which what
        others store is replaced, as a rename a moment later does anyway.
        """
        key = self._state.child_key(new_parent, new_name)
        onto = Onto(key, new_parent, new_name, target)
        can = await self._store.settle("target_if_match", "target_if_none_match")
        if target is None and (deferred := self._state.deferred.get(key)) is not None:
            # what a removed file that is still open leaves there is no file any more
            return dataclasses.replace(onto, if_match=deferred.etag if can.target_if_match else "")
        if target is None:
            return dataclasses.replace(onto, free=claim or can.target_if_none_match, claim=claim)
        if not can.target_if_match:
            return onto
        etag = target.etag
        if self._state.freshness.is_ours(target) or self._state.freshness.seen(target) == NEVER:
            # what is unsaved here goes, whatever others or a lost upload have made of its object;
            # one that is open, and that others have removed, the bucket does not show at all
            try:
                etag = (await self._store.head(key)).etag
            except NotFound:
                etag = ""
        return dataclasses.replace(onto, if_match=etag, free=not etag and can.target_if_none_match)

    async def move(self, source: Inode, old_key: str, onto: Onto) -> bool:
        """Copy and delete; answers whether something of others' stays under the old key."""
        open_state = source.open_state
        assert open_state is not None
        assert source.parent is not None
        changes = open_state.attribute_changes
        headers = self._new_headers(source, onto.name)
        old = Version(old_key, source.etag, source.size)
        await self._markers.keep(source.parent, source)
        condition = source.etag if onto.claim else self._state.copy_condition(source)
        try:
            info = await self._store.copy(
                old_key, onto.key, size=source.size, headers=headers, source_if_match=condition,
                target_if_match=onto.if_match, target_if_none_match=onto.free,
            )  # fmt: skip
        except KeyTaken:
            raise
        except (PreconditionFailed, NotFound) as error:
            # the kernel asks again after ESTALE, and then learns what is there now
            source.checked = source.parent.listed = NEVER
            onto.outdate()
            why = f"{old_key!r} or {onto.key!r} was changed by someone else"
            raise FsError(errno.ESTALE, why) from error
        self._state.retain(onto.key)
        sure = bool(condition)
        # readers go on under the new key before the old one is gone
        self._state.moved(source, old, info, sure=sure)
        left = False
        try:
            left = not await self._delete_original(old, info, sure=sure)
        except StoreError:
            source.checked = source.parent.listed = NEVER
            if await self._is_still(source, old, info):
                log.error("%r is still there, and so is its copy %r", old_key, onto.key)
                onto.outdate()
                raise
        self._index.drop_headers(old_key)
        if headers is not None:
            self._index.put_headers(onto.key, info.etag, info.last_modified, headers)
            if not (open_state.content and open_state.content.unsaved):
                open_state.attributes_stored(changes)
        return left

    async def free_old_name(self, source: Inode, old_key: str) -> bool:
        """An unsaved file had itself replaced an object that is still under its old name.

        Answers whether something else may be there by now, which stays.
        """
        content = source.content
        assert content is not None
        if not source.etag:
            await delete_attempt(self._store, old_key, content)
            return False
        assert source.parent is not None
        await self._markers.keep(source.parent, source)
        try:
            await self._store.delete(old_key, if_match=source.etag)
        except PreconditionFailed:
            if content.may_have_arrived:
                await delete_attempt(self._store, old_key, content)
            else:
                log.warning(_THEIRS_STAY, old_key)
            return True
        return False

    async def _delete_original(self, old: Version, copy: ObjectInfo, *, sure: bool) -> bool:
        """Delete what was copied; False when others have stored something else in its place.

        Args:
            old: The version we knew.
            copy: Its copy, or one of a later version unless it is `sure`.
            sure: The copy was conditional on that version.
        """
        for etag in dict.fromkeys([old.etag] if sure else [old.etag, copy.etag]):
            try:
                await self._store.delete(old.key, if_match=etag)
            except PreconditionFailed:
                continue
            return True
        log.warning(_THEIRS_STAY, old.key)
        return False

    async def _is_still(self, source: Inode, old: Version, copy: ObjectInfo) -> bool:
        """Whether a failed deletion has left the original, which the file stands for then."""
        try:
            found = await self._store.head(old.key)
        except NotFound:
            return False
        except StoreError:
            return True
        if found.etag == old.etag:
            self._state.moved(source, Version(copy.key, copy.etag, old.size), found, sure=True)
            source.checked = NEVER
        return True

    def _new_headers(self, source: Inode, new_name: str) -> Headers | None:
        """Headers for the copy, None to keep those of the object.

        They are rewritten for attributes that wait to be saved, and for a content type that only
        said what the old name's extension says.
        """
        open_state = source.open_state
        assert open_state is not None
        posix = source.posix
        if posix is None or posix.partial:
            return None
        old_type, new_type = content_type_of(source.name), content_type_of(new_name)
        # what was stored here has no type of its own: it got that of its name
        kept = (posix.foreign.content_type if posix.foreign else "") or old_type
        unsaved = open_state.attributes_unsaved
        if not unsaved and (old_type == new_type or kept != old_type):
            return None
        if posix.foreign and kept == old_type:
            foreign = Headers(posix.foreign.metadata, "", posix.foreign.other)
            source.posix = posix.changed(posix.ctime_ns, foreign=foreign)
            posix = source.posix
        return encode(posix, new_type)
