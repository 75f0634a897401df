"""How a cost grows: points of an axis, the slope they lie on, and goals. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: A unit, and the smaller ones that a cost by the piece is told in, with how many are in it.
_SECONDS = ("s", (("s", 1.0), ("ms", 1e3), ("µs", 1e6)))
_MEMORY = ("MiB", (("MiB", 1.0), ("KiB", 1024.0), ("bytes", float(1 << 20))))
_Unit = tuple[str, tuple[tuple[str, float], ...]]

#: What can be measured at a point: a title and a unit.
MEASURES: dict[str, tuple[str, _Unit]] = {
    "first": ("first result", _SECONDS),
    "seconds": ("time", _SECONDS),
    "cpu": ("CPU", _SECONDS),
    "memory": ("memory", _MEMORY),
    "alone": ("the server alone", _SECONDS),
    "served": ("the server's CPU", _SECONDS),
}


@dataclass(frozen=True, slots=True)
class Point:
    """What one size of something took, by the names of `MEASURES`, in their units."""

    size: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """The most that a measure may be at a size; with `each`, the most that one more may cost.

    `most` is in the unit of the measure, or in the smallest one where it is for one more.
    """

    measure: str
    most: float
    size: float = 0
    each: bool = False


@dataclass
class Axis:
    """One thing that grows.

    Attributes:
        title: What grows, and what is done with it.
        unit: One of it.
        points: In the order of their sizes.
        failed: Why there are no more points.
    """

    name: str
    title: str
    unit: str
    goals: tuple[Goal, ...] = ()
    points: list[Point] = field(default_factory=list)
    failed: str = ""

    def series(self, measure: str) -> list[tuple[float, float]]:
        """Sizes and values of a measure, where it was taken."""
        return [(p.size, p.values[measure]) for p in self.points if measure in p.values]

    def measures(self) -> list[str]:
        return [name for name in MEASURES if self.series(name)]

    def as_dict(self) -> dict[str, Any]:
        points = [{"size": p.size, "values": dict(p.values)} for p in self.points]
        return {"name": self.name, "points": points, "failed": self.failed}

    def with_points(self, found: Mapping[str, Any]) -> Axis:
        """This axis with what `as_dict` of another told."""
        points = [Point(p["size"], p["values"]) for p in found["points"]]
        return Axis(self.name, self.title, self.unit, self.goals, points, found["failed"])


def exponent(series: Sequence[tuple[float, float]]) -> float | None:
    """The power of its size that a cost grows with, at large sizes: 1 is in proportion.

    Fitted by least squares to the logarithms of the upper half, three points at least: below, what
    each mount costs hides what grows. None without two points above 0.
    """
    logs = [(math.log(x), math.log(y)) for x, y in series if x > 0 and y > 0]
    upper = logs[-max(3, (len(logs) + 1) // 2) :]
    if len(upper) < 2:
        return None
    x0 = sum(x for x, _ in upper) / len(upper)
    y0 = sum(y for _, y in upper) / len(upper)
    spread = sum((x - x0) ** 2 for x, _ in upper)
    return sum((x - x0) * (y - y0) for x, y in upper) / spread if spread else None


def each(series: Sequence[tuple[float, float]]) -> float | None:
    """What one more costs: from the smallest size to the largest, divided by the difference."""
    if len(series) < 2 or series[0][0] == series[-1][0]:
        return None
    (x0, y0), (x1, y1) = series[0], series[-1]
    return (y1 - y0) / (x1 - x0)


def slope(axis: Axis, measure: str) -> str:
    """In words how a measure grows."""
    title, (_, smaller) = MEASURES[measure]
    series = axis.series(measure)
    power, one = exponent(series), each(series)
    if power is None or one is None:
        return f"{title}: one point"
    if one <= 0:
        return f"{title}: exponent {power:.2f}"
    # the largest unit in which it is 1 or more
    small, factor = next((unit for unit in smaller if one * unit[1] >= 1), smaller[-1])
    return f"{title}: exponent {power:.2f}, {one * factor:.3g} {small} a {axis.unit}"


def judged(axis: Axis, goal: Goal) -> str:
    """How a goal was met, "" where its size was not measured."""
    title, (unit, smaller) = MEASURES[goal.measure]
    if goal.each:
        small, factor = smaller[-1]
        one = each(axis.series(goal.measure))
        if one is None:
            return ""
        verdict = "pass" if one * factor <= goal.most else "MISS"
        per = f"{small} a {axis.unit}"
        return f"{title}: {one * factor:.3g} {per} (≤ {goal.most:g}) {verdict}"
    value = dict(axis.series(goal.measure)).get(goal.size)
    if value is None:
        return ""
    verdict = "pass" if value <= goal.most else "MISS"
    return f"{title} at {goal.size:,.0f}: {value:.3g} {unit} (≤ {goal.most:g}) {verdict}"
