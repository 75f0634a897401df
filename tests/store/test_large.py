"""Large objects of Swift, as Ceph 16 shows and treats them through S3, in memory.

``tests/mount/test_swift.py`` looks at the real ones.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import pytest

from bucketfs.credentials import Anonymous
from bucketfs.errors import PreconditionFailed
from bucketfs.store.aws.answers import object_info
from bucketfs.store.base import (
    BytesBody,
    Capabilities,
    Headers,
    ListPage,
    ObjectInfo,
    Sink,
    is_etag,
    is_manifest,
    manifest_token,
)
from bucketfs.store.capability import Provider
from bucketfs.store.config import StoreConfig
from bucketfs.store.layers.fallback import FallbackStore
from bucketfs.store.layers.large import EMPTY, LargeStore
from tests.harness.memory import MemoryStore, StoredObject

PIECE = 16 << 20
MODE = Headers({"mode": "33152"})
#: What Ceph 16 ignores.
CEPH = Capabilities(
    complete_if_match=False,
    complete_if_none_match=False,
    copy_if_match=False,
    target_if_match=False,
    target_if_none_match=False,
    delete_if_match=False,
    delete_many_if_match=False,
)


class Ceph(MemoryStore):
    """A bucket in which Swift's clients have made large objects."""

    def large(self, key: str, prefix: str, *, manifest: bytes = b"") -> bytes:
        """Make a DLO over the segments with a prefix (with a manifest: an SLO); its bytes."""
        headers = Headers({"color": "blue"}, other={"x-object-manifest": prefix})
        self.objects[key] = StoredObject(manifest, EMPTY, 1, headers)
        return self._whole(key) or b""

    def _whole(self, key: str) -> bytes | None:
        prefix = self.objects[key].headers.other.get("x-object-manifest")
        if not prefix:
            return None
        return b"".join(one.data for name, one in self.objects.items() if name.startswith(prefix))

    def _shown(self, info: ObjectInfo) -> ObjectInfo:
        whole = self._whole(info.key)
        if whole is None:
            return info
        assert info.headers is not None
        digest = hashlib.md5(whole, usedforsecurity=False).hexdigest()
        headers = Headers(info.headers.metadata)
        return replace(info, size=len(whole), etag=manifest_token(digest), headers=headers)

    async def head(self, key: str) -> ObjectInfo:
        return self._shown(await super().head(key))

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
        whole = self._whole(key) if key in self.objects else None
        if whole is None:
            return await super().get(key, sink, start=start, stop=stop, if_match=if_match)
        info = await self.head(key)
        if if_match not in ("", info.etag):
            raise PreconditionFailed("PreconditionFailed", status=412, key=key)
        sink(whole[start:stop])
        return info

    async def copy(
        self,
        source: str,
        target: str,
        *,
        size: int,
        headers: Headers | None = None,
        source_if_match: str = "",
        target_if_match: str = "",
        target_if_none_match: bool = False,
    ) -> ObjectInfo:
        found = self.objects[source]
        kept = replace(found, headers=headers, data=b"") if headers else found
        if self._whole(source) is None:
            kept = replace(kept, data=found.data)
        self.objects[target] = kept
        self.requests["CopyObject"] += 1
        return self.objects[target].info(target)


@pytest.fixture
def ceph() -> Ceph:
    return Ceph(capabilities=CEPH)


@pytest.fixture
def store(ceph: Ceph) -> LargeStore:
    provider = Provider(StoreConfig(bucket="b", credentials=Anonymous(), url="http://host"))
    provider.capabilities = CEPH
    return LargeStore(FallbackStore(ceph, provider))


@pytest.fixture(params=[100, PIECE + 5], ids=["small", "in parts"])
def data(ceph: Ceph, request: pytest.FixtureRequest) -> bytes:
    """The bytes of the large object `d/f`, whose segments lie in `s/`."""
    ceph.poke("s/1", os.urandom(60))
    ceph.poke("s/2", os.urandom(request.param))
    return ceph.large("d/f", "s/")


@pytest.mark.parametrize(
    "header", ["x-object-manifest", "x-static-large-object", "x-object-meta-static-large-object"]
)
def test_recognized_by_its_headers(header: str) -> None:
    info = object_info("k", {"etag": '"ab"', header: "True"}, 3)
    assert is_manifest(info.etag)
    assert not is_etag(info.etag)
    assert not is_manifest(object_info("k", {"etag": '"ab"'}, 3).etag)


async def one(store: LargeStore, key: str) -> ObjectInfo:
    page: ListPage = await store.list(key, limit=1)
    return page.objects[0]


async def test_a_listing_shows_what_a_head_has_shown(store: LargeStore, data: bytes) -> None:
    assert (await one(store, "d/f")).size == 0
    found = await store.head("d/f")
    assert found.size == len(data)
    assert await one(store, "d/f") == replace(found, headers=None)


