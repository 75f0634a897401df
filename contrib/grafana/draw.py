"""Draws the dashboard of bucketfs without Grafana: ``draw.py URL SECONDS FILE.svg [END]``.

Asks a Prometheus for what the panels of ``bucketfs.json`` ask, over so many seconds until END (Unix
time; else now), and draws the panels that have lines. Needs matplotlib. docs/metrics.svg was made
by it.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

DASHBOARD = Path(__file__).with_name("bucketfs.json")
#: What stands for a variable of the dashboard here: all that there is.
VARIABLES = {"$instance": ".*", "$mount": ".*", "$__rate_interval": "10s"}
#: Panels side by side, and the inches of one.
COLUMNS, WIDTH, HEIGHT = 3, 4.2, 2.0
#: Points a line, and lines a panel.
POINTS, LINES = 75, 5
SUFFIXES = {"bytes": "B", "Bps": "B/s", "s": "s", "ops": "/s", "reqps": "/s", "short": ""}


def ask(url: str, expression: str, since: float, until: float) -> list[dict[str, Any]]:
    """The lines of an expression."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    step = max(1.0, (until - since) / POINTS)
    words = {"query": expression, "start": since, "end": until, "step": step}
    question = f"{url}/api/v1/query_range?{urllib.parse.urlencode(words)}"
    with urllib.request.urlopen(question, timeout=30) as answer:  # noqa: S310 - the caller names it
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def legend(template: str, labels: dict[str, str]) -> str:
    """The name of a line, without the mount: there is one."""
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", "" if name == "mount" else value)
    return template.strip()


def figure(value: float, unit: str) -> str:
    """A number at an axis."""
    if unit == "percentunit":
        return f"{value:.0%}"
    large = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3), ("µ", 1e-6))
    letter, factor = next((pair for pair in large if abs(value) >= pair[1]), ("", 1.0))
    return f"{value / factor:g} {letter}{SUFFIXES[unit]}".rstrip()


def draw(axes: plt.Axes, panel: dict[str, Any], url: str, since: float, until: float) -> None:
    """One panel."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    lines: list[tuple[str, list[float], list[float]]] = []
    for target in panel["targets"]:
        for line in ask(url, target["expr"], since, until):
            at = [float(at) - since for at, _ in line["values"]]
            values = [float(value) for _, value in line["values"]]  # NaN is a gap
            if any(value > 0 for value in values):
                lines.append((legend(target["legendFormat"], line["metric"]), at, values))
    lines.sort(key=lambda line: -max(value for value in line[2] if value >= 0))
    for name, at, values in lines[:LINES]:
        axes.plot(at, values, linewidth=0.9, label=name)
    axes.set_title(panel["title"], fontsize=8, loc="left")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, until - since)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: figure(value, unit)))
    axes.locator_params(nbins=5)
    axes.tick_params(labelsize=6)
    if any(name for name, _, _ in lines):
        axes.legend(fontsize=5, loc="upper left", ncols=2, frameon=False)


def main() -> None:
    """Draw the dashboard into a file."""
    url, seconds, path = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    until = float(sys.argv[4]) if len(sys.argv) > 4 else time.time()
    panels = [
        panel
        for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
        if panel["type"] == "timeseries"
    ]
    mpl.rcParams["svg.fonttype"] = "none"  # a third of the size
    rows = -(-len(panels) // COLUMNS)
    whole, places = plt.subplots(
        rows, COLUMNS, figsize=(COLUMNS * WIDTH, rows * HEIGHT), layout="constrained"
    )
    for panel, axes in zip(panels, places.flat, strict=True):
        draw(axes, panel, url, until - seconds, until)
    whole.savefig(path, metadata={"Date": None})
    drawn = Path(path).read_text(encoding="utf-8")
    drawn = re.sub(r"\n\s*", "\n", re.sub(r"(\d+\.\d)\d+", r"\1", drawn))
    Path(path).write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
