"""Retrying on the in-memory store: nothing twice, nothing lost, everything bounded."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.errors import (
    KeyTaken,
    NoAnswer,
    NotFound,
    PreconditionFailed,
    StoreError,
)
from bucketfs.store.aws.sums import multipart_etag
from bucketfs.store.base import NO_CONDITIONS, BytesBody, Capabilities, Headers
from bucketfs.store.layers.limit import LimitStore
from bucketfs.store.layers.retry import RetryPolicy, RetryStore, is_transient
from bucketfs.store.layers.trace import TraceStore
from tests.harness.memory import Fault, FaultHook, MemoryStore

PLAIN = Headers()
LOST = NoAnswer("ConnectionClosed")
BUSY = StoreError("SlowDown", status=503)


def failing(operation: str, *faults: Fault | None) -> FaultHook:
    """The first requests of an operation meet these faults in turn."""
    by_number = dict(enumerate(faults, 1))
    return lambda name, key, number: by_number.get(number) if name == operation else None


def retrying(fault: FaultHook | None = None, **policy: float) -> tuple[RetryStore, MemoryStore]:
    memory = MemoryStore(fault=fault)
    return RetryStore(memory, RetryPolicy(**policy)), memory  # type: ignore[arg-type]


@pytest.mark.mock_clock
async def test_passing_failures_are_waited_out() -> None:
    store, memory = retrying(failing("HeadObject", Fault(BUSY), Fault(LOST), Fault(BUSY)))
    memory.poke("k", b"data")
    began = trio.current_time()
    assert (await store.head("k")).size == 4
    assert memory.requests["HeadObject"] == 4
    assert 1.3 <= trio.current_time() - began <= 2.6


@pytest.mark.mock_clock
@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchKey", "TlsFailed"])
async def test_lasting_failures_are_not_repeated(code: str) -> None:
    error = NoAnswer(code) if code == "TlsFailed" else StoreError(code, status=403)
    store, memory = retrying(failing("HeadObject", Fault(error)))
    with pytest.raises(StoreError) as raised:
        await store.head("k")
    assert raised.value is error
    assert memory.requests["HeadObject"] == 1


@pytest.mark.mock_clock
async def test_it_gives_up_by_count_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store, memory = retrying(lambda *_: Fault(BUSY), attempts=4)
    with pytest.raises(StoreError):
        await store.head("k")
    assert memory.requests["HeadObject"] == 4
    # who asked decides how bad that is
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "giving up after 4 attempts" in caplog.text


@pytest.mark.mock_clock
async def test_it_gives_up_by_time() -> None:
    store, _ = retrying(lambda *_: Fault(BUSY), attempts=1000, seconds=60)
    began = trio.current_time()
    with pytest.raises(StoreError):
        await store.head("k")
    assert trio.current_time() - began <= 60


@pytest.mark.mock_clock
async def test_the_server_says_when() -> None:
    after = StoreError("SlowDown", status=503, retry_after=17.0)
    store, memory = retrying(failing("HeadObject", Fault(after)))
    memory.poke("k", b"")
    began = trio.current_time()
    await store.head("k")
    assert trio.current_time() - began >= 17


@pytest.mark.mock_clock
async def test_cancelled_while_pausing() -> None:
    store, _ = retrying(lambda *_: Fault(BUSY))
    with trio.move_on_after(0.05) as scope:
        await store.head("k")
    assert scope.cancelled_caught


@pytest.mark.mock_clock
async def test_a_broken_get_goes_on_where_it_stopped() -> None:
    data = bytes(range(256)) * 40
    store, memory = retrying(
        failing("GetObject", Fault(at_byte=1000), Fault(LOST), Fault(at_byte=5))
    )
    memory.poke("k", data)
    got = bytearray()
    info = await store.get("k", got.extend, start=100, stop=9000)
    assert got == data[100:9000]
    assert info.size == len(data)
    assert memory.requests["GetObject"] == 4


@pytest.mark.mock_clock
async def test_a_broken_get_never_mixes_versions() -> None:
    def swap(operation: str, key: str, number: int) -> Fault | None:
        if number == 2:
            memory.poke("k", b"B" * 5000)
        return Fault(at_byte=1000) if number == 1 else None

    store, memory = retrying(swap)
    memory.poke("k", b"A" * 5000)
    got = bytearray()
    with pytest.raises(PreconditionFailed):
        await store.get("k", got.extend)
    assert set(got) == {ord("A")}


@pytest.mark.mock_clock
@pytest.mark.parametrize("new", [True, False])
async def test_a_lost_answer_to_a_conditional_put(new: bool) -> None:
    store, memory = retrying(failing("PutObject", Fault(LOST, after=True)))
    condition: dict[str, object] = {"if_none_match": True}
    if not new:
        condition = {"if_match": memory.poke("k", b"old").etag}
    info = await store.put("k", BytesBody(b"mine"), Headers({"m": "1"}), **condition)  # type: ignore[arg-type]
    assert memory.peek("k") == b"mine"
    assert info.etag == memory.objects["k"].etag


@pytest.mark.mock_clock
async def test_a_lost_answer_hides_no_conflict() -> None:
    def interfere(operation: str, key: str, number: int) -> Fault | None:
        if (operation, number) != ("PutObject", 1):
            return None
        memory.poke("k", b"theirs")
        return Fault(LOST)

    store, memory = retrying(interfere)
    with pytest.raises(KeyTaken):
        await store.put("k", BytesBody(b"ours!!"), Headers({"m": "1"}), if_none_match=True)
    assert memory.peek("k") == b"theirs"


@pytest.mark.mock_clock
@pytest.mark.parametrize("look", [Fault(hang=True), Fault(StoreError("AccessDenied", status=403))])
async def test_what_nobody_can_tell_is_no_conflict(look: Fault) -> None:
    """The answer was lost, the repetition is refused, and what stands there cannot be seen."""

    def fault(operation: str, _key: str, number: int) -> Fault | None:
        if operation == "HeadObject":
            return look
        return Fault(LOST, after=True) if (operation, number) == ("PutObject", 1) else None

    store, memory = retrying(fault)
    with pytest.raises(NoAnswer):
        await store.put("k", BytesBody(b"mine"), Headers({"m": "1"}), if_none_match=True)
    assert memory.peek("k") == b"mine"


@pytest.mark.mock_clock
async def test_a_lost_answer_makes_nobody_elses_lock_ours() -> None:
    """Two lock files have the same bytes, none at all; who made this one stands beside them."""

    def interfere(operation: str, key: str, number: int) -> Fault | None:
        if (operation, number) != ("PutObject", 1):
            return None
        memory.poke("lock/", b"", Headers({"mtime": "1.000000001"}))
        return Fault(LOST)

    store, memory = retrying(interfere)
    with pytest.raises(KeyTaken):
        await store.put(
            "lock/", BytesBody(b""), Headers({"mtime": "1.000000002"}), if_none_match=True
        )


@pytest.mark.mock_clock
@pytest.mark.parametrize("request_", ["PutObject", "CompleteMultipartUpload"])
@pytest.mark.parametrize("times", [1, 100])
@pytest.mark.parametrize("guarded", [False, True])
async def test_what_has_the_same_bytes_may_be_the_old_version(
    request_: str, times: int, guarded: bool
) -> None:
    """A file is written anew with the bytes it had, and the request is never carried out."""

    def fail(operation: str, _key: str, number: int) -> Fault | None:
        return Fault(BUSY) if operation == request_ and number <= times else None

    able = Capabilities(min_part=1) if guarded else CARELESS
    memory = MemoryStore(capabilities=able, fault=fail)
    memory.poke("k", b"data", Headers({"mtime": "1.5"}))
    if request_ != "PutObject":
        old = memory.objects["k"]
        memory.objects["k"] = replace(old, etag=multipart_etag([old.etag]))
    etag, headers = memory.objects["k"].etag, Headers({"mtime": "2.5"})
    store = RetryStore(memory, RetryPolicy())
    with nullcontext() if times == 1 else pytest.raises(StoreError):
        if request_ == "PutObject":
            await store.put("k", BytesBody(b"data"), headers, if_match=etag)
        else:
            upload, parts = await _upload(store, headers)
            await store.complete("k", upload, parts, size=4, if_match=etag)
    said = memory.objects["k"].headers.metadata["mtime"]
    assert said == ("2.5" if times == 1 else "1.5")


async def _upload(store: RetryStore, headers: Headers = PLAIN) -> tuple[str, list[tuple[int, str]]]:
    upload = await store.create_upload("k", headers)
    return upload, [(1, await store.upload_part("k", upload, 1, BytesBody(b"data")))]


@pytest.mark.mock_clock
async def test_a_lost_answer_to_a_complete() -> None:
    store, memory = retrying(failing("CompleteMultipartUpload", Fault(LOST, after=True)))
    upload, parts = await _upload(store)
    info = await store.complete("k", upload, parts, size=4)
    assert (memory.peek("k"), info.etag) == (b"data", memory.objects["k"].etag)
    assert not memory.uploads


@pytest.mark.mock_clock
async def test_a_lost_answer_to_a_complete_of_an_encrypted_object() -> None:
    """Its ETag is none that can be computed: it is known by its metadata."""

    def lose(operation: str, _key: str, number: int) -> Fault | None:
        if operation == "HeadObject":
            memory.objects["k"] = replace(memory.objects["k"], etag="0" * 32 + "-1")
        return (
            Fault(LOST, after=True)
            if (operation, number) == ("CompleteMultipartUpload", 1)
            else None
        )

    store, memory = retrying(lose)
    upload, parts = await _upload(store, Headers({"mtime": "1.000000002"}))
    info = await store.complete("k", upload, parts, size=4, if_none_match=True)
    assert (memory.peek("k"), info.etag) == (b"data", "0" * 32 + "-1")


@pytest.mark.mock_clock
@pytest.mark.parametrize("failure", [LOST, StoreError("InternalError", status=500)])
@pytest.mark.parametrize("over", [False, True])
async def test_a_failed_complete_makes_nobody_elses_object_ours(
    failure: StoreError, over: bool
) -> None:
    """What others made meanwhile is as long as ours, and of as many parts."""

    def interfere(operation: str, _key: str, _number: int) -> Fault | None:
        if operation != "CompleteMultipartUpload":
            return None
        theirs = memory.poke("k", b"them", Headers({"mtime": "9.9"}))
        memory.objects["k"] = replace(memory.objects["k"], etag=f"{theirs.etag}-1")
        return Fault(failure)

    store, memory = retrying(interfere)
    known = memory.poke("k", b"old").etag if over else ""
    upload, parts = await _upload(store, Headers({"mtime": "1.000000002"}))
    with pytest.raises(StoreError):
        await store.complete("k", upload, parts, size=4, if_match=known, if_none_match=not over)
    assert memory.peek("k") == b"them"


@pytest.mark.mock_clock
@pytest.mark.parametrize("by", ["etag", "metadata"])
@pytest.mark.parametrize("new", [True, False])
async def test_a_lost_answer_to_a_copy_of_any_version(by: str, new: bool) -> None:
    """It is known by what the source is, also where a copy has an ETag of its own."""

    def lose(operation: str, _key: str, number: int) -> Fault | None:
        if operation == "CopyObject" and number == 2 and by == "metadata":
            original = memory.objects["source"]
            memory.objects["source"] = replace(original, etag="0" * 32 + "-2")
        return Fault(LOST, after=True) if (operation, number) == ("CopyObject", 1) else None

    store, memory = retrying(lose)
    memory.poke("source", b"data", Headers({"mtime": "1.2"}))
    replaced = "" if new else memory.poke("target", b"old").etag
    info = await store.copy(
        "source", "target", size=4, target_if_none_match=new, target_if_match=replaced
    )
    assert (memory.peek("target"), info.size) == (b"data", 4)


@pytest.mark.mock_clock
async def test_a_lost_answer_to_a_copy_makes_nobody_elses_object_ours() -> None:
    def interfere(operation: str, key: str, number: int) -> Fault | None:
        if (operation, number) != ("CopyObject", 1):
            return None
        memory.poke("target", b"them", Headers({"mtime": "9.9"}))
        return Fault(LOST)

    store, memory = retrying(interfere)
    memory.poke("source", b"data", Headers({"mtime": "1.2"}))
    with pytest.raises(KeyTaken):
        await store.copy("source", "target", size=4, target_if_none_match=True)
    assert memory.peek("target") == b"them"


@pytest.mark.mock_clock
@pytest.mark.parametrize("known", [True, False])
async def test_what_a_copy_was_to_replace_is_not_the_copy(known: bool) -> None:
    """Rclone stores a time alone, which many files share; a rename would delete the original."""
    busy = StoreError("InternalError", status=500)
    store, memory = retrying(failing("CopyObject", *[Fault(busy)] * 20))
    same = Headers({"mtime": "1.2"})
    source = memory.poke("source", b"data", same).etag if known else ""
    memory.poke("source", b"data", same)
    old = memory.poke("target", b"them", same).etag
    with pytest.raises(StoreError):
        await store.copy("source", "target", size=4, source_if_match=source, target_if_match=old)
    assert memory.peek("target") == b"them"


@pytest.mark.mock_clock
async def test_a_complete_that_answers_500_for_ever_after() -> None:
    busy = StoreError("InternalError", status=500)
    faults = [Fault(LOST, after=True), *[Fault(busy)] * 20]
    store, memory = retrying(failing("CompleteMultipartUpload", *faults))
    upload, parts = await _upload(store)
    await store.complete("k", upload, parts, size=4)
    assert memory.peek("k") == b"data"


@pytest.mark.mock_clock
async def test_a_complete_that_failed_is_not_taken_for_done() -> None:
    busy = StoreError("InternalError", status=500)
    store, memory = retrying(lambda name, *_: Fault(busy) if name.startswith("Comp") else None)
    memory.poke("k", b"olds")
    upload, parts = await _upload(store)
    with pytest.raises(StoreError):
        await store.complete("k", upload, parts, size=4)
    assert memory.peek("k") == b"olds"


@pytest.mark.mock_clock
async def test_a_vanished_upload_is_reported() -> None:
    store, _ = retrying()
    upload, parts = await _upload(store)
    await store.abort("k", upload)
    with pytest.raises(NotFound):
        await store.complete("k", upload, parts, size=4)


@pytest.mark.mock_clock
async def test_refused_keys_are_renewed_once() -> None:
    expired = StoreError("ExpiredToken", status=403)
    asked = 0

    async def renew(since: float) -> bool:
        nonlocal asked
        asked += 1
        return True

    memory = MemoryStore(fault=failing("HeadObject", Fault(expired)))
    memory.poke("k", b"")
    await RetryStore(memory, RetryPolicy(), renew=renew).head("k")
    assert asked == 1
    memory = MemoryStore(fault=lambda *_: Fault(expired))
    with pytest.raises(StoreError):
        await RetryStore(memory, RetryPolicy(), renew=renew).head("k")
    assert (asked, memory.requests["HeadObject"]) == (2, 2)


@pytest.mark.mock_clock
async def test_small_requests_pass_bulk_ones() -> None:
    memory = MemoryStore(latency=10)
    store = LimitStore(memory, bulk=2, small=2)
    body = BytesBody(b"x" * (1 << 20))
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(lambda n=number: store.put(f"k{n}", body, PLAIN))
        await trio.sleep(1)
        began = trio.current_time()
        await store.check()
        assert trio.current_time() - began == pytest.approx(10)
    assert trio.current_time() - began == pytest.approx(29)


@pytest.mark.mock_clock
async def test_a_key_that_stalls_leaves_places_for_others() -> None:
    memory = MemoryStore(
        fault=lambda name, key, _: Fault(hang=True) if (name, key) == ("PutObject", "k") else None
    )
    store = LimitStore(memory, bulk=4, small=2)
    body = BytesBody(b"x" * (1 << 20))
    async with trio.open_nursery() as nursery:
        for _ in range(9):
            nursery.start_soon(lambda: store.put("k", body, PLAIN))
        await trio.sleep(1)
        with trio.fail_after(5):
            await store.put("other", body, PLAIN)
        nursery.cancel_scope.cancel()
    assert memory.requests["PutObject"] == 4


async def test_requests_are_counted() -> None:
    memory = MemoryStore(fault=failing("GetObject", None, Fault(BUSY)))
    store = TraceStore(memory)
    await store.put("k", BytesBody(b"12345"), PLAIN)
    await store.get("k", lambda piece: None, stop=3)
    with pytest.raises(StoreError):
        await store.get("k", lambda piece: None)
    put, get = store.tallies["PutObject"], store.tallies["GetObject"]
    assert (put.requests, put.sent) == (1, 5)
    assert (get.requests, get.failures, get.received) == (2, 1, 3)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 1e9))
def test_pauses_are_bounded(failures: int, luck: float, after: float | None) -> None:
    policy = RetryPolicy()
    pause = policy.pause(failures, luck, after)
    assert math.isfinite(pause)
    assert policy.first_pause / 2 <= pause <= max(policy.longest_pause, policy.seconds)
    assert pause >= min(after or 0, policy.seconds)


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_pauses_grow(failures: int, luck: float) -> None:
    pause: Callable[[int], float] = lambda n: RetryPolicy().pause(n, luck, None)  # noqa: E731
    assert pause(failures + 1) >= pause(failures)


def test_what_passes() -> None:
    assert is_transient(StoreError("409", status=409)) is False
    assert is_transient(PreconditionFailed("ConditionalRequestConflict", status=409))
    assert is_transient(StoreError("503", status=503))
    assert not is_transient(StoreError("InvalidRequest", status=400))
    assert is_transient(StoreError("InvalidDigest", status=400)), "Garage, of a changed body"


def test_multipart_etag() -> None:
    assert multipart_etag(["d41d8cd98f00b204e9800998ecf8427e"]).endswith("-1")
    assert multipart_etag(["opaque"]) == ""


class Partial(MemoryStore):
    """Some keys of the first batches stay, and the answer says why."""

    def __init__(self, *answers: dict[str, str]) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked: list[list[str]] = []

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        self.asked.append(list(keys))
        stay = self.answers.pop(0) if self.answers else {}
        await super().delete_many([key for key in keys if key not in stay], if_match=if_match)
        return {key: StoreError(code, key=key) for key, code in stay.items()}


@pytest.mark.mock_clock
async def test_keys_that_stayed_for_a_moment_are_deleted_again() -> None:
    memory = Partial(
        {"b": "SlowDown", "c": "AccessDenied", "d": "InternalError"}, {"b": "SlowDown"}
    )
    for key in "abcd":
        memory.poke(key, b"x")
    stayed = await RetryStore(memory, RetryPolicy()).delete_many([*"abcd"])
    assert {key: exc.code for key, exc in stayed.items()} == {"c": "AccessDenied"}
    assert list(memory.objects) == ["c"]
    assert memory.asked == [[*"abcd"], ["b", "d"], ["b"]]


@pytest.mark.mock_clock
async def test_keys_that_stay_for_good_are_named() -> None:
    memory = Partial(*[{"b": "SlowDown"}] * 9)
    for key in "ab":
        memory.poke(key, b"x")
    stayed = await RetryStore(memory, RetryPolicy(attempts=3)).delete_many([*"ab"])
    assert {key: exc.code for key, exc in stayed.items()} == {"b": "SlowDown"}
    assert memory.asked == [["a", "b"], ["b"], ["b"]]


def losing(*operations: str) -> MemoryStore:
    """A bucket that loses the first answer of these operations."""
    lost = Fault(NoAnswer("ReadTimeout"), after=True)
    return MemoryStore(
        fault=lambda name, _key, number: lost if name in operations and number == 1 else None
    )


@pytest.mark.mock_clock
@pytest.mark.parametrize("theirs", [False, True])
async def test_a_lost_answer_to_a_conditional_deletion(theirs: bool) -> None:
    """It was carried out: what is there when it is repeated is others', or nothing."""
    memory = losing("DeleteObject", "DeleteObjects")
    store = RetryStore(memory, RetryPolicy())
    hook = memory.fault
    assert hook is not None

    def store_theirs(name: str, key: str, number: int) -> Fault | None:
        if theirs and number == 2:
            memory.poke("k", b"theirs")
        return hook(name, key, number)

    memory.fault = store_theirs
    etag = memory.poke("k", b"ours").etag
    with pytest.raises(PreconditionFailed) if theirs else nullcontext():
        await store.delete("k", if_match=etag)
    etag = memory.poke("k", b"ours").etag
    stayed = await store.delete_many(["k"], if_match={"k": etag})
    assert stayed.keys() == ({"k"} if theirs else set())
    assert ("k" in memory.objects) == theirs


