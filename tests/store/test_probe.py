"""Which conditions an endpoint honours: asked when it matters, once, with few writes."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from bucketfs.credentials import Anonymous
from bucketfs.errors import (
    KeyTaken,
    NoAnswer,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsupported,
)
from bucketfs.store import known
from bucketfs.store.base import BytesBody, Capabilities, Headers, ObjectInfo
from bucketfs.store.capability import CONDITIONS, PUTS, Provider
from bucketfs.store.config import StoreConfig
from bucketfs.store.known import Known
from bucketfs.store.layers.fallback import FallbackStore
from bucketfs.store.layers.retry import RetryPolicy, RetryStore
from bucketfs.store.layers.wrapper import StoreWrapper
from tests.harness.memory import Fault, FaultHook, MemoryStore

PLAIN = Headers()
BODY = BytesBody(b"x")
#: What servers differ in, by name.
KINDS = {
    "put": ("put_if_match", "put_if_none_match"),
    "target": ("target_if_match", "target_if_none_match"),
    "delete": ("delete_if_match",),
    "delete_many": ("delete_many_if_match",),
}
WRITES = ("PutObject", "CopyObject")


def abilities(*honoured: str) -> dict[str, bool]:
    return {name: kind in honoured for kind, names in KINDS.items() for name in names}


def strangers(
    fault: FaultHook | None = None,
    *,
    path: Path | None = None,
    probe: bool = True,
    memory: MemoryStore | None = None,
    **able: bool,
) -> tuple[FallbackStore, MemoryStore, Provider]:
    """A store on an endpoint of which nothing is known."""
    memory = memory or MemoryStore(capabilities=Capabilities(min_part=1, **able), fault=fault)
    config = StoreConfig("b", Anonymous(), url="http://host", known=path, probe=probe)
    provider = Provider(config)
    return FallbackStore(_Wire(memory, provider), provider), memory, provider


class _Wire(StoreWrapper):
    """Leaves out the conditions of PutObject that are not to be sent, as `S3Store` does."""

    def __init__(self, inner: MemoryStore, provider: Provider) -> None:
        super().__init__(inner)
        self._provider = provider

    async def put(self, *args: Any, if_match: str = "", if_none_match: bool = False) -> ObjectInfo:
        return await super().put(
            *args,
            if_match=if_match if self._provider.carries("put_if_match") else "",
            if_none_match=if_none_match and self._provider.carries("put_if_none_match"),
        )


def told(provider: Provider) -> dict[str, bool]:
    return {name: getattr(provider.capabilities, name) for name in sorted(CONDITIONS)}


async def test_nothing_is_asked_that_does_not_matter() -> None:
    store, memory, provider = strangers()
    memory.poke("a", b"x")
    await store.check()
    await store.head("a")
    await store.put("b", BODY, PLAIN)
    await store.copy("a", "c", size=1)
    await store.delete("a")
    await store.delete_many(["b", "c"])
    assert memory.requests.total() == 6
    assert provider.unknown == CONDITIONS


@pytest.mark.parametrize(
    ("honoured", "requests", "writes"),
    [
        ((), 3, 2),
        (("put",), 4, 1),
        (("put", "delete"), 5, 1),
        (("put", "delete", "delete_many"), 6, 1),
    ],
)
async def test_before_the_first_new_object(
    honoured: Sequence[str], requests: int, writes: int
) -> None:
    able = abilities(*honoured)
    store, memory, provider = strangers(**able)
    await store.put("a", BODY, PLAIN, if_none_match=True)
    del able["target_if_match"], able["target_if_none_match"]
    assert {name: getattr(provider.capabilities, name) for name in able} == able
    assert list(memory.objects) == ["a"]
    looks = 0 if "put" in honoured else 1
    assert memory.requests.total() == requests + looks + 1
    await store.put("b", BODY, PLAIN, if_none_match=True)
    assert memory.requests.total() == requests + 2 * looks + 2
    for key in ("a", "b"):
        with pytest.raises(KeyTaken):
            await store.put(key, BODY, PLAIN, if_none_match=True)


async def test_before_the_first_replacement_nothing_is_written() -> None:
    store, memory, provider = strangers()
    old = memory.poke("a", b"old")
    await store.put("a", BODY, PLAIN, if_match=old.etag)
    assert memory.requests == {"PutObject": 2}
    assert memory.sent == len(BODY) + 1
    assert provider.capabilities.put_if_match
    assert "put_if_none_match" in provider.unknown
    with pytest.raises(PreconditionFailed):
        await store.put("a", BODY, PLAIN, if_match=old.etag)


async def test_a_replacement_that_is_not_refused_is_deleted() -> None:
    store, memory, provider = strangers(**abilities())
    old = memory.poke("a", b"old")
    await store.put("a", BODY, PLAIN, if_match=old.etag)
    assert list(memory.objects) == ["a"]
    assert memory.requests == {"PutObject": 3, "DeleteObject": 1, "HeadObject": 1}
    assert not any(told(provider)[name] for name in PUTS)


@pytest.mark.parametrize("honoured", [(), ("target",), ("target", "delete", "delete_many")])
async def test_before_the_first_rename(honoured: Sequence[str]) -> None:
    able = abilities("put", *honoured)
    store, memory, provider = strangers(**able)
    old = memory.poke("a", b"x")
    assert (await store.settle("target_if_match")).target_if_match == able["target_if_match"]
    assert {name: getattr(provider.capabilities, name) for name in set(able) - PUTS} == {
        name: able[name] for name in set(able) - PUTS
    }
    before = memory.requests.total()
    await store.copy("a", "b", size=1)
    await store.delete("a", if_match=old.etag)
    assert list(memory.objects) == ["b"]
    assert memory.requests.total() == before + 2 + (not able["delete_if_match"])


async def test_many_that_want_to_know_ask_once() -> None:
    store, memory, _ = strangers()
    memory.latency = 0.001
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(_create, store, f"k{number}")
    assert memory.requests["PutObject"] == 13


async def _create(store: FallbackStore, key: str) -> None:
    await store.put(key, BODY, PLAIN, if_none_match=True)


@pytest.mark.parametrize("operation", ["PutObject", "CopyObject", "DeleteObject", "DeleteObjects"])
@pytest.mark.parametrize("code", ["NotImplemented", "InvalidRequest"])
async def test_a_refusal_is_an_answer(operation: str, code: str) -> None:
    """Not everybody copies an object onto itself, or has read of conditions."""
    store, memory, provider = strangers(memory=_Refusing(operation, code))
    await store.settle(*CONDITIONS)
    able = provider.capabilities
    assert (able.put_if_match, able.put_if_none_match) == (operation != "PutObject",) * 2
    assert (able.target_if_match, able.target_if_none_match) == (operation != "CopyObject",) * 2
    assert able.delete_if_match == (operation != "DeleteObject")
    assert able.delete_many_if_match == (not operation.startswith("Delete"))
    assert not memory.objects
    assert not provider.unknown


class _Refusing(MemoryStore):
    """An endpoint that refuses conditions on one operation."""

    def __init__(self, operation: str, code: str) -> None:
        super().__init__()
        kind = Unsupported if code == "NotImplemented" else StoreError
        self.operation = operation
        self.refusal = kind(code, status=501 if kind is Unsupported else 400)

    async def put(self, *args: object, **conditions: object) -> ObjectInfo:
        self._look("PutObject", conditions)
        return await super().put(*args, **conditions)  # type: ignore[arg-type]

    async def copy(self, *args: object, **conditions: object) -> ObjectInfo:
        targets = {name: value for name, value in conditions.items() if "target" in name}
        self._look("CopyObject", targets)
        return await super().copy(*args, **conditions)  # type: ignore[arg-type]

    async def delete(self, *args: object, **conditions: object) -> None:
        self._look("DeleteObject", conditions)
        await super().delete(*args, **conditions)  # type: ignore[arg-type]

    async def delete_many(self, *args: object, **conditions: object):  # type: ignore[no-untyped-def]
        self._look("DeleteObjects", conditions)
        return await super().delete_many(*args, **conditions)  # type: ignore[arg-type]

    def _look(self, operation: str, conditions: dict[str, object]) -> None:
        if operation == self.operation and any(conditions.values()):
            raise self.refusal


async def test_where_it_may_not_write_it_looks_and_sends_the_condition() -> None:
    """What is honoured holds all the same, and a refusal that is right says that it is."""

    def denied(name: str, key: str, _number: int) -> Fault | None:
        if name == "PutObject" and ".bucketfs-probe" in key:
            return Fault(StoreError("AccessDenied", status=403))
        if name == "HeadObject" and key == "race":
            return Fault(NotFound("NoSuchKey", status=404))  # and then others made it
        return None

    store, memory, provider = strangers(denied)
    await store.put("a", BODY, PLAIN, if_none_match=True)
    assert memory.requests == {"PutObject": 2, "HeadObject": 1}
    assert provider.unsure >= {"put_if_none_match"}
    memory.poke("race", b"theirs")
    with pytest.raises(KeyTaken):
        await store.put("race", BODY, PLAIN, if_none_match=True)
    assert provider.capabilities.put_if_none_match
    before = memory.requests["HeadObject"]
    await store.put("b", BODY, PLAIN, if_none_match=True)
    assert memory.requests["HeadObject"] == before


@pytest.mark.parametrize("honoured", [(), tuple(KINDS)])
async def test_without_a_probe_nothing_else_is_written(honoured: Sequence[str]) -> None:
    store, memory, _ = strangers(probe=False, **abilities(*honoured))
    old = await store.put("a", BODY, PLAIN, if_none_match=True)
    new = await store.put("a", BytesBody(b"new"), PLAIN, if_match=old.etag)
    for key, condition in [("a", {"if_none_match": True}), ("a", {"if_match": old.etag})]:
        with pytest.raises(PreconditionFailed):
            await store.put(key, BODY, PLAIN, **condition)  # type: ignore[arg-type]
    with pytest.raises(PreconditionFailed):
        await store.delete("a", if_match=old.etag)
    await store.copy("a", "b", size=3, target_if_none_match=True)
    await store.delete("a", if_match=new.etag)
    assert {key: memory.peek(key) for key in memory.objects} == {"b": b"new"}
    assert sum(memory.requests[name] for name in WRITES) == 3


async def test_conditions_that_are_not_known_may_be_refused() -> None:
    memory = _Refusing("PutObject", "NotImplemented")
    store, _, provider = strangers(probe=False, memory=memory)
    await store.put("a", BODY, PLAIN, if_none_match=True)
    with pytest.raises(KeyTaken):
        await store.put("a", BODY, PLAIN, if_none_match=True)
    assert "put_if_none_match" not in provider.unsure
    assert not provider.capabilities.put_if_none_match


class _Ceph(MemoryStore):
    """If-Match of PutObject is never what it should be with quotes, or not at all."""

    def __init__(self, provider: list[Provider], *, versions: bool) -> None:
        super().__init__(capabilities=Capabilities(**abilities("put")))
        self.provider, self.versions = provider, versions

    async def put(self, key: str, *args: object, if_match: str = "", **more: object) -> ObjectInfo:
        if if_match and (self.versions or self.provider[0].quoted):
            self.requests["PutObject"] += 1
            await trio.sleep(self.latency)
            raise PreconditionFailed("PreconditionFailed", status=412, operation="PutObject")
        return await super().put(key, *args, if_match=if_match, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("versions", [False, True])
async def test_a_condition_that_is_true_and_refused(versions: bool, tmp_path: Path) -> None:
    """Side by side, too: who comes second makes use of what the first has learned."""
    providers: list[Provider] = []
    store, memory, provider = strangers(
        memory=_Ceph(providers, versions=versions), path=tmp_path / "known"
    )
    providers.append(provider)
    old = {key: memory.poke(key, b"old").etag for key in "abc"}
    memory.latency = 0.001
    async with trio.open_nursery() as nursery:
        for key in "abc":
            nursery.start_soon(_replace, store, key, old[key])
    assert {memory.peek(key) for key in "abc"} == {b"x"}
    assert provider.quoted == versions
    assert provider.capabilities.put_if_match == (not versions)
    with pytest.raises(PreconditionFailed):
        await _replace(store, "a", old["a"])
    again = strangers(memory=memory, path=tmp_path / "known")[2]
    assert (again.quoted, told(again)["put_if_match"]) == (versions, not versions)


def test_what_is_known_of_quotes_stays() -> None:
    """Another condition may be false in the same moment, for a reason."""
    provider = strangers()[2]
    with provider.unquoted():
        pass
    assert provider.quoted
    with provider.unquoted() as trial:
        trial.holds()
    with provider.unquoted():
        pass
    assert not provider.quoted


async def _replace(store: FallbackStore, key: str, etag: str) -> None:
    await store.put(key, BODY, PLAIN, if_match=etag)


@pytest.mark.parametrize("refused", range(1, 4))
@pytest.mark.parametrize("error", ["AccessDenied", "QuotaExceeded", "lost"])
async def test_a_failure_in_the_middle(
    error: str, refused: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What was found out before it counts; nothing stays behind."""
    caplog.set_level("INFO")
    failure = NoAnswer("ConnectionClosed") if error == "lost" else StoreError(error, status=403)
    fault = Fault(failure, after=error == "lost" and refused == 2)
    store, memory, provider = strangers(
        lambda name, _key, number: fault if (name, number) == ("PutObject", refused) else None
    )
    await store.put("a", BODY, PLAIN, if_none_match=True)
    assert list(memory.objects) == ["a"]
    assert provider.unsure == {"put_if_none_match"}
    assert caplog.text.count("was not found out") == 1


