"""What pytest has counted, as a table for people."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One server's result.

    Attributes:
        missing: Why there is none, "" if there is one.
        skipped: How many tests were skipped for each reason.
        failed: Their names, errors of fixtures among them.
    """

    title: str
    version: str = ""
    missing: str = ""
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: tuple[tuple[str, int], ...] = ()

    @property
    def good(self) -> bool:
        """Nothing failed; a server that is not installed says nothing."""
        return not self.failed and bool(self.passed or self.missing)


def counted(report: Path, row: Row) -> Row:
    """The row with the numbers of a JUnit report of pytest, without any if there is no report."""
    if not report.exists():
        return replace(row, failed=("pytest wrote no report",))
    passed, failed = 0, []
    skipped: Counter[str] = Counter()
    for case in ET.parse(report).iter("testcase"):
        wrong = [case.find(kind) for kind in ("failure", "error")]
        skip = case.find("skipped")
        if any(one is not None for one in wrong):
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif skip is not None:
            skipped[skip.get("message", "")] += 1
        else:
            passed += 1
    return replace(row, passed=passed, failed=tuple(failed), skipped=tuple(skipped.most_common()))


def table(rows: Sequence[Row]) -> str:
    """In Markdown: the numbers, and below them what failed and why what was skipped."""
    lines = [
        "",
        "| server | version | passed | failed | skipped |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        skipped = sum(number for _, number in row.skipped)
        numbers = (row.passed, len(row.failed), skipped)
        cells = ("not installed", "", "") if row.missing else map(str, numbers)
        lines.append("| " + " | ".join([row.title, row.version, *cells]) + " |")
    for row in rows:
        lines += [f"\n{row.title}: please install {row.missing}"] if row.missing else []
        lines += (
            [f"\n{row.title}: failed", *(f"  {name}" for name in row.failed)] if row.failed else []
        )
        reasons = [f"  {number} of: {reason}" for reason, number in row.skipped]
        lines += [f"\n{row.title}: skipped", *reasons] if reasons else []
    return "\n".join(lines)
