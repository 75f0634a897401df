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
from dataclasses import dataclass, field

from bucketfs import clock
from bucketfs.errors import FsError
from bucketfs.file.content import Content
from bucketfs.store.base import Headers
from bucketfs.tasks import Shared
from bucketfs.tree.core.posix import Posix, object_headers
from bucketfs.tree.core.stages import ATTEMPTING, ENDS, MOVES, Event, MoveError, Stage

#: FUSE_ROOT_ID: the number the kernel expects the root to have.
ROOT_INO = 1
NEVER = float("-inf")


@dataclass(slots=True, eq=False)
class OpenState:
    """What an inode has while it is open, unsaved, or being changed in the bucket.

    It owns the inode's `Stage`: who changes what that depends on says so here, in the same step of
    the event loop.

    Attributes:
        content: The bytes, while open or unsaved.
        since: Unix time at which something of it began to wait for the bucket, 0.0 while nothing
            does.
        tries / error: Attempts to save it that failed since then, and why the last one did.
        attributes_unsaved: The bucket does not have the current attributes.
        attribute_changes: Counts changes of the attributes.
        saving_attributes: A background task will save them.
        retrying: A background task saves what is unsaved, until it has worked.
        lost: Directory and name that others gave to another object while this one was open.
        exclusive: Created with O_EXCL under the name it has, and not published yet.
        fenced: What is unsaved was written under a lock that was lost since: others may have been
            granted it, so it takes nobody's place.
        deferred_delete: Key to delete at the last close, because the open file still needs it.
        users: How many have the right to publish, copy or delete the inode's object or wait for it
            (`Locks`), and the removals of a directory's names.
    """

    content: Content | None = None
    since: float = 0.0
    tries: int = 0
    error: str = ""
    attributes_unsaved: bool = False
    attribute_changes: int = 0
    saving_attributes: bool = False
    retrying: bool = False
    lost: tuple[Directory, str] | None = None
    exclusive: bool = False
    fenced: bool = False
    deferred_delete: str = ""
    users: int = 0
    _stage: Stage = field(default=Stage.CLEAN, init=False)

    @property
    def stage(self) -> Stage:
        """Where the inode is on its way to the bucket."""
        return self._stage

    @property
    def unlinked(self) -> bool:
        """Whether a program here has removed it; nothing is published any more."""
        return self.stage is Stage.REMOVED

    @property
    def unsaved(self) -> bool:
        """Whether the bucket lacks bytes or attributes that it is to have."""
        if self.unlinked:
            return False
        content = self.content
        return self.attributes_unsaved or (content is not None and content.unsaved)

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

    def take(self, content: Content) -> None:
        """These are the bytes now; who opens or promises them has `find_saver` called."""
        self.content = content
        if content.unsaved:
            self._move(Event.WRITTEN)

    def let_go(self) -> None:
        """Nobody needs the bytes any more."""
        if self.content is not None:
            self.content.close()
            self.content = None
            self.find_saver()

    def written(self) -> None:
        """The bytes have changed."""
        if self.stage is Stage.DIRTY and self.being_written:
            return  # as for each but the first of a program's many writes
        self._move(Event.WRITTEN)
        self.find_saver()

    def attributes_changed(self) -> None:
        """The bucket does not have the attributes as they are now."""
        self._move(Event.CHANGED)

    def attributes_stored(self, changes: int) -> None:
        """The bucket has the attributes as they were after so many changes."""
        self.attributes_unsaved = self.attribute_changes != changes
        self.find_saver()

    def attributes_dropped(self) -> None:
        """The bucket is not to have the changed attributes any more."""
        self.attributes_unsaved = False
        self.find_saver()

    def begin(self) -> None:
        """An attempt to save it begins; the caller has the right to (`Locks`), until it ends."""
        self._move(Event.BEGUN)

    def overtaken(self) -> None:
        """Others' version stands in the attempt's way."""
        self._move(Event.OVERTAKEN)

    def saved(self) -> None:
        """The attempt has worked, for what there was when it began."""
        self._move(Event.SAVED_OLDER if self.unsaved else Event.SAVED)
        self.find_saver()

    def interrupted(self) -> None:
        """The attempt was broken off."""
        self._move(Event.INTERRUPTED)
        self.find_saver()

    def failed(self, error: Exception) -> None:
        """The attempt has failed."""
        self._move(Event.FAILED, error=str(error) or repr(error))
        self.find_saver()

    def given_up(self) -> None:
        """Nobody tries to save it any more; its bytes have been left on the local disk."""
        if self.unsaved:
            self._move(Event.GIVEN_UP)
        self.attributes_dropped()

    def removed(self) -> None:
        """A program here has removed it."""
        self._move(Event.REMOVED)

    def find_saver(self) -> None:
        """Find who is to save it: a handle came or went, or what the journal has is another."""
        if self.stage in ENDS or self.stage in ATTEMPTING:
            return
        if not self.unsaved:
            self._move(Event.NOTHING_LEFT)
        elif self.being_written:
            if self.stage is not Stage.DIRTY:
                self._move(Event.OPENED)
        elif self.stage is Stage.DIRTY:
            failed = self.tries > 0
            self._move(Event.PROMISED_AFTER_FAILURE if failed else Event.PROMISED)

    def _move(self, event: Event, *, error: str = "") -> None:
        """Go where the table says, with what is counted on the way.

        Raises:
            MoveError: The table has no such move; nothing has changed.
        """
        stage = MOVES[self._stage].get(event)
        if stage is None:
            raise MoveError(f"{event.name} in {self._stage.name}")
        self._stage = stage
        if event is Event.CHANGED:
            self.attribute_changes += 1
            self.attributes_unsaved = True
        elif event is Event.FAILED:
            self.tries += 1
            self.error = error
        if stage is Stage.REMOVED:
            self.attributes_unsaved = False
        if stage in ENDS or event is Event.SAVED_OLDER:
            self.since, self.tries, self.error = 0.0, 0, ""
        elif stage is not Stage.DIRTY:
            self.since = self.since or clock.wall_ns() / 1e9


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
        told: The kernel was told the attributes; else the type alone, or nothing.
        kind: The type that it was told (S_IFMT), 0 for none: it takes no other one for this number.
    """

    __slots__ = (
        "changed", "checked", "etag", "ino", "kind", "lookups", "modified", "name", "open_state",
        "opened", "parent", "posix", "size", "told",
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
        self.told = False
        self.kind = 0
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

    def headers(self) -> Headers:
        """What its object is to carry; raises FsError as `object_headers` does."""
        assert self.posix is not None, "attributes are known before anything is saved"
        return object_headers(self.posix, self.name, directory=isinstance(self, Directory))

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
        negatives: Names that were free at a monotonic time. The kernel remembers no others as free.
        heard: Names that others were said to have changed since somebody looked, with the monotonic
            time (`News`).
        blind: Monotonic time at which something changed below while the directory was not known.
        markers: Suffixes to the path under which a marker object stands ("/", "" or "_$folder$");
            None while unknown.
        hidden: The listing showed keys that cannot be names.
        misses: Cold lookups since the last listing.
        subdirectories: How many of the children are directories.
        touched_ns: Time of the last local change of the entries.
        only_here: It was made here, and the endpoint keeps no marker of it.
        readers: How many have it open to read its entries.
        renaming: The whole directory is being renamed.
        presumed: Nothing may be asked of the name: it may as well be a file, or nothing.
    """

    __slots__ = (
        "asking", "blind", "children", "heard", "hidden", "listed", "loading", "markers", "misses",
        "negatives", "only_here", "presumed", "readers", "removed", "renaming", "subdirectories",
        "touched_ns",
    )  # fmt: skip

    def __init__(self, ino: int, parent: Directory | None, name: str) -> None:
        super().__init__(ino, parent, name)
        self.children: dict[str, Inode] = {}
        self.listed = NEVER
        self.loading: Shared | None = None
        self.asking = 0
        self.removed: dict[str, int] = {}
        self.negatives: dict[str, float] = {}
        self.heard: dict[str, float] = {}
        self.blind = NEVER
        self.markers: frozenset[str] | None = None
        self.hidden = False
        self.misses = 0
        self.touched_ns = 0
        self.subdirectories = 0
        self.only_here = False
        self.readers = 0
        self.renaming = False
        self.presumed = False


