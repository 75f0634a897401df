"""What a mount tells Prometheus, in its text format 0.0.4: one table, made of `bucketfs status`.

Names and units follow https://prometheus.io/docs/practices/naming/: base units, ``_total`` for what
only grows, one label for each thing one may sum over. Each sample has the label ``mount``, the
mount point. Pure, but for `main`: ``python -m bucketfs.cli.socket.exposition docs/metrics.md``
puts the table into that page, which a test holds to it.

An older daemon knows less: a family that it says nothing about is left out for its mount.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from bucketfs.durations import upper_bound

#: What an HTTP answer calls it.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Of the classes of durations, the last one in each bucket of a histogram: 64 µs, 256 µs, … 67 s.
_BUCKETS: Final = tuple(range(6, 27, 2))

#: Around the table in the documentation.
_BEGIN: Final = "<!-- made by make docs -->"
_END: Final = "<!-- end -->"

Status = Mapping[str, Any]
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations of one kind: how many of each class, and their sum in seconds."""

    durations: Sequence[int]
    seconds: float


@dataclass(frozen=True, slots=True)
class Family:
    """The samples of one name.

    Attributes:
        name: Of the family.
        kind: counter, gauge or histogram.
        help: Unit and meaning, one sentence.
        read: Labels, without ``mount``, and values, from a status. Raises KeyError where that is of
            a daemon that does not know them.
        labels: Names of the labels, for the documentation.
    """

    name: str
    kind: str
    help: str
    read: Callable[[Status], Iterable[tuple[Labels, float | Histogram]]]
    labels: tuple[str, ...] = ()


def text(statuses: Sequence[Status], silent: Iterable[str] = ()) -> str:
    """The exposition of some mounts.

    Args:
        statuses: What their daemons said.
        silent: Mount points whose daemons did not answer.
    """
    lines: list[str] = []
    for family in FAMILIES:
        found = [line for status in statuses for line in _lines(family, status)]
        if family is UP:
            found += [_line(family.name, {"mount": mount}, 0) for mount in silent]
        if found:
            lines.append(f"# HELP {family.name} {family.help}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines += found
    return "".join(f"{line}\n" for line in lines)


def documented(page: str) -> str:
    """A page with the table of all families between its two marks."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    return f"{before}{begin}\n\n{_table()}\n{end}{after}"


def _table() -> str:
    rows = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} |"
        f" {one.help} |"
        for one in FAMILIES
    ]
    return "\n".join(rows) + "\n"


def _lines(family: Family, status: Status) -> Iterator[str]:
    try:
        samples = list(family.read(status))
    except KeyError:
        return
    for labels, value in samples:
        with_mount = {"mount": status["mountpoint"], **labels}
        if isinstance(value, Histogram):
            yield from _histogram(family.name, with_mount, value)
        else:
            yield _line(family.name, with_mount, value)


def _histogram(name: str, labels: Labels, value: Histogram) -> Iterator[str]:
    sums = list(accumulate(value.durations))
    for last in _BUCKETS:
        yield _line(f"{name}_bucket", {**labels, "le": _number(upper_bound(last))}, sums[last])
    yield _line(f"{name}_bucket", {**labels, "le": "+Inf"}, sums[-1])
    yield _line(f"{name}_sum", labels, value.seconds)
    yield _line(f"{name}_count", labels, sums[-1])


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {_number(value)}"


def _escaped(text: str) -> str:
    r"""A label's value; bytes of names that are no UTF-8 are written as ``\udc80``."""
    valid = text.encode("utf-8", "backslashreplace").decode()
    return valid.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)


def _info(status: Status) -> Iterator[tuple[Labels, float]]:
    labels = {name: status[name] for name in ("source", "bucket", "endpoint")}
    yield {"version": status["version"].rpartition(" ")[2], **labels}, 1


def _locks(what: str) -> Callable[[Status], Iterator[tuple[Labels, float]]]:
    """A number of the locks in the bucket; none where each machine keeps its own."""

    def read(status: Status) -> Iterator[tuple[Labels, float]]:
        if locks := status["locks"]:
            yield {}, locks[what]

    return read


