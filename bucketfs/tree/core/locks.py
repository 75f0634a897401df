"""Who may write an inode's object: one at a time, and nobody while its directory is being renamed.

Everything that is needed is asked for at once, in one step of the event loop, and is had all
together or not at all. So nobody waits for a lock while holding one, and no order of taking them is
needed, which a renaming would change: a wait is only for those that have what they need, or have
asked earlier. Who holds locks must not ask for more.

Locks are held across network I/O on purpose: two requests that write one key must not overtake each
other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from bucketfs.tree.core.inode import Directory, Inode, OpenState, is_below
from bucketfs.tree.core.state import TreeState


@dataclass(slots=True, eq=False)
class _Claim:
    """What one task has asked for.

    Attributes:
        inodes: Those whose objects it writes.
        tree: The directory that it renames: it writes the objects of all below, too.
        done: Set when it has ended.
    """

    inodes: frozenset[Inode]
    tree: Directory | None
    done: trio.Event = field(default_factory=trio.Event)

    def conflicts(self, other: _Claim) -> bool:
        """Whether only one of both may go on."""
        return (
            not self.inodes.isdisjoint(other.inodes)
            or self._covers(other.inodes)
            or other._covers(self.inodes)
        )

    def _covers(self, inodes: frozenset[Inode]) -> bool:
        tree = self.tree
        return tree is not None and any(is_below(inode, tree) for inode in inodes)


class Locks:
    """Hands out the right to write inodes' objects."""

    def __init__(self, state: TreeState) -> None:
        self._state = state
        self._granted: dict[_Claim, None] = {}
        #: In the order in which they are served.
        self._waiting: list[_Claim] = []

    @asynccontextmanager
    async def exclusive(
        self, *inodes: Inode, tree: Directory | None = None
    ) -> AsyncIterator[OpenState]:
        """Nobody else writes the objects of these inodes meanwhile.

        Yields the first one's state.

        Args:
            inodes: Which.
            tree: One of them that is renamed, so that nobody writes anything below it, either.
                Uploads below that can be interrupted are, and those that wait go after.
        """
        claim = _Claim(frozenset(inodes), tree)
        open_states = [self._state.ensure_open_state(inode) for inode in claim.inodes]
        for open_state in open_states:
            open_state.users += 1
        try:
            await self._grant(claim)
            yield self._state.ensure_open_state(inodes[0])
        finally:
            self._withdraw(claim)
            for open_state in open_states:
                open_state.users -= 1
            for inode in claim.inodes:
                self._state.drop_if_idle(inode)

    async def wait_for_renames(self, inode: Inode) -> None:
        """Wait until no directory above the inode (or itself) is being renamed."""
        while (claim := self._renaming_above(inode)) is not None:
            await claim.done.wait()

    async def _grant(self, claim: _Claim) -> None:
        """Wait until nobody has, or has asked earlier for, anything of a claim."""
        if claim.tree is None:
            self._waiting.append(claim)
        else:
            # an upload that waits may take long once it has begun
            self._waiting.insert(sum(other.tree is not None for other in self._waiting), claim)
        while (other := self._in_the_way(claim)) is not None:
            if claim.tree is not None:
                _interrupt(other)
            await other.done.wait()
        self._waiting.remove(claim)
        self._granted[claim] = None
        if claim.tree is not None:
            claim.tree.renaming = True

    def _in_the_way(self, claim: _Claim) -> _Claim | None:
        for other in self._ahead_of(claim):
            if claim.conflicts(other):
                return other
        return None

    def _ahead_of(self, claim: _Claim) -> Iterator[_Claim]:
        yield from self._granted
        for other in self._waiting:
            if other is claim:
                return
            yield other

    def _withdraw(self, claim: _Claim) -> None:
        if claim in self._granted:
            del self._granted[claim]
            if claim.tree is not None:
                claim.tree.renaming = False
        else:
            self._waiting.remove(claim)
        claim.done.set()

    def is_held(self, inode: Inode) -> bool:
        """Whether somebody has the right to write an inode's object."""
        wanted = _Claim(frozenset([inode]), None)
        return any(claim.conflicts(wanted) for claim in self._granted)

    def _renaming_above(self, inode: Inode) -> _Claim | None:
        for claim in self._granted:
            if claim.tree is not None and is_below(inode, claim.tree):
                return claim
        return None


def is_renaming(inode: Inode) -> bool:
    """Whether a directory above the inode (or itself) is being renamed: its key will change."""
    node: Inode | None = inode
    while node is not None:
        if isinstance(node, Directory) and node.renaming:
            return True
        node = node.parent
    return False


def _interrupt(claim: _Claim) -> None:
    for inode in claim.inodes:
        if inode.content is not None:
            inode.content.interrupt()
