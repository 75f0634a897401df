"""How many small requests are worth having under way at once; pure, no I/O and no clock.

Over a network each round trip is a wait that costs nobody anything: the more requests share it, the
sooner a directory's attributes are here. Until the server, or this process, has as much to do as it
can: then each further request only makes all others wait longer. So the width grows as long as
answers take about as long as the fastest ones did, twofold at first, by steps later. It goes back
when they take much longer, and by half when the server says that it is too much.

Invariants: ``1 <= width <= most``; slow answers alone never bring it below `usual`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

#: Answers that take so many times as long as the fastest, and so many seconds more (what a busy
#: loop adds by itself), still are as fast as those; and from where on they are slow.
_AS_FAST: Final = 1.5, 0.005
_SLOW: Final = 3.0, 0.010
#: What the fastest answer counts for in the next round: networks change.
_DRIFT: Final = 1.1
#: Part of the usual width that is added in a round, once the first growth is over.
_STEP: Final = 4
#: What is left of the width after a round of slow answers.
_LESS: Final = 0.75


class Pace:
    """The width of one kind of requests to one endpoint.

    A round is as many answers as requests may be under way.

    Args:
        usual: Requests at once before anything is known.
        most: Requests at once at most.
    """

    def __init__(self, usual: int, most: int) -> None:
        self._usual, self._most = usual, max(usual, most)
        self.width = usual
        #: How many requests each who sends has under way.
        self._users: list[Callable[[], int]] = []
        #: Nothing has stood in the way yet: each round doubles the width.
        self._begins = True
        #: Answers still to come to requests that were sent before the width was halved.
        self._old = 0
        self._best = math.inf
        self._count, self._sum, self._least = 0, 0.0, math.inf

    @contextmanager
    def used(self, count: Callable[[], int]) -> Iterator[None]:
        """Somebody sends in this block, of whom `count` tells how many requests are under way."""
        self._users.append(count)
        try:
            yield
        finally:
            self._users.remove(count)

    def has_room(self, own: int) -> bool:
        """Whether one more may be sent by somebody who has so many under way.

        Who came first goes on, the others get what is left; none is without a request.
        """
        return not own or sum([count() for count in self._users]) < self.width

    def answered(self, seconds: float) -> None:
        """An answer came after so long."""
        if self._old:
            self._old -= 1
            return
        self._count += 1
        self._sum += seconds
        self._least = min(self._least, seconds)
        if self._count >= self.width:
            self._end_round()

    def refused(self) -> None:
        """The server said that it is too much, or a connection failed."""
        if self._old:
            self._old -= 1
            return
        self._old, self._begins = self.width, False
        self.width = max(1, self.width // 2)
        self._count, self._sum, self._least = 0, 0.0, math.inf

    def _end_round(self) -> None:
        mean = self._sum / self._count
        self._best = min(self._best * _DRIFT, self._least)
        self._count, self._sum, self._least = 0, 0.0, math.inf
        if mean <= _AS_FAST[0] * self._best + _AS_FAST[1]:
            more = self.width if self._begins else max(1, self._usual // _STEP)
            self.width = min(self._most, self.width + more)
            return
        self._begins = False
        if mean > _SLOW[0] * self._best + _SLOW[1]:
            self.width = min(self.width, max(self._usual, int(self.width * _LESS)))
