"""Locks of one mount, which other mounts of the bucket respect: one lock object a locked file.

The object (`table`) names the locks of all mounts on that file. It is only ever changed under a
condition: made with If-None-Match, replaced and deleted with If-Match. So each table follows from
the one before, whoever writes it.

Leases make a dead mount's locks end. While a mount has locks on a file it writes a new beat into
its object now and then. Who has seen one beat for as long as the lease says may leave that mount
out of the next table. Only ages are compared, each by one machine's own clock: nobody's time of day
matters. The mount itself counts from the moment before it sent its last beat, and so knows that a
lease is over before anybody else does. From then on its locks are lost, and nothing brings them
back (`on_lost`).

What the bucket says of this mount is never believed: the rows here are written in their place with
each change. So an answer that is lost does no harm.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import random
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from bucketfs.errors import FsError, NotFound, PreconditionFailed, StoreError
from bucketfs.locks.table import (
    MOST_ROWS,
    Lease,
    Mode,
    Row,
    Rows,
    Table,
    cleared,
    dump,
    granted,
    in_the_way,
    load,
)
from bucketfs.store.base import LOCKS, BytesBody, Headers, Store

log = logging.getLogger(__name__)

#: Parts of a lease: a new beat is sent after so much, and the mount itself believes in it for so
#: much, which leaves a request some time to arrive.
_RENEWED, _BELIEVED = 1 / 3, 0.9
#: Seconds between two looks at a lock that others have: at first, and at most.
_FIRST_PAUSE, _MOST_PAUSE = 0.05, 0.5
#: Seconds at most for which a lock that this mount has given up is left to others. Without that two
#: programs here would hand it to each other, and another mount would rarely look at the right time.
_LEFT_TO_OTHERS: Final = 0.1
#: How often others may change a table while ours is to take its place.
_TRIES: Final = 50
#: Files of which it is remembered whose beat was seen when, for who asks without waiting.
_KEPT: Final = 1000
#: Seconds for giving locks back when the mount ends.
_FAREWELL: Final = 10.0


def boot_clock() -> float:
    """Seconds, also those for which the machine slept: a lease does not wait for that."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True, eq=False)
class _File:
    """What is known of one file's locks.

    Attributes:
        name: Key of the file.
        key: Key of its lock object.
        mine: Rows of this mount.
        until: Moment up to which this mount believes in them.
        table, etag: The object when we last wrote or read it, "" if there was none; None: unknown.
        seen: Beats of other mounts, each with the moment at which it was first seen.
        stale: The bucket may have rows of ours that we have not.
        losses: How often our locks were lost.
        given_up: Spans of rows that were given up since the table that is on its way was made.
        renewing: Its lease is being renewed.
        turn: Who changes the object.
        users: How many are asking for a lock on it.
        freed: Set, and replaced, when rows of this mount go.
    """

    name: str
    key: str
    mine: Rows = ()
    until: float = 0.0
    table: Table | None = None
    etag: str = ""
    seen: dict[str, tuple[int, float]] = field(default_factory=dict)
    stale: bool = False
    losses: int = 0
    given_up: list[Row] = field(default_factory=list)
    renewing: bool = False
    turn: trio.Lock = field(default_factory=trio.Lock)
    users: int = 0
    freed: trio.Event = field(default_factory=trio.Event)

    def wake(self) -> None:
        """Rows of this mount are gone: who waits for them looks again."""
        self.freed.set()
        self.freed = trio.Event()


