"""What an endpoint lacks is made of what it has."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.credentials import Anonymous
from bucketfs.errors import (
    KeyTaken,
    NoAnswer,
    PreconditionFailed,
    StoreError,
    Unsupported,
    errno_of,
)
from bucketfs.store.base import NO_CONDITIONS, BytesBody, Capabilities, Headers, version_token
from bucketfs.store.capability import AWS, UNKNOWN, Provider, profile_of
from bucketfs.store.config import StoreConfig
from bucketfs.store.layers.fallback import FallbackStore, part_plan
from tests.harness.memory import Fault, FaultHook, MemoryStore
from tests.store.test_transport import BODY, HEAD, talking

PLAIN = Headers()
#: Without the conditions that hardly anybody has.
BLIND = {
    "target_if_match": False,
    "target_if_none_match": False,
    "delete_if_match": False,
    "delete_many_if_match": False,
}


def limited(
    fault: FaultHook | None = None, **abilities: object
) -> tuple[FallbackStore, MemoryStore, Provider]:
    """A fallback over an in-memory endpoint with these abilities, known in advance."""
    capabilities = Capabilities(min_part=1, **abilities)  # type: ignore[arg-type]
    memory = MemoryStore(capabilities=capabilities, fault=fault)
    provider = Provider(StoreConfig(bucket="b", credentials=Anonymous(), url="http://host"))
    provider.capabilities = capabilities
    return FallbackStore(memory, provider), memory, provider


def refusing(*operations: str) -> FaultHook:
    error = Unsupported("NotImplemented", status=501)
    return lambda name, key, number: Fault(error) if name in operations else None


@pytest.mark.parametrize("odd", ["\x01", "\t", "\r", "\ufffe", "\uffff"])
async def test_keys_that_xml_cannot_name_spoil_no_batch(odd: str) -> None:
    store, memory, _ = limited()
    keys = ["a", f"b{odd}", "c\u00a0", "\U0001f600", "e\x7f"]
    for key in keys:
        memory.poke(key, b"x")
    assert await store.delete_many(keys) == {}
    assert not memory.objects
    assert memory.requests == {"DeleteObjects": 1, "DeleteObject": 1}


async def test_large_copies_go_by_parts() -> None:
    store, memory, _ = limited(max_copy=1000)
    source = memory.poke("a", os.urandom(3500), Headers({"mode": "1"}, "text/plain"))
    await store.copy("a", "b", size=3500, source_if_match=source.etag)
    assert memory.peek("b") == memory.peek("a")
    assert memory.objects["b"].headers == Headers({"mode": "1"}, "text/plain")
    assert memory.requests["UploadPartCopy"] == 4
    assert memory.requests["CopyObject"] == 0


async def test_a_large_copy_that_fails_leaves_nothing_behind() -> None:
    lost = Fault(NoAnswer("ConnectionClosed"))
    store, memory, _ = limited(
        lambda name, key, n: lost if (name, n) == ("UploadPartCopy", 2) else None, max_copy=1000
    )
    memory.poke("a", bytes(3500))
    with pytest.raises(NoAnswer):
        await store.copy("a", "b", size=3500)
    assert "b" not in memory.objects
    assert not memory.uploads


async def test_of_parts_that_fail_together_one_failure_is_told() -> None:
    lost = Fault(NoAnswer("ConnectionClosed"))
    store, memory, _ = limited(
        lambda name, _key, _n: lost if name == "UploadPartCopy" else None, max_copy=1000
    )
    memory.poke("a", bytes(3500))
    with pytest.raises(NoAnswer):
        await store.copy("a", "b", size=3500)
    assert not memory.uploads


async def test_without_copy_it_goes_through_this_machine() -> None:
    store, memory, provider = limited(refusing("CopyObject"))
    memory.poke("a", b"data", Headers({"mode": "1"}))
    await store.copy("a", "b", size=4)
    await store.copy("a", "c", size=4, headers=Headers({"mode": "2"}))
    assert (memory.peek("b"), memory.objects["b"].headers.metadata) == (b"data", {"mode": "1"})
    assert memory.objects["c"].headers.metadata == {"mode": "2"}
    assert memory.requests["CopyObject"] == 1
    assert provider.capabilities.copy is False


@pytest.mark.parametrize("known", [2, 4])
async def test_a_copy_by_hand_of_another_length_is_no_copy(known: int) -> None:
    """A server without conditions has another version by now: half of it must not be published."""
    store, memory, _ = limited(copy=False)
    memory.poke("a", b"abc")
    with pytest.raises(PreconditionFailed):
        await store.copy("a", "b", size=known)
    assert "b" not in memory.objects


async def test_a_copy_by_hand_that_has_no_room_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    real = os.statvfs(tmp_path)
    full = SimpleNamespace(f_bavail=0, f_frsize=real.f_frsize)
    monkeypatch.setattr(os, "fstatvfs", lambda _fd: full)
    store, memory, _ = limited(copy=False)
    memory.poke("a", b"data")
    with pytest.raises(StoreError, match=f"in {tmp_path}: No space left") as caught:
        await store.copy("a", "b", size=4)
    assert errno_of(caught.value) == errno.ENOSPC
    assert memory.requests["GetObject"] == 0


async def test_a_copy_by_hand_that_fills_the_disk_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/somewhere")
    full = Path("/dev/full")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda buffering=-1: full.open("r+b", buffering))
    async with talking(HEAD, BODY, BODY, BODY, retries=2) as (inner, script):
        provider = Provider(StoreConfig(bucket="b", credentials=Anonymous(), url="http://host"))
        provider.demote(copy=False)
        with pytest.raises(StoreError, match="in /tmp/somewhere: No space left") as caught:
            await FallbackStore(inner, provider).copy("a", "b", size=5)
    assert errno_of(caught.value) == errno.ENOSPC
    assert len(script.seen) == 2


async def test_without_conditions_it_looks_first() -> None:
    store, memory, _ = limited(
        put_if_match=False,
        put_if_none_match=False,
        complete_if_match=False,
        complete_if_none_match=False,
        copy_if_match=False,
    )
    memory.poke("k", b"old")
    with pytest.raises(KeyTaken):
        await store.put("k", BytesBody(b"new"), PLAIN, if_none_match=True)
    with pytest.raises(PreconditionFailed):
        await store.put("k", BytesBody(b"new"), PLAIN, if_match="0" * 32)
    with pytest.raises(PreconditionFailed):
        await store.copy("k", "l", size=3, source_if_match="0" * 32)
    upload = await store.create_upload("k", PLAIN)
    with pytest.raises(KeyTaken):
        await store.complete("k", upload, [(1, "x")], size=3, if_none_match=True)
    assert memory.peek("k") == b"old"
    await store.put("k", BytesBody(b"new"), PLAIN, if_match=memory.objects["k"].etag)
    assert memory.peek("k") == b"new"


async def test_without_batches_it_deletes_one_by_one() -> None:
    store, memory, provider = limited(refusing("DeleteObjects"))
    for key in ("a", "b", "c"):
        memory.poke(key, b"")
    assert await store.delete_many(["a", "b"]) == {}
    assert list(memory.objects) == ["c"]
    assert provider.capabilities.delete_many is False


async def test_what_cannot_be_deleted_is_named() -> None:
    denied = StoreError("AccessDenied", status=403)
    store, _, _ = limited(
        lambda name, key, n: Fault(denied) if key == "b" else None, delete_many=False
    )
    stayed: Mapping[str, StoreError] = await store.delete_many(["a", "b"])
    assert stayed == {"b": denied}


async def test_without_conditions_it_looks_before_it_deletes_or_copies_over() -> None:
    store, memory, _ = limited(**BLIND)
    old, other = memory.poke("k", b"old"), memory.poke("l", b"other")
    with pytest.raises(PreconditionFailed):
        await store.delete("k", if_match=other.etag)
    with pytest.raises(PreconditionFailed):
        await store.copy("k", "l", size=3, target_if_match=old.etag)
    with pytest.raises(KeyTaken):
        await store.copy("k", "l", size=3, target_if_none_match=True)
    assert (memory.peek("k"), memory.peek("l")) == (b"old", b"other")
    await store.copy("k", "l", size=3, target_if_match=other.etag)
    await store.copy("k", "m", size=3, target_if_none_match=True)
    await store.delete("k", if_match=old.etag)
    await store.delete("k", if_match=old.etag)
    assert list(memory.objects) == ["l", "m"]
    assert memory.requests == {"HeadObject": 7, "CopyObject": 2, "DeleteObject": 1}


@pytest.mark.parametrize("abilities", [BLIND, {}], ids=["blind", "able"])
@pytest.mark.parametrize("count", [2, 2500])
async def test_many_are_deleted_in_the_version_that_is_known(
    count: int, abilities: dict[str, bool]
) -> None:
    """What is looked at in between is looked at by listings, if it is much."""
    store, memory, _ = limited(**abilities)
    known = {f"d/{n:04}": memory.poke(f"d/{n:04}", b"%d" % n).etag for n in range(count)}
    memory.poke("d/0001", b"theirs")
    del memory.objects["d/0000"]
    for key in ("c", "d/", "d/0000x", "d/~"):
        memory.poke(key, b"")
    stayed = await store.delete_many([*known], if_match=known)
    assert stayed.keys() == {"d/0001"}
    assert isinstance(stayed["d/0001"], PreconditionFailed)
    assert list(memory.objects) == ["c", "d/", "d/0000x", "d/0001", "d/~"]
    batches = -(-count // 1000)
    if not abilities:  # and what is said to be another version is looked at, once
        assert memory.requests == {"DeleteObjects": batches, "HeadObject": 1}
    elif count == 2:
        assert memory.requests == {"HeadObject": 2}
    else:
        assert memory.requests["DeleteObjects"] == batches
        assert memory.requests["ListObjectsV2"] <= 2 * batches
        assert memory.requests["HeadObject"] == 0


async def test_versions_without_an_etag_are_looked_at() -> None:
    store, memory, _ = limited()
    info = memory.poke("k", b"old")
    token = version_token(info.size, info.last_modified)
    with pytest.raises(PreconditionFailed):
        await store.delete("k", if_match=token)
    assert (await store.delete_many(["k"], if_match={"k": token})).keys() == {"k"}
    with pytest.raises(PreconditionFailed):
        await store.copy("k", "k", size=3, target_if_match=token)
    assert memory.requests == {"HeadObject": 3}


@pytest.mark.parametrize("code", ["NotImplemented", "InvalidArgument"])
async def test_refused_conditions_on_deletions_are_learned(code: str) -> None:
    """In the same call, and the next one does not try again."""
    memory = Picky(code)
    provider = Provider(StoreConfig(bucket="b", credentials=Anonymous(), url="http://host"))
    provider.capabilities = Capabilities()
    store = FallbackStore(memory, provider)
    for refused in (True, False):
        memory.refused = 0
        etag = memory.poke("k", b"old").etag
        with pytest.raises(PreconditionFailed):
            await store.delete("k", if_match="0" * 32)
        await store.delete("k", if_match=etag)
        etag = memory.poke("k", b"old").etag
        assert await store.delete_many(["k"], if_match={"k": etag}) == {}
        assert (await store.delete_many(["k"], if_match={"k": etag})) == {}
        assert not memory.objects
        assert bool(memory.refused) == refused
    able = provider.capabilities
    assert (able.delete_if_match, able.delete_many_if_match) == (False, False)


class Picky(MemoryStore):
    """An endpoint that refuses deletions with a condition, or says that each is false."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code
        self.refused = 0

    async def delete(self, key: str, *, if_match: str = "") -> None:
        if if_match:
            raise self._refusal(key)
        await super().delete(key)

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        if if_match and self.code == "PreconditionFailed":
            return {key: self._refusal(key) for key in keys}
        if if_match:
            raise self._refusal(keys[0])
        return await super().delete_many(keys)

    def _refusal(self, key: str) -> StoreError:
        self.refused += 1
        if self.code == "PreconditionFailed":
            return PreconditionFailed(self.code, status=412, operation="DeleteObject", key=key)
        kind = Unsupported if self.code == "NotImplemented" else StoreError
        return kind(self.code, status=501 if kind is Unsupported else 400, key=key)


