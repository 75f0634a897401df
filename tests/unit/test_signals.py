"""Signals that come together are obeyed in the order that was meant."""

from __future__ import annotations

import signal

import pytest
import trio

from bucketfs.cli.process.serve import in_order

pytestmark = pytest.mark.mock_clock

USR1, TERM, INT, HUP = signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP


@pytest.mark.parametrize(
    ("sent", "obeyed"),
    [
        ([USR1, TERM], [USR1, TERM]),
        ([TERM, USR1], [USR1, TERM]),
        ([TERM, TERM], [TERM, TERM]),
        ([HUP, TERM, HUP], [HUP, TERM, HUP]),
        ([INT, USR1], [INT, USR1]),
    ],
)
async def test_sigusr1_is_before_the_end(sent: list[int], obeyed: list[int]) -> None:
    send, receive = trio.open_memory_channel[int](len(sent))
    for number in sent:
        send.send_nowait(number)
    send.close()
    assert [number async for number in in_order(receive)] == obeyed


async def test_a_later_signal_is_not_waited_for() -> None:
    send, receive = trio.open_memory_channel[int](2)
    seen: list[int] = []

    async def obey() -> None:
        async for number in in_order(receive):
            seen.append(number)  # noqa: PERF401 - looked at meanwhile

    async with trio.open_nursery() as nursery:
        nursery.start_soon(obey)
        await send.send(TERM)
        await trio.sleep(1)
        assert seen == [TERM]
        await send.send(USR1)
        send.close()
    assert seen == [TERM, USR1]