@pytest.mark.mock_clock
@pytest.mark.parametrize("over", [False, True])
async def test_a_lost_answer_to_a_copy_onto_what_was_known(over: bool) -> None:
    """The repetition is refused, for what the first try has made."""
    memory = losing("CopyObject")
    store = RetryStore(memory, RetryPolicy())
    etag = memory.poke("a", b"bytes").etag
    old = memory.poke("b", b"old").etag if over else ""
    info = await store.copy(
        "a", "b", size=5, source_if_match=etag, target_if_match=old, target_if_none_match=not over
    )
    assert (info.etag, memory.peek("b")) == (etag, b"bytes")
    assert memory.requests == {"CopyObject": 2, "HeadObject": 1}


@pytest.mark.mock_clock
async def test_a_lost_answer_to_a_copy_that_others_came_before() -> None:
    lost = Fault(NoAnswer("ReadTimeout"))
    memory = MemoryStore(fault=lambda name, _key, number: lost if number == 1 else None)
    etag = memory.poke("a", b"bytes").etag
    memory.poke("b", b"theirs")
    with pytest.raises(KeyTaken):
        await RetryStore(memory, RetryPolicy()).copy(
            "a", "b", size=5, source_if_match=etag, target_if_none_match=True
        )
    assert memory.peek("b") == b"theirs"


