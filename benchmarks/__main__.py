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
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.data import FAR, FULL, QUICK, Scale, write_archive
from benchmarks.measure import Laboratory, Sample
from benchmarks.server import Network, compile_network, network, server
from benchmarks.systems import PEERS, SYSTEMS
from benchmarks.workloads import WORKLOADS, Workload
from tests.harness.endpoint import Endpoint

#: A round trip to a data centre of the same continent (ms), and what one connection carries (MB/s).
RTT, RATE = 20.0, 80.0

#: Samples that took longer (s) say enough.
LONG = 15.0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare bucketfs with other S3 mounts. Needs root, /dev/fuse and Debian's "
        "packages of Ceph, s3fs and rclone.",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, one round")
    parser.add_argument("--loopback", action="store_true", help="loopback (the default)")
    parser.add_argument("--network", action="store_true", help=f"{RTT:g} ms and {RATE:g} MB/s")
    parser.add_argument("--only", metavar="PATTERNS", default="*", help="as in 'read*,write'")
    parser.add_argument("--rounds", type=int, metavar="N", help="[3, with --quick 1]")
    parser.add_argument("--systems", metavar="LIST", default="", help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples here")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables here, too")
    parser.add_argument(
        "--scratch",
        metavar="DIR",
        default="/dev/shm",
        help="for caches [%(default)s]",
    )
    return parser.parse_args(argv)


def _versions(wanted: str) -> dict[str, str]:
    """The systems that run here; a name of `wanted` that does not is an error."""
    names = wanted.split(",") if wanted else list(SYSTEMS)
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise SystemExit(f"benchmarks: no such system: {', '.join(unknown)}")
    versions = {name: SYSTEMS[name].version() for name in names}
    for name in [name for name, version in versions.items() if not version]:
        print(f"benchmarks: {name} cannot run here and is left out", file=sys.stderr)
        del versions[name]
    return versions


def _machine(versions: dict[str, str]) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": f"{os.cpu_count()} × {model}",
        "memory_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
        "versions": versions,
    }


def _touch_memory(size: int) -> None:
    """Make a virtual machine hand out its memory before a sample needs it."""
    with mmap.mmap(-1, size) as area:
        for at in range(0, size, mmap.PAGESIZE):
            area[at] = 1


def _systems_for(workload: Workload, available: Sequence[str]) -> list[str]:
    return [name for name in available if name in ("bucketfs", *PEERS, *workload.also)]


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
            first = number % len(names)
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
    print(f"{setting:9}{workload:11}{system:16}{text}", file=sys.stderr, flush=True)


def _settings(args: argparse.Namespace) -> list[tuple[str, Scale]]:
    chosen = []
    if args.loopback or not args.network:
        chosen.append(("loopback", QUICK if args.quick else FULL))
    if args.network:
        chosen.append(("network", QUICK if args.quick else FAR))
    return chosen


def _run_setting(
    setting: str,
    scale: Scale,
    args: argparse.Namespace,
    endpoint: Endpoint,
    servers: list[int],
    scratch: Path,
    available: Sequence[str],
) -> report.Results:
    """All workloads over loopback, or all over the network."""
    results = report.Results(setting)
    rounds = args.rounds or (1 if args.quick else 3)
    rtt, rate = (RTT, RATE) if setting == "network" else (0.0, 0.0)
    patterns = args.only.split(",")
    workloads = [w for w in WORKLOADS if any(fnmatch.fnmatch(w.name, p) for p in patterns)]
    with network(compile_network(scratch), endpoint, rtt=rtt, rate=rate) as between:
        laboratory = Laboratory(endpoint, servers, scale, scratch)
        plan = [between] * rounds if setting == "network" else [*[None] * rounds, between]
        try:
            _measure(results, laboratory, plan, workloads, available)
        finally:
            laboratory.close()
    return results


def main(argv: Sequence[str]) -> int:
    """Measure what the arguments ask for; 1 when a sample had no result."""
    args = _arguments(argv)
    versions = _versions(args.systems)
    machine = _machine(versions)
    found: list[report.Results] = []
    with (
        tempfile.TemporaryDirectory(prefix="bucketfs-bench-", dir=args.scratch) as directory,
        server() as (endpoint, servers),
    ):
        write_archive(Path(directory) / "archive.tar")
        for setting, scale in _settings(args):
            results = _run_setting(
                setting, scale, args, endpoint, servers, Path(directory), list(versions)
            )
            found.append(results)
            _keep(args, machine, found)
    print(report.document(machine, found))
    return int(any(report.failures(results) for results in found))


def _keep(args: argparse.Namespace, machine: dict[str, Any], found: list[report.Results]) -> None:
    """Write what there is so far: the next setting may take an hour."""
    if args.json:
        settings = {results.setting: results.as_dict() for results in found}
        args.json.write_text(json.dumps({"machine": machine, "settings": settings}, indent=1))
    if args.markdown:
        args.markdown.write_text(report.document(machine, found) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