class InodeTable:
    """Finds inodes by the number the kernel uses.

    Holds exactly those the kernel counts lookups on, and the root.

    Args:
        root: Number of the root; all others are above it.

    Attributes:
        given_back: How many inodes the kernel has forgotten since `compact`.
        replaced: Numbers of those to which others gave another version: the kernel may remember
            the length of the one before.
        aside: Numbers of those that have become conflict copies here: the kernel may have them
            under their old names still.
    """

    def __init__(self, root: int = ROOT_INO) -> None:
        # a random beginning: two mounts then hardly ever have the same number for a file
        self._last = root + (secrets.randbits(22) << 9)
        self.root = Directory(root, None, "")
        self._known: dict[int, Inode] = {root: self.root}
        self.given_back = 0
        self.replaced: set[int] = set()
        self.aside: set[int] = set()

    def new_number(self) -> int:
        """A number that no inode has had."""
        self._last += 1
        return self._last

    def begin_above(self, number: int) -> None:
        """Numbers up to this one may have been given out by earlier daemons of the mount."""
        self._last = max(self._last, number)

    def known(self) -> list[Inode]:
        """All that the kernel counts lookups on, and the root."""
        return list(self._known.values())

    def restore(self, inode: Inode, lookups: int) -> None:
        """The kernel has counted so many lookups on an inode before this daemon began."""
        inode.lookups = lookups
        if lookups:
            self._known[inode.ino] = inode

    def get(self, ino: int) -> Inode:
        """The inode of a number the kernel holds.

        Raises:
            FsError: ESTALE for any other.
        """
        try:
            return self._known[ino]
        except KeyError:
            raise FsError(errno.ESTALE, f"no inode {ino}") from None

    def find(self, ino: int) -> Inode | None:
        """The inode of a number, None for one that nobody knows any more."""
        return self._known.get(ino)

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
        if inode.lookups <= 0 and inode is not self.root:
            inode.lookups = 0
            del self._known[ino]
            self.replaced.discard(ino)
            self.aside.discard(ino)
            self.given_back += 1

    def compact(self) -> None:
        """Give back the room of those that were forgotten: a dict does not shrink by itself."""
        self._known = dict(self._known)
        self.given_back = 0


def is_below(inode: Inode, directory: Directory) -> bool:
    """Whether an inode is a directory itself, or in it, or anywhere further down."""
    node: Inode | None = inode
    while node is not None:
        if node is directory:
            return True
        node = node.parent
    return False
