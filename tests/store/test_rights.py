"""What is learned from refusals, and what that costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bucketfs.errors import StoreError, Unseen, advice
from bucketfs.store.base import BytesBody, Headers
from bucketfs.store.layers.rights import RightsStore
from tests.harness.memory import Fault, MemoryStore


def denied(operation: str, key: str) -> StoreError:
    code = "403" if operation == "HeadObject" else "AccessDenied"
    return StoreError(code, status=403, operation=operation, key=key)


class Policy:
    """A bucket that refuses operations on keys with a prefix."""

    def __init__(self) -> None:
        self.refuses: Callable[[str, str], bool] = lambda operation, key: False
        self.memory = MemoryStore(fault=self._fault)

    def _fault(self, operation: str, key: str, number: int) -> Fault | None:
        return Fault(denied(operation, key)) if self.refuses(operation, key) else None


@pytest.fixture
def policy() -> Policy:
    return Policy()


async def put(store: RightsStore, key: str) -> None:
    await store.put(key, BytesBody(b"x"), Headers())


async def test_nothing_is_asked_where_nothing_was_refused(policy: Policy) -> None:
    store = RightsStore(policy.memory)
    await store.foresee("PutObject", "d/f")
    await store.foresee("DeleteObject", "d/")
    assert not policy.memory.requests


async def test_a_refusal_is_foreseen_in_its_directory(policy: Policy) -> None:
    policy.refuses = lambda operation, key: key.startswith("d/")
    store = RightsStore(policy.memory)
    with pytest.raises(StoreError):
        await put(store, "d/f")
    with pytest.raises(StoreError, match="AccessDenied") as raised:
        await store.foresee("PutObject", "d/g")
    assert (raised.value.operation, raised.value.key) == ("PutObject", "d/g")
    assert "s3:PutObject" in advice(raised.value)
    await store.foresee("PutObject", "e/g")
    await store.foresee("DeleteObject", "d/g")
    assert policy.memory.requests == {"PutObject": 1, "UploadPart": 1}
    assert not policy.memory.objects


async def test_a_refusal_of_one_key_is_none_of_another(policy: Policy) -> None:
    policy.refuses = lambda operation, key: key == "d/f"
    store = RightsStore(policy.memory)
    with pytest.raises(StoreError):
        await put(store, "d/f")
    await store.foresee("PutObject", "d/g")
    await put(store, "d/g")
    assert policy.memory.requests["UploadPart"] == 1


async def test_what_is_allowed_now_is_asked_once(policy: Policy) -> None:
    policy.refuses = lambda operation, key: True
    store = RightsStore(policy.memory)
    with pytest.raises(StoreError):
        await put(store, "d/f")
    policy.refuses = lambda operation, key: False
    for _ in range(3):
        await store.foresee("PutObject", "d/f")
    assert policy.memory.requests["UploadPart"] == 1


async def test_a_directory_asks_for_what_is_below(policy: Policy) -> None:
    policy.refuses = lambda operation, key: operation.startswith("Delete")
    policy.memory.poke("d/e/f", b"x")
    store = RightsStore(policy.memory)
    with pytest.raises(StoreError):
        await store.delete("d/e/f")
    with pytest.raises(StoreError, match="beforehand"):
        await store.foresee("DeleteObject", "d/")
    await store.foresee("DeleteObject", "d/g")
    assert policy.memory.requests["DeleteObject"] == 2
    assert list(policy.memory.objects) == ["d/e/f"]


async def test_many_that_may_not_be_deleted_together(policy: Policy) -> None:
    policy.refuses = lambda operation, key: operation == "DeleteObjects"
    store = RightsStore(policy.memory)
    for _ in range(2):
        for name in "abc":
            policy.memory.poke(name, b"x")
        assert await store.delete_many(["a", "b", "c"]) == {}
    assert not policy.memory.objects
    assert policy.memory.requests == {"DeleteObjects": 1, "DeleteObject": 6}


async def test_many_of_which_none_may_be_deleted(policy: Policy) -> None:
    policy.refuses = lambda operation, key: True
    store = RightsStore(policy.memory)
    with pytest.raises(StoreError) as raised:
        await store.delete_many(["a", "b", "c"])
    assert raised.value.operation == "DeleteObjects"
    assert policy.memory.requests == {"DeleteObjects": 1, "DeleteObject": 1}


@pytest.mark.parametrize("read_only", [False, True])
async def test_without_listing(policy: Policy, *, read_only: bool) -> None:
    policy.refuses = lambda operation, key: operation in ("ListObjectsV2", "HeadObject")
    store = RightsStore(policy.memory, prefix="d/", read_only=read_only)
    await store.check()
    with pytest.raises(StoreError) as raised:
        await store.head("d/f")
    assert isinstance(raised.value, Unseen) is not read_only
    assert not policy.memory.objects


async def test_who_sees_objects_sees_that_others_are_absent(policy: Policy) -> None:
    policy.memory.poke("f", b"x")
    policy.refuses = lambda operation, key: operation == "ListObjectsV2" or key == "absent"
    store = RightsStore(policy.memory)
    await store.check()
    for certain in (False, True):
        with pytest.raises(Unseen) as raised:
            await store.head("absent")
        assert raised.value.certain is certain
        await store.head("f")


async def test_neither_listing_nor_writing(policy: Policy) -> None:
    policy.refuses = lambda operation, key: True
    with pytest.raises(StoreError, match="NoRights"):
        await RightsStore(policy.memory).check()


async def test_refused_keys_are_no_missing_right(policy: Policy) -> None:
    wrong = StoreError("InvalidAccessKeyId", status=403)
    policy.memory.fault = lambda operation, key, number: Fault(wrong)
    with pytest.raises(StoreError, match="InvalidAccessKeyId"):
        await RightsStore(policy.memory).check()
    assert policy.memory.requests == {"ListObjectsV2": 1}
