"""Counting of the kernel's calls."""

from __future__ import annotations

import errno

import pyfuse3
import pytest
import trio

from bucketfs.durations import CLASSES, duration_class, upper_bound
from bucketfs.errors import FsError
from bucketfs.fuse.calls import Calls
from bucketfs.fuse.guard import guarded


class Handlers:
    def __init__(self) -> None:
        self.calls = Calls()
        self.timeout = 60.0

    @guarded()
    async def read(self, fh: int, seconds: float) -> None:
        await trio.sleep(seconds)

    @guarded()
    async def lookup(self, parent: int) -> None:
        raise FsError(errno.ENOENT)


@pytest.mark.parametrize("seconds", [0.0, 5e-7, 1e-6, 3e-6, 0.001, 0.9, 30.0, 66.0])
def test_a_duration_is_below_the_bound_of_its_class(seconds: float) -> None:
    found = duration_class(seconds)
    assert seconds < upper_bound(found)
    assert found == 0 or seconds >= upper_bound(found - 1)


def test_the_last_class_has_no_bound() -> None:
    assert duration_class(1e9) == CLASSES - 1
    assert upper_bound(CLASSES - 1) == float("inf")


@pytest.mark.mock_clock
async def test_calls_are_counted_with_their_time() -> None:
    handlers = Handlers()
    await handlers.read(7, 2.0)
    await handlers.read(7, 0.5)
    with pytest.raises(pyfuse3.FUSEError):
        await handlers.lookup(1)
    tally = handlers.calls.tallies["read"]
    assert (tally.count, tally.seconds) == (2, pytest.approx(2.5))
    assert tally.durations[duration_class(2.0)] == tally.durations[duration_class(0.5)] == 1
    assert handlers.calls.tallies["lookup"].count == 1
    assert handlers.calls.failures == {"lookup ENOENT": 1}
    assert not handlers.calls.under_way


@pytest.mark.mock_clock
async def test_calls_under_way_are_known_and_forgotten() -> None:
    handlers = Handlers()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handlers.read, 9, 30.0)
        await trio.sleep(1)
        (call,) = handlers.calls.under_way
        assert (call.name, call.number, call.began) == ("read", 9, pytest.approx(began))
        nursery.cancel_scope.cancel()
    assert not handlers.calls.under_way