#: What Swift and `rclone serve s3` honour of conditions: nothing.
CARELESS = Capabilities(
    **dict.fromkeys(
        (
            "put_if_match",
            "put_if_none_match",
            "target_if_match",
            "target_if_none_match",
            "complete_if_match",
            "complete_if_none_match",
        ),
        False,
    ),
    min_part=1,
)


async def _written(store: RetryStore, request: str, etag: str) -> None:
    """Make "ours" of "a" by a request, where this version or nothing may be."""
    new = not etag
    match request:
        case "PutObject":
            body, headers = BytesBody(b"ours"), Headers({"mtime": "1.5"})
            await store.put("a", body, headers, if_match=etag, if_none_match=new)
        case "CopyObject":
            condition = {"target_if_match": etag, "target_if_none_match": new}
            await store.copy("source", "a", size=4, **condition)  # type: ignore[arg-type]
        case _:
            upload = await store.create_upload("a", PLAIN)
            parts = [(1, await store.upload_part("a", upload, 1, BytesBody(b"ours")))]
            await store.complete("a", upload, parts, size=4, if_match=etag, if_none_match=new)


@pytest.mark.mock_clock
@pytest.mark.parametrize("request_", ["PutObject", "CopyObject", "CompleteMultipartUpload"])
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("theirs", [True, False])
@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_look_takes_the_place_of_a_condition_before_a_repetition(
    request_: str, new: bool, theirs: bool, carried_out: bool
) -> None:
    """The answer is lost, and until it is sent again another client may have stored the name."""

    def interfere(operation: str, _key: str, number: int) -> Fault | None:
        if operation == "HeadObject" and number == 1 and theirs:
            memory.poke("a", b"theirs")
        lost = (operation, number) == (request_, 1)
        return Fault(LOST, after=carried_out) if lost else None

    memory = MemoryStore(capabilities=CARELESS, fault=interfere)
    memory.poke("source", b"ours", Headers({"mtime": "1.5"}))
    etag = "" if new else memory.poke("a", b"old").etag
    store = RetryStore(memory, RetryPolicy())
    with pytest.raises(PreconditionFailed) if theirs else nullcontext():
        await _written(store, request_, etag)
    assert memory.peek("a") == (b"theirs" if theirs else b"ours")
    again = not (theirs or carried_out)
    assert memory.requests[request_] == 1 + again, "what was carried out is not repeated"


@pytest.mark.mock_clock
async def test_who_may_not_look_repeats() -> None:
    denied = StoreError("403", status=403)

    def fault(operation: str, _key: str, number: int) -> Fault | None:
        if operation == "HeadObject":
            return Fault(denied)
        return Fault(LOST) if (operation, number) == ("PutObject", 1) else None

    memory = MemoryStore(capabilities=CARELESS, fault=fault)
    await RetryStore(memory, RetryPolicy()).put("k", BytesBody(b"x"), PLAIN, if_none_match=True)
    assert memory.peek("k") == b"x"
