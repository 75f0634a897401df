"""How the demo tells what it does: as plain text, which a log or a test reads.

`pictures` tells the same on a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bucketfs.cli import show

#: Heading and lines of one side of a comparison.
Side = tuple[str, Sequence[str]]


class Narrator:
    """Tells in plain text, and remembers what failed.

    Attributes:
        failed: Checks that did not hold.
    """

    def __init__(self) -> None:
        self.failed: list[str] = []

    def scene(self, title: str, about: str) -> None:
        """Something new begins."""
        print(f"\n== {title}\n{about}", flush=True)

    def ran(self, command: str, lines: Sequence[str] = ()) -> None:
        """A command, and what it printed."""
        print("\n".join((f"  $ {command}", *(f"  {line}" for line in lines))), flush=True)

    def beside(self, *sides: Side) -> None:
        """Several things to compare."""
        for heading, lines in sides:
            print("\n".join((f"  {heading}:", *(f"    {line}" for line in lines))), flush=True)

    def bars(self, rows: Sequence[tuple[str, float]]) -> None:
        """Durations in seconds to compare."""
        for line in show.table([(what, show.short(took)) for what, took in rows], indent="  "):
            print(line, flush=True)

    def frame(self, lines: Sequence[str]) -> None:
        """What ``bucketfs top`` shows."""
        self.ran("bucketfs top", lines)

    def each(self, what: str, items: Sequence[str]) -> Iterator[str]:
        """Go through items, which takes a while."""
        print(f"  {what}", flush=True)
        yield from items

    def checked(self, what: str, *, good: bool, why: str = "") -> None:
        """Whether something is as it should be."""
        print(f"{'ok    ' if good else 'FAILED'}  {what}{f' ({why})' if why else ''}", flush=True)
        if not good:
            self.failed.append(what)

    def pause(self) -> None:
        """The end of a scene: people need time to read."""
