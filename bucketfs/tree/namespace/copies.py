"""The objects of a renamed directory: copied to their new keys, and the originals deleted."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence

import trio

from bucketfs.errors import NotFound, PreconditionFailed, StoreError
from bucketfs.file.context import Version
from bucketfs.store.base import ObjectInfo
from bucketfs.tasks import gather
from bucketfs.tree.core.inode import Directory, Inode, is_below
from bucketfs.tree.core.state import TreeState, check_key
from bucketfs.tree.lookup.lister import Lister
from bucketfs.tree.saving.attributes_alone import NOT_THE_OBJECT
from bucketfs.units import count

log = logging.getLogger(__name__)

#: Answers the ETag that the copy of a listed object is to be conditional on, "" for none.
Condition = Callable[[ObjectInfo], str]


class TreeCopies:
    """Copies directories inside the bucket, for `Renamer`."""

    def __init__(self, state: TreeState, lister: Lister) -> None:
        self._state = state
        self._store = state.files.store
        self._journal = state.files.cache.journal
        self._lister = lister

    async def copy(
        self,
        source: Directory,
        new_prefix: str,
        target: Inode | None,
        asked: Condition,
        *,
        claimed: str,
    ) -> list[tuple[ObjectInfo, ObjectInfo]]:
        """Copy every object of a directory, or, when one cannot be, none; pairs of both.

        One that others have removed meanwhile is left out.

        Args:
            source: Which one.
            new_prefix: What the keys of the copies begin with.
            target: What had the name before.
            asked: What each copy is conditional on.
            claimed: ETag of the marker that was made for this under the new name, "" for none.

        Raises:
            FsError: ENAMETOOLONG.
            KeyTaken: Others have stored something under the new name.
            StoreError: As the first copy that failed.
        """
        old_prefix, new_path = self._state.prefix(source), new_prefix[:-1]
        markers = target.markers if isinstance(target, Directory) else None
        kept = {new_path + marker for marker in markers or ()} | self._state.deferred.keys()
        pairs: list[tuple[ObjectInfo, str]] = []
        #: Copies by key, None for those of unknown outcome.
        made: dict[str, ObjectInfo | None] = {}
        if claimed:
            made[new_prefix] = ObjectInfo(new_prefix, 0, claimed, 0)

        async def copy(info: ObjectInfo, key: str) -> ObjectInfo | None:
            # what stands there by our own doing, or was seen there, is replaced
            is_new = free and key not in made and key not in kept
            before, made[key] = made.get(key), None
            try:
                made[key] = copied = await self._store.copy(
                    info.key, key, size=info.size, source_if_match=asked(info),
                    target_if_none_match=is_new,
                )  # fmt: skip
            except StoreError as error:
                if 400 <= error.status < 500:
                    made[key] = before
                    if before is None:
                        del made[key]
                if isinstance(error, NotFound) and error.code not in NOT_THE_OBJECT:
                    return None
                raise
            return copied

        try:
            pairs = await self._pairs(source, new_path)
            free = (await self._store.settle("target_if_none_match")).target_if_none_match
            copies = await gather(
                [functools.partial(copy, info, key) for info, key in pairs],
                limit=self._state.files.parallel,
            )
        except BaseException:
            originals = {key: info for info, key in pairs}
            await self._take_back({k: v for k, v in made.items() if k not in kept}, originals)
            self._journal.renamed(old_prefix)
            raise
        both = zip(pairs, copies, strict=True)
        return [(info, made_of_it) for (info, _), made_of_it in both if made_of_it is not None]

    async def _pairs(self, source: Directory, new_path: str) -> list[tuple[ObjectInfo, str]]:
        """Every object of a directory, with its new key.

        Raises:
            FsError: ENAMETOOLONG.
            StoreError: The directory could not be listed.
        """
        prefix = self._state.prefix(source)
        path = prefix[:-1]
        objects = await self._lister.objects_below(prefix)
        for marker in (source.markers or frozenset()) - {"/"}:
            objects.append(ObjectInfo(path + marker, 0, "", 0))
        return [(info, check_key(new_path + info.key[len(path) :])) for info in objects]

    def conditions(self, directory: Directory) -> Condition:
        """As `TreeState.copy_condition`, for all below a directory."""
        able = self._store.capabilities.copy_if_match
        opened = {
            self._state.path(inode)
            for inode in self._state.open_inodes
            if inode.content is not None and is_below(inode, directory)
        }
        return lambda info: info.etag if able or info.key in opened else ""

    async def delete_originals(
        self, copies: Sequence[tuple[ObjectInfo, ObjectInfo]], asked: Condition
    ) -> bool:
        """The copies stand for them; whether others have stored something in the place of one.

        Raises:
            StoreError: One stays.
        """
        stayed = dict(
            await self._store.delete_many(
                [old.key for old, _ in copies],
                if_match={old.key: old.etag for old, _ in copies if old.etag},
            )
        )
        later = {
            old.key: new.etag
            for old, new in copies
            if isinstance(stayed.get(old.key), PreconditionFailed)
            and not asked(old)
            and new.etag != old.etag
        }
        if later:  # the copy may be of the version that is there, where it had no condition
            stayed = {key: error for key, error in stayed.items() if key not in later}
            stayed.update(await self._store.delete_many([*later], if_match=later))
        theirs = [key for key, error in stayed.items() if isinstance(error, PreconditionFailed)]
        if theirs:
            log.warning(
                "%s stored by someone else in a directory while it was renamed, and kept the old"
                " name: %r is one",
                count(len(theirs), "object was", "objects were"), theirs[0],
            )  # fmt: skip
        for key in stayed.keys() - set(theirs):
            log.error(
                "%d of %d originals of a renamed directory cannot be deleted and stay behind: %s",
                len(stayed) - len(theirs), len(copies), stayed[key],
            )  # fmt: skip
            raise stayed[key]
        return bool(theirs)

    async def _take_back(
        self, made: Mapping[str, ObjectInfo | None], originals: Mapping[str, ObjectInfo]
    ) -> None:
        """Delete copies, and nothing that others have stored in their place.

        Args:
            made: By key, None for those of unknown outcome.
            originals: By the keys of their copies.
        """
        # shielded: also when the caller gave up, a half-made copy must not stay
        with trio.CancelScope(shield=True), trio.move_on_after(60):
            try:
                unknown = [key for key, copy in made.items() if copy is None]
                found = await gather(
                    [functools.partial(self._look, key, originals[key]) for key in unknown],
                    limit=self._state.files.parallel,
                )
                ours = [copy for copy in (*made.values(), *found) if copy is not None]
                stayed = await self._store.delete_many(
                    [copy.key for copy in ours], if_match={copy.key: copy.etag for copy in ours}
                )
                for error in stayed.values():
                    if not isinstance(error, PreconditionFailed):
                        raise error
            except StoreError as error:
                log.error(
                    "a directory could not be renamed, and copies of its objects stay behind: %s",
                    error,
                )

    async def _look(self, key: str, original: ObjectInfo) -> ObjectInfo | None:
        """What a copy has made of a key, if it was carried out."""
        try:
            found = await self._store.head(key)
            if found.size and found.etag != original.etag:
                original = await self._store.head(original.key)
        except NotFound:
            return None
        return found if may_be_copy(found, original) else None

    def adopt_copies(
        self,
        directory: Directory,
        copies: Sequence[tuple[ObjectInfo, ObjectInfo]],
        asked: Condition,
    ) -> None:
        """Note the versions that the copies have, where the original was the version we know.

        The directory has its new name already.
        """
        self._adopt_copies(directory, {new.key: (old, new) for old, new in copies}, asked)

    def _adopt_copies(
        self,
        directory: Directory,
        copies: Mapping[str, tuple[ObjectInfo, ObjectInfo]],
        asked: Condition,
    ) -> None:
        marker = copies.get(self._state.prefix(directory))
        if marker is not None:
            directory.etag, directory.modified = marker[1].etag, marker[1].last_modified
        for child in directory.children.values():
            child.changed = self._state.changes  # answers under way are about the old key
            if isinstance(child, Directory):
                self._adopt_copies(child, copies, asked)
                continue
            old, new = copies.get(self._state.path(child), (None, None))
            if old is None or new is None or old.etag != child.etag:
                continue
            sure = bool(asked(old)) or new.etag == old.etag
            if sure or child.content is None:
                self._state.moved(child, Version(old.key, old.etag, old.size), new, sure=sure)


def may_be_copy(copy: ObjectInfo, original: ObjectInfo) -> bool:
    """Whether an object is a copy of another, whose ETag may differ.

    A modification time is to the nanosecond: objects that say the same are of one file.
    """
    if copy.size != original.size:
        return False
    if copy.etag == original.etag or not copy.size:
        return True
    times = [info.headers.metadata.get("mtime") for info in (copy, original) if info.headers]
    return len(times) == 2 and times[0] is not None and times[0] == times[1]
