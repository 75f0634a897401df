"""Some hundred seeds, and that a seed is a run: the same one twice, in whatever company."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Seeds of `make test`; `make test-simulation` runs 10,000.
SEEDS = 300


def simulate(*arguments: str) -> str:
    """What the command prints; it is a process of its own, which chance is taken from."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
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


@pytest.mark.time_limit(120)
def test_the_same_seed_is_the_same_run() -> None:
    """Also after other seeds in the same process, and with the addresses of another one."""
    together = simulate("--seeds", "30", "--sums").splitlines()
    later = simulate("--first", "20", "--seeds", "10", "--sums").splitlines()
    assert together[20:30] == later[:10]
    alone = simulate("--seed", "25").splitlines()
    assert alone[-1].split()[-1] == together[25].split()[-1]
