"""Finding a name in a directory with as few requests as possible.

Fresh listing of the parent: none. Otherwise HEAD of the key and LIST of ``key/`` side by side; a
directory wins over a file of the same name. Where the credentials do not cover one of these
(`bucketfs.store.layers.rights`), the other decides. Names looked up in vain are remembered, and a
directory in which names are looked up one after another is listed instead.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from dataclasses import dataclass

from bucketfs import clock
from bucketfs.errors import FsError, NotFound, StoreError, Unseen, is_denied
from bucketfs.store.base import ObjectInfo
from bucketfs.tasks import Shared, gather
from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.names import FOLDER_SUFFIX, check_key
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.attributes import Attributes
from bucketfs.tree.lookup.lister import LARGE_MISSES, LOOKUP_PAGES, MANY_MISSES, Lister

#: Negative answers kept per directory.
_NEGATIVES = 10_000


@dataclass(slots=True)
class _Answers:
    """What a cold lookup found.

    Attributes:
        file / directory / markers: What is there.
        unseen: What is not may be there all the same.
        unlisted: The prefix of the directory may not be listed.
        refused: Why the object may not be looked at, if it may not.
    """

    file: ObjectInfo | None = None
    directory: bool = False
    markers: frozenset[str] = frozenset()
    unseen: bool = False
    unlisted: bool = False
    refused: StoreError | None = None

    @property
    def unknown(self) -> bool:
        """Whether anything may be there."""
        return self.refused is not None and self.unlisted and not self.directory


class Finder:
    """Looks names up."""

    def __init__(self, state: TreeState, lister: Lister, attributes: Attributes) -> None:
        self._state = state
        self._lister = lister
        self._attributes = attributes
        self._looking: dict[tuple[Directory, str], Shared] = {}

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
        inode = await self._locate(parent, name)
        if inode is None:
            raise FsError(errno.ENOENT)
        return await self._attributes.ensure(inode, asker)

    async def find_typed(self, parent: Directory, name: str, *, asker: int = 0) -> Inode:
        """As `find`, but of the attributes no more than the type need be known."""
        inode = await self._locate(parent, name)
        if inode is None:
            raise FsError(errno.ENOENT)
        if self._attributes.kind_known(inode):
            return inode
        return await self._attributes.ensure(inode, asker)

    async def find_or_none(self, parent: Directory, name: str) -> Inode | None:
        """As `find`, None for a name that is free; attributes may be unknown."""
        return await self._locate(parent, name)

    async def find_now(self, parent: Directory, name: str) -> Inode | None:
        """As `find_or_none`, but that a name is free is not older news than `open_ttl`."""
        inode = await self._locate(parent, name)
        heard = max(parent.listed, parent.negatives.get(name, NEVER))
        if inode is not None or clock.monotonic() - heard <= self._state.config.open_ttl:
            return inode
        return await self._ask(parent, name, self._state.child_key(parent, name))

    def negative_timeout(self, parent: Directory, name: str) -> float:
        """Seconds for which the kernel may remember that a name is free."""
        if self._state.is_leaving(parent, name):
            return 0.0  # it is back if it cannot be deleted
        now = clock.monotonic()
        since = max(parent.listed, parent.negatives.get(name, parent.listed))
        return max(0.0, self._state.config.ttl - (now - since))

    async def _locate(self, parent: Directory, name: str) -> Inode | None:
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
                return await self._look(parent, name, key)
        finally:
            del self._looking[parent, name]

    async def _look(self, parent: Directory, name: str, key: str) -> Inode | None:
        parent.misses += 1
        if parent.misses > MANY_MISSES:
            if await self._list(parent):
                return parent.children.get(name)
            parent.misses = -LARGE_MISSES
        return await self._ask(parent, name, key)

    async def _list(self, parent: Directory) -> bool:
        """Whether the directory is listed now; not if it is large, or may not be."""
        try:
            return await self._lister.ensure(parent, pages=LOOKUP_PAGES)
        except StoreError as error:
            if not is_denied(error):
                raise
            return False

    def _remembered(self, parent: Directory, name: str) -> tuple[bool, Inode | None]:
        child = parent.children.get(name)
        if child is not None and self._state.is_fresh(child):
            return True, child
        if self._state.is_listed(parent):
            return True, child
        if child is None:
            missed = parent.negatives.get(name)
            if missed is not None and clock.monotonic() - missed <= self._state.config.ttl:
                return True, None
        return False, None

    async def _ask(self, parent: Directory, name: str, key: str) -> Inode | None:
        answers = _Answers()
        with self._state.asking(parent) as since:
            jobs = [
                functools.partial(self._head, key, answers),
                functools.partial(self._directory, key, answers),
            ]
            if self._state.config.hadoop_directories:
                jobs.append(functools.partial(self._hadoop, key, answers))
            await gather(jobs, limit=len(jobs))
            if answers.refused is not None and not answers.directory:
                await self._check_refused(key, answers, answers.refused)
            child = parent.children.get(name)
            changed = child is not None and child.changed > since
            removed = parent.removed.get(name, 0) > since
            if changed or removed or self._state.is_leaving(parent, name):
                return child
        return self._learn(parent, name, key, answers)

    def _learn(self, parent: Directory, name: str, key: str, answers: _Answers) -> Inode | None:
        if answers.unknown:
            found = self._found_directory(parent, name, frozenset())
            self._attributes.presume_closed(found)
            return found
        if answers.directory:
            return self._found_directory(parent, name, answers.markers)
        if answers.file is not None and key not in self._state.deferred:
            return self._found_file(parent, name, answers.file)
        child = parent.children.get(name)
        if child is not None:
            if self._state.holds_unsaved(child):
                return child
            if answers.unseen:  # it was made here
                child.checked = clock.monotonic()
                return child
            self._state.unlink(child)
        if len(parent.negatives) >= _NEGATIVES:
            parent.negatives.clear()
        parent.negatives[name] = clock.monotonic()
        return None

    async def _head(self, key: str, answers: _Answers) -> None:
        try:
            answers.file = await self._state.store.head(key)
        except Unseen as error:
            answers.unseen |= not error.certain
        except NotFound:
            return
        except StoreError as error:
            if not is_denied(error):
                raise
            answers.refused = error

    async def _directory(self, key: str, answers: _Answers) -> None:
        try:
            prefix = check_key(key + "/")
        except FsError:
            return  # too long to be a directory
        try:
            page = await self._state.store.list(prefix, delimiter="", limit=1)
        except StoreError as error:
            if not is_denied(error):
                raise
            answers.unlisted = True
            await self._marker(prefix, answers)
            return
        answers.directory |= bool(page.objects or page.left_out)
        # the marker is the first key of its prefix, if it exists at all
        if page.objects and page.objects[0].key == prefix:
            answers.markers |= {"/"}

    async def _marker(self, prefix: str, answers: _Answers) -> None:
        """Look for a directory's own object, where it may not be listed."""
        try:
            await self._state.store.head(prefix)
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
        page = await self._state.store.list(key, delimiter="/", limit=1)
        if any(info.key == key for info in page.objects):
            raise refusal

    async def _hadoop(self, key: str, answers: _Answers) -> None:
        with contextlib.suppress(NotFound):
            await self._state.store.head(key + FOLDER_SUFFIX)
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
        if isinstance(child, Directory) and child.markers != frozenset({""}):
            if self._state.holds_unsaved(child):
                return child
            child = None
        if child is None:
            child = self._state.new_file(parent, name)
        return self._attributes.accept(child, info)
