"""Long listings: the request for the next page is under way while a page is parsed and taken.

Some stores can tell where the next page begins before they have parsed the one they hold (see
`Store.list`). Until it is parsed that is a guess: what was asked for by a wrong one is thrown away
unseen.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

import trio
from cachetools import LRUCache

from bucketfs.errors import NoAnswer, StoreError
from bucketfs.store.base import ListPage, Store

_log = logging.getLogger("bucketfs.store.long_listing")

#: Pages without an entry that may follow each other: of a million old versions and delete
#: markers, which stores look through and do not show.
EMPTY_PAGES: Final = 1000
#: What was told last of a prefix: a directory that is polled tells it once.
_told: Final[LRUCache[str, int]] = LRUCache(1024)


def tell_left_out(prefix: str, count: int) -> None:
    """Say in the log how many entries of a listing are left out, unless that was said before."""
    if count and _told.get(prefix) != count:
        _told[prefix] = count
        _log.warning(
            "%d entries of the listing of %r are left out: what the endpoint says of them cannot be"
            " (a size or date that is none, a key outside of the prefix); look at what serves it",
            count,
            prefix,
        )


async def read_pages(
    store: Store,
    prefix: str,
    take: Callable[[ListPage], None],
    *,
    delimiter: str = "/",
    start_after: str = "",
    most: int | None = None,
) -> bool:
    """Hand the pages of a listing to `take`, one by one in their order.

    Args:
        store: Whom to ask.
        prefix: As for `Store.list`.
        take: Takes a page while the next is on its way; must not raise.
        delimiter: As for `Store.list`.
        start_after: As for `Store.list`.
        most: Ask for no more pages than these.

    Returns:
        Whether these were all.

    Raises:
        StoreError: A page could not be had, or brought nothing new; those before it were taken.
    """
    ask = partial(store.list, prefix, delimiter=delimiter, start_after=start_after)
    failure: StoreError | None = None
    complete = False
    left_out = 0

    def count_and_take(page: ListPage) -> None:
        nonlocal left_out
        left_out += page.left_out
        take(page)

    async with trio.open_nursery() as nursery:
        try:
            complete = await _Reader(nursery, ask, prefix, most).read(count_and_take)
        except StoreError as exc:
            failure = exc  # would leave the nursery as a group
        nursery.cancel_scope.cancel()
    tell_left_out(prefix, left_out)
    if failure is not None:
        raise failure
    return complete


class Repeats:
    """Notices a listing that does not come to an end, as it brings nothing new."""

    def __init__(self) -> None:
        self._begun: set[str] = set()
        self._empty = 0

    def seen(self, token: str, *, empty: bool) -> str:
        """A page has named where the next one begins: why that is not to be asked for, or ""."""
        if token in self._begun:
            return "the next page is the same again, or one before it"
        self._begun.add(token)
        self._empty = self._empty + 1 if empty else 0
        return f"{self._empty} pages in a row are empty" if self._empty >= EMPTY_PAGES else ""

    def check(self, prefix: str, page: ListPage) -> None:
        """Look at a page of `Store.list`. Raises NoAnswer."""
        if page.next_token is None:
            return
        empty = not (page.objects or page.prefixes or page.left_out)
        if why := self.seen(page.next_token, empty=empty):
            raise NoAnswer("BadAnswer", operation="ListObjectsV2", key=prefix, message=why)


class _Ask(Protocol):
    def __call__(
        self, *, token: str | None, on_token: Callable[[str], Awaitable[None]]
    ) -> Awaitable[ListPage]: ...


class _Request:
    """The request for page `number`, with the one that was sent ahead because of it."""

    __slots__ = ("answered", "failure", "following", "number", "page", "scope", "token")

    def __init__(self, token: str | None, number: int) -> None:
        self.token = token
        self.number = number
        self.scope = trio.CancelScope()
        self.answered = trio.Event()
        self.page: ListPage | None = None
        self.failure: StoreError | None = None
        self.following: _Request | None = None

    def drop(self) -> None:
        """Abandon it and what followed from it."""
        self.scope.cancel()
        if self.following is not None:
            self.following.drop()
            self.following = None


class _Reader:
    def __init__(self, nursery: trio.Nursery, ask: _Ask, prefix: str, most: int | None) -> None:
        self._nursery = nursery
        self._ask = ask
        self._prefix = prefix
        self._most = most

    async def read(self, take: Callable[[ListPage], None]) -> bool:
        request: _Request | None = self._send(None, 1)
        complete = False
        repeats = Repeats()
        while request is not None:
            await request.answered.wait()
            if request.failure is not None:
                raise request.failure
            page = request.page
            assert page is not None
            repeats.check(self._prefix, page)
            following = await self._following(request, page.next_token)
            take(page)
            complete = page.next_token is None
            request = following
        return complete

    def _send(self, token: str | None, number: int) -> _Request:
        request = _Request(token, number)
        self._nursery.start_soon(self._run, request)
        return request

    async def _run(self, request: _Request) -> None:
        async def go_on(token: str) -> None:
            if request.number == self._most or request.scope.cancel_called:
                return
            if request.following is not None:  # by an answer that did not hold
                request.following.drop()
            request.following = self._send(token, request.number + 1)
            await _let_others_run()

        with request.scope:
            try:
                request.page = await self._ask(token=request.token, on_token=go_on)
            except StoreError as exc:
                request.failure = exc
            request.answered.set()

    async def _following(self, request: _Request, token: str | None) -> _Request | None:
        """The request for the page behind, which was sent ahead or is sent now."""
        ahead = request.following
        if ahead is not None and ahead.token == token:
            return ahead
        if ahead is not None:
            ahead.drop()
        if token is None or request.number == self._most:
            return None
        following = self._send(token, request.number + 1)
        await _let_others_run()
        return following


async def _let_others_run() -> None:
    """Return after all tasks that can run have: trio may put us before them once, not twice."""
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
