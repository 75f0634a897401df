"""The way from one mount to the bucket: it is slow, loses answers, stalls, and ends with a kill."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import trio

from bucketfs.errors import BrokenBody, NoAnswer, StoreError
from bucketfs.store.base import ObjectInfo, Sink
from bucketfs.store.layers.wrapper import Call, StoreWrapper
from tests.simulation.bucket import SharedBucket, writer

T = TypeVar("T")

#: Seconds without an answer after which the transport gives a request up.
SILENCE = 20.0


@dataclass(frozen=True, slots=True)
class Weather:
    """How a link behaves.

    Attributes:
        pace: A request and its answer take up to so many seconds each.
        faults: Share of requests with which something goes wrong.
        denied: Share of these that are refused for good (403).
    """

    pace: float
    faults: float
    denied: float


class Link(StoreWrapper):
    """The requests of one mount.

    Args:
        inner: What they are sent to.
        mount: Whose they are.
        weather: What they meet.
        dice: Decides what and when.
        note: Takes a line into the trace.
        look: Called when a request arrives and when it is answered: moments in the midst of all
            that the mount does.

    Attributes:
        calm: Nothing goes wrong any more.
        dead: The mount was killed; nothing is sent any more.
    """

    def __init__(
        self,
        inner: SharedBucket,
        mount: str,
        weather: Weather,
        dice: random.Random,
        *,
        note: Callable[[str], None],
        look: Callable[[], None],
    ) -> None:
        super().__init__(inner)
        self._bucket = inner
        self.calm = self.dead = False
        self._mount, self._weather, self._dice = mount, weather, dice
        self._note, self._look = note, look
        #: Requests that are on their way: what carries each out.
        self._flying: dict[int, Callable[[], Awaitable[object]]] = {}
        self._sent = 0

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        if self.dead:
            raise NoAnswer("ConnectionClosed", operation=call.operation, key=call.key)
        self._sent += 1
        number, dice, weather = self._sent, self._dice, self._weather
        before, after = dice.random() * weather.pace, dice.random() * weather.pace
        kind = "" if self.calm or dice.random() >= weather.faults else self._kind(call)
        said = f"{number} {call.operation} {call.key!r}"
        self._flying[number] = lambda: self._carry_out(send)
        try:
            await trio.sleep(before)
            self._look()
            if kind == "stall":
                await self._silence(call)
            if kind in {"error", "reset", "denied"}:
                raise self._error(kind, call)
            if self._flying.pop(number, None) is None:
                await self._silence(call)  # it has arrived while the mount was being killed
            result = await self._carry_out(send)
            if kind == "late stall":
                await self._silence(call)
            await trio.sleep(after)
            self._look()
            if kind:
                raise self._error(kind, call)
        except StoreError as error:
            self._note(f"  {said}: {kind} {error.code or error.status}")
            raise
        except trio.Cancelled:
            self._note(f"  {said}: cancelled")
            raise
        finally:
            self._flying.pop(number, None)
        self._note(f"  {said}: ok")
        return result

    async def get(
        self,
        key: str,
        sink: Sink,
        *,
        start: int = 0,
        stop: int | None = None,
        if_match: str = "",
        size: int | None = None,
    ) -> ObjectInfo:
        cut = not self.calm and self._dice.random() < self._weather.faults / 2
        left = self._dice.randrange(20_000) if cut else 1 << 60

        def some(piece: memoryview) -> None:
            nonlocal left
            sink(piece[:left])
            if len(piece) > left:
                raise BrokenBody("IncompleteBody", key=key, operation="GetObject", etag=etag)
            left -= len(piece)

        etag = self._bucket.etag(key)
        return await super().get(key, some, start=start, stop=stop, if_match=if_match, size=size)

    async def kill(self) -> None:
        """The process is gone; what it had sent arrives, or not."""
        self.dead = True
        flying, self._flying = self._flying, {}
        for number, send in flying.items():
            if self._dice.random() < 0.5:
                self._note(f"  {number} arrives all the same")
                with contextlib.suppress(StoreError):
                    await send()

    async def _silence(self, call: Call) -> NoReturn:
        await trio.sleep(SILENCE)
        raise NoAnswer("ReadTimeout", operation=call.operation, key=call.key)

    async def _carry_out(self, send: Callable[[], Awaitable[T]]) -> T:
        token = writer.set(self._mount)
        try:
            return await send()
        finally:
            writer.reset(token)

    def _kind(self, call: Call) -> str:
        if self._dice.random() < self._weather.denied:
            return "denied"
        kinds = ["error", "reset", "lost", "lost", "done, 500", "done, 503", "stall", "late stall"]
        kind = self._dice.choice(kinds)
        # an upload that was begun under a 500 is nobody's: see `allowed.leaves_uploads`
        is_begin = call.operation == "CreateMultipartUpload"
        return "lost" if is_begin and kind.startswith("done") else kind

    def _error(self, kind: str, call: Call) -> StoreError:
        if kind in {"reset", "lost"}:
            return NoAnswer("ConnectionClosed", operation=call.operation, key=call.key)
        if kind == "denied":
            return StoreError("AccessDenied", status=403, operation=call.operation, key=call.key)
        code, status = ("SlowDown", 503) if kind == "done, 503" else ("InternalError", 500)
        return StoreError(code, status=status, operation=call.operation, key=call.key)
