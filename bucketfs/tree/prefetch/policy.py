"""Where a program is in a directory, and what it will ask for next; pure, no I/O and no clock."""

from __future__ import annotations

from dataclasses import dataclass

from bucketfs.tree.core.inode import NEVER
from bucketfs.tree.lookup.lister import MANY_MISSES

#: Entries whose attributes are asked for together, at first and for who goes on: enough to keep all
#: connections busy for a few round trips, few enough to be wasted on someone who stops.
LOOKS, MOST_LOOKS = 256, 1024
#: Looks of a thread without an opening in between that make it one that looks at all there is,
#: and one that will open nothing of it.
ONLY_LOOKING, STILL_LOOKING = 2, 4
#: The second is also known from so many questions, where most looks met what was asked for ahead.
STILL_ASKING = 12
#: Seconds after which a look says nothing of the next one any more.
HABIT = 1.0
#: A file opened this many entries after the last one still follows it (others may be filtered out).
NEAR = 4
#: Files fetched ahead after the first that followed, doubling with each further one up to the
#: second.
FIRST_DEPTH, MOST_DEPTH = 4, 64
#: How much of the time in which fetched files are trusted they may wait to be opened, should the
#: program go on as fast as so far.
PART_TRUSTED = 0.7


@dataclass(slots=True)
class Progress:
    """How far somebody has gone through a directory; positions are those of the listing.

    Attributes:
        last: Position of the file opened last.
        streak: How many files in a row were opened in order.
        began / latest: Monotonic times at which the first and the last of them were.
        fetched: Everything before it was fetched ahead or passed.
        looked: Everything before it was looked at ahead.
        window: How many are looked at ahead together the next time.
        asked: How many cached files in a row were opened whose versions had to be asked for.
        asked_at: Monotonic time at which the last of them was.
        directories: How many directories among its entries were looked at.
    """

    last: int = -NEAR - 1
    streak: int = 0
    began: float = 0.0
    latest: float = NEVER
    fetched: int = 0
    looked: int = 0
    window: int = LOOKS
    asked: int = 0
    asked_at: float = NEVER
    directories: int = 0

    def opened(self, position: int, now: float, trusted: float) -> range:
        """A file was opened; which ones to fetch now.

        Args:
            position: Of the file.
            now: Monotonic time.
            trusted: Seconds within which a fetched file has to be opened, so that it need not be
                asked for again.
        """
        follows = 0 < position - self.last <= NEAR
        self.streak = self.streak + 1 if follows else 0
        self.last, self.latest = position, now
        if not self.streak:
            self.began = now
            self.fetched = position + 1
            return range(0)
        depth = min(FIRST_DEPTH << min(self.streak, 16), MOST_DEPTH)
        if now > self.began:
            depth = min(depth, int(trusted * PART_TRUSTED * self.streak / (now - self.began)))
        if self.fetched - position > depth // 2:
            return range(0)  # half of the last batch is still ahead
        begin = max(self.fetched, position + 1)
        self.fetched = max(begin, position + 1 + depth)
        return range(begin, self.fetched)

    def until(self, position: int, now: float) -> float:
        """Seconds until the file of a later position is opened, at the pace so far."""
        return (position - self.last) * (now - self.began) / max(self.streak, 1)

    def outdated(self, now: float, trusted: float) -> bool:
        """A cached file was opened whose version has to be asked for; are there many of the kind?

        One file alone never counts as many: its version is trusted for a while then.
        """
        goes_on = now - self.asked_at <= min(HABIT, trusted)
        self.asked = self.asked + 1 if goes_on else 1
        self.asked_at = now
        return self.asked > MANY_MISSES

    def goes_on(self, before: Progress, now: float) -> None:
        """Who has finished another directory in order, if just now, begins with this one."""
        if now - before.latest > HABIT:
            return
        if self.last >= 0:
            self.fetched = 0  # that was in an earlier round
        self.last = -1
        self.streak, self.began = before.streak, before.began

    def looked_at(self, position: int) -> range:
        """Someone who only looks needs attributes; whose to ask for along with them."""
        begin = max(self.looked, position + 1)
        if begin - position > self.window // 2:
            return range(0)
        self.looked = begin + self.window
        self.window = min(self.window + LOOKS, MOST_LOOKS)
        return range(begin, self.looked)


@dataclass(slots=True)
class Habit:
    """What one thread of a program does at the moment; times are monotonic seconds.

    Attributes:
        looks: Looks without an opening in between, at what was not known.
        asked: Names and attributes asked for meanwhile, known ones among them.
        last: Time of the last one.
    """

    looks: int = 0
    asked: int = 0
    last: float = NEVER

    def looked(self, now: float) -> None:
        """Attributes were asked for."""
        if now - self.last > HABIT:
            self.looks = self.asked = 0
        self.looks += 1
        self.last = now

    def goes_on(self, now: float) -> None:
        """A name or attributes were asked for, known or not."""
        if now - self.last <= HABIT:
            self.asked += 1
            self.last = now

    def opened(self) -> None:
        """A file was opened."""
        self.looks = self.asked = 0

    def only_looks(self, now: float) -> bool:
        """Whether the next file looked at is hardly going to be opened."""
        often = self.looks >= ONLY_LOOKING and self.asked >= STILL_ASKING
        return (often or self.looks >= STILL_LOOKING) and now - self.last <= HABIT
