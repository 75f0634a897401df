"""Pictures of results: what `benchmarks.publish` puts into the documents.

Needs matplotlib (``pip install 'bucketfs[bench]'``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.report import Results, variant
from benchmarks.slopes import MEASURES, Axis, exponent
from benchmarks.systems import PEERS
from benchmarks.workloads import Workload

mpl.use("Agg")
from matplotlib import pyplot as plt

# the same picture of the same figures, whenever it is drawn
mpl.rcParams["svg.hashsalt"] = "bucketfs"
# letters as text: a quarter of the size
mpl.rcParams["svg.fonttype"] = "none"

_COLOURS = {"s3fs": "#c44e52", "rclone": "#4c72b0", "geesefs": "#dd8452", "mount-s3": "#8172b3"}
_BAR = 0.8 / len(PEERS)

#: Less CPU (s) than this is below what /proc tells.
_LEAST_CPU = 0.01

#: The least of the axis of memory (MiB), so that what hardly grows looks like it.
_LEAST_MEMORY = 10

#: What a panel of growth shows, of what was measured, and how.
_LINES = {
    "first": ("#55a868", "s"),
    "seconds": ("#4c72b0", "s"),
    "cpu": ("#c44e52", "s"),
    "alone": ("#999999", "s"),
    "memory": ("#8172b3", "MiB"),
}

#: Of a system in a row: seconds, or None.
Figure = Callable[[Results, Workload, str], float | None]


def _seconds(results: Results, workload: Workload, system: str) -> float | None:
    return results.seconds(workload.name, system)


def _cpu(results: Results, workload: Workload, system: str) -> float | None:
    if not results.timed(workload.name, system):
        return None
    return max(_LEAST_CPU, results.cpu(workload.name, system))


def ratios(results: Results, family: str, figure: Figure) -> list[float]:
    """A family's figures over ours, row by row; 1 where there is nothing to compare."""
    found = []
    for workload in results.workloads():
        own = figure(results, workload, workload.own)
        other = figure(results, workload, variant(results, workload, family))
        found.append(other / own if own and other else 1.0)
    return found


def _plain() -> Any:
    """Numbers as people write them, on an axis that is logarithmic."""
    return mpl.ticker.FuncFormatter(lambda x, _: f"{x:,g}")


def _bars(panel: Any, results: Results, figure: Figure) -> None:
    rows = len(results.workloads())
    for number, family in enumerate(PEERS):
        if family not in results.families():
            continue
        at = [row + (number - (len(PEERS) - 1) / 2) * _BAR for row in range(rows)]
        lengths = [ratio - 1 for ratio in ratios(results, family, figure)]
        panel.barh(at, lengths, _BAR, left=1, label=family, color=_COLOURS[family])
    panel.set_xscale("log")
    panel.axvline(1, color="black", linewidth=0.8)
    panel.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 3)))
    panel.xaxis.set_major_formatter(_plain())
    panel.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    panel.grid(axis="x", alpha=0.3)


def _floors(panel: Any, results: Results) -> None:
    """A mark where a peer would be that takes the time of the bare requests."""
    found = ratios(results, "floor", _seconds)
    rows = [row for row, workload in enumerate(results.workloads())
            if variant(results, workload, "floor")]  # fmt: skip
    panel.plot([found[row] for row in rows], rows, "|", color="black", markersize=9, label="floor")


def draw(every: Sequence[Results], path: Path) -> None:
    """How many times as fast as each peer, and with how much less CPU: two panels a setting.

    The axes are logarithmic, the line is a tie. The suffix of `path` chooses the format.
    """
    rows = max(len(results.workloads()) for results in every)
    size = (8 + 4.4 * (2 * len(every) - 1), 1.2 + 0.4 * rows)
    figure, panels = plt.subplots(1, 2 * len(every), figsize=size, sharey=True, squeeze=False)
    for number, results in enumerate(every):
        time, cpu = panels[0][2 * number : 2 * number + 2]
        _bars(time, results, _seconds)
        _floors(time, results)
        _bars(cpu, results, _cpu)
        time.set_title(f"{results.setting}: time")
        cpu.set_title(f"{results.setting}: CPU")
        time.set_xlabel("bucketfs is … times as fast")
        cpu.set_xlabel("the other takes … times the CPU")
    titles = [workload.title for workload in every[0].workloads()]
    panels[0][0].set_yticks(range(len(titles)), titles)
    panels[0][0].invert_yaxis()
    panels[0][0].legend(loc="lower right")
    _save(figure, path)


def _grown(panel: Any, axis: Axis) -> None:
    """One axis: seconds on the left, memory on the right."""
    right = None
    for measure, (colour, unit) in _LINES.items():
        series = [(x, y) for x, y in axis.series(measure) if y > 0]
        if not series:
            continue
        here = panel
        if unit != "s":
            here = right = right or panel.twinx()
            here.set_ylabel(unit)
        power = exponent(series)
        label = MEASURES[measure][0] + (f" (exponent {power:.2f})" if power is not None else "")
        # one label, wherever the line belongs
        panel.plot([], [], "o-", color=colour, label=label)
        here.plot(*zip(*series, strict=True), "o-" if unit == "s" else "o--", color=colour)
    for each in (panel, right):
        if each is not None:
            each.set_xscale("log")
            each.set_yscale("log")
            each.xaxis.set_major_formatter(_plain())
            each.yaxis.set_major_formatter(_plain())
            each.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    if right is not None:
        right.set_ylim(_LEAST_MEMORY, 10 * max(y for _, y in axis.series("memory")))
    panel.set_title(axis.title)
    panel.set_xlabel(f"{axis.unit}s" if axis.unit != "MB" else axis.unit)
    panel.set_ylabel("s")
    panel.grid(alpha=0.3)
    panel.legend(loc="best", fontsize="small")


def draw_growth(axes: Sequence[Axis], path: Path) -> None:
    """One panel an axis, with logarithmic scales: the exponent of a cost is its slope."""
    columns = min(3, len(axes))
    rows = -(-len(axes) // columns)
    size = (6.2 * columns, 4.4 * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False)
    flat = [panel for row in panels for panel in row]
    for panel, axis in zip(flat, axes, strict=False):
        _grown(panel, axis)
    for panel in flat[len(axes) :]:
        panel.set_visible(False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