async def test_who_says_of_every_version_that_it_is_another_is_not_believed() -> None:
    """Ceph 16 does so for PutObject in a bucket with versions: nothing could be renamed."""
    memory = Picky("PreconditionFailed")
    provider = Provider(StoreConfig(bucket="b", credentials=Anonymous(), url="http://host"))
    provider.capabilities = Capabilities()
    store = FallbackStore(memory, provider)
    keys = [*"abcdef"]
    known = {key: memory.poke(key, key.encode()).etag for key in keys}
    memory.poke("c", b"theirs")
    await store.delete("gone", if_match="0" * 32)
    assert provider.capabilities.delete_if_match, "it may have meant that there is none"
    await store.delete("a", if_match=known["a"])
    assert (await store.delete_many(keys, if_match=known)).keys() == {"c"}
    assert list(memory.objects) == ["c"]
    able = provider.capabilities
    assert (able.delete_if_match, able.delete_many_if_match) == (False, False)


async def test_large_copies_are_conditional_too() -> None:
    for abilities in ({"max_copy": 1000}, {"copy": False}, {"copy": False, "max_put": 1000}):
        store, memory, _ = limited(**abilities)
        memory.poke("a", bytes(3500))
        old = memory.poke("b", b"theirs")
        with pytest.raises(PreconditionFailed):
            await store.copy("a", "b", size=3500, target_if_none_match=True)
        with pytest.raises(PreconditionFailed):
            await store.copy("a", "b", size=3500, target_if_match="0" * 32)
        assert memory.peek("b") == b"theirs"
        await store.copy("a", "b", size=3500, target_if_match=old.etag)
        await store.copy("a", "c", size=3500, target_if_none_match=True)
        assert memory.peek("b") == memory.peek("c") == bytes(3500)
        assert not memory.uploads


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    ("honoured", "requests"),
    [
        ((), 6),
        (("put",), 6),
        (("put", "delete"), 7),
        (("put", "delete", "delete_many"), 8),
        (("put", "target"), 7),
        (("put", "target", "delete", "delete_many"), 9),
    ],
)
async def test_the_probe_finds_out_about_conditions(
    honoured: Sequence[str], requests: int, trusted: bool
) -> None:
    """Also that a server which says that it is Amazon's is not."""
    names = {
        "put": ("put_if_match", "put_if_none_match"),
        "target": ("target_if_match", "target_if_none_match"),
        "delete": ("delete_if_match",),
        "delete_many": ("delete_many_if_match",),
    }
    able = {name: kind in honoured for kind, each in names.items() for name in each}
    store, memory, provider = limited(**able)
    provider.capabilities = Capabilities() if trusted else replace(Capabilities(), **BLIND)
    await store.check()
    assert {name: getattr(provider.capabilities, name) for name in able} == able
    assert not memory.objects
    before = memory.requests.total()
    assert before == 1 + requests - ("put" not in honoured)
    await store.check()
    assert memory.requests.total() == before + 1


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("operation", ["CopyObject", "DeleteObject", "DeleteObjects"])
@pytest.mark.parametrize("code", ["NotImplemented", "InvalidRequest"])
async def test_the_probe_takes_a_refusal_for_an_answer(
    operation: str, code: str, trusted: bool
) -> None:
    """Not everybody copies an object onto itself, or has read of conditions."""
    kind = Unsupported if code == "NotImplemented" else StoreError
    refusal = Fault(kind(code, status=501 if kind is Unsupported else 400))
    store, memory, provider = limited(
        lambda name, _key, number: refusal if (name, number) == (operation, 1) else None
    )
    provider.capabilities = Capabilities() if trusted else replace(Capabilities(), **BLIND)
    await store.check()
    able = provider.capabilities
    assert able.target_if_match == able.target_if_none_match == (operation != "CopyObject")
    assert able.delete_if_match == (operation != "DeleteObject")
    assert able.delete_many_if_match == (operation == "CopyObject")
    assert not memory.objects


