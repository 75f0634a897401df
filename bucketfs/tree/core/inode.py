"""Inodes, and the table that finds them by number.

An inode is a node of the tree as this mount knows it. It belongs to a name (`parent`, `name`) until
it is unlinked or replaced, and to the kernel as long as the kernel counts lookups on it; state of
open and unsaved files hangs on it (`OpenState`), so it survives every renaming.

A large listing makes one `Inode` an entry: the class is kept small, what few inodes need is in
`OpenState`.
"""

from __future__ import annotations

import errno
import secrets
from dataclasses import dataclass
from enum import StrEnum

from bucketfs.errors import FsError
from bucketfs.file.content import Content
from bucketfs.tasks import Shared
from bucketfs.tree.core.posix import Posix

#: FUSE_ROOT_ID: the number the kernel expects the root to have.
ROOT_INO = 1
NEVER = float("-inf")


class Stage(StrEnum):
    """Where an inode is on its way to the bucket; the values are what `bucketfs status` says.

    ::

        CLEAN --write, chmod--> OPEN --close--> WAITING --its turn--> UPLOADING --> CLEAN
                                  |                ^                      |
                                  +--fsync---------|--------------------->+
                                                   +------ RETRYING <-----+ it failed

    A conflict ends in CLEAN, under the name of a conflict copy; so does what is given up, whose
    bytes are under ``unsaved/`` then. Stages are not stored: `OpenState.stage` tells them from the
    facts, so that they cannot contradict these.
    """

    CLEAN = "clean"  # the bucket has all of it
    OPEN = "open"  # a program is writing it
    WAITING = "waiting"  # closed, and promised where that is possible
    UPLOADING = "uploading"
    RETRYING = "retrying"  # it failed and is tried again


@dataclass(slots=True, eq=False)
class OpenState:
    """What an inode has while it is open, unsaved, or being changed in the bucket.

    Attributes:
        held: Somebody has the right to publish, copy or delete the inode's object (`Locks`).
        content: The bytes, while open or unsaved.
        unlinked: Removed by a program here; nothing is published any more.
        lost: Directory and name that others gave to another object while this one was open.
        exclusive: Created with O_EXCL under the name it has, and not published yet.
        deferred_delete: Key to delete at the last close, because the open file still needs it.
        attributes_unsaved: The bucket does not have the current attributes.
        attribute_changes: Counts changes of the attributes.
        users: How many have that right or wait for it, and the removals of a directory's names.
        saving_attributes: A background task will save them.
        retrying: A background task saves what is unsaved, until it has worked.
        since: Unix time at which something of it began to wait for the bucket, 0.0 while nothing
            does.
        tries / error: Attempts to save it that failed since then, and why the last one did.
    """

    held: bool = False
    content: Content | None = None
    unlinked: bool = False
    lost: tuple[Directory, str] | None = None
    exclusive: bool = False
    deferred_delete: str = ""
    attributes_unsaved: bool = False
    attribute_changes: int = 0
    saving_attributes: bool = False
    retrying: bool = False
    users: int = 0
    since: float = 0.0
    tries: int = 0
    error: str = ""

    @property
    def unsaved(self) -> bool:
        """Whether the bucket lacks bytes or attributes."""
        return self.attributes_unsaved or (self.content is not None and self.content.unsaved)

    @property
    def being_written(self) -> bool:
        """Whether a program has unsaved bytes open: its close saves them, whole."""
        content = self.content
        if content is None or not content.unsaved or not content.writers:
            return False
        return not content.promised_as_it_is

    @property
    def broken(self) -> bool:
        """Whether bytes are missing that nobody has any more."""
        return self.content is not None and bool(self.content.overlay.lost)

    @property
    def stage(self) -> Stage:
        """Where the inode is on its way to the bucket."""
        if self.unlinked or not self.unsaved:
            return Stage.CLEAN
        if self.held:
            return Stage.UPLOADING
        if self.being_written:
            return Stage.OPEN
        return Stage.RETRYING if self.error else Stage.WAITING

    @property
    def in_use(self) -> bool:
        """Whether forgetting this would lose something."""
        return (
            self.content is not None
            or self.attributes_unsaved
            or bool(self.deferred_delete)
            or self.saving_attributes
            or self.retrying  # that task would not see what is opened and written meanwhile
            or self.users > 0
        )


