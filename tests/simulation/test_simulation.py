"""Some hundred seeds, and that a seed is a run: the same one twice, in whatever company."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: A run of which each program goes round in some way.
SPINS = """
import trio
from tests.simulation import many, run, spin
from tests.simulation.programs import Steps
many.prepare()
spin.CPU, spin.AGAIN = 4.0, 0.2
async def go_round(steps, step):
    {}
Steps.run = go_round
with many.scratch() as base:
    print(run.run(7, base).violations[0])
"""

#: Seeds of `make test`; `make test-simulation` runs 10,000.
SEEDS = 300


def simulate(*arguments: str) -> str:
    """What the command prints."""
    return run_python("-m", "tests.simulation", *arguments)


def run_python(*arguments: str) -> str:
    """What a process of its own prints, which chance is taken from."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "random"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.time_limit(300)
def test_nothing_acknowledged_is_lost() -> None:
    assert f"{SEEDS} seeds from 0, 0 failed" in simulate("--seeds", str(SEEDS))


@pytest.mark.time_limit(60)
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("while True: await trio.lowlevel.checkpoint()", "the run spins: 10000 steps"),
        (
            "while True: await steps._kernel._operations._tree.state.files.store.list('')",
            "the run spins",
        ),
        (
            """with trio.CancelScope(shield=True):
        while True: await trio.lowlevel.checkpoint()""",
            "the run spins: 10000 steps",
        ),
        ("while True: pass", "[Spins("),
    ],
    ids=["steps", "requests", "shielded", "without a pause"],
)
def test_a_run_that_goes_round_is_told(body: str, told: str) -> None:
    assert told in run_python("-c", SPINS.format(body))


@pytest.mark.time_limit(120)
def test_the_same_seed_is_the_same_run() -> None:
    """Also after other seeds in the same process, and with the addresses of another one."""
    together = simulate("--seeds", "30", "--sums").splitlines()
    later = simulate("--first", "20", "--seeds", "10", "--sums").splitlines()
    assert together[20:30] == later[:10]
    alone = simulate("--seed", "25").splitlines()
    assert alone[-1].split()[-1] == together[25].split()[-1]
