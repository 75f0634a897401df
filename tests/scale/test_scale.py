"""What ten mounts ask is ten times the budget, and docs/scale.md says what the budget is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pictures
from tests.scale import document
from tests.scale.__main__ import compared
from tests.scale.budget import Times, asked, times
from tests.scale.workloads import WORKLOADS

DOCS = Path(__file__).parents[2] / "docs"

MOUNTS, SECONDS = 10, 560


def counted(options: str, *workloads: str) -> dict[str, dict[str, float]]:
    """Requests of each mount an hour, by workload and kind; asked of a process of its own."""
    command = [sys.executable, "-m", "tests.scale", "--json", f"--options={options}"]
    command += [f"--mounts={MOUNTS}", f"--seconds={SECONDS}", *workloads]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        key: counts for line in done.stdout.splitlines() for key, counts in json.loads(line).items()
    }


@pytest.mark.time_limit(300)
def test_each_mount_asks_what_the_budget_allows() -> None:
    assert counted("").keys() == WORKLOADS.keys()


@pytest.mark.time_limit(300)
@pytest.mark.parametrize(
    ("options", "workloads"),
    [
        ("open_ttl=60", ["ls", "append", "results"]),
        ("immutable", ["ls", "stat", "read"]),
    ],
)
def test_options_save_what_the_document_says(options: str, workloads: list[str]) -> None:
    counts = counted(options, *workloads)
    if options == "immutable":
        assert not any(counts.values())


def test_a_count_beside_the_budget_is_told() -> None:
    assert compared({"LIST": 103.0}, {"LIST": 100.0, "HEAD": 0.5}, 0.05) == []
    assert compared({"LIST": 106.0, "PUT": 2.0}, {"LIST": 100.0}, 0.05) == [
        "106.0 LIST an hour, not 100.0",
        "2.0 PUT an hour, not 0.0",
    ]


def test_how_often_is_asked() -> None:
    assert asked(10, 1) == 360
    assert asked(10, 60) == 3600 / 70, "what is a minute old counts still"
    assert asked(60, 60) == 30
    assert times("") == Times(names=60, versions=1)
    assert times("immutable") == Times(names=86400, versions=86400)


def test_the_document_is_current() -> None:
    text = (DOCS / document.NAME).read_text(encoding="utf-8")
    assert pictures.pieces(text, document.COMPUTED)[1] == document.computed(), "make docs"


def test_the_document_has_counts_of_these_workloads() -> None:
    text = (DOCS / document.NAME).read_text(encoding="utf-8")
    table = pictures.pieces(text, document.COUNTED)[1]
    assert all(workload.title in table for workload in WORKLOADS.values()), "make test-scale"
