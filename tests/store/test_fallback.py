"""What an endpoint lacks is made of what it has."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
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
from bucketfs.store.base import (
    NO_CONDITIONS,
    BytesBody,
    Capabilities,
    Headers,
    ListPage,
    version_token,
)
from bucketfs.store.capability import UNKNOWN, Provider, profile_of
from bucketfs.store.config import StoreConfig
from bucketfs.store.layers.copying import CARRIED_MOST, part_plan
from bucketfs.store.layers.fallback import FallbackStore
from bucketfs.store.layers.retry import RetryPolicy, RetryStore
from tests.harness.memory import Fault, FaultHook, MemoryStore
from tests.harness.providers import provider_with
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
    provider = provider_with(capabilities)
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
    full = Path("/dev/full")
    async with talking(HEAD, BODY, BODY, BODY, retries=2) as (inner, script):
        monkeypatch.setattr(tempfile, "tempdir", "/tmp/somewhere")
        monkeypatch.setattr(
            tempfile, "TemporaryFile", lambda buffering=-1: full.open("r+b", buffering)
        )
        provider = provider_with(Capabilities(copy=False))
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
    await store.delete("k", if_match=old.etag)
    await store.delete("k", if_match=old.etag)
    assert list(memory.objects) == ["l"]
    assert memory.requests == {
        "HeadObject": 5, "CopyObject": 1, "DeleteObject": 1, "GetObject": 1, "PutObject": 1,
    }  # fmt: skip


@pytest.mark.parametrize("size", [0, CARRIED_MOST, CARRIED_MOST + 1])
async def test_a_copy_to_a_name_that_must_be_free_is_carried_there(size: int) -> None:
    """A PUT has the condition that the copy lacks; of two who want the name one gets it."""
    data, headers = os.urandom(size), Headers({"mode": "33188"}, "text/plain")

    def taken(name: str, key: str, _number: int) -> None:
        if race and name in ("GetObject", "CopyObject"):  # after any look
            memory.poke("race", b"theirs")

    race = False
    store, memory, _ = limited(taken, **BLIND)
    old = memory.poke("a", data, headers)
    await store.copy("a", "b", size=size, source_if_match=old.etag, target_if_none_match=True)
    await store.copy("a", "c", size=size, headers=PLAIN, target_if_none_match=True)
    assert memory.peek("b") == memory.peek("c") == data
    assert [memory.objects[key].headers for key in "bc"] == [headers, PLAIN]
    with pytest.raises(KeyTaken):
        await store.copy("a", "b", size=size, target_if_none_match=True)
    with pytest.raises(PreconditionFailed):
        await store.copy("a", "d", size=size, source_if_match="0" * 32, target_if_none_match=True)
    carried = size <= CARRIED_MOST
    assert memory.requests["CopyObject"] == (0 if carried else 3)
    race = True
    if carried:
        with pytest.raises(KeyTaken):
            await store.copy("a", "race", size=size, target_if_none_match=True)
        assert memory.peek("race") == b"theirs"


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
        assert memory.requests["HeadObject"] == 1  # for the one that no listing names


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
    provider = provider_with(Capabilities())
    memory = Picky(code, provider)
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
    """An endpoint that refuses deletions with a condition, or says that each is false.

    As in the store above it, a condition is in the request where the provider has it.
    """

    def __init__(self, code: str, provider: Provider) -> None:
        super().__init__()
        self.code = code
        self.provider = provider
        self.refused = 0

    async def delete(self, key: str, *, if_match: str = "") -> None:
        if if_match and self.provider.carries("delete_if_match"):
            raise self._refusal(key)
        await super().delete(key)

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        if if_match and self.provider.carries("delete_many_if_match"):
            if self.code == "PreconditionFailed":
                return {key: self._refusal(key) for key in keys}
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
    provider = provider_with(Capabilities())
    memory = Picky("PreconditionFailed", provider)
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


@pytest.mark.mock_clock
@pytest.mark.parametrize("request_", ["DeleteObject", "DeleteObjects"])
@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize("theirs", [True, False])
async def test_a_deletion_whose_answer_was_lost_is_not_repeated_blindly(
    request_: str, carried_out: bool, theirs: bool
) -> None:
    """The endpoint looks at no condition, and until it is repeated others may have the name."""

    def fault(operation: str, key: str, number: int) -> Fault | None:
        if theirs and operation == "HeadObject" and key == "b" and memory.requests[request_]:
            memory.poke("b", b"theirs")
        lost = (operation, number) == (request_, 1)
        return Fault(NoAnswer("ConnectionClosed"), after=carried_out) if lost else None

    able = Capabilities(delete_if_match=False, delete_many_if_match=False)
    memory = MemoryStore(capabilities=able, fault=fault)
    store = FallbackStore(RetryStore(memory, RetryPolicy()), provider_with(able))
    keys = ["b"] if request_ == "DeleteObject" else [*"abcd"]
    known = {key: memory.poke(key, b"ours").etag for key in keys}
    if request_ == "DeleteObject":
        with pytest.raises(PreconditionFailed) if theirs else nullcontext():
            await store.delete("b", if_match=known["b"])
    else:
        stayed = await store.delete_many(keys, if_match=known)
        assert [type(exc) for exc in stayed.values()] == [PreconditionFailed] * theirs
    assert {key: memory.peek(key) for key in memory.objects} == ({"b": b"theirs"} if theirs else {})
    again = not carried_out and not (theirs and len(keys) == 1)
    assert memory.requests[request_] == 1 + again, "what was carried out is not repeated"


@pytest.mark.parametrize(
    "request_", ["PutObject", "CopyObject", "UploadPartCopy", "DeleteObject", "DeleteObjects"]
)
async def test_who_is_right_once_is_believed_although_others_change_their_mind(
    request_: str,
) -> None:
    """They replace what is there, and restore it between the refusal and our look."""
    theirs = False

    def interfere(operation: str, _key: str, number: int) -> Fault | None:
        nonlocal theirs
        if (operation, number) == (request_, 1):
            memory.poke("k", b"theirs")
            theirs = True
        elif theirs and operation == "HeadObject":
            memory.poke("k", b"old")
        return None

    able = Capabilities(min_part=1)
    memory, provider = MemoryStore(capabilities=able, fault=interfere), provider_with(able)
    store = FallbackStore(memory, provider)
    etag = memory.poke("k", b"old").etag
    match request_:
        case "PutObject":
            await store.put("k", BytesBody(b"new"), PLAIN, if_match=etag)
            assert memory.peek("k") == b"new"
        case "CopyObject":
            await store.copy("k", "l", size=3, source_if_match=etag)
            assert memory.peek("l") == b"old"
        case "UploadPartCopy":
            upload = await store.create_upload("l", PLAIN)
            await store.copy_part("l", upload, 1, source="k", start=0, stop=3, source_if_match=etag)
        case "DeleteObject":
            await store.delete("k", if_match=etag)
            assert not memory.objects
        case _:
            assert await store.delete_many(["k"], if_match={"k": etag}) == {}
            assert not memory.objects
    assert (provider.capabilities, provider.quoted) == (able, True)


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


@given(st.text(max_size=30))
def test_any_host_has_a_profile(host: str) -> None:
    assert profile_of(host) is not None


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1", UNKNOWN.name),
        ("", UNKNOWN.name),
        ("abc.eu.r2.cloudflarestorage.com", "Cloudflare R2"),
        ("storage.googleapis.com", "Google Cloud Storage"),
        ("s3.eu-de.cloud-object-storage.appdomain.cloud", "IBM Cloud Object Storage"),
        ("fly.storage.tigris.dev", "Tigris"),
        ("t3.storage.dev", "Tigris"),
        ("storage.yandexcloud.net", "Yandex Object Storage"),
        ("notr2.cloudflarestorage.com.evil.example", UNKNOWN.name),
    ],
)
def test_known_providers(host: str, name: str) -> None:
    assert profile_of(host).name == name


class Walking(MemoryStore):
    """Lists as SeaweedFS does: directory by directory, so that ``a/b`` comes before ``a-``."""

    async def list(
        self, prefix: str, *, token: str | None = None, start_after: str = "", **_: object
    ) -> ListPage:
        def turn(key: str) -> str:
            return key.replace("/", "\0")

        after = turn(token or start_after)
        keys = [key for key in self.objects if key.startswith(prefix) and turn(key) > after]
        page = sorted(keys, key=turn)[: self.page]
        token = page[-1] if len(page) < len(keys) else None
        return ListPage([self.objects[key].info(key, listed=True) for key in page], [], token)


@pytest.mark.parametrize("page", [2, 1000])
async def test_what_a_listing_in_another_order_passes_over_is_deleted_all_the_same(
    page: int,
) -> None:
    memory = Walking(capabilities=Capabilities(**BLIND))
    memory.page = page
    provider = Provider(StoreConfig(bucket="b", credentials=Anonymous(), url="http://host"))
    provider.capabilities = memory.capabilities
    keys = ["d/a-b", "d/a/1", "d/a/2", "d/b!", "d/b/1", "d/b/2"]
    etags = {key: memory.poke(key, key.encode()).etag for key in keys}
    etags["d/gone"] = etags["d/a-b"]
    theirs = memory.poke("d/b/2", b"theirs").etag
    stayed = await FallbackStore(memory, provider).delete_many([*etags], if_match=etags)
    assert [*stayed] == ["d/b/2"]
    assert isinstance(stayed["d/b/2"], PreconditionFailed)
    assert {key: found.etag for key, found in memory.objects.items()} == {"d/b/2": theirs}


@pytest.mark.parametrize("many", [True, False])
async def test_what_is_in_a_directory_is_deleted_before_its_marker(many: bool) -> None:
    order: list[str] = []

    class Filesystem(MemoryStore):
        """As s3proxy: a directory that is not empty cannot be deleted."""

        def _delete(self, key: str, if_match: str) -> None:
            order.append(key)
            left = [below for below in self.objects if below.startswith(key) and below != key]
            assert not (key.endswith("/") and left), (key, left)
            super()._delete(key, if_match)

    memory = Filesystem(capabilities=Capabilities(delete_many=many))
    provider = Provider(StoreConfig(bucket="b", credentials=Anonymous(), url="http://host"))
    provider.capabilities = memory.capabilities
    keys = ["d/", "d/a", "d/e/", "d/e/f/", "d/e/f/x", "d/e/g", "d/h/", "d/h/i"]
    for key in keys:
        memory.poke(key, b"")
    assert await FallbackStore(memory, provider).delete_many(keys) == {}
    assert not memory.objects
    assert len(order) == len(keys)


class _NeverTrue(MemoryStore):
    """A condition on the source is never true; what is asked for later parts is answered later."""

    provider: Provider

    async def copy_part(
        self, key: str, upload_id: str, number: int, *, source_if_match: str = "", **more: object
    ) -> str:
        sent = source_if_match and self.provider.capabilities.copy_condition
        await trio.sleep(number / 10)
        if sent:
            raise PreconditionFailed("PreconditionFailed", status=412, operation="UploadPartCopy")
        await trio.sleep(number / 10)
        return await super().copy_part(
            key, upload_id, number, source_if_match=source_if_match, **more
        )  # type: ignore[arg-type]


@pytest.mark.mock_clock
async def test_conditions_that_are_never_true_side_by_side() -> None:
    """Swift: one finds out what the 412 means while those of the others are under way."""
    memory = _NeverTrue(capabilities=Capabilities(min_part=1, copy_if_match=False))
    memory.provider = provider = provider_with(memory.capabilities)
    store = FallbackStore(memory, provider)
    etag = memory.poke("a", b"0123456789").etag
    upload = await store.create_upload("b", PLAIN)
    parts: dict[int, str] = {}

    async def copy(number: int) -> None:
        parts[number] = await store.copy_part(
            "b", upload, number,
            source="a", start=number - 1, stop=number, source_if_match=etag,
        )  # fmt: skip

    async with trio.open_nursery() as nursery:
        for number in range(1, 6):
            nursery.start_soon(copy, number)
    await store.complete("b", upload, sorted(parts.items()), size=5)
    assert memory.peek("b") == b"01234"
    assert not provider.capabilities.copy_condition