def _one(*path: str) -> Callable[[Status], Iterator[tuple[Labels, float]]]:
    """The number under these names; none if there is nothing to tell."""

    def read(status: Status) -> Iterator[tuple[Labels, float]]:
        found: Any = status
        for name in path:
            found = found[name]
        if found is not None:
            yield {}, found

    return read


def _operations(status: Status) -> Iterator[tuple[Labels, float]]:
    failed: dict[str, dict[str, int]] = {}
    for words, times in status["failures"].items():
        operation, _, code = words.partition(" ")
        failed.setdefault(operation, {})[code] = times
    for operation, times in status["operations"].items():
        codes = failed.get(operation, {})
        yield {"operation": operation, "result": "ok"}, times - sum(codes.values())
        for code, count in codes.items():
            yield {"operation": operation, "result": code}, count


def _histograms(name: str) -> Callable[[Status], Iterator[tuple[Labels, Histogram]]]:
    def read(status: Status) -> Iterator[tuple[Labels, Histogram]]:
        for operation, tally in status[name].items():
            yield {"operation": operation}, Histogram(tally["durations"], tally["seconds"])

    return read


def _requests(name: str) -> Callable[[Status], Iterator[tuple[Labels, float]]]:
    def read(status: Status) -> Iterator[tuple[Labels, float]]:
        for operation, tally in status["requests"].items():
            yield {"operation": operation}, tally[name]

    return read


def _request_errors(status: Status) -> Iterator[tuple[Labels, float]]:
    for operation, tally in status["requests"].items():
        for code, times in tally["codes"].items():
            yield {"operation": operation, "code": code}, times


def _bytes(name: str) -> Callable[[Status], Iterator[tuple[Labels, float]]]:
    def read(status: Status) -> Iterator[tuple[Labels, float]]:
        yield {}, sum(tally[name] for tally in status["requests"].values())

    return read


def _stages(status: Status) -> Iterator[tuple[Labels, float]]:
    for stage, files in status["waiting"]["stages"].items():
        yield {"state": stage}, files


def _feeds(status: Status) -> Iterator[tuple[Labels, float]]:
    for feed in status["follow"]:
        yield {"bucket": feed["place"].rstrip("/") or status["bucket"]}, int(feed["connected"])


_OP: Final = ("operation",)

#: 1 for a mount that says anything.
UP: Final = Family(
    "bucketfs_up", "gauge", "Whether the daemon of the mount answers.", lambda _: [({}, 1)]
)

