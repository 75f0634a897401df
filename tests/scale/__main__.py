"""The long run: `make test-scale`. It fails where a count is not within the budget."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.scale import document
from tests.scale.budget import Requests, times
from tests.scale.run import Result, again_and_again, all_at_once, prepare
from tests.scale.workloads import WORKLOADS


def main() -> int:
    """Run what was asked for; 1 where a count is too far from the budget."""
    given = _arguments()
    prepare()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    runs: dict[str, Result] = {}
    wrong: list[str] = []
    for key in given.workloads:
        workload = WORKLOADS[key]
        runs[key] = result = _in_memory(
            lambda base, workload=workload: again_and_again(
                workload, given.options, given.mounts, given.seconds, base
            )
        )
        budget = workload.budget(workload.period, times(given.options))
        wrong += [f"{key}: {text}" for text in compared(result.of_each(), budget, workload.room)]
        line = json.dumps({key: result.of_each()}) if given.json else document.row_of(key, result)
        print(line, flush=True)
        print(result.told(), file=sys.stderr, flush=True)
    starts: list[Result] = []
    for number in () if given.json else given.starts:
        starts.append(
            _in_memory(
                lambda base, number=number: all_at_once(given.options, number, document.READS, base)
            )
        )
        print(document.row_of_start(starts[-1]), flush=True)
        print(starts[-1].told(), file=sys.stderr, flush=True)
    if given.docs:
        document.put(given.docs, document.COUNTED, document.counted(runs, starts))
    print("\n".join(wrong), file=sys.stderr)
    return bool(wrong)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("--mounts", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=280.0, help="virtual ones that count")
    parser.add_argument("--starts", type=int, nargs="*", default=[10, 100, 300])
    parser.add_argument("--docs", type=Path, help="directory of scale.md, to be written anew")
    parser.add_argument("--json", action="store_true", help="print counts alone")
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), metavar="WORKLOAD")
    parser.add_argument("--options", default="", help="those of all mounts, as after -o")
    return parser.parse_args()


def compared(counts: Requests, budget: Requests, room: float) -> list[str]:
    """What is too far from the budget; less than one request an hour is no matter."""
    return [
        f"{counts.get(kind, 0):.1f} {kind} an hour, not {budget.get(kind, 0):.1f}"
        for kind in sorted(counts.keys() | budget.keys())
        if abs(counts.get(kind, 0) - budget.get(kind, 0)) > max(1.0, room * budget.get(kind, 0))
    ]


def _in_memory(run: Callable[[Path], Result]) -> Result:
    """A run whose caches are in memory, if there is such a directory."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="scale-", dir=memory if memory.is_dir() else None
    ) as base:
        return run(Path(base))


if __name__ == "__main__":
    sys.exit(main())
