"""Many HEADs at once, by one task: what attributes of a large directory cost is mostly CPU.

A task, a time-out scope and two registrations with the event loop for each request take more time
than the request. Here one task has all connections in an epoll set of its own, which the event loop
watches as one descriptor: whatever has arrived is read, and the next requests leave, in one step.

Nothing is repeated here, and at the first connection that fails no further request is sent: what
was not answered is asked for one by one by the caller, where time-outs, retries and errors have
their place.

Invariants: a connection is under way with exactly one request, or the session has it, or it is
closed; each wait is bounded by the longest silence, from the sending of the oldest request on.
"""

from __future__ import annotations

import errno
import math
import select
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import trio
from botocore.exceptions import BotoCoreError

from bucketfs.store.http.http1 import Answer, Malformed
from bucketfs.store.http.pace import Pace
from bucketfs.store.http.transport import Origin, TrioSession, as_failure
from bucketfs.store.http.wire import Wire

#: Answers that ask for fewer requests.
_TOO_MUCH: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})

#: Takes the answer to a key's HEAD, or why there is none.
Told = Callable[[str, Answer | BotoCoreError], None]


@dataclass(slots=True)
class _Flight:
    """A request under way."""

    key: str
    wire: Wire
    answer: Answer
    sent: float


class ManyHeads:
    """One batch of HEADs to one origin.

    Args:
        session: Has the connections.
        origin: Where to.
        keys: What is asked for, in this order.
        write: Writes the request for a key. Raises BotoCoreError.
        pace: How many may be under way.
        told: See `Told`; is called in the step that received the answer, and raises nothing.
    """

    def __init__(
        self,
        session: TrioSession,
        origin: Origin,
        keys: Sequence[str],
        *,
        write: Callable[[str], bytes],
        pace: Pace,
        told: Told,
    ) -> None:
        self._session = session
        self._origin = origin
        self._keys = deque(keys)
        self._write = write
        self._pace = pace
        self._told = told
        self._epoll = select.epoll()
        #: By descriptor, the oldest first.
        self._under_way: dict[int, _Flight] = {}
        self._connecting = 0
        self._waiting = trio.CancelScope()

    async def run(self) -> None:
        """Send all, as far as connections hold; returns when nothing is under way any more."""
        try:
            with self._pace.used(self._count):
                async with trio.open_nursery() as nursery:
                    self._fill(nursery)
                    while self._under_way or self._connecting:
                        await self._arrival()
                        self._receive_all()
                        self._fill(nursery)
        finally:
            for flight in self._under_way.values():
                flight.wire.close()
            self._epoll.close()

    def _fill(self, nursery: trio.Nursery) -> None:
        """Have as many requests under way as may be."""
        while self._connecting < len(self._keys) and self._pace.has_room(self._count()):
            wire = self._session.take_idle(self._origin)
            if wire is not None:
                self._next_on(wire)
                continue
            self._connecting += 1
            nursery.start_soon(self._connect)

    def _count(self) -> int:
        return len(self._under_way) + self._connecting

    async def _connect(self) -> None:
        try:
            wire = await self._session.connect(self._origin)
        except (BotoCoreError, OSError):
            self._stop()
            wire = None
        self._connecting -= 1
        if wire is not None:
            self._next_on(wire)
        self._waiting.cancel()  # there may be nothing left to wait for

    def _next_on(self, wire: Wire) -> None:
        """Send the next request on a connection, or give it back."""
        while self._keys and self._pace.has_room(self._count()):
            key = self._keys.popleft()
            try:
                message = self._write(key)
            except BotoCoreError as error:
                self._told(key, error)
                continue
            self._send(_Flight(key, wire, Answer("HEAD"), trio.current_time()), message)
            return
        self._session.keep(self._origin, wire)

    def _send(self, flight: _Flight, message: bytes) -> None:
        sock = flight.wire.sock
        try:
            # there is room in the buffer of a connection at rest, for any head
            if sock.send(message) != len(message):
                raise ConnectionAbortedError(errno.ECONNABORTED, "a request was sent in part")
        except OSError as error:
            self._fail(flight, error)
            return
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._under_way[sock.fileno()] = flight

    def _fail(self, flight: _Flight, error: Exception) -> None:
        flight.wire.close()
        self._stop()
        self._told(flight.key, as_failure(error, self._origin.url))

    def _stop(self) -> None:
        """A connection failed; who asks for a key that is left hears what is the matter."""
        self._keys.clear()
        self._pace.refused()  # some servers take no more than so many

    async def _arrival(self) -> None:
        """Wait for answers, or for a connection that could not be made."""
        oldest = next(iter(self._under_way.values()), None)
        due = math.inf if oldest is None else oldest.sent + self._session.silence
        with trio.CancelScope(deadline=due) as self._waiting:
            await trio.lowlevel.wait_readable(self._epoll.fileno())

    def _receive_all(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            self._receive(descriptor)
        overdue = trio.current_time() - self._session.silence
        for descriptor, flight in list(self._under_way.items()):
            if flight.sent > overdue:
                return
            del self._under_way[descriptor]
            self._fail(flight, TimeoutError(errno.ETIMEDOUT, "no answer"))

    def _receive(self, descriptor: int) -> None:
        """Take what has arrived on a connection; its next request leaves before that is read."""
        flight = self._under_way[descriptor]
        try:
            if not self._is_complete(flight):
                return
        except (OSError, Malformed) as error:
            del self._under_way[descriptor]
            self._fail(flight, error)
            return
        del self._under_way[descriptor]
        self._epoll.unregister(descriptor)
        if flight.answer.status in _TOO_MUCH:
            self._pace.refused()
        else:
            self._pace.answered(trio.current_time() - flight.sent)
        if flight.answer.keeps_alive:
            self._next_on(flight.wire)
        else:
            flight.wire.close()
        self._told(flight.key, flight.answer)

    def _is_complete(self, flight: _Flight) -> bool:
        buffer = self._session.buffer
        try:
            while not flight.answer.status:
                count = flight.wire.sock.recv_into(buffer)
                if not count:
                    raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
                flight.answer.feed(buffer[:count])
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        return True
