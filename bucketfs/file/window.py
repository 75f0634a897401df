"""How far to read ahead: the window of one reader. Pure decisions.

A handle has a few cursors, one for each place it reads on from. A read that continues at a cursor
and had to wait widens that cursor's window, up to a limit; a read elsewhere starts a cursor with
no window at all, so that random reads fetch what they asked for and little more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Cursors of a handle: two interleaved streams and a jump to an index or footer.
CURSORS = 3
#: A read this far from where the last one ended still continues it: the kernel splits and reorders
#: a reader's requests within its read-ahead, and skipping so little costs less than a new request.
NEAR = 2 << 20
#: What is fetched beyond a read from the start of a file: most go on, some only look at its head,
#: and a server that reads a range whole before it sends it answers a short one in half the time.
START_WINDOW = 128 << 10
#: Window after the first sequential read, how much wider each wait makes it, and the largest.
FIRST_WINDOW = 1 << 20
GROWTH = 4
MOST_WINDOW = 64 << 20
#: Random reads are widened to whole blocks of this size.
BLOCK = 4 << 10
#: An object up to this size is fetched whole by the first read from its start.
WHOLE = 1 << 20
#: Length of one ranged GET in a window: several run side by side.
FETCH = 8 << 20


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a stream of reads goes on: at `position`, with `window` bytes past it to be fetched."""

    position: int
    window: int


def share(capacity: int, streams: int) -> int:
    """The largest window of each of so many streams, whose windows fill half of the cache at most.

    Never less than the first window: with less, readers wait for every piece.
    """
    return max(FIRST_WINDOW, min(MOST_WINDOW, capacity // (2 * max(1, streams))))


def advance(
    cursors: Sequence[Cursor], start: int, stop: int, *, waited: bool, most: int = MOST_WINDOW
) -> tuple[Cursor, ...]:
    """The cursors after a read of ``[start, stop)``, the one it belongs to first.

    Args:
        cursors: Most recently used first.
        start: First byte read.
        stop: One past the last byte read.
        waited: Whether the read found bytes missing.
        most: Largest window allowed now.
    """
    for at, cursor in enumerate(cursors):
        # one read proves no stream: only its very neighbour does, or random reads would start
        # windows
        if abs(start - cursor.position) <= (NEAR if cursor.window else stop - start):
            window = min(cursor.window, most)
            if waited and stop > cursor.position:
                window = min(most, max(FIRST_WINDOW, window * GROWTH))
            moved = Cursor(max(stop, cursor.position), window)
            return (moved, *cursors[:at], *cursors[at + 1 :])
    fresh = Cursor(stop, START_WINDOW if start == 0 else 0)
    return (fresh, *cursors[: CURSORS - 1])


def ahead(cursor: Cursor, start: int, stop: int, size: int) -> tuple[int, int]:
    """The range to have in the cache for a read of ``[start, stop)``: the read and what follows.

    The end is rounded up to whole windows (whole fetches, once the window is that long): a reader
    that moves on a little asks for nothing most of the time, and for a whole range now and then.
    """
    if size <= WHOLE and cursor.window:
        return 0, size
    end = max(stop, cursor.position + cursor.window)
    granule = max(BLOCK, min(cursor.window, FETCH))
    end = -(-end // granule) * granule
    return start - start % BLOCK, min(end, size)
