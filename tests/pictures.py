"""What the documents draw from tables of the code: ``python -m tests.pictures docs`` (`make docs`).

A picture stands between two comments of its document, and nothing else is touched. A test compares
(`tests/unit/test_stages.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bucketfs.tree.core.stages import MOVES, Event, Stage

BEGIN, END = "<!-- Drawn by `make docs` from {source}. -->", "<!-- End of the picture. -->"
SOURCE = "bucketfs/tree/core/stages.py"


def stages() -> str:
    """The stages and what leads from one to another; what leaves a stage as it is, is left out."""
    lines = ["```mermaid", "stateDiagram-v2", "    direction LR", "    [*] --> CLEAN"]
    lines += [f"    {stage.name} : {stage.name} ({stage})" for stage in Stage]
    for stage, moves in MOVES.items():
        ways: dict[Stage, list[Event]] = {}
        for event, after in moves.items():
            ways.setdefault(after, []).append(event)
        for after, events in ways.items():
            # what is removed or let go may be anywhere: that is said below the picture
            if after is stage or set(events) <= {Event.REMOVED, Event.NOTHING_LEFT}:
                continue
            lines.append(f"    {stage.name} --> {after.name} : {'; '.join(events)}")
    return "\n".join([*lines, "```"])


def moves() -> str:
    """The table of moves: a line for each event, a column for each stage."""
    lines = ["| event | " + " | ".join(stage.name for stage in Stage) + " |"]
    lines.append("| --- " * (len(Stage) + 1) + "|")
    for event in Event:
        ends = [MOVES[stage].get(event) for stage in Stage]
        cells = [after.name if after is not None else "" for after in ends]
        lines.append(f"| {event} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


#: Document, and what is drawn in it.
PICTURES: dict[str, Callable[[], str]] = {"architecture.md": stages, "concurrency.md": moves}


def pieces(text: str, begin: str = BEGIN.format(source=SOURCE)) -> tuple[str, str, str]:
    """What stands before a document's picture, the picture, and what stands behind it."""
    before, begin, rest = text.partition(begin)
    picture, end, after = rest.partition(END)
    assert begin, "the document has no place for its picture"
    assert end, "the picture has no end"
    return before + begin, picture.strip("\n"), end + after


def drawn(directory: Path) -> Iterator[tuple[Path, str]]:
    """Each document, with the text that it should have."""
    for name, draw in PICTURES.items():
        before, _, after = pieces((directory / name).read_text(encoding="utf-8"))
        yield directory / name, f"{before}\n\n{draw()}\n\n{after}"


if __name__ == "__main__":
    for path, text in drawn(Path(sys.argv[1])):
        path.write_text(text, encoding="utf-8")
