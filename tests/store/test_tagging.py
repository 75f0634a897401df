"""Tags stay with objects, whatever the endpoint does with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bucketfs.errors import StoreError, Unsupported
from bucketfs.store.base import BytesBody, Capabilities, Headers, tag_query
from bucketfs.store.layers.fallback import FallbackStore
from bucketfs.store.layers.tagging import TagStore
from tests.harness.memory import Fault, FaultHook, MemoryStore, StoredObject
from tests.harness.providers import provider_with

TAGS = {"a": "one & two", "b": ""}
KEEP = Headers({"mode": "1"}, keep_tags=True)


class Forgetful(MemoryStore):
    """As Ceph 16: copies with new headers and uploads in parts have no tags."""

    def _store(self, key: str, data: bytes, headers: Headers, etag: str):  # type: ignore[no-untyped-def]
        super()._store(key, data, headers, etag)
        if "-" in etag:
            self._clear(key)
        return self.objects[key].info(key)

    async def copy(self, source: str, target: str, **how):  # type: ignore[no-untyped-def]
        info = await super().copy(source, target, **how)
        if how.get("headers") is not None:
            self._clear(target)
        return info

    def _clear(self, key: str) -> None:
        found: StoredObject = self.objects[key]
        self.objects[key] = StoredObject(found.data, found.etag, found.last_modified, found.headers)


def layered(
    kind: type[MemoryStore] = MemoryStore, fault: FaultHook | None = None, **abilities: object
) -> tuple[FallbackStore, MemoryStore]:
    """A bucket with the tagged object ``k`` of 30 bytes."""
    capabilities = Capabilities(min_part=1, **abilities)  # type: ignore[arg-type]
    memory = kind(capabilities=capabilities, fault=fault)
    memory.poke("k", bytes(30), Headers(tags=tag_query(TAGS)))
    provider = provider_with(capabilities)
    return FallbackStore(TagStore(memory, provider), provider), memory


def tags(memory: MemoryStore, key: str) -> Mapping[str, str]:
    found: StoredObject = memory.objects[key]
    return found.tags


async def upload(store: FallbackStore, key: str) -> None:
    upload_id = await store.create_upload(key, KEEP)
    etag = await store.upload_part(key, upload_id, 1, BytesBody(b"new"))
    await store.complete(key, upload_id, [(1, etag)], size=3)


@pytest.mark.parametrize("kind", [MemoryStore, Forgetful])
async def test_uploads_and_copies_keep_them(kind: type[MemoryStore]) -> None:
    store, memory = layered(kind)
    for _ in range(2):
        await store.copy("k", "k", size=len(memory.peek("k")), headers=KEEP)
        assert tags(memory, "k") == TAGS
        await store.put("k", BytesBody(b"new"), KEEP)
        assert tags(memory, "k") == TAGS
        await upload(store, "k")
        assert tags(memory, "k") == TAGS
        await store.copy("k", "l", size=3, headers=KEEP)
        assert tags(memory, "l") == TAGS


@pytest.mark.parametrize("kind", [MemoryStore, Forgetful])
@pytest.mark.parametrize("headers", [None, KEEP])
@pytest.mark.parametrize(
    "abilities", [{"max_copy": 10}, {"copy": False}, {"copy": False, "max_put": 10}]
)
async def test_copies_by_other_ways_keep_them(
    kind: type[MemoryStore], headers: Headers | None, abilities: dict[str, Any]
) -> None:
    store, memory = layered(kind, **abilities)
    await store.copy("k", "l", size=30, headers=headers)
    assert tags(memory, "l") == TAGS


async def test_what_is_known_to_have_none_costs_nothing() -> None:
    store, memory = layered()
    await store.put("n", BytesBody(b"x"), Headers())
    await store.copy("n", "n", size=1, headers=Headers({"mode": "2"}))
    assert memory.requests == {"PutObject": 1, "CopyObject": 1}


async def test_the_answer_tells_how_many() -> None:
    store, memory = layered()
    for key, count in (("k", 2), ("n", 0)):
        info = await store.put(key, BytesBody(b"x"), KEEP)
        assert info.headers is not None
        assert info.headers.tag_count == count
    assert memory.requests == {"PutObject": 2, "GetObjectTagging": 2}


async def test_an_endpoint_that_knows_none_is_asked_once() -> None:
    error = Unsupported("NotImplemented", status=501)
    store, memory = layered(
        fault=lambda name, key, number: Fault(error) if name == "GetObjectTagging" else None
    )
    for _ in range(3):
        await store.put("k", BytesBody(b"x"), KEEP)
    assert memory.requests == {"PutObject": 3, "GetObjectTagging": 1}
    assert not store.capabilities.tags


async def test_bytes_come_before_tags(caplog: pytest.LogCaptureFixture) -> None:
    """The keys may not read them: the file is stored all the same, and the log says so."""
    error = StoreError("AccessDenied", status=403)
    store, memory = layered(
        fault=lambda name, key, number: Fault(error) if name == "GetObjectTagging" else None
    )
    await store.put("k", BytesBody(b"x"), KEEP)
    assert memory.peek("k") == b"x"
    assert "may not be read" in caplog.text


async def test_an_upload_waits_for_tags_that_cannot_be_asked_for_now() -> None:
    """Better no upload than one that loses them."""
    error = StoreError("InternalError", status=500)
    store, memory = layered(
        fault=lambda name, key, number: Fault(error) if name == "GetObjectTagging" else None
    )
    with pytest.raises(StoreError):
        await store.put("k", BytesBody(b"x"), KEEP)
    assert memory.peek("k") == bytes(30)


#: GetObjectTagging at `rclone serve s3`, which reads the object for it.
NO_WORD = StoreError("500", status=500, message="Internal Server Error")


def without_a_word(name: str, key: str, number: int) -> Fault | None:
    return Fault(NO_WORD) if name == "GetObjectTagging" else None


@pytest.mark.parametrize("wanted", [TAGS, {}])
async def test_no_tags_are_set_where_none_can_be_read(wanted: Mapping[str, str]) -> None:
    """`rclone serve s3` would take them for the object's bytes, or delete the object."""
    store, memory = layered(fault=without_a_word)
    with pytest.raises(Unsupported):
        await store.set_tags("k", wanted)
    assert memory.requests == {"GetObjectTagging": 1}


async def test_a_file_is_saved_where_none_can_be_read() -> None:
    store, memory = layered(fault=without_a_word)
    for _ in range(2):
        await store.put("k", BytesBody(b"x"), KEEP)
    assert memory.requests == {"PutObject": 2, "GetObjectTagging": 1}


async def test_who_may_not_read_them_may_set_them() -> None:
    error = StoreError("AccessDenied", status=403)
    store, memory = layered(
        fault=lambda name, key, number: Fault(error) if name == "GetObjectTagging" else None
    )
    await store.set_tags("k", {"new": "1"})
    assert tags(memory, "k") == {"new": "1"}


async def test_whether_they_can_be_read_is_asked_once() -> None:
    store, memory = layered()
    for _ in range(2):
        await store.set_tags("k", {"new": "1"})
    assert memory.requests == {"GetObjectTagging": 1, "PutObjectTagging": 2}
