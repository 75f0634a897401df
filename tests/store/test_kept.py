"""What an endpoint takes without a word and loses: it is looked at once, and remembered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bucketfs.credentials import Anonymous
from bucketfs.errors import NotFound, StoreError, Unsupported
from bucketfs.store.base import Body, BytesBody, Capabilities, Headers, ListPage, ObjectInfo
from bucketfs.store.capability import Provider
from bucketfs.store.config import StoreConfig
from bucketfs.store.layers.fallback import FallbackStore
from tests.harness.memory import Fault, FaultHook, MemoryStore

LINK = Headers({"mode": "41471"}, essential=True)
FILE = Headers({"mode": "33188"})
EMPTY = BytesBody(b"")


class Losing(MemoryStore):
    """Loses user metadata, or the slash that a key ends in, or is late with listings."""

    def __init__(
        self,
        *,
        metadata: bool = False,
        slash: bool = False,
        late: bool = False,
        fault: FaultHook | None = None,
    ) -> None:
        super().__init__(capabilities=Capabilities(min_part=1), fault=fault)
        self.metadata, self.slash, self.late = metadata, slash, late

    async def put(self, key: str, body: Body, headers: Headers, **more: object) -> ObjectInfo:
        if self.metadata:
            headers = replace(headers, metadata={})
        return await super().put(self._key(key), body, headers, **more)  # type: ignore[arg-type]

    async def copy(
        self, *args: object, headers: Headers | None = None, **more: object
    ) -> ObjectInfo:
        if self.metadata and headers is not None:
            headers = replace(headers, metadata={})
        return await super().copy(*args, headers=headers, **more)  # type: ignore[arg-type]

    async def head(self, key: str) -> ObjectInfo:
        return await super().head(self._key(key))

    async def delete(self, key: str, **more: object) -> None:
        await super().delete(self._key(key), **more)  # type: ignore[arg-type]

    async def list(self, *args: object, **more: object) -> ListPage:
        page = await super().list(*args, **more)  # type: ignore[arg-type]
        return ListPage([], [], None) if self.late else page

    def _key(self, key: str) -> str:
        return key.rstrip("/") if self.slash else key


def strangers(memory: MemoryStore, known: Path | None = None) -> tuple[FallbackStore, Provider]:
    provider = Provider(StoreConfig("b", Anonymous(), url="http://host", known=known))
    return FallbackStore(memory, provider), provider


async def test_a_link_that_would_be_a_file_is_none(tmp_path: Path) -> None:
    memory = Losing(metadata=True)
    store, provider = strangers(memory, tmp_path / "known")
    with pytest.raises(Unsupported):
        await store.put("link", BytesBody(b"target"), LINK)
    assert not memory.objects
    before = memory.requests.total()
    for again in (store, strangers(memory, tmp_path / "known")[0]):
        with pytest.raises(Unsupported):
            await again.put("link", BytesBody(b"target"), LINK)
    assert memory.requests.total() == before
    assert not provider.capabilities.user_metadata
    await store.put("file", BytesBody(b"x"), FILE)
    assert memory.peek("file") == b"x"


async def test_metadata_that_is_kept_is_looked_at_once() -> None:
    memory = Losing()
    store, _ = strangers(memory)
    for name in ("a", "b"):
        await store.put(name, BytesBody(b"target"), LINK)
    assert memory.requests == {"PutObject": 2, "HeadObject": 1}


@pytest.mark.parametrize("metadata", [True, False])
async def test_a_copy_that_changes_nothing_but_metadata(metadata: bool) -> None:
    memory = Losing(metadata=metadata)
    store, provider = strangers(memory)
    memory.poke("a", b"x")
    for _ in range(2):
        await store.copy("a", "a", size=1, headers=FILE)
    copies = 1 if metadata else 2
    assert memory.requests == {"CopyObject": copies, "HeadObject": 3 - copies}
    assert provider.capabilities.user_metadata == (not metadata)


async def test_metadata_that_was_seen_is_kept() -> None:
    memory = Losing()
    store, _ = strangers(memory)
    memory.poke("a", b"x", FILE)
    await store.head("a")
    await store.put("link", BytesBody(b"target"), LINK)
    assert memory.requests == {"HeadObject": 1, "PutObject": 1}


@pytest.mark.parametrize("late", [True, False], ids=["late listings", "listings"])
async def test_markers_that_are_kept(late: bool) -> None:
    memory = Losing(late=late)
    store, provider = strangers(memory)
    for name in ("d/", "e/"):
        await store.put(name, EMPTY, FILE)
    assert list(memory.objects) == ["d/", "e/"]
    assert provider.capabilities.markers
    assert memory.requests["ListObjectsV2"] == 2, "before the first and after it"


async def test_markers_that_become_files(tmp_path: Path) -> None:
    memory = Losing(slash=True)
    store, _ = strangers(memory, tmp_path / "known")
    marker = await store.put("d/", EMPTY, FILE)
    assert not memory.objects
    memory.poke("d", b"a file of that name")
    before = memory.requests.total()
    for again in (store, strangers(memory, tmp_path / "known")[0]):
        assert await again.put("e/", EMPTY, FILE) == replace(marker, key="e/")
        with pytest.raises(NotFound):
            await again.head("d/")
        await again.delete("d/", if_match=marker.etag)
        assert await again.delete_many(["d/"]) == {}
    assert list(memory.objects) == ["d"]
    assert memory.requests.total() == before


async def test_a_directory_that_has_got_entries_says_nothing() -> None:
    memory = Losing(slash=True)
    store, provider = strangers(memory)
    memory.poke("d/f", b"")
    await store.put("d/", EMPTY, FILE)
    assert provider.is_unseen("markers")


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "cut off"])
async def test_a_slash_that_is_lost_shows_without_a_write(refused: bool) -> None:
    """A file whose key is asked for with a slash behind it is none."""

    def refusing(name: str, key: str, _number: int) -> Fault | None:
        slash = refused and name == "HeadObject" and key.endswith("/")
        return Fault(StoreError("400", status=400)) if slash else None

    memory = Losing(slash=not refused, fault=refusing)
    store, provider = strangers(memory)
    memory.poke("f", b"x")
    await store.put("d/", EMPTY, FILE)
    assert not provider.capabilities.markers
    assert memory.requests["PutObject"] == 0


async def test_a_file_that_is_no_directory_says_nothing_of_markers() -> None:
    """An endpoint on a file system may refuse to look for something below a file."""

    def refusing(name: str, key: str, _number: int) -> Fault | None:
        below = name == "HeadObject" and key == "f/"
        return Fault(StoreError("400", status=400)) if below else None

    memory = Losing(fault=refusing)
    store, _ = strangers(memory)
    memory.poke("f", b"x")
    await store.put("d/", EMPTY, FILE)
    assert sorted(memory.objects) == ["d/", "f"]


async def test_a_marker_that_is_listed_is_kept() -> None:
    memory = Losing()
    store, _ = strangers(memory)
    memory.poke("c/", b"")
    for name in ("d/", "e/"):
        await store.put(name, EMPTY, FILE)
    assert memory.requests == {"ListObjectsV2": 1, "PutObject": 2}


@pytest.mark.parametrize("known", [True, False], ids=["metadata was seen", "nobody has seen any"])
async def test_an_object_that_may_not_be_copied_onto_itself(known: bool) -> None:
    """Carried there where it has metadata; where nobody has seen any it stays as it is."""
    refusal = Fault(StoreError("InvalidRequest", status=400))
    memory = Losing(fault=lambda name, *_: refusal if name == "CopyObject" else None)
    store, provider = strangers(memory)
    memory.poke("a", b"x", FILE if known else Headers())
    changed = Headers({"mode": "33152"})
    info = await store.copy("a", "a", size=1, headers=changed)
    assert info.etag == memory.objects["a"].info("a").etag
    assert memory.objects["a"].headers == (changed if known else Headers())
    assert provider.capabilities.user_metadata == known


def refusing(status: int, end: str) -> MemoryStore:
    """Refuses HEADs of keys that end so; to these nobody says why."""
    kind = StoreError if status == 400 else Unsupported
    refusal = Fault(kind(f"{status}", status=status))
    return MemoryStore(
        fault=lambda name, key, _: refusal if name == "HeadObject" and key.endswith(end) else None
    )


@pytest.mark.parametrize("status", [400, 405])
async def test_a_marker_that_may_not_be_asked_for_is_none(status: int) -> None:
    store, _ = strangers(refusing(status, "/"))
    with pytest.raises(NotFound) as raised:
        await store.head("d/")
    assert raised.value.code == f"{status}"
    with pytest.raises(NotFound) as raised:
        await store.head("d")
    assert raised.value.code == "NoSuchKey"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("status", [400, 405])
async def test_a_refusal_of_all_says_nothing_of_a_marker(status: int, known: bool) -> None:
    """Amazon says 400 for expired keys: who took it for no marker stored one in its place."""
    store, provider = strangers(refusing(status, "/" if known else ""))
    if known:
        provider.confirm("markers")
    with pytest.raises(StoreError) as raised:
        await store.head("d/")
    assert raised.value.status == status
    assert provider.capabilities.markers


@pytest.mark.parametrize(
    ("code", "remembered"), [("NotImplemented", True), ("InvalidRequest", False)]
)
async def test_multipart_uploads_that_are_refused(
    tmp_path: Path, code: str, remembered: bool
) -> None:
    """Who does not say that there are none may have meant this one alone."""
    kind = Unsupported if remembered else StoreError
    refusal = kind(code, status=501 if remembered else 400)
    memory = MemoryStore(
        fault=lambda name, *_: Fault(refusal) if name == "CreateMultipartUpload" else None
    )
    store, provider = strangers(memory, tmp_path / "known")
    with pytest.raises(Unsupported):
        await store.create_upload("k", FILE)
    assert not provider.capabilities.multipart
    again = strangers(memory, tmp_path / "known")[1]
    assert again.capabilities.multipart == (not remembered)
