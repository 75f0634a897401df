"""Tables and pictures of a run into the documents.

``python -m benchmarks.publish results.json docs`` does it again.

In ``benchmarks.md`` what stands between two comments is replaced, and nothing else is touched.
``benchmarks.svg`` and ``growth.svg`` lie beside it. What a run has not measured stays as it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.growth import AXES

BEGIN, END = "<!-- {name}: written by `make bench`. -->", "<!-- End of {name}. -->"

DOCUMENT = "benchmarks.md"


def between(text: str, name: str, content: str) -> str:
    """A document with other content at the place of this name.

    Raises:
        ValueError: It has no such place.
    """
    before, begin, rest = text.partition(BEGIN.format(name=name))
    _, end, after = rest.partition(END.format(name=name))
    if not begin or not end:
        raise ValueError(f"the document has no place for {name}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def publish(run: report.Run, docs: Path) -> None:
    """Write what a run has measured into the documents."""
    # matplotlib takes a second, and who measures does not wait for it
    from benchmarks.plot import draw, draw_growth  # noqa: PLC0415

    path = docs / DOCUMENT
    text = path.read_text(encoding="utf-8")
    if run.settings:
        text = between(text, "Tables", report.tables(run))
        draw(run.settings, docs / "benchmarks.svg")
    if run.growth:
        text = between(text, "Growth", report.grown(run, "![How cost grows](growth.svg)"))
        draw_growth(run.growth, docs / "growth.svg")
    path.write_text(text, encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """Read the samples, write the documents."""
    if len(argv) != 2:
        print("usage: python -m benchmarks.publish results.json docs", file=sys.stderr)
        return 2
    found = json.loads(Path(argv[0]).read_text())
    publish(report.Run.from_dict(found, (axis for axis, _ in AXES)), Path(argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
