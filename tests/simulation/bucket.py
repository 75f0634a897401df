"""The bucket that all mounts share: it tells the oracle of each change of an object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

from sortedcontainers import SortedDict

from bucketfs.store.base import Body, Capabilities, Headers, ObjectInfo
from tests.harness.memory import MemoryStore, StoredObject

#: The mount whose request is being carried out.
writer: ContextVar[str] = ContextVar("writer", default="")
#: Where the bytes of the request that is being carried out come from, and under which condition.
terms: ContextVar[str] = ContextVar("terms", default="")


class Witness(Protocol):
    """Who hears of changes as they happen."""

    def stored(self, mount: str, key: str, old: bytes | None, new: bytes, terms: str) -> None:
        """A mount's request has made or replaced an object."""

    def deleted(self, mount: str, key: str, old: bytes) -> None:
        """A mount's request has taken an object away."""


class SharedBucket(MemoryStore):
    """The objects."""

    def __init__(self, witness: Witness, capabilities: Capabilities) -> None:
        super().__init__(capabilities=capabilities)
        self._witness = witness
        #: The bytes of each version there ever was, by ETag.
        self.versions: dict[str, bytes] = {}
        self.objects = _Watched(lambda key, old: witness.deleted(writer.get(), key, old.data))

    def etag(self, key: str) -> str:
        """ETag of an object, "" for none; not counted as a request."""
        found: StoredObject | None = self.objects.get(key)
        return found.etag if found is not None else ""

    async def put(self, key: str, body: Body, headers: Headers, **conditions: Any) -> ObjectInfo:
        terms.set("put if" if any(conditions.values()) else "put")
        return await super().put(key, body, headers, **conditions)

    async def copy(self, source: str, target: str, **more: Any) -> ObjectInfo:
        is_bound = more.get("target_if_match") or more.get("target_if_none_match")
        terms.set(f"copy{' if' if is_bound else ''} of {source}")
        return await super().copy(source, target, **more)

    async def complete(
        self, key: str, upload_id: str, parts: Sequence[tuple[int, str]], **conditions: Any
    ) -> ObjectInfo:
        is_bound = conditions.get("if_match") or conditions.get("if_none_match")
        terms.set("complete if" if is_bound else "complete")
        return await super().complete(key, upload_id, parts, **conditions)

    def _store(self, key: str, data: bytes, headers: Headers, etag: str) -> ObjectInfo:
        old: StoredObject | None = self.objects.get(key)
        info = super()._store(key, data, headers, etag)
        self.versions[etag] = data
        self._witness.stored(writer.get(), key, old and old.data, data, terms.get())
        return info


class _Watched(SortedDict):
    """Tells of what is taken out."""

    def __init__(self, told: Callable[[str, StoredObject], None]) -> None:
        super().__init__()
        self._told = told

    def pop(self, key: str, *default: Any) -> Any:
        found = super().pop(key, *default)
        if found is not None:
            self._told(key, found)
        return found
