"""`metadata=lazy`: what was presumed of files is asked for behind, and the kernel hears of errors.

A file whose attributes are other ones gets them, and the kernel asks again. One that is no regular
file (a symbolic link, a directory without a slash) leaves its name to a new inode: the kernel takes
no other type for one that it knows.
"""

from __future__ import annotations

import itertools
import logging
import stat

import trio

from bucketfs.errors import FsError, StoreError
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.posix import Posix
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.attributes import Attributes
from bucketfs.tree.lookup.presume import shows_alike

log = logging.getLogger(__name__)

#: Seconds between the first answer that presumes something and the first question: the program
#: that waits for names goes first.
PAUSE = 0.5
#: Files that are asked for together.
_TOGETHER = 256


class Behind:
    """Checks what was presumed."""

    def __init__(self, state: TreeState, attributes: Attributes) -> None:
        self._state = state
        self._attributes = attributes
        #: What is to be checked, with what was told of it.
        self._waiting: dict[Inode, Posix] = {}
        self._running = False

    def add(self, inode: Inode, told: Posix) -> None:
        """Attributes of a file were presumed."""
        self._waiting.setdefault(inode, told)
        if not self._running:
            self._running = True
            self._state.files.background.start(self._run, "attributes behind")

    async def _run(self) -> None:
        try:
            await trio.sleep(PAUSE)
            while self._waiting:
                some = list(itertools.islice(self._waiting, _TOGETHER))
                told = {inode: self._waiting.pop(inode) for inode in some}
                in_use = [inode for inode in some if _is_in_use(inode)]
                await self._check(told)
                self._waiting |= {inode: told[inode] for inode in in_use}
                if len(in_use) == len(some):
                    await trio.sleep(PAUSE)
        finally:
            self._running = False

    async def _check(self, told: dict[Inode, Posix]) -> None:
        places = {inode: (inode.parent, inode.name) for inode in told}
        claimed = self._attributes.claim(told)
        for inode in await self._attributes.ask_claimed(claimed, _is_presumed):
            if _is_presumed(inode):
                await self._ask(inode)
        for inode, posix in told.items():
            await self._attributes.wait_for_answer(inode)
            self._correct(inode, posix, *places[inode])

    async def _ask(self, inode: Inode) -> None:
        """Ask for one alone, as if nothing had been presumed."""
        known, inode.posix = inode.posix, None
        try:
            await self._attributes.revalidate(inode)
        except (StoreError, FsError) as error:
            log.debug("%s stays as it is presumed: %s", self._state.shown(inode), error)
            inode.posix = inode.posix or known

    def _correct(self, inode: Inode, told: Posix, parent: Directory | None, name: str) -> None:
        """Tell the kernel if a file, which had this place, is not what it was told."""
        posix = inode.posix
        if posix is None or parent is None or shows_alike(posix, told):
            return
        if stat.S_ISREG(posix.mode):
            self._state.watcher.replaced(inode)
            return
        if inode.parent is parent and inode.name == name:
            now = self._state.new_file(parent, name)
            now.etag, now.size, now.modified = inode.etag, inode.size, inode.modified
            now.posix, now.checked = posix, inode.checked
        if inode.lookups:
            self._state.watcher.moved(parent, name)


def _is_presumed(inode: Inode) -> bool:
    """Whether to ask: one that is open has to wait."""
    return inode.parent is not None and inode.open_state is None and not _is_known(inode)


def _is_in_use(inode: Inode) -> bool:
    return inode.open_state is not None and not _is_known(inode)


def _is_known(inode: Inode) -> bool:
    return inode.posix is not None and not inode.posix.partial
