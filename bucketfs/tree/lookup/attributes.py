"""Attributes of inodes: learning them from the bucket.

What a listing shows (size, ETag, time) is not enough for mode and owner: these stand in the
object's metadata and cost a HEAD, or a row of the index when this very version was seen before.
A small file is fetched whole by the same request: who asks for one mostly reads it next.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import stat
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from bucketfs import clock
from bucketfs.errors import FsError, NotFound, StoreError, Unseen, errno_of
from bucketfs.store.base import Headers, ObjectInfo
from bucketfs.tasks import Shared
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.names import FOLDER_SUFFIX
from bucketfs.tree.core.posix import NANO, Posix, decode, plain, tagged_as
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.first_bytes import WHOLE_FILE, look_inside
from bucketfs.tree.lookup.presume import Samples

log = logging.getLogger(__name__)

#: Files that are asked for together, by their keys.
Claimed = dict[str, tuple[Inode, Shared]]

#: A symbolic link's target, and so the object of one, is at most this long (PATH_MAX with its NUL).
LINK_MAX = 4095
#: Permissions of a directory in which names can be looked up and not listed.
_SEARCH_ONLY = 0o111


class Attributes:
    """Learns attributes.

    Args:
        state: The tree's memory.
        on_look: Told of each inode whose attributes have to be asked for, and by which thread of a
            program; answers the size up to which the file is to be fetched along with them.
        on_directory: Told of each directory whose marker has to be asked for, if it has one: may
            find out.
        on_presumed: Told of each file whose attributes are presumed, and of these.
    """

    def __init__(
        self,
        state: TreeState,
        *,
        on_look: Callable[[Inode, int], int],
        on_directory: Callable[[Directory], Awaitable[None]],
        on_presumed: Callable[[Inode, Posix], None],
    ) -> None:
        self._state = state
        self._store = state.files.store
        self._index = state.files.cache.index
        self._background = state.files.background
        self._on_look, self._on_directory = on_look, on_directory
        self._on_presumed = on_presumed
        self._samples = Samples(state.config.defaults) if state.config.lazy_attributes else None
        self._asking: dict[Inode, Shared] = {}
        #: What is shown in place of attributes that may not be read, and until when.
        self._hidden: deque[tuple[Inode, float]] = deque()

    def kind_known(self, inode: Inode) -> bool:
        """Whether the type of the file is certain without asking."""
        return (
            isinstance(inode, Directory)
            or inode.posix is not None
            or self._state.config.listed_attributes
            or inode.size > LINK_MAX
        )

    def is_sampling(self, directory: Directory) -> bool:
        """Whether first answers are to say if the attributes of the others are presumed."""
        return self._samples is not None and self._samples.undecided(directory)

    def is_presumed(self, inode: Inode) -> bool:
        """Whether attributes of a file would be presumed."""
        return self._samples is not None and self._samples.presumed(inode) is not None

    def glance(self, inode: Inode) -> Posix | None:
        """Attributes as far as they are known without a request; nothing is kept of them."""
        return self.glances([inode])[0]

    def glances(self, inodes: Sequence[Inode]) -> list[Posix | None]:
        """As `glance` for some hundred inodes, which may take one look into the index together.

        A listing of a hundred thousand entries is shown to the kernel this way, which keeps them
        itself.
        """
        found = [self._obvious(inode) for inode in inodes]
        asked = {
            at: self.object_key(inode)
            for at, inode in enumerate(inodes)
            if found[at] is None and inode.etag and inode.modified
        }
        if asked:
            versions = [(key, inodes[at].etag, inodes[at].modified) for at, key in asked.items()]
            headers = self._index.headers_of(versions)
            for at, key in asked.items():
                if key in headers:
                    found[at] = self._decode(inodes[at], headers[key])
        if self._samples is not None:
            for at in [at for at, posix in enumerate(found) if posix is None]:
                found[at] = self._presume(self._samples, inodes[at])
        return found

    def _presume(self, samples: Samples, inode: Inode) -> Posix | None:
        posix = samples.presumed(inode)
        if posix is not None:
            self._on_presumed(inode, posix)
        return posix

    def _obvious(self, inode: Inode) -> Posix | None:
        if inode.posix is not None:
            return inode.posix
        is_bucket = inode.parent is None and not self._state.config.prefix
        if self._state.config.listed_attributes or is_bucket:
            return self._decode(inode, None)
        return None

    def recall(self, inode: Inode) -> bool:
        """Fill in attributes without a request, if that is possible.

        Answers whether they are known now.
        """
        inode.posix = self.glance(inode)
        return inode.posix is not None

    async def ensure(self, inode: Inode, asker: int = 0) -> Inode:
        """Have the attributes known; `asker`: as `Finder.find` takes it.

        Returns:
            The inode that stands for the name: another one when the bucket holds something else
            now.

        Raises:
            FsError: ENOENT when the object is gone.
            StoreError: The bucket could not be asked.
        """
        while not self.recall(inode):
            asked = self._asking.get(inode)
            if asked is None:
                return await self._ask(inode, asker=asker)
            parent, name = inode.parent, inode.name
            await asked.answered()
            if parent is not None and inode.parent is None:
                # the answer put something else in its place
                now = parent.children.get(name)
                if now is None:
                    raise FsError(errno.ENOENT)
                inode = now
        return self._as_directory(inode)

    async def revalidate(self, inode: Inode, *, whole: int = 0) -> Inode:
        """Ask the bucket for the current version of a file (or directory marker); as `ensure`.

        Args:
            inode: Which.
            whole: Fetch the bytes of a file up to this size by the same request, and the first
                ones of a larger file; none with 0.
        """
        return await self._ask(inode, whole)

    def claim(self, inodes: Iterable[Inode]) -> Claimed:
        """Keep others from asking for files that `ask_claimed` is about to ask for.

        Those left out that somebody asks for already.
        """
        claimed: Claimed = {}
        for inode in inodes:
            if inode not in self._asking:
                with contextlib.suppress(FsError):  # its directory was removed
                    claimed[self.object_key(inode)] = inode, Shared()
        self._asking.update(claimed.values())
        return claimed

    async def ask_claimed(
        self, claimed: Claimed, is_wanted: Callable[[Inode], bool]
    ) -> list[Inode]:
        """As `revalidate`, of many files side by side; raises nothing.

        Args:
            claimed: What `claim` answered, a moment ago.
            is_wanted: Whether a file still is to be asked for.

        Returns:
            Those of which there was no answer: each by itself tells why.
        """
        for key, (inode, shared) in list(claimed.items()):
            if not is_wanted(inode):
                del claimed[key]
                self._give_back(inode, shared)
        asked = clock.monotonic()
        try:
            # whoever waits for an answer counts on finding the inode where it was
            with self._state.asking_everywhere() as since:

                def take(info: ObjectInfo) -> None:
                    inode, shared = claimed[info.key]
                    if _is_unanswered(inode, since):
                        return
                    del claimed[info.key]
                    if inode.changed <= since or inode.posix is None:
                        self._state.freshness.check_heard(self.accept(inode, info), asked)
                    self._give_back(inode, shared)

                await self._store.heads(list(claimed), take)
        finally:
            for inode, shared in claimed.values():
                self._give_back(inode, shared)
        return [inode for inode, _ in claimed.values()]

    def _give_back(self, inode: Inode, shared: Shared) -> None:
        """The question is over; somebody may be asking it anew."""
        if self._asking.get(inode) is shared:
            del self._asking[inode]
        shared.end()

    async def complete(self, inode: Inode) -> None:
        """Have all known that is stored with an inode's object, before something else is.

        Raises:
            FsError: ESTALE when the bucket holds something else now; ENOENT.
            StoreError: The bucket could not be asked.
        """
        while inode.posix is not None and inode.posix.partial:
            version = (self.object_key(inode), inode.etag, inode.modified)
            if headers := self._index.headers_of([version]):
                self._learn(inode, *headers.values())
            elif await self.revalidate(inode) is not inode:
                raise FsError(errno.ESTALE, "the object was replaced by someone else")

    async def wait_for_answer(self, inode: Inode) -> None:
        """Wait for an answer about the inode that is under way, if one is."""
        while (asked := self._asking.get(inode)) is not None:
            await asked.ended()

    def is_asking(self, inode: Inode) -> bool:
        """Whether an answer about the inode is under way."""
        return inode in self._asking

    def is_here(self, inode: Inode) -> bool:
        """Whether all bytes of the file's version are in the cache."""
        cache = self._state.files.cache
        return not inode.size or cache.holds(self._state.path(inode), inode.etag, inode.size)

    def is_directory(self, info: ObjectInfo) -> bool:
        """Whether an object without a slash says that it is a directory."""
        defaults = self._state.config.defaults
        posix = decode(
            info.headers,
            size=info.size,
            modified=info.last_modified,
            directory=False,
            defaults=defaults,
        )
        return stat.S_ISDIR(posix.mode)

    def accept(self, inode: Inode, info: ObjectInfo) -> Inode:
        """A HEAD or GET answered for the inode's name: take over version and attributes."""
        if isinstance(inode, Directory):
            inode.etag, inode.modified, inode.size = info.etag, info.last_modified, info.size
        else:
            inode = self._state.adopt(
                inode, etag=info.etag, size=info.size, modified=info.last_modified
            )
        if inode.posix is None or inode.posix.partial or isinstance(inode, Directory):
            self.reread(inode, info)
            return self._as_directory(inode)
        if info.headers is not None and self._state.is_described_anew(inode, info):
            inode.modified = info.last_modified
            self.reread(inode, info)
            return inode
        if info.headers is not None:  # a change of tags makes no new version
            inode.posix = tagged_as(inode.posix, info.headers)
        inode.checked = clock.monotonic()
        return inode

    def reread(self, inode: Inode, info: ObjectInfo) -> None:
        """Replace the attributes by those a HEAD has just shown."""
        self._learn(inode, info.headers)
        inode.checked = clock.monotonic()
        if self._samples is not None and inode.posix is not None:
            self._samples.saw(inode, inode.posix)
        if info.headers is not None:
            self._index.put_headers(info.key, info.etag, info.last_modified, info.headers)

    def presume_closed(self, directory: Directory) -> None:
        """Have what may be anything be shown as a directory that nobody may list.

        What is below can be asked for by its name, and opening it as a file fails.
        """
        directory.presumed = True
        self._learn(directory, Headers(metadata={"mode": str(stat.S_IFDIR | _SEARCH_ONLY)}))

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
        inode.posix = self._decode(inode, headers)

    def _decode(self, inode: Inode, headers: Headers | None) -> Posix:
        directory = isinstance(inode, Directory)
        modified = inode.modified
        if directory and not modified:
            # an implicit directory has no time of its own; the mount's is stable and not 1970
            modified = self._state.mounted_ns // NANO
        defaults = self._state.config.defaults
        if headers is None:
            return plain(modified, directory, defaults)
        return decode(
            headers, size=inode.size, modified=modified, directory=directory, defaults=defaults
        )

    def object_key(self, inode: Inode) -> str:
        """Key of the object that has the inode's attributes. Raises FsError, ESTALE."""
        path = self._state.path(inode)
        if isinstance(inode, Directory):
            markers = inode.markers or frozenset({"/"})
            return path + next((m for m in ("/", "", FOLDER_SUFFIX) if m in markers), "/")
        return path

    async def _ask(self, inode: Inode, whole: int | None = None, *, asker: int = 0) -> Inode:
        """Ask for attributes; with `whole` None in the way the programs' habits suggest."""
        shared = self._asking[inode] = Shared()
        try:
            with shared.asked():
                return await self._put_question(inode, whole, asker)
        finally:
            if self._asking.get(inode) is shared:
                del self._asking[inode]

    async def _put_question(self, inode: Inode, whole: int | None, asker: int) -> Inode:
        if whole is None:
            if isinstance(inode, Directory) and inode.markers is None:
                await self._on_directory(inode)
            whole = 0 if _has_no_object(inode) else self._on_look(inode, asker)
        # whoever waits for the answer counts on finding the inode where it was
        with self._state.asking(inode.parent or self._state.root):
            while True:
                since = self._state.changes
                now = await self._question(inode, whole)
                if not _is_unanswered(now, since):
                    return now
                inode = now

    async def _question(self, inode: Inode, whole: int) -> Inode:
        if _has_no_object(inode):
            self._learn(inode, None)
            return inode
        since, asked = self._state.changes, clock.monotonic()
        try:
            info = await self._head_or_get(inode, whole)
        except Unseen as error:
            return self._absent(inode, since) if error.certain else self._unseen(inode)
        except NotFound:
            return self._absent(inode, since)
        except StoreError as error:
            if errno_of(error) != errno.EACCES or inode.posix is not None:
                raise
            if isinstance(inode, Directory):
                # most have no object, of which the store may say the same
                return self._unseen(inode)
            # listed but not readable: shown, as s3fs does, as a file nobody may touch
            log.warning("cannot read the attributes of an object that a listing shows: %s", error)
            self._hide(inode)
            return inode
        if inode.changed > since and (inode.posix is not None or _is_unanswered(inode, since)):
            return inode
        inode = self.accept(inode, info)
        self._state.freshness.check_heard(inode, asked)
        return inode

    async def _head_or_get(self, inode: Inode, whole: int) -> ObjectInfo:
        """Ask; a file of at most `whole` bytes, or else its beginning, is fetched along with it."""
        key = self.object_key(inode)
        if not whole or not inode.size or isinstance(inode, Directory):
            return await self._store.head(key)
        first = whole if inode.size <= whole else WHOLE_FILE
        known = min(first, inode.size)
        if self._state.files.cache.holds(key, inode.etag, inode.size, known):
            return await self._store.head(key)
        info = await look_inside(self._state.files, key, first)
        if info.etag == inode.etag and info.size != inode.size:
            # one version has one size; a HEAD says which
            return await self._store.head(key)
        return info

    def _unseen(self, inode: Inode) -> Inode:
        """What was made here, and may not be looked at, stays as it is known."""
        if inode.posix is None:
            self._learn(inode, None)
        inode.checked = clock.monotonic()
        return inode

    def _hide(self, inode: Inode) -> None:
        """Show an object that we may not ask for, until it is time to ask again."""
        # partial: that is never stored in the place of what the object carries
        self._learn(inode, Headers(metadata={"mode": str(stat.S_IFREG)}, partial=True))
        self._hidden.append((inode, clock.monotonic() + max(1.0, self._state.config.ttl)))
        if len(self._hidden) == 1:
            self._background.start(self._reveal, "ask again")

    async def _reveal(self) -> None:
        while self._hidden:
            inode, due = self._hidden[0]
            await trio.sleep_until(due)
            self._hidden.popleft()
            if inode.open_state is None:
                inode.posix = None
            else:
                self._hidden.append((inode, due + max(1.0, self._state.config.ttl)))

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
        self._state.vanished(inode)
        raise FsError(errno.ENOENT, "the object was removed by someone else")


def _is_unanswered(inode: Inode, since: int) -> bool:
    """Whether an answer was about a key that the inode does not have any more."""
    return inode.posix is None and inode.parent is not None and inode.changed > since


def _has_no_object(inode: Inode) -> bool:
    """Whether it is a directory that is known to be a mere prefix."""
    return isinstance(inode, Directory) and inode.markers is not None and not inode.markers
