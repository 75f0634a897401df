"""Samples → medians, verdicts and tables. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.data import MIB
from benchmarks.measure import Sample
from benchmarks.slopes import MEASURES, Axis, judged, slope
from benchmarks.systems import FAMILIES, SYSTEMS
from benchmarks.workloads import WORKLOADS, Workload


@dataclass
class Results:
    """All samples of one setting.

    Attributes:
        setting: "loopback" or "network".
        samples: By the names of workload and system.
    """

    setting: str
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)

    def add(self, workload: str, system: str, sample: Sample) -> None:
        self.samples.setdefault((workload, system), []).append(sample)

    def timed(self, workload: str, system: str) -> list[Sample]:
        """The samples whose seconds count: over loopback those that were not slowed by counting."""
        good = [s for s in self.samples.get((workload, system), []) if not s.error]
        direct = [s for s in good if not s.counted]
        return direct or good

    def seconds(self, workload: str, system: str) -> float | None:
        """The median, None without a result."""
        timed = self.timed(workload, system)
        return statistics.median(s.seconds for s in timed) if timed else None

    def cpu(self, workload: str, system: str) -> float:
        return statistics.median(s.cpu for s in self.timed(workload, system))

    def memory(self, workload: str, system: str) -> int:
        return max(s.memory for s in self.timed(workload, system))

    def counted(self, workload: str, system: str) -> Sample | None:
        """A sample with requests and bytes: the last."""
        every = self.samples.get((workload, system), [])
        return next((s for s in reversed(every) if s.counted and not s.error), None)

    def systems(self) -> list[str]:
        """Those that were measured, in the order of their columns."""
        present = {system for _, system in self.samples}
        return [system for system in SYSTEMS if system in present]

    def families(self) -> list[str]:
        """The programs that were measured, in the order of their columns."""
        present = {SYSTEMS[system].family for system in self.systems()}
        return [family for family in FAMILIES if family in present]

    def workloads(self) -> list[Workload]:
        present = {workload for workload, _ in self.samples}
        return [workload for workload in WORKLOADS if workload.name in present]

    def as_dict(self) -> list[dict[str, Any]]:
        return [
            {"workload": workload, "system": system, "runs": [s.as_dict() for s in samples]}
            for (workload, system), samples in self.samples.items()
        ]

    @classmethod
    def from_dict(cls, setting: str, rows: Iterable[dict[str, Any]]) -> Results:
        found = cls(setting)
        for row in rows:
            runs = [Sample(**run) for run in row["runs"]]
            found.samples[row["workload"], row["system"]] = runs
        return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bar and how it was met: `ratio` times as fast as `other`."""

    factor: float
    ratio: float
    other: str

    @property
    def met(self) -> bool:
        return self.ratio >= self.factor

    def __str__(self) -> str:
        verdict = "pass" if self.met else "MISS"
        return f"{self.ratio:.2f}× {self.other} (≥ {self.factor:.3g}×) {verdict}"


def verdicts(results: Results, workload: Workload) -> list[Verdict]:
    """All bars of a workload that can be judged by what was measured."""
    found = []
    own = results.seconds(workload.name, workload.own)
    for bar in workload.bars:
        factor = bar.near if results.setting == "loopback" else bar.far
        timed = {
            other: seconds
            for other in bar.others or workload.peers
            if (seconds := results.seconds(workload.name, other)) is not None
        }
        if factor is not None and own and timed:
            best = min(timed, key=lambda other: timed[other])
            found.append(Verdict(factor, timed[best] / own, best))
    return found


def limits(results: Results, workload: Workload) -> list[str]:
    """How bucketfs kept the limits of a workload."""
    limit, name, own = workload.limit, workload.name, workload.own
    if not results.timed(name, own):
        return []
    judged: list[tuple[float, float | None, str]] = [
        (results.memory(name, own) / MIB, _in_mib(limit.memory), "MiB resident"),
        (results.cpu(name, own), limit.cpu, "s CPU"),
    ]
    if counted := results.counted(name, own):
        judged.append((counted.down / MIB, _in_mib(limit.down), "MiB fetched"))
    if results.setting == "network":
        judged.append((results.seconds(name, own) or 0, limit.far, "s"))
    return [
        f"{value:.3g} (≤ {most:.3g}) {unit} {'pass' if value <= most else 'MISS'}"
        for value, most, unit in judged
        if most is not None
    ]


def _in_mib(size: int | None) -> float | None:
    return size / MIB if size else None


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns stand in line."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = f"| {' | '.join('-' * width for width in widths)} |"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def variant(results: Results, workload: Workload, family: str) -> str:
    """Which system of a family was measured in a row, "" if none."""
    measured = (name for row, name in results.samples if row == workload.name)
    return next((name for name in measured if SYSTEMS[name].family == family), "")


def _cell(results: Results, workload: Workload, family: str) -> str:
    """Seconds, and those of CPU in parentheses."""
    name = variant(results, workload, family)
    seconds = results.seconds(workload.name, name)
    if seconds is not None:
        return f"{seconds:.3f} ({results.cpu(workload.name, name):.2f})"
    if name:
        return "failed"
    asked = any(SYSTEMS[peer].family == family for peer in workload.peers)
    return "cannot" if asked and family in results.families() else ""


