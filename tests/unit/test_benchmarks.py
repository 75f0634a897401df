"""The benchmarks' pure parts: what samples become, how slopes are fitted, and what is measured."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import trio

from benchmarks import report
from benchmarks.child import Child, WorkError
from benchmarks.data import MIB
from benchmarks.floor import FLOORS, _pieces
from benchmarks.growth import AXES, LARGE, LITTLE, _fill, names_served
from benchmarks.measure import Sample
from benchmarks.publish import DOCUMENT, between, publish
from benchmarks.slopes import Axis, Goal, Point, each, exponent, judged, slope
from benchmarks.systems import PEERS, SYSTEMS
from benchmarks.workloads import WORKLOADS
from bucketfs.cache.cache import DiskCache, Pool
from bucketfs.cache.places import name_of
from tests.harness.endpoint import REPOSITORY

ROWS = {workload.name: workload for workload in WORKLOADS}
MACHINE = {
    "date": "2026-01-01T00:00:00+00:00",
    "cpu": "2 × some",
    "memory_gib": 4,
    "kernel": "6.18",
    "python": "3.11",
    "load": [0.1, 0, 0],
    "server": "Ceph RGW 16",
    "versions": {"bucketfs": "bucketfs 0.1.0", "bucketfs-list": "bucketfs 0.1.0", "s3fs": "s3fs 1"},
    "left_out": ["geesefs is left out: it is not on PATH"],
}


def results(setting: str = "loopback", **rows: dict[str, Sample | list[Sample]]) -> report.Results:
    """Samples by row, whose underscores are dashes, and system."""
    found = report.Results(setting)
    for row, systems in rows.items():
        for system, samples in systems.items():
            for sample in samples if isinstance(samples, list) else [samples]:
                found.add(row.replace("_", "-"), system, sample)
    return found


class TestWhatIsMeasured:
    @pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
    def test_a_row_has_systems_that_exist(self, workload):
        assert set(workload.systems) <= set(SYSTEMS)
        assert {other for bar in workload.bars for other in bar.others} <= set(workload.systems)

    @pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
    def test_a_row_has_one_variant_of_each_program(self, workload):
        families = [SYSTEMS[name].family for name in workload.systems]
        assert len(families) == len(set(families))

    def test_each_row_has_a_floor_but_the_one_that_asks_nothing(self):
        assert set(ROWS) - set(FLOORS) == {"read-warm"}
        assert set(FLOORS) <= set(ROWS)

    @pytest.mark.parametrize("size", [1, 5 * MIB, 31 * MIB, 128 * MIB + 5])
    def test_a_copy_in_pieces_leaves_nothing_out(self, size):
        pieces = _pieces(7, 7 + size, 16 * MIB)
        assert (pieces[0][0], pieces[-1][1]) == (7, 7 + size)
        assert all(before[1] == after[0] for before, after in pairwise(pieces))
        assert len(pieces) == 1 or min(stop - start for start, stop in pieces) >= 16 * MIB

    def test_what_a_peer_lacks_is_a_row(self):
        assert {row for system in SYSTEMS.values() for row in system.lacks} <= set(ROWS)

    @pytest.mark.parametrize("sizes", [LARGE, LITTLE])
    def test_the_generator_has_what_the_axes_ask_for(self, sizes):
        served = names_served(sizes)
        assert {f"names-{count}" for count in sizes.names} <= set(served)
        assert f"names-{max(sizes.files)}" in served
        assert f"bytes-{sizes.megabytes[-1] * 1_000_000}" in served
        assert len(served) == len(set(served))

    def test_a_goal_is_at_a_size_that_is_measured(self):
        sizes = {"names": LARGE.names, "cache": LARGE.pages}
        for axis, _ in AXES:
            for goal in axis.goals:
                assert goal.each or goal.size in sizes[axis.name]


class TestVerdicts:
    def test_the_best_peer_counts(self):
        found = results(ls={"bucketfs": Sample(1.0), "s3fs": Sample(3.0), "rclone": Sample(2.0)})
        (verdict,) = report.verdicts(found, ROWS["ls"])
        assert (verdict.other, verdict.ratio, verdict.met) == ("rclone", 2.0, True)
        assert str(verdict) == "2.00× rclone (≥ 1×) pass"

    def test_a_bar_may_ask_for_more_over_the_network(self):
        found = results("network", small={"bucketfs": Sample(1.0), "s3fs": Sample(7.0)})
        (verdict,) = report.verdicts(found, ROWS["small"])
        assert str(verdict) == "7.00× s3fs (≥ 8×) MISS"

    def test_a_bar_against_the_floor_is_for_the_network_only(self):
        samples = {"bucketfs": Sample(1.3), "floor": Sample(1.0), "s3fs": Sample(9.0)}
        assert len(report.verdicts(results(untar=samples), ROWS["untar"])) == 1
        last = report.verdicts(results("network", untar=samples), ROWS["untar"])[-1]
        assert (last.other, last.met) == ("floor", False)

    def test_who_does_not_wait_is_shown_and_not_compared(self):
        found = results(create={"bucketfs": Sample(2.0), "s3fs": Sample(4.0), "geesefs": Sample(1)})
        assert [verdict.other for verdict in report.verdicts(found, ROWS["create"])] == ["s3fs"]
        assert "1.000 (0.00)" in report.times(found)

    def test_our_variant_is_the_one_of_the_row(self):
        found = results(untar_later={"bucketfs-writeback": Sample(2.0), "rclone": Sample(1.0)})
        (verdict,) = report.verdicts(found, ROWS["untar-later"])
        assert verdict.ratio == 0.5

    def test_without_a_peer_there_is_none(self):
        assert report.verdicts(results(ls={"bucketfs": Sample(1.0)}), ROWS["ls"]) == []

    def test_limits_of_time_are_for_the_network(self):
        samples = {"bucketfs": Sample(3.0, cpu=1.0)}
        assert report.limits(results(ls_l=samples), ROWS["ls-l"]) == ["1 (≤ 1.25) s CPU pass"]
        far = report.limits(results("network", ls_l=samples), ROWS["ls-l"])
        assert far == ["1 (≤ 1.25) s CPU pass", "3 (≤ 2.5) s MISS"]

    def test_limits_of_bytes_are_counted(self):
        sample = Sample(1.0, memory=99 << 20, counted=True, down=1 << 20)
        found = results(read={"bucketfs": sample}, random={"bucketfs": sample})
        assert report.limits(found, ROWS["read"]) == ["99 (≤ 100) MiB resident pass"]
        assert report.limits(found, ROWS["random"]) == ["1 (≤ 272) MiB fetched pass"]


class TestTables:
    def test_cpu_stands_beside_the_time(self):
        found = results(ls={"bucketfs": [Sample(1.0, 0.25), Sample(3.0, 0.5), Sample(2.0, 0.75)]})
        head, _, row = report.times(found).splitlines()
        assert "bucketfs (CPU)" in head
        assert "2.000 (0.50)" in row

    def test_variants_share_a_column(self):
        found = results(
            ls={"bucketfs": Sample(1.0), "geesefs": Sample(2.0)},
            untar_later={"bucketfs-writeback": Sample(3.0), "geesefs-later": Sample(4.0)},
        )
        head, _, *rows = report.times(found).splitlines()
        assert head.count("bucketfs") == 1
        assert head.count("geesefs") == 1
        assert "3.000 (0.00)" in rows[0]
        assert "4.000 (0.00)" in rows[0]

    def test_the_floor_has_a_column(self):
        found = results(ls={"bucketfs": Sample(1.0), "floor": Sample(0.5)})
        assert "floor (CPU)" in report.times(found)

    def test_what_failed_and_what_was_not_tried(self):
        found = results(
            rename={"bucketfs": Sample(1.0), "s3fs": Sample(error="EIO")},
            ls={"mount-s3": Sample(1.0)},
        )
        row = next(line for line in report.times(found).splitlines() if "rename" in line)
        assert "failed" in row
        assert "cannot" in row
        assert report.failures(found) == ["loopback: rename on s3fs: EIO"]

    def test_a_sample_that_was_slowed_by_counting_has_no_time(self):
        found = results(ls={"bucketfs": [Sample(1.0), Sample(9.0, counted=True, down=7)]})
        assert found.seconds("ls", "bucketfs") == 1.0
        assert found.counted("ls", "bucketfs").down == 7

    def test_the_head_names_the_server_and_who_is_missing(self):
        text = report.described(MACHINE)
        assert "against Ceph RGW 16: bucketfs 0.1.0; s3fs 1." in text
        assert "Geesefs is left out: it is not on PATH." in text

    def test_a_run_survives_its_file(self):
        axis, _ = AXES[0]
        run = report.Run(
            MACHINE,
            [results(ls={"bucketfs": Sample(1.0, requests={"GET": 2}), "s3fs": Sample(2.0)})],
            [replace(axis, points=[Point(1000, {"seconds": 0.5})], failed="no room")],
        )
        told = json.loads(json.dumps(run.as_dict()))
        again = report.Run.from_dict(told, [axis for axis, _ in AXES])
        assert report.document(again) == report.document(run)
        assert again.failures() == [f"growth: {axis.name}: no room"]


class TestSlopes:
    @pytest.mark.parametrize("power", [0, 0.5, 1, 2, -1])
    def test_a_power(self, power):
        series = [(x, 3 * x**power) for x in (1, 10, 100, 1000)]
        assert exponent(series) == pytest.approx(power)

    def test_what_each_mount_costs_hides_nothing_at_large_sizes(self):
        series = [(x, 1 + 1e-4 * x) for x in (10, 100, 10**5, 10**6, 10**7)]
        assert exponent(series) == pytest.approx(1, abs=0.05)
        assert each(series) == pytest.approx(1e-4)

    def test_from_one_point_nothing_follows(self):
        assert exponent([(1, 1)]) is None
        assert each([(1, 1)]) is None
        assert exponent([(1, 1), (1, 2)]) is None
        assert exponent([(1, 0), (2, 0)]) is None

    @pytest.mark.parametrize(
        ("measure", "cost", "text"),
        [
            ("seconds", 2e-6, "time: exponent 1.00, 2 µs a name"),
            ("seconds", 2e-3, "time: exponent 1.00, 2 ms a name"),
            ("memory", 500 / (1 << 20), "memory: exponent 1.00, 500 bytes a name"),
            ("memory", 3 / 1024, "memory: exponent 1.00, 3 KiB a name"),
        ],
    )
    def test_a_slope_in_words(self, measure, cost, text):
        points = [Point(x, {measure: cost * x}) for x in (1000, 2000, 4000)]
        assert slope(Axis("a", "names", "name", points=points), measure) == text

    def test_what_falls_has_no_cost_of_one_more(self):
        points = [Point(x, {"seconds": 1 / x}) for x in (1, 2, 4)]
        assert slope(Axis("a", "readers", "reader", points=points), "seconds") == (
            "time: exponent -1.00"
        )

    def test_goals(self):
        points = [Point(x, {"first": 0.5, "memory": 600 * x / (1 << 20)}) for x in (1, 1000)]
        axis = Axis("a", "names", "name", points=points)
        assert judged(axis, Goal("first", 1, size=1000)) == (
            "first result at 1,000: 0.5 s (≤ 1) pass"
        )
        assert judged(axis, Goal("memory", 500, each=True)) == (
            "memory: 600 bytes a name (≤ 500) MISS"
        )
        assert judged(axis, Goal("first", 1, size=10**6)) == ""

    def test_a_table_of_growth(self):
        points = [Point(x, {"seconds": float(x), "cpu": x / 2}) for x in (1, 2)]
        text = report.growth(Axis("a", "files", "file", points=points, failed="no room"))
        assert "| files | time, s | CPU, s |" in text
        assert "time: exponent 1.00, 1 s a file" in text
        assert text.endswith("not measured further: no room.")


class TestDocuments:
    def test_only_what_stands_between_is_replaced(self):
        text = "a\n<!-- X: written by `make bench`. -->\nold\n<!-- End of X. -->\nb\n"
        new = between(text, "X", "new")
        assert new == ("a\n<!-- X: written by `make bench`. -->\n\nnew\n\n<!-- End of X. -->\nb\n")
        assert between(new, "X", "new") == new

    def test_a_document_without_the_place(self):
        with pytest.raises(ValueError, match="no place for X"):
            between("text", "X", "new")

    def test_the_document_has_its_places(self):
        text = (REPOSITORY / "docs" / DOCUMENT).read_text(encoding="utf-8")
        for name in ("Tables", "Growth"):
            assert "new" in between(text, name, "new")

    def test_a_run_goes_into_documents_and_pictures(self, tmp_path):
        pytest.importorskip("matplotlib", reason="pictures need the extra bench")
        text = (REPOSITORY / "docs" / DOCUMENT).read_text(encoding="utf-8")
        (tmp_path / DOCUMENT).write_text(text, encoding="utf-8")
        samples = {name: Sample(1.0 + n, 0.1) for n, name in enumerate(("bucketfs", *PEERS))}
        axes = [
            replace(axis, points=[Point(x, {"seconds": x, "memory": 2 * x}) for x in (1, 10)])
            for axis, _ in AXES
        ]
        every = [
            results(setting, ls={**samples, "floor": Sample(0.5)}, read_warm=samples)
            for setting in ("loopback", "network")
        ]
        publish(report.Run(MACHINE, every, axes), tmp_path)
        written = (tmp_path / DOCUMENT).read_text(encoding="utf-8")
        assert written.count("goals met") == 2
        growth = written[: written.index("<!-- End of Growth")]
        assert "(growth.svg)" in growth
        assert "against the benchmarks' own server: bucketfs 0.1.0. Load" in growth
        for name in ("benchmarks.svg", "growth.svg"):
            assert (tmp_path / name).read_text(encoding="utf-8").rstrip().endswith("</svg>")


def test_ratios_are_ones_where_nothing_can_be_compared():
    pytest.importorskip("matplotlib", reason="pictures need the extra bench")
    from benchmarks.plot import _cpu, _seconds, ratios

    found = results(
        ls={"bucketfs": Sample(1.0, 0.0), "s3fs": Sample(3.0, 0.2)},
        rename={"bucketfs": Sample(1.0)},
    )
    assert ratios(found, "s3fs", _seconds) == [3.0, 1.0]
    assert ratios(found, "s3fs", _cpu) == [pytest.approx(20), 1.0]


# newer Pythons warn of threads, which belong to pytest-xdist
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
class TestWorkInAProcessOfItsOwn:
    def test_it_answers(self):
        with Child(lambda: None, lambda: {"seconds": 1.5}) as child:
            child.wait_ready()
            assert child.work() == {"seconds": 1.5}
            os.kill(child.pid, 0)  # it stays until what it used was read

    def test_what_fails_before(self):
        failing = Child(lambda: 1 // 0, lambda: None)
        with failing as child, pytest.raises(WorkError, match="ZeroDivisionError"):
            child.wait_ready()

    def test_what_fails(self):
        with Child(lambda: None, lambda: int("one")) as child:
            child.wait_ready()
            with pytest.raises(WorkError, match="ValueError: invalid literal"):
                child.work()

    def test_what_takes_too_long(self):
        slow = Child(lambda: time.sleep(60), lambda: None, patience=0.05)
        with slow as child, pytest.raises(WorkError, match=r"no result in 0\.05 s"):
            child.wait_ready()

    def test_a_process_that_dies(self):
        with Child(lambda: None, lambda: os._exit(3)) as child:
            child.wait_ready()
            with pytest.raises(WorkError, match="process died"):
                child.work()


def test_a_cache_that_is_left_is_one_that_a_mount_finds(tmp_path):
    url = "http://127.0.0.1:1"

    async def look() -> None:
        await _fill(tmp_path, url, 5)
        pool = Pool(1 << 30, lambda _: 0)
        cache = DiskCache(tmp_path, name=name_of(url, "made"), pool=pool)
        assert [cache.had(f"cached/{number:07}") for number in range(6)] == [True] * 5 + [False]
        cache.close()

    trio.run(look)