async def test_another_version_is_not_what_was_shown(
    store: LargeStore, ceph: Ceph, data: bytes
) -> None:
    del data
    await store.head("d/f")
    ceph.objects["d/f"] = replace(ceph.objects["d/f"], last_modified=2)
    assert (await one(store, "d/f")).etag == EMPTY
    ceph.poke("d/f", b"plain")
    assert (await one(store, "d/f")).size == 5
    await store.head("d/f")
    assert (await one(store, "d/f")).size == 5


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("manifest", [b"", b"[{}]"])
async def test_new_attributes_do_not_cost_the_bytes(
    store: LargeStore, ceph: Ceph, data: bytes, *, known: bool, manifest: bytes
) -> None:
    ceph.large("d/f", "s/", manifest=manifest)
    shown = await (store.head("d/f") if known else one(store, "d/f"))
    info = await store.copy("d/f", "d/f", size=shown.size, headers=MODE)
    assert ceph.peek("d/f") == data
    assert ceph.objects["d/f"].headers.metadata == {"mode": "33152"}
    assert info.size == len(data)
    assert is_etag(info.etag)
    assert not ceph.uploads


async def test_a_copy_elsewhere_needs_no_segments(
    store: LargeStore, ceph: Ceph, data: bytes
) -> None:
    """They may be on their way to another name as well; its metadata comes along."""
    await store.copy("d/f", "e/f", size=0)
    del ceph.objects["s/1"]
    assert ceph.peek("e/f") == data
    assert ceph.objects["e/f"].headers.metadata == {"color": "blue"}


async def test_another_name_in_the_directory_keeps_the_manifest(
    store: LargeStore, ceph: Ceph, data: bytes
) -> None:
    found = await store.head("d/f")
    info = await store.copy("d/f", "d/g", size=found.size, source_if_match=found.etag)
    assert (info.size, info.etag) == (len(data), found.etag)
    assert ceph.requests["PutObject"] == ceph.requests["CreateMultipartUpload"] == 0


async def test_a_copy_of_another_version_is_refused(
    store: LargeStore, ceph: Ceph, data: bytes
) -> None:
    del data
    found = await store.head("d/f")
    ceph.poke("s/1", b"other")
    with pytest.raises(PreconditionFailed):
        await store.copy("d/f", "e/f", size=found.size, source_if_match=found.etag)
    assert "e/f" not in ceph.objects


async def test_deleting_the_version_that_is_known(
    store: LargeStore, ceph: Ceph, data: bytes
) -> None:
    del data
    found = await store.head("d/f")
    for name in "abcd":
        ceph.poke(f"d/{name}", b"x")
    versions = {f"d/{name}": (await store.head(f"d/{name}")).etag for name in "abcd"}
    gone = {**versions, "d/f": found.etag}
    assert await store.delete_many([*gone], if_match=gone) == {}
    assert list(ceph.objects) == ["s/1", "s/2"]


async def test_deleting_by_what_a_listing_showed(
    store: LargeStore, ceph: Ceph, data: bytes
) -> None:
    del data
    await store.head("d/f")
    await store.delete("d/f", if_match=EMPTY)
    assert "d/f" not in ceph.objects


async def test_another_version_is_not_deleted(store: LargeStore, ceph: Ceph, data: bytes) -> None:
    del data
    found = await store.head("d/f")
    ceph.poke("s/1", b"other")
    with pytest.raises(PreconditionFailed):
        await store.delete("d/f", if_match=found.etag)
    assert "d/f" in ceph.objects


async def test_replacing_the_version_that_is_known(
    store: LargeStore, ceph: Ceph, data: bytes
) -> None:
    del data
    found = await store.head("d/f")
    await store.put("d/f", BytesBody(b"new"), MODE, if_match=found.etag)
    assert ceph.peek("d/f") == b"new"
    ceph.large("d/f", "s/")
    with pytest.raises(PreconditionFailed):
        await store.put("d/f", BytesBody(b"new"), MODE, if_match="0" * 32)


async def test_plain_files_cost_no_look(store: LargeStore, ceph: Ceph) -> None:
    ceph.poke("f", b"1")
    ceph.poke("dir/", b"")
    await store.copy("f", "g", size=1)
    await store.copy("dir/", "to/", size=0)
    assert ceph.requests["HeadObject"] == 0


async def test_an_empty_file_is_copied_as_it_is(store: LargeStore, ceph: Ceph) -> None:
    ceph.poke("d/f", b"")
    await store.copy("d/f", "e/f", size=0, headers=MODE)
    assert ceph.peek("e/f") == b""
    assert ceph.requests == {"HeadObject": 1, "CopyObject": 1}
