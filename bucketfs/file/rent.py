"""When to fetch the whole of a file that is read at random: the ski-rental rule. Pure decisions.

Each random read that has to wait is rent, all of the file would be the price. Who buys once the
rent has reached the price pays, however many reads come, twice at most of what the better of both
would have cost. The price is time, as the link is seen to be. Bytes have a price, too: no read may
cause more than `A_READ` of them, and a program that looks into a file a few times gets no more
than it asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Random reads that have waited, before all of a file is fetched for them: archives, tables and
#: pictures are opened with less, by programs that go on to the next file.
FEWEST: Final = 16
#: Bytes that may be fetched in advance for each of them.
A_READ: Final = 8 << 20
#: The largest rest of a file that is fetched for random reads.
MOST: Final = 2 << 30
#: One request; four times as long as a round trip of 20 ms at 80 MB/s a connection.
REST_PIECE: Final = 4 << 20
#: Requests side by side at first; each that keeps what was expected makes room for one more.
FIRST_WIDTH: Final = 4
#: Bytes a second of all connections together, before that was seen.
UNSEEN_RATE: Final = 256e6


@dataclass(slots=True)
class Link:
    """How fast the bucket gives away many bytes.

    Attributes:
        rate: Bytes a second, all connections together.
    """

    rate: float = UNSEEN_RATE

    def seen(self, count: int, seconds: float, *, width: int, most: int) -> None:
        """`count` bytes took so long, `width` requests wide where `most` are allowed.

        While there are fewer, twice as many are expected to bring twice as much: whether they do
        is seen next.
        """
        wider = min(2 * width, most)
        self.rate = (self.rate + count * wider / max(seconds, 1e-6)) / 2


@dataclass(slots=True)
class Rent:
    """What the random reads of one file have cost.

    Attributes:
        reads: How many had to wait.
        paid: Seconds in which the rest of the file was being fetched for them.
    """

    reads: int = 0
    paid: float = 0.0
    _waiting: int = 0
    _since: float = 0.0
    _spent: float = 0.0

    def begin(self, now: float) -> None:
        """A random read begins to wait."""
        self.reads += 1
        if not self._waiting:
            self._since = now
        self._waiting += 1

    def end(self, now: float) -> None:
        """It has waited."""
        self._waiting -= 1
        if not self._waiting:
            self._spent += now - self._since

    def spent(self, now: float) -> float:
        """Seconds in which some of them waited."""
        return self._spent + (now - self._since if self._waiting else 0.0)


def is_due(
    rent: Rent, now: float, missing: int, link: Link, *, room: int, elapsed: float = 0.0
) -> bool:
    """Whether to fetch the rest of a file now, or to go on with it.

    Args:
        rent: Of the file.
        now: Monotonic time.
        missing: Bytes of the rest.
        link: To the bucket.
        room: Bytes that the cache has for it.
        elapsed: Seconds for which it is being fetched already.
    """
    if rent.reads < FEWEST or not 0 < missing <= min(MOST, room, rent.reads * A_READ):
        return False
    return rent.spent(now) >= rent.paid + elapsed + missing / link.rate
