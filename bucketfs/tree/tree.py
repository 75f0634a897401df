"""The tree of one mount, put together: what the FUSE layer talks to.

Responsible for nothing but the assembly; each part has a module of its own.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace

from bucketfs.errors import FsError
from bucketfs.file.context import FileContext
from bucketfs.tree.core.inode import ROOT_INO, Directory, Inode
from bucketfs.tree.core.locks import Locks
from bucketfs.tree.core.posix import Posix
from bucketfs.tree.core.state import Nobody, TreeConfig, TreeState, Watcher
from bucketfs.tree.lookup.attributes import Attributes
from bucketfs.tree.lookup.behind import Behind
from bucketfs.tree.lookup.find import Finder
from bucketfs.tree.lookup.first_bytes import Guess
from bucketfs.tree.lookup.follow import Follower
from bucketfs.tree.lookup.forget import Refresher
from bucketfs.tree.lookup.lister import Lister
from bucketfs.tree.lookup.prune import Pruner
from bucketfs.tree.namespace.caching import Caching
from bucketfs.tree.namespace.entries import Entries
from bucketfs.tree.namespace.object_xattrs import ObjectXattrs
from bucketfs.tree.namespace.objects import Objects
from bucketfs.tree.namespace.rename import Renamer
from bucketfs.tree.prefetch.prefetcher import Prefetcher
from bucketfs.tree.prefetch.subtree import Subtree
from bucketfs.tree.saving.change import Changer
from bucketfs.tree.saving.drain import Drain
from bucketfs.tree.saving.handover import HandOver
from bucketfs.tree.saving.leave import Leaver
from bucketfs.tree.saving.markers import Markers
from bucketfs.tree.saving.open import Opener
from bucketfs.tree.saving.outstanding import Outstanding
from bucketfs.tree.saving.promises import Promises
from bucketfs.tree.saving.remove import Removals
from bucketfs.tree.saving.replay import Replay
from bucketfs.tree.saving.save import Saver


class Tree:
    """All parts of the tree over one state.

    Attributes:
        state: Inodes, keys and configuration.
        finder, pruner, lister, refresher, follower, subtree, prefetcher, locks, attributes, behind,
        changer, entries, markers, renamer, removals, opener, outstanding, drain, promises, later,
        saver, objects, caching, object_xattrs, replay: See their modules.
    """

    def __init__(
        self,
        files: FileContext,
        config: TreeConfig,
        watcher: Watcher | None = None,
        *,
        root: int = ROOT_INO,
    ) -> None:
        # what is made later is named in functions, which nobody calls before all is there
        self.state = TreeState(files, config, watcher or Nobody(), root)
        self.pruner = Pruner(self.state)
        self.lister = Lister(self.state, self.pruner)
        self.attributes = Attributes(
            self.state,
            on_look=lambda inode, asker: self.prefetcher.looked_at(inode, asker),  # noqa: PLW0108 - made below
            on_directory=lambda directory: self.subtree.looked_at(directory),  # noqa: PLW0108
            on_presumed=lambda inode, posix: self.behind.add(inode, posix),  # noqa: PLW0108
        )
        self.behind = Behind(self.state, self.attributes)
        self.subtree = Subtree(self.state, self.lister)
        guess = Guess()
        self.prefetcher = Prefetcher(self.state, self.attributes, self.lister, guess)
        self.locks = Locks(self.state)
        self.removals = Removals(
            self.state,
            on_emptied=lambda directory: self.markers.keep_emptied(directory),  # noqa: PLW0108
        )
        self.promises = Promises(self.state)
        leaver = Leaver(self.state, self.promises)
        self.saver = Saver(self.state, self.locks, self.removals, self.promises, leaver)
        self.later = self.saver.later
        self.outstanding = Outstanding(self.state, self.saver, self.removals)
        self.handover = HandOver(self.state, self.promises, leaver)
        self.drain = Drain(
            self.state, self.saver, self.removals, leaver, self.outstanding, self.handover
        )
        self.changer = Changer(self.state, self.promises)
        self.finder = Finder(self.state, self.attributes, guess, on_misses=self.subtree.searched)
        self.refresher = Refresher(self.state, self.finder)
        self.follower = Follower(self.state, self.refresher)
        self.markers = Markers(self.state, self.lister, self.attributes, self.locks, self.removals)
        self.entries = Entries(
            self.state, self.finder, self.lister, self.attributes, self.locks,
            self.promises, self.removals, self.markers,
        )  # fmt: skip
        self.renamer = Renamer(
            self.state, self.finder, self.attributes, self.lister, self.entries, self.locks,
            self.removals, self.saver, self.promises, self.markers,
        )  # fmt: skip
        self.opener = Opener(
            self.state, self.attributes, self.prefetcher, self.changer, self.saver, self.later
        )
        self.objects = Objects(self.state, self.finder, self.attributes)
        self.caching = Caching(self.state, self.finder, self.subtree, self.attributes, self.opener)
        self.object_xattrs = ObjectXattrs(
            self.state, self.attributes, self.changer, self.saver, self.later
        )
        self.replay = Replay(self.state, self.lister, self.promises, self.later)
        files.cache.add_reclaimer(self._reclaim)

    async def read_link(self, inode: Inode) -> bytes:
        """Target of a symbolic link: the object's body."""
        self.prefetcher.link_read(inode)
        await self.attributes.wait_for_answer(inode)  # which may have brought it along
        content = self.state.content(inode)
        content.handles += 1
        try:
            return await content.whole()
        finally:
            content.handles -= 1
            if not content.handles:
                self.state.close_content(inode)
                self.state.drop_if_idle(inode)

    def posix(self, inode: Inode) -> Posix:
        """Known attributes; a directory's times move with its entries.

        Raises:
            FsError: ESTALE when they are not known.
        """
        if inode.posix is None:
            raise FsError(errno.ESTALE, "attributes were forgotten meanwhile")
        return _moved_on(inode, inode.posix)

    def glances(self, inodes: Sequence[Inode]) -> list[Posix | None]:
        """As `posix` for some hundred inodes, None where a request would be needed."""
        known = self.attributes.glances(inodes)
        return [
            None if posix is None else _moved_on(inode, posix)
            for inode, posix in zip(inodes, known, strict=True)
        ]

    def nlink(self, inode: Inode) -> int:
        """Number of links: 1 for files, 0 for what was removed.

        2 and one for each known subdirectory for directories.
        """
        if isinstance(inode, Directory):
            is_gone = inode.parent is None and inode is not self.state.root
            return 0 if is_gone else 2 + inode.subdirectories
        return 0 if inode.unlinked else 1

    def _reclaim(self, wanted: int) -> int:
        freed = 0
        for inode in list(self.state.open_inodes):
            if freed >= wanted:
                break
            if inode.content is not None:
                freed += inode.content.reclaim(wanted - freed)
        return freed


def _moved_on(inode: Inode, posix: Posix) -> Posix:
    if isinstance(inode, Directory) and inode.touched_ns > posix.mtime_ns:
        return replace(
            posix, mtime_ns=inode.touched_ns, ctime_ns=max(posix.ctime_ns, inode.touched_ns)
        )
    return posix
