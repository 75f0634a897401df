"""How one mount goes from daemon to daemon: what is taken over, and what is left at the end.

At the beginning an earlier daemon has left a `Record` with the keeper, and in the cache directory a
picture after an orderly end, or its diary. At the end the keeper has the mount's descriptor; only
when the mount is to go on (`Host.goes_on`) the picture is drawn, and the mount point is not freed.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import trio

from bucketfs.fuse import diary, keeper, picture, settings
from bucketfs.fuse.device import Session
from bucketfs.fuse.diary import Diary
from bucketfs.fuse.host import Host
from bucketfs.fuse.keeper import Keeper, Record, Taken
from bucketfs.fuse.operations import Operations
from bucketfs.options import Options
from bucketfs.tree.saving.handover import Picture
from bucketfs.tree.saving.outstanding import LeftBehind, Remaining
from bucketfs.tree.tree import Tree
from bucketfs.units import count

log = logging.getLogger(__name__)

#: Brings what is unsaved to the bucket at the end of the mount (`tree.saving.drain.Drain.run`).
Drain = Callable[[trio.Event, Callable[[Remaining], None]], Awaitable[LeftBehind]]


class Begin(Protocol):
    """`device.begin` of a mount."""

    async def __call__(self, *, taken: Taken | None, again: bool) -> Session:
        """Raises MountRefused."""
        ...


@dataclass(slots=True)
class Passage:
    """Takes a mount over, and leaves it.

    Attributes:
        keeper: Who holds the descriptor meanwhile.
        record: Of the mount, as far as it is known before it stands.
        taken: The mount that an earlier daemon has left.
        tree, operations: Of this daemon.
        picture: What that one has told of it.
        died: It did not end by itself.
        diary: Writes down what is open, for the case that this one does not either.
    """

    keeper: Keeper
    record: Record
    taken: Taken | None
    tree: Tree
    operations: Operations
    picture: Picture | None = None
    died: bool = False
    diary: Diary | None = None
    _stale: int = 0
    _left: Session | None = None

    @classmethod
    def of(cls, host: Host, options: Options, tree: Tree, operations: Operations) -> Passage | None:
        """The passage of a mount that somebody keeps; None for any other."""
        if host.keeper is None:
            return None
        record = settings.record(options) if host.taken is None else host.taken.record
        record = replace(record, cache=str(tree.state.files.cache.directory))
        return cls(host.keeper, record, host.taken, tree, operations)

    @property
    def _directory(self) -> Path:
        return self.tree.state.files.cache.directory

    def restore_nodes(self) -> None:
        """Know what the kernel knows, before anything else is made in the tree."""
        if self.taken is None:
            return
        self.tree.state.table.begin_above(self.record.first)
        self.operations.begin_above(self.record.first)
        self.picture = picture.find(self._directory, self.record.mount)
        self.died = self.picture is None
        if self.died:
            self.picture, self._stale = diary.find(
                self._directory, self.record.mount, self._leaving()
            )
        if self.picture is not None:
            self.tree.handover.restore_nodes(self.picture)

    def _leaving(self) -> Callable[[str], bool]:
        """Whether a path is taken away by what the journal has to finish."""
        prefix, journal = self.tree.state.config.prefix, self.tree.state.files.cache.journal
        removed = {row.key for row in journal.removals()}
        renamed = journal.renames()

        def is_leaving(path: str) -> bool:
            key = prefix + path
            return key in removed or any(
                key == row.old or (row.is_tree and key.startswith(row.old)) for row in renamed
            )

        return is_leaving

    def restore_files(self) -> None:
        """Have what programs have open; what waited for its upload is there again."""
        picture.forget(self._directory)
        if self.picture is not None:
            self.tree.handover.restore_files(self.picture)
            picture.restore_handles(self.picture, self.tree, self.operations)
        if self.died:
            known = self.picture is not None
            what = count(self._stale, "open file") if known else "all that was open"
            log.warning(
                "the last daemon did not end by itself: stale are %s, open directories, and what"
                " was opened in its last moment",
                what,
            )
        self.diary = Diary(self._directory, self.record.mount, self.operations.handles)
        self.operations.write_down(self.diary)
        self.tree.state.write_down(self.diary)
        self.tree.state.files.background.start(self.diary.run, "diary")

    async def begin(self, begin: Begin, drain: Drain, host: Host) -> Session:
        """Mount or take over, and have the mount kept. Raises MountRefused."""
        try:
            session = await begin(taken=self.taken, again=self.died)
        except BaseException:
            with trio.CancelScope(shield=True):
                await drain(host.hurry, host.drains)  # nobody else has what was taken back
            keeper.release(self.keeper)
            raise
        if session.agreed is None:
            keeper.release(self.keeper)
            return session
        request, answer = session.agreed
        self.record = replace(self.record, request=request, answer=answer)
        keeper.keep(self.keeper, self.record, session.number if session.is_new else None)
        return session

    def end(self, session: Session, host: Host, drain: Drain) -> Drain:
        """How to drain, now that no more requests come: it is decided whether the mount goes on."""
        if not host.goes_on or session.agreed is None or not session.stands:
            return drain
        self._left = session
        return functools.partial(self.tree.drain.run, goes_on=True)

    def goes_on(self, host: Host) -> bool:
        """Whether the mount is left to the next daemon; if not, nobody keeps it any more."""
        host.goes_on = self._left is not None and self._left.stands
        if not host.goes_on:
            self._left = None
            keeper.release(self.keeper)
            self._close_diary()
        return host.goes_on

    def leave(self) -> None:
        """Leave the mount to the next daemon, if it goes on; no task may be left of this one.

        To the next one an upload that has ended behind the picture would be others' version.
        """
        if self._left is not None:
            picture.leave(self._directory, self.record.mount, self.tree, self.operations)
            self._left.leave()
            self._close_diary()

    def _close_diary(self) -> None:
        if self.diary is not None:
            self.diary.close()