@pytest.mark.mock_clock
@pytest.mark.parametrize("operation", WRITES)
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("after", [False, True])
async def test_a_look_after_a_lost_answer_is_not_the_endpoints(
    operation: str, number: int, after: bool
) -> None:
    """What a repetition is preceded by says nothing of what the endpoint honours."""
    lost = Fault(NoAnswer("ConnectionClosed"), after=after)
    memory = MemoryStore(
        capabilities=Capabilities(**abilities()),
        fault=lambda name, _key, n: lost if (name, n) == (operation, number) else None,
    )
    provider = Provider(StoreConfig("b", Anonymous(), url="http://host"))
    store = FallbackStore(RetryStore(memory, RetryPolicy()), provider)
    await store.settle(*CONDITIONS)
    assert not any(told(provider).values())
    assert not memory.objects


async def test_a_bucket_that_keeps_everything_gets_one_object(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    denied = StoreError("AccessDenied", status=403, operation="DeleteObject")
    memory = MemoryStore(fault=lambda name, *_: Fault(denied) if "Delete" in name else None)
    for number in range(3):
        store, _, _ = strangers(memory=memory, path=tmp_path / "known")
        await store.put(f"k{number}", BODY, PLAIN, if_none_match=True)
        await store.put(f"k{number}", BODY, PLAIN, if_match=memory.objects[f"k{number}"].etag)
        with pytest.raises(StoreError):
            await store.delete("k0", if_match=memory.objects["k0"].etag)
    assert [key for key in memory.objects if "probe" in key] == [next(iter(memory.objects))]
    assert "stays in the bucket: DeleteObject" in caplog.text
    caplog.clear()


async def test_the_next_mount_knows(tmp_path: Path) -> None:
    able = abilities("put", "delete")
    path = tmp_path / "cache" / "x.endpoint.json"
    store, memory, _ = strangers(path=path, **able)
    await store.settle(*CONDITIONS)
    before = memory.requests.total()
    store, _, provider = strangers(path=path, memory=memory)
    assert told(provider) == dict(sorted(able.items()))
    await store.put("a", BODY, PLAIN, if_none_match=True)
    assert memory.requests.total() == before + 1
    said = json.loads(path.read_text())
    assert said["about"] == "http://host b"
    assert said["learned"]["put_if_match"]["able"] is True
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert os.listdir(path.parent) == [path.name]


async def test_what_is_learned_in_use_is_known_too(tmp_path: Path) -> None:
    path = tmp_path / "known"
    refused = Fault(Unsupported("NotImplemented", status=501))
    store, memory, provider = strangers(
        lambda name, *_: refused if name in ("DeleteObjects", "CopyObject") else None, path=path
    )
    memory.poke("a", b"x")
    await store.copy("a", "b", size=1)
    await store.delete_many(["a", "b"])
    provider.demote_list()
    again = strangers(path=path)[2]
    able = again.capabilities
    assert (able.copy, able.delete_many, again.list_v2, able.multipart) == (
        False,
        False,
        False,
        True,
    )
    provider.miss_etags()
    assert strangers(path=path)[2].capabilities.etags, "the first answer says that"


def test_it_is_forgotten_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "known"
    Known(path).note({"copy": False})
    now = known.clock.wall_ns()
    monkeypatch.setattr(known.clock, "wall_ns", lambda: now + (known.LIFE - 10) * 10**9)
    assert Known(path).load() == {"copy": False}
    Known(path).note({"copy_part": False})
    monkeypatch.setattr(known.clock, "wall_ns", lambda: now + (known.LIFE + 10) * 10**9)
    assert Known(path).load() == {"copy_part": False}
    monkeypatch.setattr(known.clock, "wall_ns", lambda: now - 86400 * 10**9)
    assert Known(path).load() == {}, "a clock that was wrong"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"learned": 1}', '{"learned": {"copy": 1}}', '{"learned": {"a": {}}}']
)
def test_a_file_that_says_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "known"
    path.write_text(text)
    assert Known(path).load() == {}
    Known(path).note({"copy": False})
    assert Known(path).load() == {"copy": False}


