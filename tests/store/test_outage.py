"""An endpoint that is silent: one deadline for all who wait, and its first answer ends it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from bucketfs.credentials import Anonymous
from bucketfs.errors import NoAnswer, StoreError
from bucketfs.store.base import BytesBody, Headers
from bucketfs.store.config import StoreConfig
from bucketfs.store.layers.outage import Outage
from bucketfs.store.layers.retry import RetryPolicy, RetryStore
from bucketfs.store.layers.wrapper import Call
from bucketfs.tasks import alongside
from tests.harness.memory import Fault, MemoryStore

MIB = 1 << 20
PATIENCE = 100.0


class _Endpoint(MemoryStore):
    """An endpoint whose requests all take ten seconds and get no answer while it is silent."""

    def fall_silent(self, code: str = "ReadTimeout") -> None:
        self.fault, self.latency = (lambda *_: Fault(NoAnswer(code))), 10.0

    def speak(self) -> None:
        self.fault, self.latency = None, 0.0


@asynccontextmanager
async def watched() -> AsyncIterator[tuple[_Endpoint, RetryStore]]:
    endpoint, outage = _Endpoint(), Outage(PATIENCE)
    policy = RetryPolicy(attempts=100, seconds=10 * PATIENCE, patience=PATIENCE)
    async with alongside(lambda: outage.watch(endpoint.check), "watch"):
        yield endpoint, RetryStore(endpoint, policy, outage=outage)


async def _unsendable() -> None:
    raise StoreError("InvalidUtf8")


async def took(store: RetryStore, key: str) -> float:
    """Seconds until a HEAD has failed for want of an answer."""
    began = trio.current_time()
    with pytest.raises(NoAnswer):
        await store.head(key)
    return trio.current_time() - began


@pytest.mark.mock_clock
async def test_calls_in_line_share_one_deadline() -> None:
    async with watched() as (endpoint, store):
        endpoint.fall_silent()
        began = trio.current_time()
        for key in map(str, range(10)):
            await took(store, key)
        assert trio.current_time() - began == PATIENCE


@pytest.mark.mock_clock
async def test_calls_that_wait_end_together_and_later_ones_at_once() -> None:
    async with watched() as (endpoint, store):
        endpoint.fall_silent()
        times: list[float] = []

        async def call(after: float) -> None:
            await trio.sleep(after)
            times.append(await took(store, "k"))

        async with trio.open_nursery() as nursery:
            for after in (0, 30, 60, 150):
                nursery.start_soon(call, after)
        assert sorted(times) == [0, PATIENCE - 60, PATIENCE - 30, PATIENCE]


@pytest.mark.mock_clock
async def test_what_moves_many_bytes_fails_at_once_too() -> None:
    async with watched() as (endpoint, store):
        endpoint.fall_silent()
        await took(store, "k")
        await trio.sleep(1)
        began = trio.current_time()
        with pytest.raises(NoAnswer, match="no answer to anything for 101 s"):
            await store.put("k", BytesBody(bytes(MIB)), Headers())
        assert trio.current_time() == began


@pytest.mark.mock_clock
@pytest.mark.parametrize(
    "answer", [None, StoreError("AccessDenied", status=403), NoAnswer("BadAnswer")]
)
async def test_any_answer_ends_it(
    answer: StoreError | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with watched() as (endpoint, store):
        endpoint.poke("k", b"data")
        endpoint.fall_silent()
        await took(store, "k")
        await trio.sleep(500)
        assert await took(store, "k") == 0
        endpoint.speak()
        endpoint.fault = lambda name, *_: Fault(answer) if answer and name != "HeadObject" else None
        await trio.sleep(25)
        assert (await store.head("k")).size == 4
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2, lines
    assert "has not answered anything for 100 s (ReadTimeout)" in lines[0]
    assert "answers again" in lines[1]


@pytest.mark.mock_clock
async def test_who_came_late_has_all_the_time_when_the_endpoint_is_back() -> None:
    async with watched() as (endpoint, store):
        endpoint.poke("k", b"data")
        endpoint.fall_silent()
        found: list[int] = []

        async def call() -> None:
            await trio.sleep(50)
            found.append((await store.head("k")).size)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(95)
            endpoint.speak()
        assert found == [4]


@pytest.mark.mock_clock
async def test_nothing_is_asked_of_an_endpoint_that_answers() -> None:
    """Nor of one that lost one answer: the next try makes up for that."""
    async with watched() as (endpoint, store):
        endpoint.poke("k", b"data")
        lost = {2: Fault(NoAnswer("ConnectionClosed"))}
        endpoint.fault = lambda name, key, number: lost.get(number)
        for _ in range(3):
            await store.head("k")
            await trio.sleep(1000)
        assert dict(endpoint.requests) == {"HeadObject": 4}


@pytest.mark.mock_clock
async def test_a_failure_of_ours_is_no_answer() -> None:
    """A key that cannot be sent says nothing of the endpoint."""
    async with watched() as (endpoint, store):
        endpoint.fall_silent()

        async def call() -> None:
            for _ in range(50):
                with pytest.raises(StoreError):
                    await store.around(Call("HeadObject", "\udc80"), _unsendable)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            assert await took(store, "k") == PATIENCE
            await trio.sleep(1)
            assert await took(store, "k") == 0


@pytest.mark.mock_clock
async def test_a_silent_endpoint_is_asked_with_pauses() -> None:
    async with watched() as (endpoint, store):
        endpoint.fall_silent("ConnectFailed")
        endpoint.latency = 0.0
        await took(store, "k")
        await trio.sleep(1)
        before = endpoint.requests["ListObjectsV2"]
        await trio.sleep(300)
        assert endpoint.requests["ListObjectsV2"] - before == 100


@pytest.mark.mock_clock
async def test_an_answer_in_the_moment_of_a_failure() -> None:
    endpoint, outage = _Endpoint(), Outage(PATIENCE)
    async with alongside(lambda: outage.watch(endpoint.check), "watch"):
        await trio.testing.wait_all_tasks_blocked()
        outage.failed(NoAnswer("ReadTimeout"), trio.current_time())
        outage.heard()
        await trio.sleep(100)
        assert not endpoint.requests


@pytest.mark.mock_clock
async def test_a_bug_in_the_watch_lets_calls_go_on() -> None:
    endpoint, outage = _Endpoint(), Outage(PATIENCE)
    policy = RetryPolicy(attempts=100, seconds=10 * PATIENCE, patience=PATIENCE)
    store = RetryStore(endpoint, policy, outage=outage)

    async def ask() -> None:
        raise ZeroDivisionError if outage.over else NoAnswer("ReadTimeout")

    async with alongside(lambda: outage.watch(ask), "watch"):
        endpoint.fall_silent()
        await took(store, "k")
        await trio.sleep(100)
        endpoint.speak()
        endpoint.poke("k", b"data")
        assert (await store.head("k")).size == 4


@pytest.mark.mock_clock
async def test_a_failure_of_the_block_is_raised_alone() -> None:
    with pytest.raises(KeyError):
        async with watched():
            raise KeyError


def test_a_connection_that_is_not_made_leaves_time_for_another() -> None:
    assert StoreConfig("b", Anonymous(), patience=10).reach == 5
    assert StoreConfig("b", Anonymous(), connect_timeout=2, patience=10).reach == 2


@pytest.mark.mock_clock
async def test_failures_say_to_which_outage_they_belong(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    endpoint, outage = _Endpoint(), Outage(PATIENCE)
    store = RetryStore(endpoint, RetryPolicy(1, PATIENCE, PATIENCE), outage=outage)
    found: list[float | None] = []
    for silence in (25.0, 5.0):
        endpoint.fall_silent()
        for key in ("a", "b"):
            with pytest.raises(NoAnswer) as caught:
                await store.head(key)
            found.append(caught.value.silent_since)
        await trio.sleep(silence)
        endpoint.speak()
        await store.list("")
    assert found[0] is not None
    assert found[0] == found[1] != found[2] == found[3]
    told = "the endpoint answers again, after {} s of silence; requests that failed meanwhile: {}"
    assert [record.getMessage() for record in caplog.records] == [
        told.format(45, "HeadObject 2"), told.format(25, "HeadObject 2"),
    ]  # fmt: skip