class Inode:
    """A file (of any kind but directory).

    Attributes:
        ino: Number, never used twice in a mount.
        parent: Directory that holds it, None when it has been removed or replaced.
        name: Its name there.
        etag / size / modified: Version in the bucket at the last look ("" for none, modified 0 when
            not told); for an open file the current size is that of its content.
        posix: Attributes, None while only a listing has been seen.
        lookups: The kernel's reference count.
        checked: Monotonic time of the last look at this very object.
        changed: Tree's change number of the last local change.
        opened: ETag whose bytes the kernel may hold in its page cache.
    """

    __slots__ = (
        "changed", "checked", "etag", "ino", "lookups", "modified", "name", "open_state", "opened",
        "parent", "posix", "size",
    )  # fmt: skip

    def __init__(self, ino: int, parent: Directory | None, name: str) -> None:
        self.ino = ino
        self.parent = parent
        self.name = name
        self.etag = ""
        self.size = 0
        self.modified = 0
        self.posix: Posix | None = None
        self.lookups = 0
        self.checked = NEVER
        self.changed = 0
        self.opened = ""
        self.open_state: OpenState | None = None

    @property
    def content(self) -> Content | None:
        """The bytes while the file is open or unsaved."""
        return self.open_state.content if self.open_state else None

    @property
    def current_size(self) -> int:
        """Length in bytes as programs here see it."""
        content = self.content
        if isinstance(self, Directory):
            return 0
        return self.size if content is None else content.size

    @property
    def unlinked(self) -> bool:
        """Whether it was removed while something still held it."""
        return self.open_state is not None and self.open_state.unlinked


class Directory(Inode):
    """A directory.

    Attributes:
        children: Known entries by name.
        listed: Monotonic time at which the last complete listing began.
        loading: The listing under way, if there is one.
        asking: Listings and lookups under way.
        removed: Names removed here meanwhile, with their change number.
        negatives: Names looked up in vain, with the monotonic time.
        markers: Suffixes to the path under which a marker object stands ("/", "" or "_$folder$");
            None while unknown.
        hidden: The listing showed keys that cannot be names.
        misses: Cold lookups since the last listing.
        subdirectories: How many of the children are directories.
        touched_ns: Time of the last local change of the entries.
        only_here: It was made here, and the endpoint keeps no marker of it.
        readers: How many have it open to read its entries.
        renaming: The whole directory is being renamed.
    """

    __slots__ = (
        "asking", "children", "hidden", "listed", "loading", "markers", "misses", "negatives",
        "only_here", "readers", "removed", "renaming", "subdirectories", "touched_ns",
    )  # fmt: skip

    def __init__(self, ino: int, parent: Directory | None, name: str) -> None:
        super().__init__(ino, parent, name)
        self.children: dict[str, Inode] = {}
        self.listed = NEVER
        self.loading: Shared | None = None
        self.asking = 0
        self.removed: dict[str, int] = {}
        self.negatives: dict[str, float] = {}
        self.markers: frozenset[str] | None = None
        self.hidden = False
        self.misses = 0
        self.touched_ns = 0
        self.subdirectories = 0
        self.only_here = False
        self.readers = 0
        self.renaming = False


class InodeTable:
    """Finds inodes by the number the kernel uses.

    Holds exactly those the kernel counts lookups on, and the root.
    """

    def __init__(self) -> None:
        # a random beginning: two mounts then hardly ever have the same number for a file
        self._last = ROOT_INO + (secrets.randbits(22) << 9)
        self.root = Directory(ROOT_INO, None, "")
        self._known: dict[int, Inode] = {ROOT_INO: self.root}

    def new_number(self) -> int:
        """A number that no inode has had."""
        self._last += 1
        return self._last

    def get(self, ino: int) -> Inode:
        """The inode of a number the kernel holds.

        Raises:
            FsError: ESTALE for any other.
        """
        try:
            return self._known[ino]
        except KeyError:
            raise FsError(errno.ESTALE, f"no inode {ino}") from None

    def directory(self, ino: int) -> Directory:
        """As `get`, for a directory; ENOTDIR for anything else."""
        inode = self.get(ino)
        if not isinstance(inode, Directory):
            raise FsError(errno.ENOTDIR)
        return inode

    def count(self, inode: Inode) -> None:
        """The kernel was told of the inode once more."""
        inode.lookups += 1
        self._known[inode.ino] = inode

    def forget(self, ino: int, lookups: int) -> None:
        """The kernel gave back so many lookups."""
        inode = self._known.get(ino)
        if inode is None:
            return
        inode.lookups -= lookups
        if inode.lookups <= 0 and ino != ROOT_INO:
            inode.lookups = 0
            del self._known[ino]


def is_below(inode: Inode, directory: Directory) -> bool:
    """Whether an inode is a directory itself, or in it, or anywhere further down."""
    node: Inode | None = inode
    while node is not None:
        if node is directory:
            return True
        node = node.parent
    return False
