"""``python -m benchmarks``: measure, print tables, keep the samples.

Rounds go through all systems in turn, each round beginning with another one, so that whatever the
machine does meanwhile meets each of them. Over loopback, mounts talk to the server directly while
the clock runs, and one more round goes through a proxy that counts; over the network every round is
counted. A sample that took longer than 15 seconds is not repeated.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import mmap
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.data import FAR, FULL, QUICK, Scale, write_archive
from benchmarks.floor import FLOORS
from benchmarks.growth import AXES, LARGE, LITTLE, measure
from benchmarks.measure import Laboratory, Sample
from benchmarks.publish import publish
from benchmarks.server import SERVERS, Network, Serving, compile_network, network, server
from benchmarks.systems import FAMILIES, SYSTEMS
from benchmarks.workloads import WORKLOADS, Workload

#: A round trip to a data centre of the same continent (ms), and what one connection carries (MB/s).
RTT, RATE = 20.0, 80.0

#: Samples that took longer (s) say enough.
LONG = 15.0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare bucketfs with other S3 mounts, and see how its cost grows. Needs "
        "root, /dev/fuse, a C compiler, and the servers and programs that are to be measured.",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, one round")
    parser.add_argument("--loopback", action="store_true", help="loopback (the default)")
    parser.add_argument("--network", action="store_true", help=f"{RTT:g} ms and {RATE:g} MB/s")
    parser.add_argument("--growth", action="store_true", help="how cost grows")
    parser.add_argument(
        "--server", choices=SERVERS, default="ceph", help="what is measured against [%(default)s]"
    )
    parser.add_argument(
        "--only",
        metavar="PATTERNS",
        default="*",
        help=f"rows, as in 'read*,write', or of growth: {', '.join(axis.name for axis, _ in AXES)}",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="[3, with --quick 1]")
    parser.add_argument("--systems", metavar="LIST", default="", help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples here")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables here, too")
    parser.add_argument(
        "--docs", metavar="DIR", type=Path, help="put tables and pictures into the documents there"
    )
    parser.add_argument(
        "--scratch",
        metavar="DIR",
        default="/dev/shm",
        help="for caches, and the server's data [%(default)s]",
    )
    return parser.parse_args(argv)


def _versions(wanted: str) -> tuple[dict[str, str], list[str]]:
    """The systems that run here, and why others do not; an unknown name is an error."""
    families = wanted.split(",") if wanted else list(FAMILIES)
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        raise SystemExit(f"benchmarks: no such system: {', '.join(unknown)}")
    chosen = [name for name, system in SYSTEMS.items() if system.family in families]
    found = {name: SYSTEMS[name].version() for name in chosen}
    lacking = dict.fromkeys(SYSTEMS[name].family for name in chosen if not found[name])
    left_out = [f"{family} is left out: it is not on PATH" for family in lacking]
    for text in left_out:
        print(f"benchmarks: {text}", file=sys.stderr)
    return {name: version for name, version in found.items() if version}, left_out


def _machine(server: str, versions: dict[str, str], left_out: list[str]) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": f"{os.cpu_count()} × {model}",
        "memory_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
        "server": server,
        "versions": versions,
        "left_out": left_out,
    }


def _touch_memory(size: int) -> None:
    """Make a virtual machine hand out its memory before a sample needs it."""
    with mmap.mmap(-1, size) as area:
        for at in range(0, size, mmap.PAGESIZE):
            area[at] = 1


def _systems_for(workload: Workload, available: Sequence[str]) -> list[str]:
    return [
        name
        for name in workload.systems
        if name in available
        and workload.name not in SYSTEMS[name].lacks
        and (SYSTEMS[name].family != "floor" or workload.name in FLOORS)
    ]


def _measure(
    results: report.Results,
    laboratory: Laboratory,
    rounds: Sequence[Network | None],
    workloads: Sequence[Workload],
    available: Sequence[str],
) -> None:
    """Take all rounds of each workload, through the network given for each, and tell of them."""
    for workload in workloads:
        slow: set[tuple[str, Network | None]] = set()
        names = _systems_for(workload, available)
        for number, through in enumerate(rounds):
            first = number % len(names) if names else 0
            for name in names[first:] + names[:first]:
                if (name, through) in slow:
                    continue
                _touch_memory(laboratory.scale.touched)
                sample = laboratory.sample(workload, SYSTEMS[name], through)
                results.add(workload.name, name, sample)
                _tell(results.setting, workload.name, name, sample)
                if sample.seconds > LONG:
                    slow.add((name, through))


def _tell(setting: str, workload: str, system: str, sample: Sample) -> None:
    text = sample.error or f"{sample.seconds:8.3f} s  {sample.cpu:6.2f} s CPU"
    print(f"{setting:9}{workload:16}{system:19}{text}", file=sys.stderr, flush=True)


def _settings(args: argparse.Namespace) -> list[tuple[str, Scale]]:
    chosen = []
    if args.loopback or not (args.network or args.growth):
        chosen.append(("loopback", QUICK if args.quick else FULL))
    if args.network:
        chosen.append(("network", QUICK if args.quick else FAR))
    return chosen


def _chosen(args: argparse.Namespace, name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in args.only.split(","))


def _run_setting(
    setting: str,
    scale: Scale,
    args: argparse.Namespace,
    serving: Serving,
    scratch: Path,
    available: Sequence[str],
) -> report.Results:
    """All workloads over loopback, or all over the network."""
    results = report.Results(setting)
    rounds = args.rounds or (1 if args.quick else 3)
    rtt, rate = (RTT, RATE) if setting == "network" else (0.0, 0.0)
    workloads = [workload for workload in WORKLOADS if _chosen(args, workload.name)]
    with network(compile_network(scratch), serving.endpoint, rtt=rtt, rate=rate) as between:
        laboratory = Laboratory(serving, scale, scratch)
        plan = [between] * rounds if setting == "network" else [*[None] * rounds, between]
        try:
            _measure(results, laboratory, plan, workloads, available)
        finally:
            laboratory.close()
    return results


def _compare(args: argparse.Namespace, scratch: Path, run: report.Run) -> None:
    """Take both tables, as far as they are asked for."""
    write_archive(scratch / "archive.tar")
    versions, left_out = _versions(args.systems)
    with server(args.server, scratch) as serving:
        run.machine = _machine(serving.title, versions, left_out)
        for setting, scale in _settings(args):
            found = _run_setting(setting, scale, args, serving, scratch, list(versions))
            run.settings.append(found)
            _keep(args, run)


def _grow(args: argparse.Namespace, scratch: Path, run: report.Run) -> None:
    """Take the points of how cost grows."""
    names = [axis.name for axis, _ in AXES if _chosen(args, axis.name)]
    run.machine = run.machine or _machine("", _versions("bucketfs")[0], [])
    for axis in measure(names, scratch, LITTLE if args.quick else LARGE):
        run.growth.append(axis)
        _keep(args, run)


def main(argv: Sequence[str]) -> int:
    """Measure what the arguments ask for; 1 when a sample had no result."""
    args = _arguments(argv)
    run = report.Run()
    # so that no server and no mount outlives us
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="bucketfs-bench-", dir=args.scratch) as directory:
        if _settings(args):
            _compare(args, Path(directory), run)
        if args.growth:
            _grow(args, Path(directory), run)
    print(report.document(run))
    if args.docs:
        publish(run, args.docs)
    return int(bool(run.failures()))


def _keep(args: argparse.Namespace, run: report.Run) -> None:
    """Write what there is so far: what comes next may take an hour."""
    if args.json:
        args.json.write_text(json.dumps(run.as_dict(), indent=1))
    if args.markdown:
        args.markdown.write_text(report.document(run) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