def test_names_that_nobody_knows_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "known"
    Known(path).note({"from_the_future": True, "etags": False, "copy": False})
    provider = strangers(path=path)[2]
    assert provider.capabilities == replace(strangers()[2].capabilities, copy=False)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Somebody may have put it there."""
    real, path = tmp_path / "real", tmp_path / "known"
    Known(real).note({"copy": False})
    path.symlink_to(real)
    assert Known(path).load() == {}
    Known(path).note({"copy_part": False})
    assert Known(real).load() == {"copy": False}


def test_a_directory_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "known"
    Known(path).note({"copy": False})
    assert Known(path).load() == {}


@pytest.mark.parametrize("before", [True, False])
async def test_versioning_that_was_switched_on_between_two_mounts(
    tmp_path: Path, before: bool
) -> None:
    """Ceph 16 ignores If-None-Match then: what was known does not hold any more."""
    path = tmp_path / "known"
    provider = strangers(path=path)[2]
    provider.learn(put_if_none_match=True, put_if_match=True)
    provider.versioned("v1" if before else "")
    again = strangers(path=path)[2]
    again.versioned("v2")
    assert again.capabilities.put_if_none_match == before
    assert strangers(path=path)[2].capabilities.put_if_none_match == before


def test_every_name_is_one_of_the_capabilities() -> None:
    names = set(Capabilities.__dataclass_fields__)
    assert set(itertools.chain(*KINDS.values())) == CONDITIONS <= names