FAMILIES: Final[tuple[Family, ...]] = (
    UP,
    Family(
        "bucketfs_info", "gauge", "What is mounted, from where; always 1.", _info,
        ("version", "source", "bucket", "endpoint"),
    ),
    Family(
        "bucketfs_start_time_seconds", "gauge", "When the daemon was started, in Unix time.",
        _one("started"),
    ),
    Family(
        "bucketfs_draining", "gauge",
        "Whether the mount is being unmounted, and what is unsaved is on its way.",
        lambda status: [({}, int(status["state"] == "draining"))],
    ),
    Family(
        "bucketfs_operations_total", "counter",
        "Calls of the kernel, by handler; the result is ok or the errno. ENOENT is no trouble.",
        _operations, ("operation", "result"),
    ),
    Family(
        "bucketfs_operation_duration_seconds", "histogram", "How long calls of the kernel took.",
        _histograms("calls"), _OP,
    ),
    Family(
        "bucketfs_operations_in_progress", "gauge",
        "Calls of the kernel that have no answer yet.", _one("in_progress"),
    ),
    Family(
        "bucketfs_requests_total", "counter",
        "Requests sent to the store, each attempt for itself.", _requests("requests"), _OP,
    ),
    Family(
        "bucketfs_request_errors_total", "counter",
        "Requests that failed, by S3 error code, or by what happened to the connection. That an"
        " object is not there, or not as a condition says, is no failure.",
        _request_errors, ("operation", "code"),
    ),
    Family(
        "bucketfs_request_retries_total", "counter", "Failed requests that were sent again.",
        _requests("repeated"), _OP,
    ),
    Family(
        "bucketfs_request_duration_seconds", "histogram",
        "How long requests took, with the transfer of their bodies.",
        _histograms("requests"), _OP,
    ),
    Family(
        "bucketfs_sent_bytes_total", "counter", "Bytes of bodies that the store has taken.",
        _bytes("sent"),
    ),
    Family(
        "bucketfs_received_bytes_total", "counter",
        "Bytes of objects that were received from the store.", _bytes("received"),
    ),
    Family(
        "bucketfs_cache_hit_bytes_total", "counter",
        "Bytes that programs read and that were in the cache, ahead of the read or from before."
        " What the kernel's page cache had is not seen here.",
        _one("cache", "read_here"),
    ),
    Family(
        "bucketfs_cache_miss_bytes_total", "counter",
        "Bytes that programs read and that had to come from the store first.",
        _one("cache", "read_fetched"),
    ),
    Family(
        "bucketfs_cache_size_bytes", "gauge", "Bytes of disk that the cache takes.",
        _one("cache", "held"),
    ),
    Family(
        "bucketfs_cache_limit_bytes", "gauge",
        "Bytes that it may take: cache_size, or less where the disk is to keep room.",
        _one("cache", "limit"),
    ),
    Family(
        "bucketfs_unsaved_files", "gauge",
        "Files and directories of which the store lacks something: open (a program writes),"
        " waiting, uploading, retrying, conflict.",
        _stages, ("state",),
    ),
    Family(
        "bucketfs_unsaved_bytes", "gauge",
        "Bytes that wait for their upload, without those of files that are open for writing.",
        _one("waiting", "bytes"),
    ),
    Family(
        "bucketfs_unsaved_removals", "gauge",
        "Names that are removed here and whose objects are still in the store.",
        _one("waiting", "removals"),
    ),
    Family(
        "bucketfs_oldest_unsaved_timestamp_seconds", "gauge",
        "Unix time since which the oldest file waits for its upload; missing if none does.",
        _one("waiting", "oldest"),
    ),
    Family(
        "bucketfs_failing_files", "gauge",
        "Files whose upload has failed and is tried again.", _one("waiting", "failing"),
    ),
    Family(
        "bucketfs_given_up_files", "gauge",
        "The latest files that could not be saved at all: bucketfs status names them.",
        lambda status: [({}, len(status["failed"]))],
    ),
    Family(
        "bucketfs_uploaded_files_total", "counter", "Files brought to the store.",
        _one("uploaded", "files"),
    ),
    Family(
        "bucketfs_uploaded_bytes_total", "counter",
        "Bytes of these files; less is sent where the store copies.", _one("uploaded", "bytes"),
    ),
    Family(
        "bucketfs_upload_failures_total", "counter",
        "How often a file could not be brought to the store; each is tried again unless its close"
        " has told the program.",
        _one("uploaded", "failed"),
    ),
    Family(
        "bucketfs_conflicts_total", "counter",
        "How often others had changed a file that was to be saved.", _one("conflicts"),
    ),
    Family("bucketfs_open_files", "gauge", "Files that programs hold open.", _one("open_files")),
    Family(
        "bucketfs_locked_files", "gauge",
        "Files that the mount has locks on in the bucket; with -o locks=bucket only.",
        _locks("files"),
    ),
    Family(
        "bucketfs_locks_lost_total", "counter",
        "How often a file's locks were lost, their lease not being renewed in time.",
        _locks("lost"),
    ),
    Family(
        "bucketfs_follow_connected", "gauge",
        "Whether the store tells what others change; with -o follow only.", _feeds, ("bucket",),
    ),
    Family(
        "bucketfs_resident_memory_bytes", "gauge", "Memory that the daemon takes.",
        _one("process", "memory"),
    ),
    Family(
        "bucketfs_cpu_seconds_total", "counter", "Time of a CPU that the daemon has used.",
        _one("process", "cpu"),
    ),
    Family(
        "bucketfs_open_descriptors", "gauge", "Descriptors that the daemon has open.",
        _one("process", "descriptors"),
    ),
    Family(
        "bucketfs_event_loop_lag_seconds", "gauge",
        "How long everything else that was ready ran when this was asked for.",
        _one("process", "lag"),
    ),
)  # fmt: skip

#: Families by name.
BY_NAME: Final[Mapping[str, Family]] = MappingProxyType({one.name: one for one in FAMILIES})


def main() -> None:
    """Bring the page named on the command line up to date."""
    page = Path(sys.argv[1])
    page.write_text(documented(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
