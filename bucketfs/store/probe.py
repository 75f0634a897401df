"""Finds out which conditions an endpoint honours, at the first request that depends on one.

A storage class is tried out when the mount begins: a wrong name would refuse each file much later.

A server that ignores a condition says so only by doing what it was told not to do. So this is tried
out on an object of its own, with as few writes as it takes: a replacement of a version that cannot
be there writes nothing where it is refused, and all that needs an object shares one. Where writing
is not allowed nothing is raised: what is not found out is not relied on (`Provider.unsure`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Mapping
from typing import Final

import trio

from bucketfs.errors import NotFound, PreconditionFailed, StoreError
from bucketfs.store.base import PROBE, BytesBody, Headers, Store
from bucketfs.store.capability import DELETIONS, PUTS, TARGETS, Provider
from bucketfs.store.refusal import LOOKED, as_taken, is_refusal

_log = logging.getLogger("bucketfs.store.probe")

#: An ETag that no object has.
_WRONG: Final = "0" * 32
_BODY: Final = BytesBody(b"1")
#: Seconds that the object may take to delete when the mount is given up meanwhile.
_CLEAN_UP: Final = 10.0


class Probe:
    """Asks an endpoint, once for all who want to know.

    Args:
        store: What is asked; no fallbacks.
        provider: Told what was found out.
        prefix: What the object's key begins with.
    """

    def __init__(self, store: Store, provider: Provider, prefix: str) -> None:
        self._store = store
        self._provider = provider
        self._prefix = prefix
        self._turn = trio.Lock()

    async def settle(self, *conditions: str) -> None:
        """Have these be known, or given up on."""
        provider = self._provider
        if provider.unknown.isdisjoint(conditions):
            return
        async with self._turn:
            if wanted := provider.unknown.intersection(conditions):
                sample = _Sample(self._store, provider, self._prefix)
                try:
                    await sample.find_out(wanted)
                except StoreError as exc:
                    _log.info("which conditions are honoured was not found out: %s", exc)
                provider.give_up_on(wanted)

    async def try_class(self) -> None:
        """Find out whether the endpoint has the storage class of new objects, if it is not known.

        Raises:
            StoreError: InvalidStorageClass: it has not.
        """
        async with self._turn:
            if self._provider.untried_class:
                await _Sample(self._store, self._provider, self._prefix).try_class()


class _Sample:
    """The object of one probe.

    Attributes:
        there: It may exist.
    """

    def __init__(self, store: Store, provider: Provider, prefix: str) -> None:
        self._store = store
        self._provider = provider
        self._key = f"{prefix}{PROBE}{secrets.token_hex(8)}"
        self.there = False

    async def find_out(self, wanted: set[str]) -> None:
        """Find out about conditions, and about whatever else costs no further object.

        Raises:
            StoreError: It was not found out to the end.
        """
        whole = False
        try:
            if wanted & PUTS:
                await self._replace()
            if self.there or "put_if_none_match" in wanted:
                await self._create()
            if wanted & (TARGETS | DELETIONS) and not self.there:
                await self._put()
            if wanted & TARGETS:
                await self._copy()
            whole = True
        finally:
            if self.there:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEAN_UP):
                    await self._clean_up(learn=whole)

    async def try_class(self) -> None:
        """Store the object in the mount's class; Ceph does not say what it is that it refuses.

        Raises:
            StoreError: InvalidStorageClass.
        """
        try:
            await self._put()
            self._provider.has_class()
        except StoreError as exc:
            if exc.code == "InvalidStorageClass" or await self._is_for_its_class(exc):
                raise StoreError(
                    "InvalidStorageClass",
                    status=exc.status, operation=exc.operation, key=self._key,
                ) from exc  # fmt: skip
            _log.info("whether there is such a storage class was not found out: %s", exc)
        finally:
            if self.there:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEAN_UP):
                    await self._clean_up(learn=False)

    async def _is_for_its_class(self, exc: StoreError) -> bool:
        """Whether a refused object is taken without a storage class."""
        if not is_refusal(exc):
            return False
        with self._provider.without("storage_class"):
            try:
                await self._put()
            except StoreError:
                return False
        return True

    async def _put(self, *, if_match: str = "", if_none_match: bool = False) -> None:
        """Write the object; it may be there after this, unless it was refused."""
        before, self.there = self.there, True
        sums = ["checksums"] if self._provider.checksum else []
        try:
            await as_taken(
                self._provider,
                lambda: self._store.put(
                    self._key, _BODY, Headers(), if_match=if_match, if_none_match=if_none_match
                ),
                *sums,
            )
        except StoreError as exc:
            if is_refusal(exc) or 400 <= exc.status < 500:
                self.there = before
            raise

    async def _replace(self) -> None:
        """If-Match of a version that is not there: who honours it writes nothing."""
        try:
            await self._put(if_match=_WRONG)
        except StoreError as exc:
            missing = isinstance(exc, NotFound) and exc.code != "NoSuchBucket"
            honoured = missing or isinstance(exc, PreconditionFailed)
            # a look of ours after a lost answer is not the endpoint's
            if exc.operation == LOOKED or not (honoured or is_refusal(exc)):
                raise
            self._provider.learn(put_if_match=honoured)
        else:
            self._provider.learn(put_if_match=False)

    async def _create(self) -> None:
        """If-None-Match, first where nothing is, and then where the object is."""
        try:
            if not self.there:
                await self._put(if_none_match=True)
            honoured = await _is_refused(self._put(if_none_match=True))
        except StoreError as exc:
            if not is_refusal(exc):
                raise
            honoured = False
        self._provider.learn(put_if_none_match=honoured)

    async def _copy(self) -> None:
        """Copy the object onto itself, under conditions that are false."""

        def copy(*, if_match: str = "", if_none_match: bool = False) -> Awaitable[object]:
            return self._store.copy(
                self._key,
                self._key,
                size=len(_BODY),
                headers=Headers(),
                target_if_match=if_match,
                target_if_none_match=if_none_match,
            )

        honoured = match = False
        try:
            honoured = await _is_refused(copy(if_none_match=True))
            # who does not know the one does not know the other
            match = honoured and await _is_refused(copy(if_match=_WRONG))
        except StoreError as exc:
            if not is_refusal(exc):  # not all copy an object onto itself
                raise
        self._provider.learn(target_if_none_match=honoured, target_if_match=match)

    async def _clean_up(self, *, learn: bool) -> None:
        """Delete the object; to `learn`, under conditions that are false, first of all."""
        learn = learn and not self._provider.unknown.isdisjoint(DELETIONS)
        try:
            if not (learn and await self._is_gone()):
                await self._store.delete(self._key)
        except StoreError as exc:
            # who may write and not delete may mount all the same, and is not asked again
            _log.warning("the object of a probe for conditions stays in the bucket: %s", exc)
            if exc.status == 403:
                self._provider.learn(delete_if_match=False, delete_many_if_match=False)

    async def _is_gone(self) -> bool:
        """Whether deletions of another version took the object: the endpoint ignores conditions."""
        one = many = False
        stayed: Mapping[str, StoreError] = {}
        try:
            one = await _is_refused(self._store.delete(self._key, if_match=_WRONG))
            if one:
                stayed = await self._store.delete_many([self._key], if_match={self._key: _WRONG})
                many = isinstance(stayed.get(self._key), PreconditionFailed)
        except StoreError as exc:
            if not is_refusal(exc):
                raise
            stayed = {self._key: exc}
        self._provider.learn(delete_if_match=one, delete_many_if_match=many)
        return self._key not in stayed


async def _is_refused(sent: Awaitable[object]) -> bool:
    """Whether the endpoint answers 412 to a request, for its condition."""
    try:
        await sent
    except PreconditionFailed as exc:
        if exc.operation == LOOKED:
            raise
        return True
    return False
