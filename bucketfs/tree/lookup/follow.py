"""Following the bucket: as long as a feed tells what others change, what is known stays known.

Responsible for the one task that listens (`Follower.run`), for when the feed counts
(`Freshness.followed`), and for what a gap in it means: whatever others did meanwhile was not told,
so that all that was known before is forgotten. Without a feed the configured times hold.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from bucketfs import clock
from bucketfs.errors import StoreError, Unsupported
from bucketfs.store.base import Change
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.forget import Forgotten, Refresher
from bucketfs.tree.lookup.news import News

log = logging.getLogger(__name__)

#: Seconds before a feed that has ended is asked for again, doubled with each attempt in vain.
FIRST_PAUSE: Final = 0.5
MOST_PAUSE: Final = 60.0

#: Has the kernel forget, too; returns after that.
Tell = Callable[[Forgotten], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Following:
    """How it stands with the feed.

    Attributes:
        connected: It tells what others change.
        since: Unix time since which that is so, or not so.
        next_try: Unix time at which it is asked for again, 0 for never or now.
        error: Why it does not tell, "" if it does.
    """

    connected: bool
    since: float
    next_try: float = 0.0
    error: str = ""


class Follower:
    """Listens to the feed.

    Attributes:
        following: None until it was asked for.
    """

    def __init__(self, state: TreeState, refresher: Refresher) -> None:
        self._state = state
        self._refresher = refresher
        self._news = News(state)
        self._connected = trio.Event()
        #: A feed has ended since all was known to be as it was told.
        self._gap = False
        self._pause = FIRST_PAUSE
        self.following: Following | None = None

    async def run(self, tell: Tell) -> None:
        """Listen until the mount ends, or the endpoint shows that it has no feed."""
        while True:
            try:
                await self._listen(tell)
            except Unsupported as error:
                log.warning(
                    "%s: the endpoint has no feed of changes, so that -o follow has no effect: "
                    "others' changes show after open_ttl and stat_cache_expire (%s)",
                    self._name, error,
                )  # fmt: skip
                self._is_down(str(error), 0.0)
                return
            except StoreError as error:
                self._report(error)
                self._is_down(str(error), self._pause)
            await trio.sleep(self._pause)
            self._pause = min(2 * self._pause, MOST_PAUSE)

    @property
    def _name(self) -> str:
        return self._state.config.place.removesuffix("/") or "follow"

    async def _listen(self, tell: Tell) -> None:
        """Raises StoreError, always."""
        self._connected = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._when_connected, self._connected, tell)
                failure = await self._until_ended()
                nursery.cancel_scope.cancel()
        finally:
            self._gap |= self._connected.is_set()
            self._state.freshness.followed = None
        raise failure

    async def _until_ended(self) -> StoreError:
        try:
            await self._state.files.store.follow(self._state.config.prefix, self._hear)
        except StoreError as error:
            return error
        raise AssertionError("a feed ends with an error")

    def _hear(self, changes: Sequence[Change]) -> None:
        self._connected.set()
        self._news.take(changes)

    async def _when_connected(self, connected: trio.Event, tell: Tell) -> None:
        await connected.wait()
        since = clock.monotonic()
        if self._gap:
            await tell(await self._refresher.forget(""))
            self._gap = False
        self._pause = FIRST_PAUSE
        self._state.freshness.followed = since
        self.following = Following(connected=True, since=clock.wall_ns() / 1e9)
        log.info("%s: the endpoint tells what others change", self._name)

    def _report(self, error: StoreError) -> None:
        """One line for each outage, and one why there was no feed from the beginning."""
        if self.following is None or self.following.connected:
            log.warning(
                "%s: the feed of others' changes is down, and tried again; until then these show "
                "after open_ttl and stat_cache_expire: %s",
                self._name, error,
            )  # fmt: skip

    def _is_down(self, error: str, pause: float) -> None:
        now = clock.wall_ns() / 1e9
        before = self.following
        since = before.since if before is not None and not before.connected else now
        self.following = Following(
            connected=False, since=since, next_try=now + pause if pause else 0.0, error=error
        )
