"""Deletions under conditions, where the endpoint honours them and where it does not.

Used by `bucketfs.store.layers.fallback`, with whose store it shares the retrying one below. What
the endpoint would ignore is looked at just before: by a HEAD for one object or two, by listings for
more. What it says is another version is looked at afterwards: some say so of any version.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Final

import trio

from bucketfs.errors import NotFound, PreconditionFailed, StoreError, Unsupported
from bucketfs.store.base import Store, is_etag
from bucketfs.store.capability import Provider
from bucketfs.store.refusal import LOOKED, REFUSALS, as_taken, is_refusal
from bucketfs.tasks import gather

#: Section 2.2 of XML 1.0; tabs and line ends, which it has, do not survive all parsers.
_NOT_XML: Final = re.compile("[\x00-\x1f\ufffe\uffff]")
#: So many objects are looked at by a HEAD each; it takes no longer than a listing, and costs less.
_FEW: Final = 2
#: Keys that are looked at and deleted before the next ones are looked at: a request of each kind.
_BATCH: Final = 1000


def _depth(key: str) -> int:
    """How deep the directory is that a key is the marker of; more than any for other keys."""
    return key.count("/") if key.endswith("/") else sys.maxsize


def _inside_out(keys: Sequence[str]) -> list[str]:
    """Markers behind the keys below them.

    Servers that keep objects as files refuse to delete a directory that is not empty (s3proxy), or
    leave it there (SeaweedFS).
    """
    return sorted(keys, key=_depth, reverse=True)


class Deletions:
    """Deletes objects of one bucket."""

    def __init__(self, inner: Store, provider: Provider) -> None:
        self._inner = inner
        self._provider = provider

    async def one(self, key: str, if_match: str) -> None:
        """As `Store.delete`."""
        if not if_match:
            await self._inner.delete(key)
            return

        async def send() -> None:
            if self._provider.capabilities.delete_if_match and is_etag(if_match):
                await self._inner.delete(key, if_match=if_match)
            else:
                await self._look_first(key, if_match)

        for _ in range(REFUSALS):
            try:
                await as_taken(self._provider, send, "delete_if_match")
                return
            except PreconditionFailed as exc:
                if exc.operation == LOOKED or exc.status != 412:
                    raise
            if not await self._is_there(key, if_match):
                return
        with self._provider.without("delete_if_match") as trial:
            await self._inner.delete(key, if_match=if_match)
            trial.holds()

    async def _look_first(self, key: str, if_match: str) -> None:
        """Delete an object of this version."""
        if await self._is_there(key, if_match):
            # not sent as a condition: before a repetition it is looked at again
            await self._inner.delete(key, if_match=if_match)

    async def _is_there(self, key: str, if_match: str) -> bool:
        """Whether there is an object of this version; raises PreconditionFailed for another."""
        others, ours = await self._look({key: if_match})
        if key in others:
            raise others[key]
        return key in ours

    async def many(
        self, keys: Sequence[str], if_match: Mapping[str, str]
    ) -> Mapping[str, StoreError]:
        """As `Store.delete_many`."""
        stayed: dict[str, StoreError] = {}
        # XML 1.0 has no way to write some characters, so that such keys go one by one.
        keys = _inside_out(keys)
        alone = [key for key in keys if not key.isprintable() and _NOT_XML.search(key)]
        batch = [key for key in keys if key not in set(alone)] if alone else list(keys)
        length = _BATCH if if_match else max(1, len(batch))
        while self._provider.capabilities.delete_many and batch:
            try:
                stayed.update(await self._batch(batch[:length], if_match))
                del batch[:length]
            except StoreError as exc:
                if not is_refusal(exc):
                    raise
                if isinstance(exc, Unsupported):
                    self._provider.learn(delete_many=False)
                break

        async def delete(key: str) -> None:
            try:
                await self.one(key, if_match.get(key, ""))
            except StoreError as exc:
                stayed[key] = exc

        for _, together in groupby(_inside_out([*alone, *batch]), key=_depth):
            async with trio.open_nursery() as nursery:
                for key in together:
                    nursery.start_soon(delete, key)
        return stayed

    async def _batch(
        self, keys: Sequence[str], if_match: Mapping[str, str]
    ) -> dict[str, StoreError]:
        """DeleteObjects of as many keys as are looked at together."""
        asked, stayed = keys, dict[str, StoreError]()

        async def send() -> dict[str, StoreError]:
            able = self._provider.capabilities.delete_many_if_match
            wanted = {key: if_match[key] for key in asked if if_match.get(key)}
            looked = {key: etag for key, etag in wanted.items() if not (able and is_etag(etag))}
            stayed, ours = await self._look(looked)
            left = [key for key in asked if key not in looked or key in ours]
            if left:
                stayed.update(await self._inner.delete_many(left, if_match=wanted))
            return stayed

        conditional = ["delete_many_if_match"] if if_match else []
        for _ in range(REFUSALS):
            stayed |= await as_taken(self._provider, send, "delete_crc", *conditional)
            doubted = {
                key: if_match[key]
                for key, exc in stayed.items()
                if isinstance(exc, PreconditionFailed) and exc.operation != LOOKED
            }
            others, ours = await self._look(doubted)
            stayed = {key: exc for key, exc in stayed.items() if key not in doubted} | others
            if not ours:
                return stayed
            asked = sorted(ours)
        self._provider.learn(delete_many_if_match=False)
        stayed.update(await self._inner.delete_many(asked, if_match=if_match))
        return stayed

    async def _look(
        self, versions: Mapping[str, str]
    ) -> tuple[dict[str, StoreError], Collection[str]]:
        """Look at objects: failures for those of other versions, and the keys that have theirs."""
        if not versions:
            return {}, ()
        found = await self._list(sorted(versions)) if len(versions) > _FEW else {}
        # SeaweedFS lists directory by directory, so that a listing may pass over a key
        found |= await self._heads([key for key in versions if key not in found])
        others: dict[str, StoreError] = {
            key: PreconditionFailed("PreconditionFailed", status=412, operation=LOOKED, key=key)
            for key, etag in found.items()
            if etag != versions[key]
        }
        return others, found.keys() - others.keys()

    async def _heads(self, keys: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}

        async def head(key: str) -> None:
            try:
                found[key] = (await self._inner.head(key)).etag
            except NotFound:
                return

        await gather([functools.partial(head, key) for key in keys], limit=_BATCH)
        return found

    async def _list(self, keys: Sequence[str]) -> dict[str, str]:
        """ETags of those of the keys, which are sorted, that there are objects of."""
        wanted = set(keys)
        found: dict[str, str] = {}
        prefix = os.path.commonprefix([keys[0], keys[-1]])  # noqa: RUF071 - of characters
        token: str | None = None
        while True:
            page = await self._inner.list(
                prefix, delimiter="", token=token, start_after="" if token else keys[0][:-1]
            )
            found.update({info.key: info.etag for info in page.objects if info.key in wanted})
            token = page.next_token
            if token is None or (page.objects and page.objects[-1].key >= keys[-1]):
                return found
