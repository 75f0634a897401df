"""The objects of a renamed directory: copied to their new keys, and the originals deleted."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence

import trio

from bucketfs.errors import StoreError
from bucketfs.file.context import Version
from bucketfs.store.base import ObjectInfo
from bucketfs.tasks import gather
from bucketfs.tree.inode import Directory, Inode, is_below
from bucketfs.tree.listing import Lister
from bucketfs.tree.names import check_key
from bucketfs.tree.state import TreeState

log = logging.getLogger(__name__)

#: Answers the ETag that the copy of a listed object is to be conditional on, "" for none.
Condition = Callable[[ObjectInfo], str]


class TreeCopies:
    """Copies directories inside the bucket, for `Renamer`."""

    def __init__(self, state: TreeState, lister: Lister) -> None:
        self._state = state
        self._lister = lister

    async def copy(
        self,
        source: Directory,
        new_prefix: str,
        target: Inode | None,
        asked: Condition,
        *,
        claimed: bool,
    ) -> list[tuple[ObjectInfo, ObjectInfo]]:
        """Copy every object of a directory, or, when one cannot be, none; pairs of both.

        Args:
            source: Which one.
            new_prefix: What the keys of the copies begin with.
            target: What had the name before.
            asked: What each copy is conditional on.
            claimed: The marker of the new name was made for this.

        Raises:
            StoreError: As the first copy that failed.
        """
        old_prefix = self._state.prefix(source)
        path, new_path = old_prefix[:-1], new_prefix[:-1]
        objects = await self._lister.objects_below(old_prefix)
        for marker in (source.markers or frozenset()) - {"/"}:
            objects.append(ObjectInfo(path + marker, 0, "", 0))
        keys = [check_key(new_path + info.key[len(path) :]) for info in objects]
        try:
            copies = await gather(
                [
                    functools.partial(
                        self._state.store.copy,
                        info.key,
                        key,
                        size=info.size,
                        source_if_match=asked(info),
                    )
                    for info, key in zip(objects, keys, strict=True)
                ],
                limit=self._state.files.parallel,
            )
        except BaseException:
            had_marker = isinstance(target, Directory) and target.markers
            made = {*keys, new_prefix} if claimed else set(keys)
            await self._take_back(sorted(made - {new_prefix} if had_marker else made))
            self._state.journal.renamed(old_prefix)
            raise
        return list(zip(objects, copies, strict=True))

    def conditions(self, directory: Directory) -> Condition:
        """As `TreeState.copy_condition`, for all below a directory."""
        able = self._state.store.capabilities.copy_if_match
        opened = {
            self._state.path(inode)
            for inode in self._state.live
            if inode.content is not None and is_below(inode, directory)
        }
        return lambda info: info.etag if able or info.key in opened else ""

    async def delete_originals(self, keys: list[str]) -> None:
        """The copies stand for them; raises StoreError when one stays."""
        stayed = await self._state.store.delete_many(keys)
        for error in stayed.values():
            log.error(
                "%d of %d originals of a renamed directory stay behind", len(stayed), len(keys)
            )
            raise error

    async def _take_back(self, keys: list[str]) -> None:
        # shielded: also when the caller gave up, a half-made copy must not stay
        with trio.CancelScope(shield=True), trio.move_on_after(60):
            try:
                await self._state.store.delete_many(keys)
            except StoreError as error:
                log.error("copies of a directory that could not be renamed stay behind: %s", error)

    def take_over(
        self,
        directory: Directory,
        copies: Sequence[tuple[ObjectInfo, ObjectInfo]],
        asked: Condition,
    ) -> None:
        """Note the versions that the copies have, where the original was the version we know.

        The directory has its new name already.
        """
        self._take_over(directory, {new.key: (old, new) for old, new in copies}, asked)

    def _take_over(
        self,
        directory: Directory,
        copies: Mapping[str, tuple[ObjectInfo, ObjectInfo]],
        asked: Condition,
    ) -> None:
        marker = copies.get(self._state.prefix(directory))
        if marker is not None:
            directory.etag, directory.modified = marker[1].etag, marker[1].last_modified
        for child in directory.children.values():
            if isinstance(child, Directory):
                self._take_over(child, copies, asked)
                continue
            old, new = copies.get(self._state.path(child), (None, None))
            if old is None or new is None or old.etag != child.etag:
                continue
            sure = bool(asked(old)) or new.etag == old.etag
            if sure or child.content is None:
                self._state.moved(child, Version(old.key, old.etag, old.size), new, sure=sure)
