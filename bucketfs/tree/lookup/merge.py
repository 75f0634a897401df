"""What LIST shows of a directory, taken over into the tree.

`sort` is pure: pages of a LIST become the listing of a directory. `Merge` takes listings over, page
by page, so that no listing holds up the loop for longer than a page does.

Invariant: what was changed here after a listing began is not touched by it; what is open or unsaved
never disappears because of one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from bucketfs.store.base import LOCKS, ListPage, ObjectInfo
from bucketfs.tree.core.inode import NEVER, Directory, Inode
from bucketfs.tree.core.names import FOLDER_SUFFIX, is_visible
from bucketfs.tree.core.posix import decode, is_told
from bucketfs.tree.core.state import TreeState

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Listing:
    """One directory as a LIST shows it.

    Attributes:
        files: By name.
        directories: By name, with the suffixes of their marker objects as far as seen.
        marker: The directory's own marker object.
        hidden: There are keys that cannot be names, or are not shown.
    """

    files: dict[str, ObjectInfo] = field(default_factory=dict)
    directories: dict[str, set[str]] = field(default_factory=dict)
    marker: ObjectInfo | None = None
    hidden: bool = False

    def leave_out(self, name: str) -> bool:
        """Do not show a name; whether there is something of it."""
        file, directory = self.files.pop(name, None), self.directories.pop(name, None)
        if file is None and directory is None:
            return False
        self.hidden = True
        return True

    def forget_directories(self, names: Iterable[str]) -> None:
        """Leave out directories of which nothing is to be shown."""
        for name in names:
            self.directories.pop(name, None)


def sort(listing: Listing, prefix: str, page: ListPage) -> None:
    """Add a page of what LIST says of `prefix` with delimiter "/" to a listing.

    A directory shadows a file of its name, whichever of them a page shows first.
    """
    cut = len(prefix)
    for info in page.objects:
        name = info.key[cut:]
        if not name:
            listing.marker = info
        elif (
            name.endswith(FOLDER_SUFFIX)
            and info.size == 0
            and is_visible(name.removesuffix(FOLDER_SUFFIX))
        ):
            name = name.removesuffix(FOLDER_SUFFIX)
            listing.directories.setdefault(name, set()).add(FOLDER_SUFFIX)
            listing.files.pop(name, None)
        elif not is_visible(name):
            listing.hidden = True
        elif name not in listing.directories:
            listing.files[name] = info
    for common in page.prefixes:
        name = common[cut:-1]
        if is_visible(name):
            listing.directories.setdefault(name, set())
            listing.files.pop(name, None)
        else:
            listing.hidden = True


class Merge:
    """One listing of a directory on its way into the tree.

    Args:
        state: The tree.
        directory: What is listed.
        began: Monotonic time at which the listing began.
        since: Change number at which it began.
        late: All of it came a while ago: what was looked at since it began is newer than it.
    """

    def __init__(
        self,
        state: TreeState,
        directory: Directory,
        began: float,
        since: int,
        *,
        late: bool = False,
    ) -> None:
        self._state = state
        self._late = late
        self._directory = directory
        self._began = began
        self._since = since
        self._marker: ObjectInfo | None = None
        self._hidden = False
        #: Names that were known before and are not shown yet. (Those that are shown would be more.)
        self._unseen = set(directory.children)
        #: Files whose names are directories here: these may be shown, and shadow them, later.
        self._doubtful: dict[str, ObjectInfo] = {}
        #: Names left out because they were leaving.
        self._left_out: set[str] = set()

    def add(self, listing: Listing) -> None:
        """Take over a part of the listing; parts come in the order of their keys."""
        self._leave_out(listing)
        self._marker = listing.marker or self._marker
        self._hidden |= listing.hidden
        children = self._directory.children
        for name, markers in listing.directories.items():
            self._doubtful.pop(name, None)
            known = children.get(name)
            # of one that was looked at meanwhile a listing may still tell more: all its markers
            is_same = isinstance(known, Directory) and known.changed <= self._since
            if is_same or not self._changed_since(name):
                self._merge_directory(name, markers)
        for name, info in listing.files.items():
            if self._state.is_deferred(info):
                continue
            child = children.get(name)
            if self._changed_since(name):
                self._doubt(child)
                continue
            if child is None:
                self._learn(self._state.found_file(self._directory, name, info), info)
            elif isinstance(child, Directory):
                self._doubtful[name] = info
            else:
                self._merge_file(child, info)
        self._unseen.difference_update(listing.files, listing.directories)

    def confirm(self, listing: Listing) -> None:
        """What was added last is told before the listing is complete: it needs no question then.

        Only that of which nothing was known but what listings show: `checked` stands for more.
        """
        directory, began = self._directory, self._began
        if self._state.freshness.is_outdated(directory, began):
            return
        for name in (*listing.files, *listing.directories):
            child = directory.children.get(name)
            if child is not None and child.posix is None and name not in self._doubtful:
                child.checked = max(child.checked, began)

    def _leave_out(self, listing: Listing) -> None:
        """Do not show what the bucket has under a name that is ours.

        The log says so once, unless it is of our own making.
        """
        if self._directory is self._state.root:
            listing.leave_out(LOCKS)
        name = self._state.config.own_name
        if name and listing.leave_out(name) and not self._state.hiding:
            self._state.hiding = True
            log.warning(
                "%r in the bucket is not shown: -o versions has that name",
                self._state.prefix(self._directory) + name,
            )

    def finish(self) -> None:
        """That was all: the directory is listed."""
        directory = self._directory
        for name, info in self._doubtful.items():
            if not self._changed_since(name):
                self._replace_directory(name, info)
        for name in self._unseen & directory.children.keys():
            self._vanish(directory.children[name])
        self._merge_marker(self._marker)
        directory.hidden = self._hidden
        for name in list(directory.heard):
            if not self._changed_since(name):
                self._state.freshness.answered(directory, name, self._began)
        outdated = self._state.freshness.is_outdated(directory, self._began)
        came_back = any(map(self._came_back, self._left_out))
        directory.listed = NEVER if outdated or came_back else self._began
        directory.misses = 0

    def _changed_since(self, name: str) -> bool:
        directory = self._directory
        if directory.removed and directory.removed.get(name, 0) > self._since:
            return True
        child = directory.children.get(name)
        if child is not None:
            return self._is_older_than(child)
        if self._state.is_leaving(directory, name):
            self._left_out.add(name)
            return True
        return False

    def _is_older_than(self, child: Inode) -> bool:
        """Whether what is known of a child is as new as the listing claims to be.

        A page may have been on its way for longer than the answer to a later question.
        """
        return child.changed > self._since or child.checked > self._began

    def _came_back(self, name: str) -> bool:
        """Whether a name that was leaving could not be deleted while pages behind it came."""
        gone = self._directory.removed.get(name, 0) > self._since
        return not gone and not self._state.is_leaving(self._directory, name)

    def _merge_marker(self, marker: ObjectInfo | None) -> None:
        directory = self._directory
        if directory.changed > self._since:
            return
        known = directory.markers or frozenset()
        if marker is None:
            directory.markers = known - {"/"}
            return
        directory.markers = known | {"/"}
        if directory.open_state is not None and directory.open_state.attributes_unsaved:
            return
        if directory.modified and directory.modified != marker.last_modified:
            directory.posix = None
        directory.modified = marker.last_modified
        directory.etag = marker.etag
        directory.size = marker.size
        self._learn(directory, marker)

    def _merge_directory(self, name: str, markers: set[str]) -> None:
        child = self._directory.children.get(name)
        if not isinstance(child, Directory):
            if child is not None and child.open_state is not None:
                return
            if child is not None and child.lookups:  # a page before has shown a file
                self._state.watcher.moved(self._directory, name)
            self._state.appears(self._directory, name)
            child = self._state.new_directory(self._directory, name)
        if markers:
            child.markers = (child.markers or frozenset()) | markers

    def _merge_file(self, child: Inode, info: ObjectInfo) -> None:
        # while attributes are being stored the bucket may show the version that carries them
        if child.open_state is not None and (child.content is None or child.open_state.unsaved):
            return
        if child.etag != info.etag or child.modified != info.last_modified:
            child = self._state.adopt(
                child, etag=info.etag, size=info.size, modified=info.last_modified
            )
            if self._state.is_described_anew(child, info):
                self._doubt(child)
        self._learn(child, info)

    def _learn(self, inode: Inode, info: ObjectInfo) -> None:
        """Take attributes from a listing that brings them; those that are known stay."""
        version = (info.etag, info.last_modified)
        if info.headers is None or inode.posix is not None:
            return
        told = is_told(info.headers, info.size, directory=isinstance(inode, Directory))
        if told and (inode.etag, inode.modified) == version:
            inode.posix = decode(
                info.headers,
                size=info.size,
                modified=info.last_modified,
                directory=isinstance(inode, Directory),
                defaults=self._state.config.defaults,
            )

    def _replace_directory(self, name: str, info: ObjectInfo) -> None:
        """The listing shows a file, and no directory, of a name that was one here."""
        child = self._directory.children.get(name)
        if isinstance(child, Directory):
            if child.markers == frozenset({""}) and child.etag == info.etag:
                return  # a directory object without slash, known by its metadata
            if self._state.holds_unsaved(child):
                return
            self._state.vanished(child)
        elif child is not None:
            self._merge_file(child, info)  # somebody has looked it up since that page came
            return
        self._learn(self._state.found_file(self._directory, name, info), info)

    def _vanish(self, child: Inode) -> None:
        """The listing does not show a child: it is gone, unless it is ours or changed meanwhile."""
        if child.changed > self._since or self._state.holds_unsaved(child):
            self._doubt(child)
            return
        if not (self._late and child.checked > self._began):
            self._state.vanished(child)

    def _doubt(self, child: Inode | None) -> None:
        """The listing, which says nothing of this child, must not make what is known of it fresh.

        As long as it is ours, there is no question; when it was saved meanwhile, it is known since.
        """
        if child is None or isinstance(child, Directory) or self._state.freshness.is_ours(child):
            return
        if child.checked <= self._began:
            self._directory.heard.setdefault(child.name, self._began)