async def test_the_probe_respects_a_bucket_it_may_not_write() -> None:
    denied = StoreError("AccessDenied", status=403)
    store, _, provider = limited(lambda name, *_: Fault(denied) if name == "PutObject" else None)
    before = provider.capabilities
    await store.check()
    assert provider.capabilities == before


@pytest.mark.parametrize("refused", range(2, 6))
@pytest.mark.parametrize("code", ["AccessDenied", "QuotaExceeded"])
async def test_the_probe_survives_a_later_refusal(
    code: str, refused: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is a half-known spelling of conditions kept; this store takes no ETag for the right."""
    caplog.set_level("INFO")
    denied = Fault(StoreError(code, status=403, operation="PutObject"))
    changed = Fault(PreconditionFailed("PreconditionFailed", status=412))

    def fault(name: str, _key: str, number: int) -> Fault | None:
        if name != "PutObject" or number < 2:
            return None
        return denied if number == refused else changed

    store, memory, provider = limited(fault)
    before = provider.capabilities
    await store.check()
    assert (provider.capabilities, provider.quoted) == (before, True)
    assert not memory.objects
    assert memory.requests["PutObject"] == refused
    assert caplog.text.count(code) == 1
    assert len(caplog.records) == 1


async def test_the_probe_survives_a_bucket_that_keeps_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    denied = StoreError("AccessDenied", status=403, operation="DeleteObject")
    store, memory, _ = limited(lambda name, *_: Fault(denied) if name == "DeleteObject" else None)
    await store.check()
    (key,) = memory.objects
    assert key.startswith(".bucketfs-probe-")
    assert "stays in the bucket: DeleteObject" in caplog.text
    caplog.clear()


@given(st.integers(0, 1 << 46), st.integers(1, 1 << 32), st.integers(1, 10_000))
def test_part_plans_cover_all(size: int, wish: int, most: int) -> None:
    if size // wish > 20_000:
        wish = size // 20_000
    plan = part_plan(size, wish, most)
    assert len(plan) <= max(most, 1)
    assert [part.number for part in plan] == list(range(1, len(plan) + 1))
    assert plan[0].start == 0
    assert plan[-1].stop == size
    assert all(one.stop == other.start for one, other in pairwise(plan))
    assert len({part.stop - part.start for part in plan[:-1]}) <= 1


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_host_has_a_profile(host: str, server: str) -> None:
    assert profile_of(host, server) is not None


@pytest.mark.parametrize(
    ("host", "server", "name"),
    [
        ("127.0.0.1", "", UNKNOWN.name),
        ("", "AmazonS3", AWS.name),
        ("abc.eu.r2.cloudflarestorage.com", "cloudflare", "Cloudflare R2"),
        ("storage.googleapis.com", "UploadServer", "Google Cloud Storage"),
        ("s3.eu-de.cloud-object-storage.appdomain.cloud", "", "IBM Cloud Object Storage"),
        ("fly.storage.tigris.dev", "", "Tigris"),
        ("t3.storage.dev", "", "Tigris"),
        ("storage.yandexcloud.net", "nginx", "Yandex Object Storage"),
        ("notr2.cloudflarestorage.com.evil.example", "", UNKNOWN.name),
    ],
)
def test_known_providers(host: str, server: str, name: str) -> None:
    assert profile_of(host, server).name == name
