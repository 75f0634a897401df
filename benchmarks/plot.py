"""A picture of results: ``python -m benchmarks.plot results.json out.svg``.

Bars show how many times as fast as each peer bucketfs is, on a logarithmic axis; the line is a tie.
Needs matplotlib (``pip install 'bucketfs[bench]'``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from benchmarks.report import Results
from benchmarks.systems import PEERS

mpl.use("Agg")
from matplotlib import pyplot as plt

_COLOURS = {"s3fs": "#c44e52", "rclone": "#4c72b0", "rclone-modtime": "#93b5d6"}
_HEIGHT = 0.26


def _ratios(results: Results, peer: str) -> list[float]:
    """The peer's seconds over ours; 1 where there is nothing to compare."""
    found = []
    for workload in results.workloads():
        own = results.seconds(workload.name, "bucketfs")
        other = results.seconds(workload.name, peer)
        found.append(other / own if own and other else 1.0)
    return found


def draw(every: Sequence[Results], path: Path) -> None:
    """Write one panel a setting to `path`; its suffix chooses the format."""
    rows = max(len(results.workloads()) for results in every)
    size = (6.5 * len(every), 1.2 + 0.36 * rows)
    figure, panels = plt.subplots(1, len(every), figsize=size, sharey=True, squeeze=False)
    for panel, results in zip(panels[0], every, strict=True):
        titles = [workload.title for workload in results.workloads()]
        for number, peer in enumerate(PEERS):
            at = [row + (number - 1) * _HEIGHT for row in range(len(titles))]
            ratios = [ratio - 1 for ratio in _ratios(results, peer)]
            panel.barh(at, ratios, _HEIGHT, left=1, label=peer, color=_COLOURS[peer])
        panel.set_xscale("log")
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_yticks(range(len(titles)), titles)
        panel.set_title(results.setting)
        panel.set_xlabel("bucketfs is … times as fast")
        panel.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].invert_yaxis()
    panels[0][-1].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)


def main(argv: Sequence[str]) -> int:
    """Read the samples, write the picture."""
    if len(argv) != 2:
        print("usage: python -m benchmarks.plot results.json out.svg", file=sys.stderr)
        return 2
    settings = json.loads(Path(argv[0]).read_text())["settings"]
    draw([Results.from_dict(name, rows) for name, rows in settings.items()], Path(argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
