"""What the parts of the tree share: configuration, the inode table, keys, and the linking of names.

The key of an inode is the mounted prefix and its path, joined by ``/``.

No I/O here. Code between two awaits is atomic (one trio loop); each method leaves the tree
consistent.
"""

from __future__ import annotations

import errno
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from bucketfs import clock
from bucketfs.errors import FsError
from bucketfs.file.content import Content
from bucketfs.file.context import FileContext, Version
from bucketfs.file.overlay import Overlay
from bucketfs.file.target import Target
from bucketfs.store.base import LOCKS, OLD, ObjectInfo
from bucketfs.tree.core.freshness import Freshness
from bucketfs.tree.core.inode import NEVER, ROOT_INO, Directory, Inode, InodeTable, OpenState
from bucketfs.tree.core.posix import Defaults

#: The longest key that S3 takes, in bytes of UTF-8.
KEY_MAX = 1024
#: An ETag that a copy keeps: those of objects in parts, and made-up ones, change with it.
_MD5 = re.compile(r"[0-9a-f]{32}")
#: Files that were given up and are still told of.
_GIVEN_UP_KEPT = 1000


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A file that could not be saved.

    Attributes:
        path: Its path below the mount point.
        error: Why, in the words of the log.
        when: Unix time.
        where: The local file that has its bytes, "" where only attributes are lost.
    """

    path: str
    error: str
    when: float
    where: str


@dataclass(frozen=True, slots=True)
class TreeConfig:
    """How the bucket is shown.

    Attributes:
        prefix: Key prefix that is mounted, "" or ending in "/".
        place: Where that is below the mount point, "" or "BUCKET/"; for words alone.
        ttl: Seconds for which what is known of a name holds that was there.
        open_ttl: Seconds for which an open trusts what is known, and anyone that a name is free.
        defaults: Attributes of objects that carry none.
        hadoop_directories: A cold lookup also asks for ``name_$folder$`` (listings always show it).
        listed_attributes: Attributes from listings only, never a HEAD.
        lazy_attributes: Attributes from listings at first, where other objects of the directory
            carry none; asked for behind.
        overwrite: On a conflict, what was written here replaces others' version.
        shared_locks: Others' version was stored under a lock, and keeps its name whatever becomes
            of ours.
        exclusive_at_open: A file opened with O_EXCL is in the bucket, empty, when that returns.
        writeback: Close is content with the local disk; the bucket gets the bytes later.
        read_only: Nothing is ever written.
        acls: What is made in a directory inherits its default access control list.
        own_name: Name under which each directory shows something of the mount's own, and nothing of
            the bucket's; "" for none.
    """

    prefix: str
    ttl: float
    open_ttl: float
    defaults: Defaults
    place: str = ""
    listed_attributes: bool = False
    lazy_attributes: bool = False
    hadoop_directories: bool = False
    overwrite: bool = False
    shared_locks: bool = False
    exclusive_at_open: bool = False
    writeback: bool = False
    read_only: bool = False
    acls: bool = False
    own_name: str = ""

    @property
    def absence_ttl(self) -> float:
        """Seconds for which a listing or a lookup in vain says what is not there."""
        return min(self.ttl, self.open_ttl)


class Watcher(Protocol):
    """Who remembers what the tree has told, and hears that it is not so any more: the kernel."""

    def replaced(self, inode: Inode) -> None:
        """Others gave an inode that the watcher knows another version."""

    def moved(self, parent: Directory, name: str) -> None:
        """A name is others' from now on, or free: what stood for it does so no more."""


class Scribe(Protocol):
    """Who writes down what is open."""

    def changed(self, inode: Inode) -> None:
        """The bytes of an inode, or its place, are others now; called in the same step."""


class Nobody:
    """A watcher that remembers nothing, and a scribe that writes nothing."""

    def replaced(self, inode: Inode) -> None:  # noqa: ARG002
        return

    def moved(self, parent: Directory, name: str) -> None:  # noqa: ARG002
        return

    def changed(self, inode: Inode) -> None:  # noqa: ARG002
        return


