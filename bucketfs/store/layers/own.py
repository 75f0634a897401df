"""A feed of what *others* change: our own changes come back from the server, and are left out.

An event of ours may come before the answer to our request, so that events about a key that we are
changing wait until that has ended. What a request of ours has made is expected then, once, for
`MEMORY` seconds; anything else about the key is others', and ends what is expected, too. When in
doubt an event is passed on, which costs a question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from bucketfs import clock
from bucketfs.errors import StoreError
from bucketfs.store.base import NO_CONDITIONS, Change, Hear, ObjectInfo, Store
from bucketfs.store.layers.wrapper import Call, StoreWrapper

T = TypeVar("T")

#: Seconds that an event may be late. One that never comes (nothing was there to be deleted) must
#: not hide others' deletion for long.
MEMORY: Final = 60.0
#: Changes that are expected at once, at most; those of one DeleteObjects are a thousand.
_MOST: Final = 20_000
#: Of one key at most: a server that does not tell what a program writes again and again.
_MOST_OF_A_KEY: Final = 100
#: Requests that make a new version of the object they name.
_MAKING: Final = frozenset(
    {"PutObject", "CopyObject", "CompleteMultipartUpload", "PutObjectTagging"}
)


@dataclass(slots=True)
class OwnChanges:
    """What of a feed is ours. No I/O, no clock.

    Attributes:
        pass_on: Gets the others' changes; None while nobody listens.
    """

    pass_on: Callable[[Sequence[Change]], None] | None = None
    _under_way: Counter[str] = field(default_factory=Counter)
    _waiting: list[Change] = field(default_factory=list)
    #: By key: ETags that our requests have made ("": any; None: none is left), with their times.
    _expected: dict[str, list[tuple[str | None, float]]] = field(default_factory=dict)

    def begin(self, keys: Iterable[str]) -> None:
        """A request of ours is about to change these keys."""
        self._under_way.update(keys)

    def end(self, made: Mapping[str, str | None], keys: Iterable[str], now: float) -> None:
        """It has ended.

        Args:
            made: The keys that it is known to have changed, with the ETags, None for a deletion.
            keys: All that it was to change.
            now: Time in seconds.
        """
        for key, etag in made.items() if self.pass_on else ():
            expected = self._expected.pop(key, [])  # the latest come last
            late = [each for each in expected if now - each[1] <= MEMORY]
            self._expected[key] = [*late[-_MOST_OF_A_KEY + 1 :], (etag, now)]
        while len(self._expected) > _MOST:
            del self._expected[next(iter(self._expected))]
        self._under_way.subtract(keys)
        self._under_way = +self._under_way
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self.heard(waiting, now)

    def heard(self, changes: Sequence[Change], now: float) -> None:
        """The feed tells of changes, or of none, which is passed on as well."""
        others = []
        for change in changes:
            if any(key in self._under_way for key in change.keys):
                self._waiting.append(change)
            elif not self._is_ours(change, now):
                others.append(change)
        if self.pass_on is not None and (others or not changes):
            self.pass_on(others)

    def forget(self) -> None:
        """The feed has ended: what it has not told, and what it would have, is nobody's."""
        self.pass_on = None
        self._waiting.clear()
        self._expected.clear()

    def _is_ours(self, change: Change, now: float) -> bool:
        for key in change.keys:
            expected = self._expected.get(key, [])
            for at, (etag, since) in enumerate(expected):
                if now - since <= MEMORY and _fits(change, etag):
                    self._leave(key, expected[at + 1 :])  # what should have come before does not
                    return True
        for key in change.keys:
            self._leave(key, [])
        return False

    def _leave(self, key: str, expected: list[tuple[str | None, float]]) -> None:
        if expected:
            self._expected[key] = expected
        else:
            self._expected.pop(key, None)


def _fits(change: Change, etag: str | None) -> bool:
    if change.removed or etag is None:
        return change.removed and etag is None
    return not (etag and change.etag) or etag == change.etag


class OwnStore(StoreWrapper):
    """Notes what it changes, and leaves it out of the feed. Sits above all that changes objects."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._own = OwnChanges()

    async def follow(self, prefix: str, hear: Hear) -> None:
        self._own.pass_on = hear
        try:
            await self.inner.follow(prefix, lambda told: self._own.heard(told, clock.monotonic()))
        finally:
            self._own.forget()

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        if self._own.pass_on is None or call.operation not in _MAKING | {"DeleteObject"}:
            return await send()
        keys, made = [call.key], dict[str, str | None]()
        self._own.begin(keys)
        try:
            result = await send()
            if call.operation == "DeleteObject":
                made[call.key] = None
            else:
                made[call.key] = result.etag if isinstance(result, ObjectInfo) else ""
            return result
        finally:
            self._own.end(made, keys, clock.monotonic())

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        if self._own.pass_on is None:
            return await self.inner.delete_many(keys, if_match=if_match)
        made: dict[str, str | None] = {}
        self._own.begin(keys)
        try:
            stayed = await self.inner.delete_many(keys, if_match=if_match)
            made.update((key, None) for key in keys if key not in stayed)
            return stayed
        finally:
            self._own.end(made, keys, clock.monotonic())
