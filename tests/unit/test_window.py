"""The read-ahead window: it covers every read, grows with streams and leaves random reads alone."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from bucketfs.cache.extents import Extents
from bucketfs.file.readers import Reader, Readers
from bucketfs.file.window import (
    BLOCK,
    CURSORS,
    FETCH,
    FIRST_WINDOW,
    MOST_WINDOW,
    NEAR,
    START_WINDOW,
    WHOLE,
    Cursor,
    advance,
    ahead,
    share,
)

MIB = 1 << 20
LARGE = 1 << 40
offsets = st.one_of(st.integers(0, 4 * MIB), st.integers(0, LARGE))
reads = st.lists(st.tuples(offsets, st.integers(1, MIB), st.booleans()), min_size=1, max_size=30)


def fetched(size: int, starts: list[int], length: int) -> tuple[int, int]:
    """Bytes fetched by reads of `length` at `starts`, and how many had to wait."""
    cursors: tuple[Cursor, ...] = ()
    held, waits = Extents(), 0
    for start in starts:
        stop = min(start + length, size)
        waited = not held.covers(start, stop)
        waits += waited
        cursors = advance(cursors, start, stop, waited=waited)
        held.add(*ahead(cursors[0], start, stop, size))
    return held.total, waits


@given(reads, st.integers(0, MIB))
def test_every_read_is_covered(pattern: list[tuple[int, int, bool]], beyond: int) -> None:
    size = max(start + length for start, length, _ in pattern) + beyond
    cursors: tuple[Cursor, ...] = ()
    for start, length, waited in pattern:
        stop = start + length
        cursors = advance(cursors, start, stop, waited=waited)
        first, last = ahead(cursors[0], start, stop, size)
        assert 0 <= first <= start
        assert stop <= last <= size
        assert last - first <= MOST_WINDOW + FETCH + NEAR + length + BLOCK


@given(reads, st.integers(0, MOST_WINDOW))
def test_cursors_stay_few_and_windows_bounded(
    pattern: list[tuple[int, int, bool]], most: int
) -> None:
    cursors: tuple[Cursor, ...] = ()
    for start, length, waited in pattern:
        cursors = advance(cursors, start, start + length, waited=waited, most=most)
        assert 1 <= len(cursors) <= CURSORS
        assert cursors[0].position >= start + length
        assert all(cursor.window <= max(most, FIRST_WINDOW) for cursor in cursors)


@given(st.integers(0, LARGE), st.integers(1, MIB))
def test_a_jump_fetches_the_blocks_it_touches(start: int, length: int) -> None:
    start = max(1, start)
    stop = start + length
    cursors = advance((), start, stop, waited=True)
    first, last = ahead(cursors[0], start, stop, LARGE * 2)
    assert start - first < BLOCK
    assert last - stop < BLOCK


@given(st.integers(0, LARGE), st.sampled_from([4096, 128 << 10, MIB]))
def test_a_stream_grows_from_anywhere(start: int, length: int) -> None:
    cursors: tuple[Cursor, ...] = ()
    for number in range(12):
        at = start + number * length
        cursors = advance(cursors, at, at + length, waited=True)
    assert len(cursors) == 1
    assert cursors[0].window == MOST_WINDOW


def test_a_stream_that_never_waits_does_not_grow() -> None:
    cursors = advance((), 0, MIB, waited=True)
    for number in range(1, 50):
        cursors = advance(cursors, number * MIB, (number + 1) * MIB, waited=False)
    assert cursors[0].window == START_WINDOW


@given(st.randoms(use_true_random=False))
def test_requests_out_of_order_are_one_stream(rng: random.Random) -> None:
    """The kernel sends two requests of a stream at once, in any order."""
    numbers = list(range(60))
    for at in range(2, 60, 2):
        if rng.random() < 0.5:
            numbers[at], numbers[at + 1] = numbers[at + 1], numbers[at]
    cursors: tuple[Cursor, ...] = ()
    for number in numbers:
        cursors = advance(cursors, number * MIB, (number + 1) * MIB, waited=True)
    assert len(cursors) == 1


def test_interleaved_streams_all_grow() -> None:
    cursors: tuple[Cursor, ...] = ()
    for number in range(10):
        for stream in range(CURSORS):
            start = (stream << 30) + number * MIB
            cursors = advance(cursors, start, start + MIB, waited=True)
    assert [cursor.window for cursor in cursors] == [MOST_WINDOW] * CURSORS


def test_a_sequential_reader_gets_each_byte_once_and_waits_seldom() -> None:
    size = 256 * MIB
    total, waits = fetched(size, list(range(0, size, 128 << 10)), 128 << 10)
    assert total == size
    assert waits <= 12


def test_random_reads_fetch_little() -> None:
    """4 KiB reads: at most 64 KiB each, also in a file so small that jumps land near each other."""
    for size in (16 * MIB, 64 * MIB, 256 * MIB):
        rng = random.Random(size)
        starts = [rng.randrange(size // 4096) * 4096 for _ in range(200)]
        total, _ = fetched(size, starts, 4096)
        assert total <= 200 * (64 << 10), f"{total / 200 / 1024:.0f} KiB a read of {size >> 20} MiB"


@given(st.integers(1, WHOLE), st.data())
def test_a_small_file_is_fetched_whole_by_a_read_from_its_start(
    size: int, data: st.DataObject
) -> None:
    stop = data.draw(st.integers(1, size))
    assert ahead(advance((), 0, stop, waited=True)[0], 0, stop, size) == (0, size)


def test_long_windows_end_on_whole_fetches() -> None:
    cursor = Cursor(100 * MIB + 1, 2 * FETCH)
    start, stop = ahead(cursor, 100 * MIB, 100 * MIB + 1, LARGE)
    assert (start, stop % FETCH) == (100 * MIB, 0)
    assert stop >= cursor.position + cursor.window


@given(st.integers(0, LARGE), st.integers(0, 1000))
def test_windows_together_fill_half_of_the_cache(capacity: int, streams: int) -> None:
    most = share(capacity, streams)
    assert FIRST_WINDOW <= most <= MOST_WINDOW
    assert most == FIRST_WINDOW or most * streams <= capacity / 2


def test_a_reader_gives_way_when_others_come() -> None:
    readers, one = Readers(), Reader()
    capacity = 4 * MOST_WINDOW

    def go_on(reader: Reader) -> int:
        start = reader.cursors[0].position if reader.cursors else 0
        return readers.advance(reader, start, start + MIB, waited=True, capacity=capacity).window

    while go_on(one) < MOST_WINDOW:
        pass
    others = [Reader() for _ in range(7)]
    for _ in range(10):
        for other in others:
            go_on(other)
    assert go_on(one) == capacity // 16
    for other in others:
        readers.remove(other)
    while go_on(one) < MOST_WINDOW:
        pass