class BucketLocks:
    """The locks of one mount.

    Args:
        store: The bucket; it honours If-Match and If-None-Match of PUT.
        prefix: What the keys of the mount begin with: mounts of one prefix share their locks.
        on_lost: Is told the key of a file whose locks here are lost.
        lease: Seconds.
        now: The clock of the leases.

    Attributes:
        mount: What this mount is called in tables; no two have one name.
        lost: How many files have lost their locks.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        on_lost: Callable[[str], None],
        *,
        lease: float,
        now: Callable[[], float] = boot_clock,
    ) -> None:
        self.mount = secrets.token_hex(8)
        self.lost = 0
        self._store = store
        self._prefix = prefix
        self._on_lost = on_lost
        self._lease = lease
        self._now = now
        self._beat = 0
        self._files: dict[str, _File] = {}

    @property
    def files(self) -> int:
        """How many files this mount has locks on."""
        return sum(bool(file.mine) for file in self._files.values())

    def is_held(self, name: str) -> bool:
        """Whether this mount has any lock on a file."""
        file = self._files.get(name)
        return file is not None and bool(file.mine)

    def holds(self, name: str, span: Row) -> bool:
        """Whether the holder of `span` has a lock on a file that is not known to be lost."""
        file = self._files.get(name)
        return file is not None and any(row.holder == span.holder for row in self._valid(file))

    def mode(self, name: str, span: Row) -> Mode | None:
        """The mode of the holder's first lock on a file, None if it has none."""
        file = self._files.get(name)
        rows = self._valid(file) if file is not None else ()
        return next((row.mode for row in rows if row.holder == span.holder), None)

    def check(self, name: str) -> None:
        """Find out whether this mount's locks on a file are lost (`on_lost`), by the clock."""
        if (file := self._files.get(name)) is not None:
            self._valid(file)

    async def lock(self, name: str, wanted: Row, *, wait: bool) -> None:
        """Have a lock.

        Cancelled while it waits, it has none.

        Args:
            name: Key of the file.
            wanted: What is to be granted.
            wait: Until it can be; else now or never.

        Raises:
            FsError: EAGAIN, another has one that is in the way; ENOLCK, there are too many.
            StoreError: The bucket could not be asked, or did not answer: there is no lock.
        """
        pause = _FIRST_PAUSE
        with self._used(name) as file:
            while True:
                blocking = await self._try(file, wanted)
                if blocking is None:
                    return
                if not wait:
                    raise FsError(errno.EAGAIN)
                if blocking.mount == self.mount:
                    await file.freed.wait()
                    await trio.sleep(_some(_LEFT_TO_OTHERS))
                    continue
                with trio.move_on_after(pause - _some(pause / 3)):
                    await file.freed.wait()
                pause = min(pause * 1.5, _MOST_PAUSE)

    async def find(self, name: str, wanted: Row) -> Row | None:
        """The lock that is in the way of one. Raises StoreError."""
        with self._used(name) as file:
            if blocking := in_the_way(self._valid(file), wanted):
                return blocking
            async with file.turn:
                table = await self._read(file)
            return in_the_way(table.without([self.mount]).rows, wanted)

    async def unlock(self, name: str, span: Row) -> None:
        """Give up what the holder of `span` has within it.

        It is given up here whatever happens. Where the bucket does not hear of it, it is told again
        later, and others have to wait meanwhile, at most until the lease is over.

        Raises:
            StoreError: The bucket may not know it yet.
        """
        file = self._files.get(name)
        if file is None or cleared(file.mine, span) == file.mine:
            return
        with self._used(name):
            self._give_up(file, cleared(file.mine, span))
            file.given_up.append(span)
            async with file.turn:
                if file.stale:  # else somebody's table has gone out meanwhile that says so
                    await self._put(file, file.mine)

    async def keep(self) -> None:
        """Renew the leases; runs beside the mount until it is cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._lease * _RENEWED)
                for file in list(self._files.values()):
                    if (file.mine or file.stale) and not file.renewing:
                        file.renewing = True
                        nursery.start_soon(self._renew, file)

    async def close(self) -> None:
        """Give up all locks: the mount ends."""
        with trio.move_on_after(_FAREWELL):
            async with trio.open_nursery() as nursery:
                for file in list(self._files.values()):
                    if file.mine or file.stale:
                        nursery.start_soon(self._leave, file)

    # ---- leases ----------------------------------------------------------------------------------

    def _valid(self, file: _File) -> Rows:
        if file.mine and self._now() >= file.until:
            self._lose(file, "its lease was not renewed in time")
        return file.mine

    def _lose(self, file: _File, why: str) -> None:
        """The locks here are no locks any more: others may have been granted theirs."""
        file.mine, file.stale = (), True
        file.losses += 1
        self.lost += 1
        file.wake()
        log.error(
            "the locks on %r are lost (%s): what is written to it without closing it first fails",
            file.name, why,
        )  # fmt: skip
        self._on_lost(file.name)

    async def _renew(self, file: _File) -> None:
        try:
            with trio.move_on_after(self._lease * _BELIEVED):
                async with file.turn:
                    if self._valid(file) or file.stale:
                        await self._put(file, file.mine)
        except StoreError as error:
            log.info("the lease of %r was not renewed: %s", file.name, error)
        finally:
            file.renewing = False
        self._valid(file)

    async def _leave(self, file: _File) -> None:
        try:
            async with file.turn:
                self._give_up(file, ())
                await self._put(file, ())
        except StoreError as error:
            log.warning("locks on %r stay until their lease is over: %s", file.name, error)

    # ---- the object ------------------------------------------------------------------------------

    def _used(self, name: str) -> _Use:
        if name not in self._files:
            for idle in [file for file in self._files.values() if _is_idle(file)][: -_KEPT or None]:
                del self._files[idle.name]
            digest = hashlib.sha256(name.encode()).hexdigest()[:40]
            self._files[name] = _File(name, f"{self._prefix}{LOCKS}/{digest}")
        return _Use(self._files[name])

    async def _try(self, file: _File, wanted: Row) -> Row | None:
        """Have a lock, or answer what is in the way."""
        if blocking := in_the_way(self._valid(file), wanted):
            return blocking
        async with file.turn:
            mine = self._valid(file)
            if blocking := in_the_way(mine, wanted):
                return blocking
            if (more := granted(mine, wanted)) == mine:
                return None
            return await self._put(file, more, wanted)

    def _give_up(self, file: _File, mine: Rows) -> None:
        """Have fewer rows here; the bucket does not know it yet."""
        file.mine, file.stale = mine, True
        file.wake()

    async def _put(self, file: _File, mine: Rows, wanted: Row | None = None) -> Row | None:
        """Have the bucket know these rows of ours, unless something is in the way of `wanted`.

        Raises:
            FsError: ENOLCK, there are too many.
            StoreError: It may know them, or not.
        """
        if len(mine) > MOST_ROWS:
            raise FsError(errno.ENOLCK, f"{file.name!r} has too many locks")
        losses = file.losses
        file.given_up.clear()
        for _ in range(_TRIES):
            fresh = file.table is None
            table = await self._read(file) if file.table is None else file.table
            there = table.of(self.mount)
            if file.mine and not there:
                self._lose(file, "another mount has taken them for a dead one's")
            if file.losses != losses:
                losses, mine = file.losses, granted((), wanted) if wanted is not None else ()
            others = table.without([self.mount])
            if wanted is not None and (blocking := in_the_way(others.rows, wanted)):
                if fresh:
                    return blocking
                file.table = None  # it was a while ago
                continue
            if fresh and not (mine or there):
                file.stale = False
                return None
            if await self._replace(file, others, mine):
                return None
        raise PreconditionFailed(
            "OperationAborted", status=409, operation="PutObject", key=file.key
        )

    async def _read(self, file: _File) -> Table:
        """The table as it is now, without mounts whose lease is over."""
        asked = self._now()
        data = bytearray()
        try:
            file.etag = (await self._store.get(file.key, data.extend)).etag
            file.table = load(bytes(data))
        except NotFound:
            file.table, file.etag = Table(), ""
        except ValueError as error:
            raise StoreError(
                "InvalidObject", operation="GetObject", key=file.key, message=str(error)
            ) from error
        dead = self._dead(file, file.table, asked)
        file.table = file.table.without(dead)
        return file.table

    def _dead(self, file: _File, table: Table, asked: float) -> list[str]:
        """Mounts that have not renewed their lease for as long as it holds."""
        before, file.seen = file.seen, {}
        dead = []
        for mount, lease in table.leases.items():
            if mount == self.mount:
                continue
            beat, since = before.get(mount, (0, 0.0))
            if beat != lease.beat:
                beat, since = lease.beat, self._now()
            file.seen[mount] = beat, since
            if asked - since >= lease.seconds:
                dead.append(mount)
                log.warning(
                    "a mount on %s has not renewed its locks on %r for %.0f s: they end",
                    lease.host or "another host", file.name, asked - since,
                )  # fmt: skip
        return dead

    async def _replace(self, file: _File, others: Table, mine: Rows) -> bool:
        """Write the table; False when there is another one, or our locks were lost meanwhile."""
        self._beat += 1
        lease = Lease(self._beat, self._lease, socket.gethostname())
        table = others.with_mount(self.mount, mine, lease, secrets.token_hex(8))
        # until it is known what has become of it
        etag, losses, file.table, file.stale = file.etag, file.losses, None, True
        sent = self._now()
        try:
            await self._write(file, table, etag)
        except (PreconditionFailed, NotFound):
            now = await self._read(file)
            if now.stamp != table.stamp:
                return False
        file.table = table
        if file.losses != losses:
            return False
        file.mine, file.stale = mine, False
        for span in file.given_up:
            self._give_up(file, cleared(file.mine, span))
        file.until = sent + self._lease * _BELIEVED
        return True

    async def _write(self, file: _File, table: Table, etag: str) -> None:
        """Put a table, or nothing, in the place of that version. Raises StoreError."""
        if table.rows or not self._store.capabilities.delete_if_match:
            body = BytesBody(dump(table, file.name))
            info = await self._store.put(
                file.key, body, Headers(), if_match=etag, if_none_match=not etag
            )
            file.etag = info.etag
            return
        if etag:
            await self._store.delete(file.key, if_match=etag)
        file.etag = ""


def _some(seconds: float) -> float:
    """A part of it, so that those who wait do not all come at once."""
    return random.uniform(0, seconds)  # noqa: S311 - nobody is to guess it wrong


def _is_idle(file: _File) -> bool:
    return not (file.mine or file.stale or file.users or file.turn.locked())


class _Use:
    """Keeps a file from being forgotten."""

    def __init__(self, file: _File) -> None:
        self._file = file

    def __enter__(self) -> _File:
        self._file.users += 1
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.users -= 1