class TreeState:
    """The tree's memory.

    Args:
        files: The surroundings of the files' bytes.
        config: How the bucket is shown.
        watcher: Hears what is not as it was told any more.
        root: Number of the mounted directory's inode.
    """

    def __init__(
        self,
        files: FileContext,
        config: TreeConfig,
        watcher: Watcher,
        root: int = ROOT_INO,
    ) -> None:
        self.files = files
        self.config = config
        self.table = InodeTable(root)
        self.mounted_ns = clock.wall_ns()
        self.freshness = Freshness(ttl=config.ttl, absence_ttl=config.absence_ttl)
        self.changes = 0
        #: Whether the copy of an object in one piece has its ETag, as far as is known.
        self._copies_keep_etags = True
        #: Names in the tree, about: those below a directory that was unlinked are still counted.
        self.entries = 0
        self._asking_everywhere = 0
        #: Directories whose `removed` is not empty.
        self._removed_in: set[Directory] = set()
        self.open_inodes: set[Inode] = set()
        #: Removed files whose objects stay until their last close, by key: they are in no listing.
        self.deferred: dict[str, Inode] = {}
        #: Names removed here whose objects are being deleted, with their keys (`Removals`).
        self.leaving: dict[Directory, dict[str, Sequence[str]]] = {}
        self.watcher = watcher
        self.scribe: Scribe = Nobody()
        #: Something of the bucket's own has the name that is ours (`TreeConfig.own_name`).
        self.hiding = False
        #: What could not be saved and is not tried any more, the latest of it.
        self.given_up: deque[GivenUp] = deque(maxlen=_GIVEN_UP_KEPT)

    def trust(self, *, ttl: float, open_ttl: float) -> None:
        """Have what is known hold for other times from now on, see `TreeConfig`."""
        self.config = replace(self.config, ttl=ttl, open_ttl=open_ttl)
        self.freshness.change(ttl=ttl, absence_ttl=self.config.absence_ttl)

    def write_down(self, scribe: Scribe) -> None:
        """Have `scribe` hear of changes from now on."""
        self.scribe = scribe

    @property
    def root(self) -> Directory:
        """The mounted directory."""
        return self.table.root

    def path(self, inode: Inode) -> str:
        """Key of the inode's name without a trailing slash, "" for the root of a whole bucket.

        Raises:
            FsError: ESTALE when the inode has no name any more.
        """
        names = []
        node: Inode = inode
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        if node is not self.root:
            raise FsError(errno.ESTALE, "a directory above it was removed by someone else")
        names.append(self.config.prefix.removesuffix("/"))
        return "/".join(name for name in reversed(names) if name)

    def key(self, inode: Inode) -> str:
        """Key of a file; raises FsError ENAMETOOLONG."""
        return check_key(self.path(inode))

    def prefix(self, directory: Directory) -> str:
        """What the keys in a directory begin with: "" or a path ending in "/"."""
        path = self.path(directory)
        return path + "/" if path else ""

    def child_key(self, directory: Directory, name: str) -> str:
        """Key of a name in a directory.

        Raises:
            FsError: ENAMETOOLONG; EPERM for the name of our own objects.
        """
        if name == LOCKS and directory is self.root:
            raise FsError(errno.EPERM, f"{name} has the locks of mounts (locks=bucket)")
        return check_key(self.prefix(directory) + name)

    def is_at(self, directory: Directory, prefix: str) -> bool:
        """Whether the directory's keys (still) begin with `prefix`."""
        try:
            return self.prefix(directory) == prefix
        except FsError:
            return False

    def is_asking(self, directory: Directory) -> bool:
        """Whether an answer about the directory's names is under way."""
        return bool(directory.asking or self._asking_everywhere)

    def new_file(self, parent: Directory, name: str) -> Inode:
        """A file inode linked under `name`."""
        inode = Inode(self.table.new_number(), None, "")
        self.link(parent, name, inode)
        return inode

    def file_that_waits(self, parent: Directory, name: str) -> Inode:
        """The file inode of a name of which nothing is known but that its bytes wait."""
        there = parent.children.get(name)
        if there is not None and not isinstance(there, Directory) and there.content is None:
            return there  # the kernel knows it
        return self.new_file(parent, name)

    def found_file(self, parent: Directory, name: str, info: ObjectInfo) -> Inode:
        """A file inode under a name that is free, as a listing shows it."""
        inode = Inode(self.table.new_number(), parent, name)
        inode.etag, inode.size, inode.modified = info.etag, info.size, info.last_modified
        self.appears(parent, name)
        parent.children[name] = inode
        self.entries += 1
        return inode

    def new_directory(self, parent: Directory, name: str) -> Directory:
        """A directory inode linked under `name`."""
        inode = Directory(self.table.new_number(), None, "")
        inode.blind = max(parent.blind, parent.heard.get(name, NEVER))
        self.link(parent, name, inode)
        return inode

    def link(self, parent: Directory, name: str, inode: Inode) -> None:
        """Put an inode under a name, in place of any other."""
        old = parent.children.get(name)
        if old is not None and old is not inode:
            self.unlink(old)
        if inode.parent is not None:
            self.unlink(inode)
        if inode.open_state is not None:
            inode.open_state.lost = None
            inode.open_state.exclusive = False
        inode.parent = parent
        inode.name = name
        parent.children[name] = inode
        self.entries += 1
        parent.subdirectories += isinstance(inode, Directory)
        parent.negatives.pop(name, None)
        self.scribe.changed(inode)

    def unlink(self, inode: Inode) -> None:
        """Take an inode from its name."""
        parent = inode.parent
        if parent is None:
            return
        self.detach(inode)
        self._remember_removed(parent, inode.name)
        if inode.open_state is not None and not inode.open_state.unlinked:
            inode.open_state.lost = parent, inode.name

    def appears(self, parent: Directory, name: str) -> None:
        """A listing shows a name that was not known: the kernel may remember it as free."""
        if parent.negatives.pop(name, None) is not None:
            self.watcher.moved(parent, name)

    def left_by_us(self, inode: Inode) -> None:
        """Take an inode from its name, which we have just made free in the bucket."""
        parent, name = inode.parent, inode.name
        self.unlink(inode)
        if parent is not None:
            self.freshness.note_free(parent, name, clock.monotonic())

    def vanished(self, inode: Inode) -> None:
        """The bucket shows nothing any more, or something else, under an inode's name."""
        parent, name = inode.parent, inode.name
        self.unlink(inode)
        if parent is not None and inode.lookups:
            self.watcher.moved(parent, name)

    def detach(self, inode: Inode) -> None:
        """Take an inode from its name here; whoever asks the bucket for the name finds it again."""
        parent = inode.parent
        assert parent is not None
        del parent.children[inode.name]
        self.entries -= 1
        parent.subdirectories -= isinstance(inode, Directory)
        inode.parent = None
        self.scribe.changed(inode)

    def note_removed(self, directory: Directory, name: str) -> None:
        """The object of a name that went before is gone now: answers under way may show it."""
        self.changes += 1
        self.freshness.note_free(directory, name, clock.monotonic())
        self._remember_removed(directory, name)

    def _remember_removed(self, directory: Directory, name: str) -> None:
        if directory.asking or self._asking_everywhere:
            directory.removed[name] = self.changes
            self._removed_in.add(directory)

    def is_leaving(self, directory: Directory, name: str) -> bool:
        """Whether the name was removed here and its objects are still being deleted."""
        return bool(self.leaving) and name in self.leaving.get(directory, ())

    @contextmanager
    def asking(self, directory: Directory) -> Iterator[int]:
        """An answer about a directory is under way; yields the change number it began at.

        What is removed meanwhile is remembered, so that the answer does not bring it back.
        """
        directory.asking += 1
        try:
            yield self.changes
        finally:
            directory.asking -= 1
            self._clear_removed()

    @contextmanager
    def asking_everywhere(self) -> Iterator[int]:
        """As `asking`, for an answer about many directories at once."""
        self._asking_everywhere += 1
        try:
            yield self.changes
        finally:
            self._asking_everywhere -= 1
            self._clear_removed()

    def _clear_removed(self) -> None:
        if self._asking_everywhere:
            return
        for directory in [d for d in self._removed_in if not d.asking]:
            directory.removed.clear()
            self._removed_in.discard(directory)

    def shown(self, inode: Inode) -> str:
        """The inode's path for the log, whatever has become of it."""
        try:
            return self.config.place + self.path(inode)
        except FsError:
            return f"(removed) {self.config.place}{inode.name}"

    def shown_below(self, inode: Inode) -> str:
        """As `shown`, below the mount point; a directory's path ends in a slash."""
        path = self.shown(inode)
        slash = "/" if isinstance(inode, Directory) else ""
        return path.removeprefix(self.config.prefix) + slash

    def note_change(self, *inodes: Inode) -> None:
        """Local changes happened: a listing that began before must not undo them."""
        self.changes += 1
        for inode in inodes:
            inode.changed = self.changes
            self.scribe.changed(inode)

    def touch(self, directory: Directory) -> None:
        """The entries of a directory changed here and now."""
        directory.touched_ns = clock.wall_ns()

    def adopt(self, inode: Inode, *, etag: str, size: int, modified: int) -> Inode:
        """The bucket shows this version of a file now.

        Returns:
            The inode that stands for it: the same one, or, when programs have the old version open,
            a new one under the same name (their reads must not mix with the new bytes).
        """
        if inode.etag == etag and inode.size == size:
            if inode.modified in (0, modified):
                inode.modified = modified
            elif inode.open_state is None:
                inode.posix = None  # same bytes, other metadata
                inode.modified = modified
            return inode
        if inode.parent is None:
            return inode  # it lost its name meanwhile: nothing is news to it
        if inode.content is not None:
            if inode.lookups:
                self.watcher.moved(inode.parent, inode.name)
            inode = self.new_file(inode.parent, inode.name)
        inode.etag, inode.size, inode.modified = etag, size, modified
        inode.posix = None
        if inode.lookups:
            self.table.replaced.add(inode.ino)
            self.watcher.replaced(inode)
        return inode

    def is_described_anew(self, inode: Inode, info: ObjectInfo) -> bool:
        """Whether others have given an open file other metadata, with the bytes that it has.

        `adopt` keeps its attributes, as whoever uses it counts on their being known.
        """
        if self.freshness.is_ours(inode) or inode.modified in (0, info.last_modified):
            return False
        return (inode.etag, inode.size) == (info.etag, info.size)

    def ensure_open_state(self, inode: Inode) -> OpenState:
        """The inode's open state, made if missing."""
        if inode.open_state is None:
            inode.open_state = OpenState()
            self.open_inodes.add(inode)
        return inode.open_state

    def drop_if_idle(self, inode: Inode) -> None:
        """Drop the open state when nothing would be lost."""
        if inode.open_state is not None and not inode.open_state.in_use:
            inode.open_state = None
            self.open_inodes.discard(inode)

    def content(self, inode: Inode) -> Content:
        """The inode's bytes, opened if they are not yet.

        Raises:
            FsError: ESTALE for an inode without a name whose bytes are not open.
        """
        content = inode.content
        if content is None:
            base = Version(self.key(inode), inode.etag, inode.size) if inode.etag else None
            content = Content(self.files, base)
            self.ensure_open_state(inode).take(content)
        return content

    def empty_content(self, inode: Inode) -> Content:
        """The inode's bytes as O_TRUNC leaves them: none, which the bucket does not know yet."""
        content = Content(self.files, None, overlay=Overlay.emptied())
        self.ensure_open_state(inode).take(content)
        return content

    def target(self, inode: Inode) -> Target:
        """Where the inode's bytes go now, and with which headers.

        Raises:
            FsError: ENOSPC, ENAMETOOLONG; ESTALE for an inode without a name.
        """
        key = self.key(inode)
        replaced = self.deferred.get(key)
        etag = inode.etag or (replaced.etag if replaced else "")
        return Target(
            key,
            inode.headers(),
            changes=self.ensure_open_state(inode).attribute_changes,
            if_match=etag,
            if_none_match=not etag,
        )

    def copy_condition(self, inode: Inode) -> str:
        """ETag that a copy of the inode's object is to be conditional on, "" for none.

        A store that does not honour the condition costs an extra HEAD for it, which is worth it
        only when an open file would otherwise go on in a version it was not opened on, or when the
        ETag of the copy cannot tell afterwards whether it is of the version that we know.
        """
        tells = self._copies_keep_etags and _MD5.fullmatch(inode.etag)
        needed = inode.content is not None or not tells
        return inode.etag if needed or self.files.store.capabilities.copy_if_match else ""

    def moved(self, inode: Inode, old: Version, copy: ObjectInfo, *, sure: bool) -> None:
        """The inode's object was copied by us: its bytes are `copy`'s from now on.

        A file that was opened while a copy was made that may be of others' version stays what it
        is; who asks for its name next finds the copy.

        Args:
            inode: Which.
            old: The version we knew.
            copy: Where it is now.
            sure: The copy was conditional on that version.
        """
        content = inode.content
        same = sure or copy.etag == old.etag
        if copy.etag != old.etag and _MD5.fullmatch(old.etag):
            self._copies_keep_etags = False  # perhaps: those of encrypted objects have others
        if content is not None and not same:
            inode.checked = NEVER
            if inode.parent is not None:
                inode.parent.listed = NEVER
            return
        if same:
            self.files.cache.relabel(old.key, old.etag, copy.key, copy.etag)
            inode.checked = clock.monotonic()
        else:
            inode.checked = NEVER  # others may have replaced it before
        if content is not None and content.base is not None:
            content.rebase(Version(copy.key, copy.etag, old.size))
        if inode.opened == old.etag:
            inode.opened = copy.etag if same else ""
        inode.etag, inode.modified = copy.etag, copy.last_modified

    def close_content(self, inode: Inode) -> None:
        """Let the inode's bytes go (to the cache)."""
        if inode.open_state is not None:
            inode.open_state.let_go()

    def holds_unsaved(self, inode: Inode) -> bool:
        """Whether forgetting the inode (and all below) would lose something that is only here."""
        if isinstance(inode, Directory) and (
            inode.only_here or any(map(self.holds_unsaved, inode.children.values()))
        ):
            return True
        return inode.open_state is not None and inode.open_state.in_use

    def left_at(self, inode: Inode) -> list[Inode]:
        """The removed file whose object still has an inode's key: its deletion may be under way.

        Who writes that key has the right to write both.
        """
        if not self.deferred or inode.parent is None:
            return []
        return self.left_below(self.path(inode))

    def left_below(self, path: str) -> list[Inode]:
        """As `left_at`, for a key, or all that begin with a path that ends in a slash."""
        if not path.endswith("/"):
            return [self.deferred[path]] if path in self.deferred else []
        return [inode for key, inode in self.deferred.items() if key.startswith(path)]

    def take_deferred(self, key: str) -> Inode | None:
        """A removed file whose object still has this key, which something new is about to take."""
        inode = self.deferred.pop(key, None)
        if inode is not None and inode.open_state is not None:
            inode.open_state.deferred_delete = ""
            self.drop_if_idle(inode)
        return inode

    def is_deferred(self, info: ObjectInfo) -> bool:
        """Whether an object is a removed file's, and not what others have stored there since."""
        inode = self.deferred.get(info.key)
        return inode is not None and inode.etag == info.etag

    def retain(self, key: str) -> None:
        """Something new has this key, which a removed file would have taken along."""
        if self.take_deferred(key) is not None:
            self.files.cache.journal.removed([key])


def check_key(key: str) -> str:
    """The key itself.

    Raises:
        FsError: ENAMETOOLONG when S3 would not take it. It is never asked for an old version by the
            key of a mount, which is longer than that of the object.
    """
    if key.startswith(OLD):
        return key
    if len(key) * 4 > KEY_MAX and len(key.encode()) > KEY_MAX:
        raise FsError(errno.ENAMETOOLONG, f"the key would have more than {KEY_MAX} bytes")
    return key
