"""Running things side by side."""

from __future__ import annotations

import functools
import logging

import pytest
import trio
import trio.testing

from bucketfs.tasks import Background, Turns, gather

pytestmark = pytest.mark.mock_clock


async def after(seconds: float, value: int) -> int:
    await trio.sleep(seconds)
    return value


async def fail(seconds: float, error: Exception) -> int:
    await trio.sleep(seconds)
    raise error


async def test_results_come_in_order_and_jobs_run_side_by_side() -> None:
    jobs = [functools.partial(after, 10 - number, number) for number in range(10)]
    began = trio.current_time()
    assert await gather(jobs, limit=10) == list(range(10))
    assert trio.current_time() - began == pytest.approx(10)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_no_more_run_than_allowed(limit: int) -> None:
    running = most = 0

    async def job() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return most

    assert len(await gather([job] * 20, limit=limit)) == 20
    assert most == min(limit, 20)


async def test_nothing_to_do() -> None:
    assert await gather([], limit=4) == []


async def test_none_is_a_result() -> None:
    async def nothing() -> None:
        return None

    assert await gather([nothing, nothing], limit=1) == [None, None]


@pytest.mark.parametrize("count", [1, 2, 50])
async def test_the_first_failure_is_raised_as_it_is_and_ends_the_rest(count: int) -> None:
    error = ValueError("first")
    cancelled = started = 0

    async def slow() -> int:
        nonlocal cancelled, started
        started += 1
        try:
            return await after(100, 0)
        except trio.Cancelled:
            cancelled += 1
            raise

    jobs = [functools.partial(fail, 1, error), *[slow] * (count - 1)]
    began = trio.current_time()
    with pytest.raises(ValueError, match="first") as caught:
        await gather(jobs, limit=8)
    assert caught.value is error
    assert trio.current_time() - began == pytest.approx(1)
    assert started == cancelled == min(7, count - 1)


async def test_two_failures_at_once_are_still_one() -> None:
    jobs = [functools.partial(fail, 1, OSError(number)) for number in range(3)]
    with pytest.raises(OSError, match=r"[012]"):
        await gather(jobs, limit=3)


async def test_a_cancelled_caller_ends_the_jobs() -> None:
    ended = 0

    async def job() -> int:
        nonlocal ended
        try:
            return await after(100, 0)
        finally:
            ended += 1

    with trio.move_on_after(1) as scope:
        await gather([job] * 5, limit=3)
    assert scope.cancelled_caught
    assert ended == 3


async def test_a_background_failure_is_logged_and_ends_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done = []
    async with trio.open_nursery() as nursery:
        background = Background(nursery)
        background.start(functools.partial(fail, 1, RuntimeError("oops")), "doomed")

        async def other() -> None:
            await trio.sleep(2)
            done.append(1)

        background.start(other, "other")
    assert done == [1]
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    assert "doomed" in caplog.text


async def test_turns_wake_all_who_wait_and_none_who_come_later() -> None:
    turns = Turns()
    woken = []

    async def wait(name: str) -> None:
        await turns.next()
        woken.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "a")
        nursery.start_soon(wait, "b")
        await trio.testing.wait_all_tasks_blocked()
        turns.moved()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(woken) == ["a", "b"]
        nursery.start_soon(wait, "c")
        await trio.testing.wait_all_tasks_blocked()
        assert len(woken) == 2
        nursery.cancel_scope.cancel()
