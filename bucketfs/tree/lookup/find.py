"""Finding a name in a directory with as few requests as possible.

A name that is known holds for `ttl` and costs none. That a name is free holds for `open_ttl`, so
that what others have made shows soon. After that a directory is listed, which answers all further
names, if it is known to take one page, or if names were looked up in it one after another. In a
larger one a page of the listing may do (`survey`). Any other lookup is a HEAD of the key, or a GET
of its `first_bytes`, and a LIST of ``key/`` side by side; a directory wins over a file of the same
name.
Where the credentials do not cover one of these (`bucketfs.store.layers.rights`), the other decides.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bucketfs import clock
from bucketfs.errors import FsError, NotFound, StoreError, Unseen, is_denied
from bucketfs.store.base import ObjectInfo
from bucketfs.tasks import Shared, gather
from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.names import FOLDER_SUFFIX
from bucketfs.tree.core.state import TreeState, check_key
from bucketfs.tree.lookup.attributes import Attributes
from bucketfs.tree.lookup.first_bytes import Guess, look_inside
from bucketfs.tree.lookup.lister import FULL_PAGE, LARGE_MISSES, LOOKUP_PAGES, MANY_MISSES
from bucketfs.tree.lookup.survey import Surveys


@dataclass(slots=True)
class _Answers:
    """What a cold lookup found.

    Attributes:
        file / directory / markers: What is there.
        marker_size: Bytes of the directory's own object.
        unseen: What is not may be there all the same.
        unlisted: The prefix of the directory may not be listed.
        refused: Why the object may not be looked at, if it may not.
    """

    file: ObjectInfo | None = None
    directory: bool = False
    markers: frozenset[str] = frozenset()
    marker_size: int = 0
    unseen: bool = False
    unlisted: bool = False
    refused: StoreError | None = None

    @property
    def unknown(self) -> bool:
        """Whether anything may be there."""
        return self.refused is not None and self.unlisted and not self.directory


class Finder:
    """Looks names up.

    Args:
        state: The tree's memory.
        attributes: Learns what a name stands for.
        guess: Whether what is looked up for a program is read next.
        on_misses: Told of each directory in which names are looked up; answers whether it has been
            listed for them.
    """

    def __init__(
        self,
        state: TreeState,
        attributes: Attributes,
        guess: Guess,
        *,
        on_misses: Callable[[Directory], Awaitable[bool]],
    ) -> None:
        self._state = state
        self._store = state.files.store
        self._attributes = attributes
        self._guess = guess
        self._on_misses = on_misses
        self._surveys = Surveys(state)
        self._looking: dict[tuple[Directory, str], Shared] = {}
        self._listing: dict[Directory, Shared] = {}

    async def find(self, parent: Directory, name: str, *, asker: int = 0) -> Inode:
        """The inode of a name, attributes known.

        Args:
            parent: Directory.
            name: Name in it.
            asker: Thread of a program whose habits say what to fetch along with them, 0 for none.

        Raises:
            FsError: ENOENT, ENAMETOOLONG.
            StoreError: The bucket could not be asked.
        """
        inode = await self._locate(parent, name, asker)
        if inode is None:
            raise FsError(errno.ENOENT)
        return await self._attributes.ensure(inode, asker)

    async def find_typed(self, parent: Directory, name: str, *, asker: int = 0) -> Inode:
        """As `find`, but of the attributes no more than the type need be known."""
        inode = await self._locate(parent, name, asker)
        if inode is None:
            raise FsError(errno.ENOENT)
        if self._attributes.kind_known(inode):
            return inode
        return await self._attributes.ensure(inode, asker)

    async def find_or_none(self, parent: Directory, name: str) -> Inode | None:
        """As `find`, None for a name that is free; attributes may be unknown."""
        return await self._locate(parent, name)

    def negative_timeout(self, parent: Directory, name: str) -> float:
        """Seconds for which the kernel may remember that a name is free; it is told so now."""
        if self._state.is_leaving(parent, name):
            return 0.0  # it is back if it cannot be deleted
        since = self._free_since(parent, name)
        left = self._state.freshness.time_left(since, self._state.config.absence_ttl)
        if left <= 0 or not self._state.freshness.note_free(parent, name, since):
            return 0.0
        return left

    async def _locate(self, parent: Directory, name: str, asker: int = 0) -> Inode | None:
        key = self._state.child_key(parent, name)
        while True:
            known, child = self._remembered(parent, name)
            if known:
                return child
            looking = self._looking.get((parent, name))
            if looking is None:
                break
            await looking.answered()
        shared = self._looking[parent, name] = Shared()
        try:
            with shared.asked():
                return await self._look(parent, name, key, asker)
        finally:
            del self._looking[parent, name]

    async def _look(self, parent: Directory, name: str, key: str, asker: int) -> Inode | None:
        parent.misses += 1
        is_new = name not in parent.children
        if is_new and _is_large(parent) and self._surveys.is_worth_it(parent):
            await self._surveys.ask(parent, name)
            known, child = self._remembered(parent, name)
            if known:
                return child
        if _is_worth_listing(parent, name):
            if await self._list(parent):
                return parent.children.get(name)
            parent.misses = -LARGE_MISSES
        return await self._ask(parent, name, key, asker)

    async def _list(self, parent: Directory) -> bool:
        """Whether the directory is listed now; not if it is large, or may not be.

        One listing for all who look up names in it meanwhile, also if it is given up.
        """
        try:
            if (listing := self._listing.get(parent)) is not None:
                await listing.answered()
                return self._state.freshness.is_current(parent)
            shared = self._listing[parent] = Shared()
            try:
                with shared.asked():
                    return await self._on_misses(parent)
            finally:
                del self._listing[parent]
        except StoreError as error:
            if not is_denied(error):
                raise
            return False

    def _remembered(self, parent: Directory, name: str) -> tuple[bool, Inode | None]:
        child = parent.children.get(name)
        if child is not None:
            return self._state.freshness.is_fresh(child), child
        if self._state.is_leaving(parent, name):
            return True, None
        since = self._free_since(parent, name)
        return self._state.freshness.trusts(since, self._state.config.absence_ttl), None

    def _free_since(self, parent: Directory, name: str) -> float:
        since = self._state.freshness.free_since(parent, name)
        if not _is_large(parent) or name in parent.heard:
            return since
        return max(since, self._surveys.free_since(parent, name))

    async def _ask(self, parent: Directory, name: str, key: str, asker: int) -> Inode | None:
        answers = _Answers()
        # who looks again has the bytes, or wants none; so has who looked in an earlier mount
        is_new = name not in parent.children and not self._state.files.cache.had(key)
        first = self._guess.first if asker and is_new else 0
        asked = clock.monotonic()
        with self._state.asking(parent) as since:
            jobs = [
                functools.partial(self._head, key, answers, first),
                functools.partial(self._directory, key, answers),
            ]
            if self._state.config.hadoop_directories:
                jobs.append(functools.partial(self._hadoop, key, answers))
            await gather(jobs, limit=len(jobs))
            if answers.refused is not None and not answers.directory:
                await self._check_refused(key, answers, answers.refused)
            if parent.parent is not None and self._state.child_key(parent, name) != key:
                # renamed meanwhile: the answer is about the old key
                return await self._ask(parent, name, self._state.child_key(parent, name), asker)
            child = parent.children.get(name)
            changed = child is not None and child.changed > since
            removed = parent.removed.get(name, 0) > since
            if changed or removed or self._state.is_leaving(parent, name):
                return child
        found = self._learn(parent, name, answers)
        if found is None:
            self._state.freshness.answered(parent, name, asked)
            self._state.freshness.note_free(parent, name, asked)
        else:
            self._state.freshness.check_heard(found, asked)
        return found

    def _learn(self, parent: Directory, name: str, answers: _Answers) -> Inode | None:
        if answers.unknown:
            found = self._found_directory(parent, name, frozenset())
            self._attributes.presume_closed(found)
            return found
        if answers.directory:
            found = self._found_directory(parent, name, answers.markers)
            found.size = answers.marker_size
            return found
        if answers.file is not None and not self._state.is_deferred(answers.file):
            return self._found_file(parent, name, answers.file)
        child = parent.children.get(name)
        if child is not None:
            if self._state.holds_unsaved(child):
                return child
            if answers.unseen:  # it was made here
                child.checked = clock.monotonic()
                return child
            self._state.vanished(child)
        return None

    async def _head(self, key: str, answers: _Answers, first: int) -> None:
        try:
            if first:
                answers.file = await look_inside(self._state.files, key, first)
            else:
                answers.file = await self._store.head(key)
        except Unseen as error:
            answers.unseen |= not error.certain
        except NotFound:
            return
        except StoreError as error:
            if not is_denied(error):
                raise
            answers.refused = error
        if first:
            self._guess.brought()

    async def _directory(self, key: str, answers: _Answers) -> None:
        try:
            prefix = check_key(key + "/")
        except FsError:
            return  # too long to be a directory
        try:
            limit = min(1 + len(self._state.deferred), FULL_PAGE)
            page = await self._store.list(prefix, delimiter="", limit=limit)
        except StoreError as error:
            if not is_denied(error):
                raise
            answers.unlisted = True
            await self._marker(prefix, answers)
            return
        found = [info for info in page.objects if not self._state.is_deferred(info)]
        answers.directory |= bool(found or page.left_out)
        # the marker is the first key of its prefix, if it exists at all
        if found and found[0].key == prefix:
            answers.markers |= {"/"}
            answers.marker_size = found[0].size

    async def _marker(self, prefix: str, answers: _Answers) -> None:
        """Look for a directory's own object, where it may not be listed."""
        try:
            marker = await self._store.head(prefix)
        except Unseen as error:
            answers.unseen |= not error.certain
        except NotFound:
            return
        except StoreError as error:
            if not is_denied(error):
                raise
        else:
            answers.directory = True
            answers.markers |= {"/"}
            answers.marker_size = marker.size

    async def _check_refused(self, key: str, answers: _Answers, refusal: StoreError) -> None:
        """An object may not be looked at: is there one, or is that what is said of any name?

        S3 says it of absent ones to whom it does not let list the whole bucket.

        Raises:
            StoreError: There is one; or nothing can be known, in a mount that could write.
        """
        if answers.unlisted:
            if not self._state.config.read_only:
                raise refusal
            return
        page = await self._store.list(key, delimiter="/", limit=1)
        if any(info.key == key for info in page.objects):
            raise refusal

    async def _hadoop(self, key: str, answers: _Answers) -> None:
        try:
            marker = check_key(key + FOLDER_SUFFIX)
        except FsError:
            return  # too long to be one
        with contextlib.suppress(NotFound):
            await self._store.head(marker)
            answers.directory = True
            answers.markers |= {FOLDER_SUFFIX}

    def _found_directory(self, parent: Directory, name: str, markers: frozenset[str]) -> Directory:
        child = parent.children.get(name)
        if not isinstance(child, Directory):
            child = self._state.new_directory(parent, name)
        elif child.open_state is None and "/" in markers:
            child.posix = None  # the marker may have been rewritten
        child.presumed = False
        child.markers = (child.markers or frozenset()) - {"/"} | markers
        child.checked = clock.monotonic()
        return child

    def _found_file(self, parent: Directory, name: str, info: ObjectInfo) -> Inode:
        child = parent.children.get(name)
        if isinstance(child, Directory) and not self._is_still_object_of(child, info):
            if self._state.holds_unsaved(child):
                return child
            child = None
        if child is None:
            child = self._state.new_file(parent, name)
        return self._attributes.accept(child, info)

    def _is_still_object_of(self, directory: Directory, info: ObjectInfo) -> bool:
        """Whether an object without a slash is (still) that of a directory."""
        if directory.markers != frozenset({""}):
            return False
        return info.headers is None or self._attributes.is_directory(info)


def _is_large(parent: Directory) -> bool:
    """Whether all names of a directory were known, and take more than one page."""
    return len(parent.children) > FULL_PAGE and parent.listed != NEVER


def _is_worth_listing(parent: Directory, name: str) -> bool:
    """Whether to list a directory rather than ask for a name in it."""
    if len(parent.children) > LOOKUP_PAGES * FULL_PAGE:
        return False
    if parent.misses > MANY_MISSES:
        return True
    one_page = parent.listed != NEVER and len(parent.children) <= FULL_PAGE
    # after a listing that was given up `misses` is negative
    return one_page and parent.misses > 0 and name not in parent.children
