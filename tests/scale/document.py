"""The tables of docs/scale.md: ``python -m tests.scale.document docs`` (`make docs`).

What the budget says is computed. What the simulation has counted is written by `make test-scale`
(`tests.scale.__main__`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests import pictures
from tests.scale.budget import HOUR, times
from tests.scale.run import Result
from tests.scale.workloads import WORKLOADS

NAME = "scale.md"
COMPUTED = pictures.BEGIN.format(source="tests/scale/budget.py")
COUNTED = "<!-- Counted by `make test-scale`. -->"

#: Numbers of mounts in the table.
MOUNTS = (10, 1_000, 100_000)
#: Requests a second of one partition of S3, which is a prefix: that read, and that write.
READS, WRITES = 5_500, 3_500
#: Dollars of a million requests to S3 Standard in us-east-1: PUT, COPY, POST and LIST; the others.
DEAR, CHEAP = 5.00, 0.40
#: Options that are compared, by workload.
OPTIONS: Mapping[str, Sequence[str]] = {
    "ls": ("", "open_ttl=60", "immutable"),
    "stat": ("", "stat_cache_expire=10m", "immutable"),
    "read": ("", "open_ttl=60", "immutable"),
    "results": ("", "stat_cache_expire=10m,open_ttl=10m"),
    "append": ("", "open_ttl=60"),
}


def dollars(requests: Mapping[str, float]) -> float:
    """What requests cost; DELETE is free."""
    dear = requests.get("LIST", 0) + requests.get("PUT", 0)
    cheap = requests.get("HEAD", 0) + requests.get("GET", 0)
    return (dear * DEAR + cheap * CHEAP) / 1e6


def reads(requests: Mapping[str, float]) -> float:
    """Those that count for the limit of reads."""
    return sum(requests.get(kind, 0) for kind in ("LIST", "HEAD", "GET"))


def computed() -> str:
    """What the budget allows, with a line for each workload and its options."""
    many = " / ".join(f"{mounts:,}" for mounts in MOUNTS)
    lines = _head(
        "each mount does",
        "with",
        "LIST, HEAD, PUT an hour",
        f"reads a second of {many}",
        "writes a second",
        "dollars a day",
        "one prefix bears",
    )
    for key, workload in WORKLOADS.items():
        for words in OPTIONS[key]:
            requests = workload.budget(workload.period, times(words))
            hour = [_short(requests.get(kind, 0)) for kind in ("LIST", "HEAD", "PUT")]
            read, written = reads(requests) / HOUR, requests.get("PUT", 0) / HOUR
            day = 24 * dollars(requests)
            lines.append(
                _row(
                    workload.title,
                    f"`{words}`" if words else "the defaults",
                    ", ".join(hour),
                    _of_many(read),
                    _of_many(written) if written else "none",
                    _of_many(day),
                    _mounts(read, written),
                )
            )
    return "\n".join(lines)


def counted(runs: Mapping[str, Result], starts: Sequence[Result]) -> str:
    """What the simulation has counted: of workloads at their defaults, and of starts at once."""
    lines = _head(
        "each mount does",
        "mounts",
        "LIST, HEAD, GET, PUT of each an hour",
        "the budget",
        "reads a second, busiest",
        "writes a second, busiest",
        "CPU of one such step",
    )
    lines += [row_of(key, result) for key, result in runs.items()]
    lines += [
        "",
        *_head(
            "mounts that read 100 files at once",
            "requests of each",
            "refused with 503",
            "done after",
            "no sooner than",
        ),
    ]
    lines += [row_of_start(result) for result in starts]
    return "\n".join(lines)


def row_of(key: str, result: Result) -> str:
    """A line of the first table: a workload, and what so many mounts were counted to ask."""
    workload = WORKLOADS[key]
    kinds = ("LIST", "HEAD", "GET", "PUT")
    of_each = result.of_each()
    budget = workload.budget(workload.period, times(""))
    steps = result.mounts * (result.seconds + result.warm_up) / workload.period
    return _row(
        workload.title,
        f"{result.mounts:,}",
        ", ".join(_short(of_each.get(kind, 0)) for kind in kinds),
        ", ".join(_short(budget.get(kind, 0)) for kind in kinds),
        f"{reads(result.total) / result.seconds:,.0f}, {result.busiest[0]:,}",
        f"{result.total['PUT'] / result.seconds:,.0f}, {result.busiest[1]:,}",
        f"{1000 * result.cpu / steps:.1f} ms",
    )


def row_of_start(result: Result) -> str:
    """A line of the second one: mounts that begin to read at the same moment."""
    asked = sum(result.total.values())
    answered = asked - result.refused
    return _row(
        f"{result.mounts:,}",
        f"{answered / result.mounts:.0f}",
        f"{result.refused / asked:.0%} of {asked:,}",
        f"{result.seconds:.1f} s",
        f"{answered / READS:.1f} s",
    )


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), _row(*["---"] * len(cells))]


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or not number else f"{number:.2g}"


def _of_many(of_one: float) -> str:
    return " / ".join(_short(of_one * mounts) for mounts in MOUNTS)


def _mounts(read: float, written: float) -> str:
    """How many mounts reach a limit of one prefix, and which."""
    by_reads = READS / read if read else float("inf")
    by_writes = WRITES / written if written else float("inf")
    most = min(by_reads, by_writes)
    if most > 1e7:
        return "any number"
    return f"{float(f'{most:.2g}'):,.0f} mounts ({'reads' if by_reads < by_writes else 'writes'})"


def put(directory: Path, begin: str, table: str) -> None:
    """Write a table into the document."""
    path = directory / NAME
    before, _, after = pictures.pieces(path.read_text(encoding="utf-8"), begin)
    path.write_text(f"{before}\n\n{table}\n\n{after}", encoding="utf-8")


if __name__ == "__main__":
    put(Path(sys.argv[1]), COMPUTED, computed())
