"""What Prometheus is told, read as Prometheus reads it; the table in the documentation; contrib."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bucketfs.cli.commands import status
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.socket import client, exposition
from bucketfs.durations import CLASSES, duration_class
from bucketfs.store.layers.trace import Tally

REPOSITORY = Path(__file__).parents[2]
RULES = REPOSITORY / "contrib" / "prometheus" / "rules.yml"
DASHBOARD = REPOSITORY / "contrib" / "grafana" / "bucketfs.json"
#: What a sample of a histogram adds to the name of its family.
OF_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


def durations(*seconds: float) -> list[int]:
    counts = [0] * CLASSES
    for each in seconds:
        counts[duration_class(each)] += 1
    return counts


def told(mount: str = "/m", **other: Any) -> dict[str, Any]:
    """What a daemon says."""
    return {
        "mountpoint": mount, "source": "b:/p", "bucket": "b", "endpoint": "http://h",
        "version": "bucketfs 1.2.3", "state": "mounted", "started": 1.5e9, "open_files": 3,
        "in_progress": 1,
        "operations": {"read": 3, "lookup": 2},
        "failures": {"lookup ENOENT": 1, "read EIO": 1},
        "calls": {"read": {"count": 3, "seconds": 70.75, "durations": durations(1e-5, 0.75, 70)}},
        "requests": {
            "GetObject": {
                "requests": 5, "failures": 2, "repeated": 1, "sent": 0, "received": 1 << 40,
                "seconds": 2.5, "codes": {"SlowDown": 2}, "durations": durations(*[0.5] * 5),
            },
            "PutObject": {
                "requests": 1, "failures": 0, "repeated": 0, "sent": 7, "received": 0,
                "seconds": 0.25, "codes": {}, "durations": durations(0.25),
            },
        },
        "cache": {"held": 5, "limit": 10, "read_here": 100, "read_fetched": 28},
        "waiting": {
            "bytes": 5, "removals": 1, "failing": 1, "oldest": 1.75e9,
            "stages": {"open": 1, "waiting": 2, "uploading": 0},
        },
        "failed": [{"path": "x"}], "conflicts": 4,
        "uploaded": {"files": 6, "bytes": 66, "failed": 2},
        "follow": [{"place": "", "connected": True}],
        "locks": {"files": 3, "lost": 1},
        "process": {"memory": 1 << 26, "cpu": 1.5, "descriptors": 12, "lag": 1e-5},
        **other,
    }  # fmt: skip


def samples(text: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = frozenset(sample.labels.items())
            assert labels not in found.setdefault(sample.name, {}), sample
            found[sample.name][labels] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[name][frozenset({"mount": "/m", **labels}.items())]


def test_every_family_is_told_with_its_type() -> None:
    """The parser takes ``_total`` off the names of counters."""
    families = {one.name: one for one in text_string_to_metric_families(exposition.text([told()]))}
    for family in exposition.FAMILIES:
        found = families[family.name.removesuffix("_total")]
        assert (found.type, found.documentation) == (family.kind, family.help)
        labels = {label for sample in found.samples for label in sample.labels} - {"mount", "le"}
        assert labels == set(family.labels)
        assert (family.kind == "counter") == family.name.endswith("_total")


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("bucketfs_up", {}, 1),
        ("bucketfs_start_time_seconds", {}, 1.5e9),
        ("bucketfs_operations_total", {"operation": "read", "result": "ok"}, 2),
        ("bucketfs_operations_total", {"operation": "lookup", "result": "ENOENT"}, 1),
        ("bucketfs_operation_duration_seconds_count", {"operation": "read"}, 3),
        ("bucketfs_operation_duration_seconds_sum", {"operation": "read"}, 70.75),
        ("bucketfs_operation_duration_seconds_bucket", {"operation": "read", "le": "6.4e-05"}, 1),
        ("bucketfs_operation_duration_seconds_bucket", {"operation": "read", "le": "1.048576"}, 2),
        ("bucketfs_operation_duration_seconds_bucket", {"operation": "read", "le": "67.108864"}, 2),
        ("bucketfs_operation_duration_seconds_bucket", {"operation": "read", "le": "+Inf"}, 3),
        ("bucketfs_requests_total", {"operation": "GetObject"}, 5),
        ("bucketfs_request_errors_total", {"operation": "GetObject", "code": "SlowDown"}, 2),
        ("bucketfs_request_retries_total", {"operation": "GetObject"}, 1),
        ("bucketfs_received_bytes_total", {}, 1 << 40),
        ("bucketfs_cache_hit_bytes_total", {}, 100),
        ("bucketfs_unsaved_files", {"state": "waiting"}, 2),
        ("bucketfs_oldest_unsaved_timestamp_seconds", {}, 1.75e9),
        ("bucketfs_follow_connected", {"bucket": "b"}, 1),
        ("bucketfs_locked_files", {}, 3),
        ("bucketfs_locks_lost_total", {}, 1),
    ],
)
def test_values(name: str, labels: dict[str, str], expected: float) -> None:
    assert value(exposition.text([told()]), name, **labels) == expected


def test_buckets_only_grow() -> None:
    found = samples(exposition.text([told()]))["bucketfs_request_duration_seconds_bucket"]
    of_one = {float(dict(k)["le"]): v for k, v in found.items() if ("operation", "GetObject") in k}
    assert list(of_one) == sorted(of_one)
    assert list(of_one.values()) == sorted(of_one.values())


def test_several_mounts_are_one_family() -> None:
    text = exposition.text([told("/a"), told("/b")], silent=["/c"])
    assert text.count("# TYPE bucketfs_open_files ") == 1
    assert {dict(labels)["mount"] for labels in samples(text)["bucketfs_open_files"]} == {
        "/a",
        "/b",
    }
    assert samples(text)["bucketfs_up"][frozenset({("mount", "/c")})] == 0


def test_nothing_unsaved_has_no_time() -> None:
    waiting = told()["waiting"] | {"oldest": None}
    assert "oldest_unsaved" not in exposition.text([told(waiting=waiting)])


def test_an_older_daemon_knows_less() -> None:
    old = told()
    del old["process"], old["calls"]
    text = exposition.text([old])
    assert "bucketfs_cpu_seconds_total" not in text
    assert value(text, "bucketfs_open_files") == 3


def test_names_are_escaped() -> None:
    mount = '/a "b"\\c\nd\udc80ü'
    (labels,) = samples(exposition.text([told(mount)]))["bucketfs_open_files"]
    assert dict(labels)["mount"] == '/a "b"\\c\nd\\udc80ü'


def test_codes_of_a_server_that_makes_up_its_own_are_bounded() -> None:
    tally = Tally()
    for number in range(1000):
        tally.failed(f"Odd{number}")
    assert len(tally.codes) <= 33
    assert sum(tally.codes.values()) == tally.failures == 1000
    both = Tally()
    both.add(tally)
    both.add(tally)
    assert sum(both.codes.values()) == 2000


class TestCommand:
    @pytest.fixture
    def daemons(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
        """Two that answer, and one that does not."""
        found = [
            client.Daemon(tmp_path, 0, name, "b", "0:50", draining=False)
            for name in ("/a", "/b", "/c")
        ]

        class Talk:
            def __init__(self, mount: str) -> None:
                self._mount = mount

            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_: object) -> None:
                return

            def result(self) -> dict[str, Any]:
                return told(self._mount)

        def ask(daemon: client.Daemon, do: str) -> Talk:
            assert do == "status"
            if daemon.mountpoint == "/c":
                raise client.NoDaemon("the daemon has ended")
            return Talk(daemon.mountpoint)

        monkeypatch.setattr(status.mounts, "current", list)
        monkeypatch.setattr(client, "reachable", lambda _known: found)
        monkeypatch.setattr(client, "ask", ask)
        return

    @pytest.mark.usefixtures("daemons")
    def test_all_mounts_in_one_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert status.run(["--prometheus"]) == ExitCode.FAILED
        found = samples(capsys.readouterr().out)
        up = {dict(labels)["mount"]: value for labels, value in found["bucketfs_up"].items()}
        assert up == {"/a": 1, "/b": 1, "/c": 0}

    def test_one_form_at_a_time(self) -> None:
        with pytest.raises(Failure, match="usage"):
            status.run(["--prometheus", "--json"])


def test_docs_are_current() -> None:
    page = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert exposition.documented(page) == page, "make docs"


def expressions() -> Iterator[str]:
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    page = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")
    yield from re.findall(r"\| `(.*)` \|", page.partition("## Questions")[2])


def test_contrib_and_docs_ask_for_what_there_is() -> None:
    known = samples(exposition.text([told()]))
    asked = {name for text in expressions() for name in re.findall(r"\bbucketfs_\w+", text)}
    assert len(asked) > 20
    assert asked <= known.keys()


def test_contrib_asks_for_labels_that_there_are() -> None:
    known = samples(exposition.text([told()]))
    for text in expressions():
        for name, inside in re.findall(r"\b(bucketfs_\w+)\{([^}]*)\}", text):
            labels = {label for sample in known[name] for label, _ in sample}
            assert set(re.findall(r"(\w+)(?==|!)", re.sub(r'"[^"]*"', '""', inside))) <= (
                labels | {"instance"}  # which Prometheus adds
            ), text


def test_alerts_say_what_to_do() -> None:
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            assert set(rule) >= {"alert", "expr", "labels", "annotations"}
            assert set(rule["annotations"]) == {"summary", "description"}


def test_the_dashboards_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
