"""Many seeds, in several processes; or one, with all that happened."""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.simulation import chance, disk, kernel
from tests.simulation.run import Outcome, run

_process_time = time.process_time


def prepare() -> None:
    """Make this process one for simulations."""
    chance.install()
    disk.install()
    kernel.install()
    logger = logging.getLogger("bucketfs")
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    gc.disable()


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory, if there is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="simulation-", dir=memory if memory.is_dir() else None
    ) as directory:
        yield Path(directory)


def replay(seed: int) -> int:
    """Run one seed and print its trace."""
    prepare()
    with scratch() as base:
        outcome = run(seed, base, verbose=True)
    print("\n".join(outcome.trace))
    print(f"seed {seed}: {'; '.join(outcome.violations) or 'ok'}, trace {_sum(outcome)}")
    return bool(outcome.violations)


def run_many(arguments: argparse.Namespace) -> int:
    """Run seeds, print those that fail."""
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    _began, failed = time.perf_counter(), 0
    if arguments.jobs > 1:
        with multiprocessing.get_context("spawn").Pool(arguments.jobs, prepare) as pool:
            failed, spent = _tell(pool.imap(_one, seeds, chunksize=20), arguments)
    else:
        prepare()
        failed, spent = _tell(map(_one, seeds), arguments)
    print(
        f"simulation: {len(seeds)} seeds from {seeds.start}, {failed} failed,"
        f" {1000 * spent / max(1, len(seeds)):.0f} ms of CPU each"
    )
    return bool(failed)


def _tell(results, arguments) -> tuple[int, float]:
    failed, spent = 0, 0.0
    for seed, violations, total, seconds in results:
        spent += seconds
        if arguments.sums:
            print(seed, total)
        if violations:
            failed += 1
            print(f"seed {seed}: {violations[0]}", flush=True)
            if failed >= arguments.keep_going:
                break
    return failed, spent


def _one(seed: int) -> tuple[int, list[str], str, float]:
    began = _process_time()
    with scratch() as base:
        outcome = run(seed, base)
    if seed % 20 == 0:
        gc.collect()
    return seed, outcome.violations, _sum(outcome), _process_time() - began


def _sum(outcome: Outcome) -> str:
    return hashlib.sha256("\n".join(outcome.trace).encode()).hexdigest()[:16]
