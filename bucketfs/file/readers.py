"""Who reads in this mount: the cursors of each handle, and the cache that all of them share."""

from __future__ import annotations

from dataclasses import dataclass

from bucketfs.file import window


@dataclass(slots=True)
class Served:
    """Bytes that programs have read.

    Attributes:
        here: Those that were on the local disk when they were asked for.
        fetched: Those that had to come from the bucket first.
    """

    here: int = 0
    fetched: int = 0


class Reader:
    """The reading positions of one handle."""

    __slots__ = ("cursors",)

    def __init__(self) -> None:
        self.cursors: tuple[window.Cursor, ...] = ()

    @property
    def streams(self) -> int:
        """How many of its cursors read ahead."""
        return sum(cursor.window >= window.FIRST_WINDOW for cursor in self.cursors)


class Readers:
    """All readers of a mount: what one reads ahead is bounded by what the others do."""

    def __init__(self) -> None:
        self._streams = 0

    def advance(
        self, reader: Reader, start: int, stop: int, *, waited: bool, capacity: int
    ) -> window.Cursor:
        """Move a reader's cursors for a read of ``[start, stop)``; answers the one it belongs to.

        Args:
            reader: Who reads.
            start: First byte read.
            stop: One past the last byte read.
            waited: Whether bytes were missing.
            capacity: Bytes the cache may hold.
        """
        before = reader.streams
        most = window.share(capacity, self._streams + (not before))
        reader.cursors = window.advance(reader.cursors, start, stop, waited=waited, most=most)
        self._streams += reader.streams - before
        return reader.cursors[0]

    def remove(self, reader: Reader) -> None:
        """The handle is closed."""
        self._streams -= reader.streams
        reader.cursors = ()
