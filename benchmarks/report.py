"""Samples → medians, verdicts and tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.data import MIB
from benchmarks.measure import Sample
from benchmarks.systems import PEERS
from benchmarks.workloads import WORKLOADS, Bar, Workload


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
        return list(dict.fromkeys(system for _, system in self.samples))

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
    """One bar and how it was met."""

    bar: Bar
    factor: float
    ratio: float

    @property
    def met(self) -> bool:
        return self.ratio >= self.factor

    def __str__(self) -> str:
        against = "" if set(self.bar.others) == set(PEERS) else f" {self.bar.others[0]}"
        who = self.bar.system.removeprefix("bucketfs").lstrip("-")
        what = f"{who + ': ' if who else ''}{self.ratio:.2f}× (≥ {self.factor:g}×{against})"
        return f"{what} {'pass' if self.met else 'MISS'}"


def verdicts(results: Results, workload: Workload) -> list[Verdict]:
    """All bars of a workload that can be judged by what was measured."""
    found = []
    for bar in workload.bars:
        factor = bar.near if results.setting == "loopback" else bar.far
        own = results.seconds(workload.name, bar.system)
        others = [results.seconds(workload.name, other) for other in bar.others]
        known = [seconds for seconds in others if seconds is not None]
        if factor is not None and own and known:
            found.append(Verdict(bar, factor, min(known) / own))
    return found


def limits(results: Results, workload: Workload) -> list[str]:
    """How bucketfs kept the limits of a workload."""
    found = []
    if workload.limit.memory and results.timed(workload.name, "bucketfs"):
        memory = results.memory(workload.name, "bucketfs")
        verdict = "pass" if memory <= workload.limit.memory else "MISS"
        found.append(
            f"{memory / MIB:.0f} MiB (≤ {workload.limit.memory / MIB:.0f}) resident {verdict}"
        )
    counted = results.counted(workload.name, "bucketfs")
    if workload.limit.down and counted:
        verdict = "pass" if counted.down <= workload.limit.down else "MISS"
        found.append(
            f"{counted.down / MIB:.1f} MiB (≤ {workload.limit.down / MIB:.1f}) fetched {verdict}"
        )
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns stand in line."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = f"| {' | '.join('-' * width for width in widths)} |"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def times(results: Results) -> str:
    """Medians in seconds, the spread of bucketfs, and every bar."""
    systems = results.systems()
    rows = []
    for workload in results.workloads():
        cells = []
        for system in systems:
            seconds = results.seconds(workload.name, system)
            failed = (workload.name, system) in results.samples
            cells.append(f"{seconds:.3f}" if seconds else "failed" if failed else "")
        judged = [str(verdict) for verdict in verdicts(results, workload)]
        judged += limits(results, workload)
        rows.append([workload.title, *cells, "; ".join(judged)])
    return _table([results.setting, *systems, "times as fast as the best peer (bar)"], rows)


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
                    f"{max(s.others for s in runs):.2f}",
                ]
            )
    head = ["workload", "system", "seconds (runs)", "CPU s", "peak MiB", "requests", "MB up"]
    return _table([results.setting, *head[1:], "MB down", "others' CPU s"], rows)


def failures(results: Results) -> list[str]:
    """One line for each sample without a result."""
    return [
        f"{results.setting}: {workload} on {system}: {sample.error}"
        for (workload, system), samples in results.samples.items()
        for sample in samples
        if sample.error
    ]


def summary(results: Results) -> str:
    """How many bars were met."""
    every = [str(verdict) for w in results.workloads() for verdict in verdicts(results, w)]
    every += [text for w in results.workloads() for text in limits(results, w)]
    met = sum(text.endswith("pass") for text in every)
    return f"{results.setting}: {met} of {len(every)} bars met"


def described(machine: dict[str, Any]) -> str:
    """Where and with what the samples were taken."""
    programs = sorted({text for text in machine["versions"].values() if text})
    return (
        f"{machine['date']}; {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}; {'; '.join(programs)}. "
        f"Load before: {machine['load'][0]:.1f}."
    )


def document(machine: dict[str, Any], results: Iterable[Results]) -> str:
    """Everything for people, in Markdown."""
    parts = [described(machine)]
    for result in results:
        parts += [summary(result), times(result), costs(result)]
        parts += failures(result)
    return "\n\n".join(parts)
