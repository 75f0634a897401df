"""What the next daemon of a mount must know of the tree, so that the kernel notices no change.

The kernel names inodes by numbers, and counts on what it was told of them. So an orderly hand-over
draws a picture: the inodes that the kernel knows, with their places and versions, and files that
programs are still writing. The bytes of these go where the end of a mount puts them, under
``unsaved/``, and the next daemon takes them back; if there is none, `bucketfs recover` has them.

What waits for its upload is in the journal, and comes back by `Replay`, between `restore_nodes` and
`restore_files`. Attributes are not in the picture: the index has them, or the bucket.

A removed file that a program has open goes on, too. Left out, so that it is ESTALE afterwards: what
has lost its name to others.
"""

from __future__ import annotations

import base64
import errno
import logging
from typing import Any, Final

from bucketfs.cache import rows
from bucketfs.errors import FsError, StoreError
from bucketfs.file.content import Content
from bucketfs.tree.core.inode import Directory, Inode, OpenState
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.saving.leave import Leaver
from bucketfs.tree.saving.promises import Promises, attributes_of

log = logging.getLogger(__name__)

#: What is kept of an inode beside its number, place, kind and count.
_FACTS: Final = ("etag", "kind", "size", "modified", "opened", "told")
#: Of a directory as well.
_FACTS_OF_DIRECTORIES: Final = (*_FACTS, "touched_ns", "only_here", "presumed")

#: As `HandOver.picture` draws it; JSON can say it.
Picture = dict[str, Any]


class HandOver:
    """Draws the picture of a tree, and makes the tree of such a picture.

    Args:
        state: The tree's memory.
        promises: Writes rows.
        leaver: Told of what is looked after.
    """

    def __init__(self, state: TreeState, promises: Promises, leaver: Leaver) -> None:
        self._state = state
        self._cache = state.files.cache
        self._promises = promises
        self._leaver = leaver
        self._unfinished: list[Picture] = []

    # ---- the end of one daemon -------------------------------------------------------------------

    async def take_along(self) -> None:
        """Keep what programs are still writing for the next daemon.

        What cannot be kept is left to the end of the mount, which logs it.
        """
        for inode in list(self._state.open_inodes):
            open_state = inode.open_state
            if open_state is None or open_state.content is None:
                continue
            try:
                if open_state.unlinked:
                    self._keep(inode, open_state.content)
                elif open_state.being_written:
                    await self._take(inode, open_state, open_state.content)
            except (FsError, StoreError, OSError) as error:
                log.warning(
                    "%s is open, and does not go on after the restart: %s",
                    self._state.shown(inode), error,
                )  # fmt: skip

    async def _take(self, inode: Inode, open_state: OpenState, content: Content) -> None:
        if content.early_upload.has_upload_only:
            await content.early_upload.publish_early()  # nobody else has these bytes
            if not open_state.being_written:
                return
        if content.promise is not None:
            self._promises.note(inode, at_once=True)  # what was closed before has to survive, too
            if content.promised_as_it_is:
                self._leaver.left.add(inode)
                return
        await content.prove()
        content.early_upload.drop()
        path = self._keep(inode, content)
        error = InterruptedError("a program was writing it when its mount was restarted")
        self._promises.fail(inode, path, error)

    def _keep(self, inode: Inode, content: Content) -> str:
        """Keep the bytes of a file; answers where, below the cache's directory.

        Raises:
            FsError, OSError: It cannot be.
        """
        content.own_pages()  # a removed file's are in the cache still, for whoever makes it again
        row = self._promises.unfinished(inode, content)
        kept = self._cache.rescue(content.local.pages, inode.name, content.size)
        path = str(kept.relative_to(self._cache.directory))
        text, seals, total = rows.encode(row)
        self._unfinished.append(
            {
                "number": inode.ino,
                "lookups": inode.lookups,
                "removed": inode.unlinked,
                "etag": inode.etag,
                "opened": inode.opened,
                "path": path,
                "row": [row.file, row.key, "", text, base64.b64encode(seals).decode(), total],
                "exclusive": inode.open_state is not None and inode.open_state.exclusive,
            }
        )
        self._leaver.left.add(inode)
        return path

    def picture(self) -> Picture:
        """The tree as the kernel knows it; nothing may change it any more."""
        return {"nodes": self._nodes(), "unfinished": self._unfinished}

    def _nodes(self) -> list[list[Any]]:
        """Each inode that the kernel knows, behind the directories above it."""
        drawn: dict[Inode, list[Any]] = {}
        for inode in self._state.table.known():
            way, node = [inode], inode
            while node.parent is not None and node not in drawn:
                node = node.parent
                way.append(node)
            if node in drawn or node is self._state.root:
                for each in reversed(way):
                    drawn.setdefault(each, _node(each))
        return list(drawn.values())

    # ---- the beginning of the next ---------------------------------------------------------------

    def restore_nodes(self, picture: Picture) -> None:
        """Have the inodes that the kernel knows."""
        table = self._state.table
        places: dict[int, Directory] = {}
        for number, parent, name, kind, lookups, facts in picture["nodes"]:
            if not parent:
                inode: Inode = table.root
            else:
                inode = (Directory if kind == "d" else Inode)(number, None, "")
                self._state.link(places[parent], name, inode)
            if isinstance(inode, Directory):
                places[number] = inode
            for fact, value in facts.items():
                setattr(inode, fact, value)
            table.restore(inode, lookups)
            table.begin_above(number)

    def restore_files(self, picture: Picture) -> None:
        """Have the files that programs are writing; the log names those that are lost."""
        for one in picture["unfinished"]:
            inode = self._state.table.find(one["number"])
            if inode is None:
                inode = Inode(one["number"], None, "")
                self._state.table.restore(inode, one["lookups"])
            try:
                self._restore(inode, one)
            except (FsError, OSError) as error:
                log.error(
                    "%s was being written and does not go on: %s; see bucketfs recover",
                    self._state.shown(inode), error,
                )  # fmt: skip

    def _restore(self, inode: Inode, one: Picture) -> None:
        file, key, error, text, seals, total = one["row"]
        row = rows.decode(file, key, error, text, base64.b64decode(seals), total)
        if row.error:
            raise FsError(errno.EIO, row.error)
        pages = self._cache.take_back(self._cache.directory / one["path"], row)
        inode.posix = attributes_of(row, self._state.config.defaults)
        inode.etag = one.get("etag", inode.etag)
        inode.opened = one.get("opened", inode.opened)
        content = Content.unfinished(self._state.files, row, pages)
        open_state = self._state.ensure_open_state(inode)
        open_state.take(content)
        open_state.exclusive = one["exclusive"]
        if one["removed"]:
            open_state.removed()
        self._state.note_change(inode)


def _node(inode: Inode) -> list[Any]:
    is_directory = isinstance(inode, Directory)
    names = _FACTS_OF_DIRECTORIES if is_directory else _FACTS
    facts = {name: getattr(inode, name) for name in names}
    if inode.content is not None and inode.content.unsaved:
        # whoever has it open, and the kernel's pages, go on with these bytes or not at all: never
        # in the version that they have replaced
        facts["etag"] = facts["opened"] = ""
    return [
        inode.ino,
        inode.parent.ino if inode.parent is not None else 0,
        inode.name,
        "d" if is_directory else "f",
        inode.lookups,
        facts,
    ]
