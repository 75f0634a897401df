"""When the kernel is told of names: not while a call may have the lock of their directory."""

from __future__ import annotations

from collections.abc import Callable

import pyfuse3
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.fuse.calls import Calls, Running
from bucketfs.fuse.kernel_cache import KernelCache, idle

TIMES = st.floats(0, 10)
CALLS = st.lists(
    st.builds(
        Running,
        st.sampled_from(["lookup", "mkdir", "rename", "readdir", "read", "flush"]),
        st.integers(1, 4),
        TIMES,
    )
)


@given(st.dictionaries(st.integers(1, 4), TIMES), CALLS)
def test_a_directory_is_left_to_the_calls_that_have_had_it_for_long(
    told: dict[int, float], calls: list[Running]
) -> None:
    found = idle(told, calls)
    for ino, since in told.items():
        holders = [
            call
            for call in calls
            if call.name in ("rename", "readdir")
            or (call.name in ("lookup", "mkdir") and call.number == ino)
        ]
        assert (ino in found) == all(call.began > since + 1 for call in holders)


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """What the kernel was told to forget."""
    found: list[tuple[int, bytes]] = []

    async def in_place(call: Callable[..., object], *words: object, **_: object) -> object:
        """The virtual clock does not wait for threads."""
        return call(*words)

    monkeypatch.setattr(trio.to_thread, "run_sync", in_place)
    monkeypatch.setattr(pyfuse3, "invalidate_entry", lambda *names: found.append(names))
    monkeypatch.setattr(pyfuse3, "invalidate_inode", lambda *_numbers, **_words: None)
    return found


@pytest.mark.mock_clock
async def test_a_name_is_forgotten_when_its_directory_is_idle(
    forgotten: list[tuple[int, bytes]],
) -> None:
    kernel = KernelCache(Calls())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.run)
        stalled = kernel.calls.begin("mkdir", 2)
        with trio.move_on_after(60) as busy:
            await kernel.forget([(2, "a"), (3, "b")], [])
        assert busy.cancelled_caught
        assert forgotten == [(3, b"b")]
        kernel.calls.end(stalled)
        await kernel.forget([(2, "a")], [])
        assert forgotten == [(3, b"b"), (2, b"a")]
        nursery.cancel_scope.cancel()


@pytest.mark.mock_clock
async def test_a_directory_that_is_never_idle_is_told_of(
    forgotten: list[tuple[int, bytes]],
) -> None:
    kernel = KernelCache(Calls())

    async def keep_busy() -> None:
        call = kernel.calls.begin("lookup", 2)
        while True:
            await trio.sleep(0.1)
            before, call = call, kernel.calls.begin("lookup", 2)
            kernel.calls.end(before)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.run)
        nursery.start_soon(keep_busy)
        with trio.fail_after(2):
            await kernel.forget([(2, "a")], [])
        assert forgotten == [(2, b"a")]
        nursery.cancel_scope.cancel()


@pytest.mark.mock_clock
async def test_nobody_waits_for_a_kernel_that_is_gone(forgotten: list[tuple[int, bytes]]) -> None:
    kernel = KernelCache(Calls())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.run)
        kernel.calls.begin("mkdir", 2)
        nursery.start_soon(kernel.forget, [(2, "a")], [])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.deadline = trio.current_time()
    with trio.fail_after(1):
        await kernel.forget([(2, "a")], [])
    assert forgotten == []
