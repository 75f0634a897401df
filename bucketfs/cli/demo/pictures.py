"""How the demo tells what it does on a terminal: panels, bars and checklists, with `rich`."""

from __future__ import annotations

import select
import sys
import termios
from collections.abc import Iterator, Sequence

from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from bucketfs.cli import show
from bucketfs.cli.demo.narrator import Narrator, Side

#: Seconds for reading a scene.
_READING = 6.0
#: Columns that the longest bar takes.
_BAR = 48


class Pictures(Narrator):
    """Tells on the terminal that is standard output."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(highlight=False)

    def scene(self, title: str, about: str) -> None:
        self._console.print()
        self._console.rule(f"[bold cyan]{escape(title)}", align="left")
        self._console.print(Text(about))
        self._console.print()

    def ran(self, command: str, lines: Sequence[str] = ()) -> None:
        # not folded: an address is copied from here
        self._console.print(Text.assemble(("$ ", "green"), (command, "bold")), soft_wrap=True)
        for line in lines:
            self._console.print(Text(line, "bright_white"), soft_wrap=True)

    def beside(self, *sides: Side) -> None:
        panels = [
            Panel(Text("\n".join(lines)), title=escape(heading), title_align="left", expand=False)
            for heading, lines in sides
        ]
        self._console.print(Columns(panels))

    def bars(self, rows: Sequence[tuple[str, float]]) -> None:
        longest = max(took for _, took in rows)
        table = Table.grid(padding=(0, 1))
        for at, (what, took) in enumerate(rows):
            length = max(1, round(_BAR * took / longest))
            bar = Text("\N{FULL BLOCK}" * length, "red" if at == 0 else "green")
            table.add_row(Text(what), bar, Text(show.short(took), "bold"))
        self._console.print(table)

    def frame(self, lines: Sequence[str]) -> None:
        text = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
        self._console.print(
            Panel(text, title="bucketfs top", title_align="left", border_style="blue", expand=False)
        )

    def each(self, what: str, items: Sequence[str]) -> Iterator[str]:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )  # fmt: skip
        with Progress(*columns, console=self._console) as progress:
            yield from progress.track(items, description=escape(what))

    def checked(self, what: str, *, good: bool, why: str = "") -> None:
        sign = ("\N{CHECK MARK} ", "bold green") if good else ("\N{BALLOT X} ", "bold red")
        self._console.print(Text.assemble(sign, what, (f" ({why})" if why else "", "dim")))
        if not good:
            self.failed.append(what)

    def pause(self) -> None:
        """Wait until Enter is pressed, or for some seconds."""
        self._console.print("\n[dim]Enter goes on.[/]", end="")
        sys.stdout.flush()
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
        if select.select([sys.stdin], [], [], _READING)[0]:
            sys.stdin.readline()
        else:
            self._console.print()
