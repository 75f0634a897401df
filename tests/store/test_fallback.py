"""What an endpoint lacks is made of what it has."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
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
from bucketfs.store.base import BytesBody, Capabilities, Headers
from bucketfs.store.capability import AWS, UNKNOWN, Provider, profile_of
from bucketfs.store.config import StoreConfig
from bucketfs.store.fallback import FallbackStore, part_plan
from bucketfs.store.memory import Fault, FaultHook, MemoryStore
from tests.store.test_transport import BODY, HEAD, talking

PLAIN = Headers()


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


@pytest.mark.parametrize("honoured", [True, False])
async def test_the_probe_finds_out_about_conditions(honoured: bool) -> None:
    store, memory, provider = limited(put_if_match=honoured, put_if_none_match=honoured)
    provider.capabilities = Capabilities()
    await store.check()
    found = provider.capabilities
    assert (found.put_if_match, found.put_if_none_match) == (honoured, honoured)
    assert not memory.objects
    before = memory.requests.total()
    await store.check()
    assert memory.requests.total() == before + 1


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
        ("notr2.cloudflarestorage.com.evil.example", "", UNKNOWN.name),
    ],
)
def test_known_providers(host: str, server: str, name: str) -> None:
    assert profile_of(host, server).name == name