def times(results: Results) -> str:
    """Medians in seconds with the daemon's CPU beside them, and every bar."""
    families = results.families()
    rows = []
    for workload in results.workloads():
        cells = [_cell(results, workload, family) for family in families]
        judged = [str(verdict) for verdict in verdicts(results, workload)]
        judged += limits(results, workload)
        rows.append([workload.title, *cells, "; ".join(judged)])
    titles = [f"{family} (CPU)" for family in families]
    return table([f"{results.setting}, s", *titles, "times as fast as the best peer (goal)"], rows)


def _spread(seconds: Sequence[float]) -> str:
    if len(seconds) == 1:
        return f"{seconds[0]:.3f}"
    return f"{min(seconds):.3f}–{max(seconds):.3f} ({len(seconds)})"


def costs(results: Results) -> str:
    """CPU, memory, requests and bytes of every system."""
    rows = []
    for workload in results.workloads():
        for system in results.systems():
            if not results.timed(workload.name, system):
                continue
            runs = results.timed(workload.name, system)
            counted = results.counted(workload.name, system) or Sample()
            rows.append(
                [
                    workload.title,
                    system,
                    _spread([s.seconds for s in runs]),
                    f"{results.cpu(workload.name, system):.2f}",
                    f"{results.memory(workload.name, system) / MIB:.0f}",
                    " ".join(f"{n} {kind}" for kind, n in counted.requests.items()),
                    f"{counted.up / 1e6:.2f}",
                    f"{counted.down / 1e6:.2f}",
                    f"{statistics.median(s.server for s in runs):.2f}",
                    f"{max(s.others for s in runs):.2f}",
                ]
            )
    end = ["server CPU s", "others' CPU s"]
    head = ["workload", "system", "seconds (runs)", "CPU s", "peak MiB", "requests", "MB up"]
    return table([results.setting, *head[1:], "MB down", *end], rows)


def growth(axis: Axis) -> str:
    """A table of an axis' points, its slopes, and its goals."""
    measures = axis.measures()
    titles = [f"{MEASURES[name][0]}, {MEASURES[name][1][0]}" for name in measures]
    rows = [
        [f"{point.size:,.0f}", *(f"{point.values.get(name, 0):.3f}" for name in measures)]
        for point in axis.points
    ]
    texts = [slope(axis, name) for name in measures]
    texts += [text for goal in axis.goals if (text := judged(axis, goal))]
    if axis.failed:
        texts.append(f"not measured further: {axis.failed}")
    return f"{table([axis.title, *titles], rows)}\n\n{'; '.join(texts)}."


def failures(results: Results) -> list[str]:
    """One line for each sample without a result."""
    return [
        f"{results.setting}: {workload} on {system}: {sample.error}"
        for (workload, system), samples in results.samples.items()
        for sample in samples
        if sample.error
    ]


def summary(results: Results) -> str:
    """How many goals were met."""
    every = [str(verdict) for w in results.workloads() for verdict in verdicts(results, w)]
    every += [text for w in results.workloads() for text in limits(results, w)]
    met = sum(text.endswith("pass") for text in every)
    return f"{results.setting}: {met} of {len(every)} goals met"


def described(machine: dict[str, Any]) -> str:
    """Where and with what the samples were taken."""
    programs = sorted({text for text in machine["versions"].values() if text})
    against = f" against {machine['server']}" if machine["server"] else ""
    left_out = "".join(f" {text[0].upper()}{text[1:]}." for text in machine["left_out"])
    return (
        f"{machine['date']}; {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}{against}: "
        f"{'; '.join(programs)}.{left_out} Load before: {machine['load'][0]:.1f}."
    )


@dataclass
class Run:
    """All that one run has measured."""

    machine: dict[str, Any] = field(default_factory=dict)
    settings: list[Results] = field(default_factory=list)
    growth: list[Axis] = field(default_factory=list)

    def failures(self) -> list[str]:
        found = [text for results in self.settings for text in failures(results)]
        return found + [
            f"growth: {axis.name}: {axis.failed}" for axis in self.growth if axis.failed
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "settings": {results.setting: results.as_dict() for results in self.settings},
            "growth": [axis.as_dict() for axis in self.growth],
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any], axes: Iterable[Axis]) -> Run:
        """What `as_dict` told; `axes` are those that there are."""
        named = {axis.name: axis for axis in axes}
        return cls(
            found["machine"],
            [Results.from_dict(name, rows) for name, rows in found["settings"].items()],
            [named[axis["name"]].with_points(axis) for axis in found["growth"]],
        )


def tables(run: Run) -> str:
    """Both tables and what each system used."""
    parts = [described(run.machine)]
    for results in run.settings:
        parts += [summary(results), times(results), costs(results), *failures(results)]
    return "\n\n".join(parts)


def grown(run: Run, picture: str = "") -> str:
    """The axes, of which no other program and no other server is part."""
    own = run.machine["versions"].get("bucketfs", "")
    alone = {"server": "the benchmarks' own server", "versions": {"bucketfs": own}, "left_out": []}
    parts = [described(run.machine | alone), *([picture] if picture else [])]
    return "\n\n".join([*parts, *(growth(axis) for axis in run.growth)])


def document(run: Run) -> str:
    """Everything for people, in Markdown."""
    parts = [tables(run)] if run.settings else []
    return "\n\n".join([*parts, *([grown(run)] if run.growth else [])])
