"""The table of `make test-stores`."""

from __future__ import annotations

from pathlib import Path

from tests.harness.stores.table import Row, counted, table

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="2" tests="5">
  <testcase classname="a" name="test_good" />
  <testcase classname="a" name="test_bad"><failure message="no">no</failure></testcase>
  <testcase classname="a" name="test_torn_down"><error message="no">no</error></testcase>
  <testcase classname="b" name="test_1"><skipped message="no x">no</skipped></testcase>
  <testcase classname="b" name="test_2"><skipped message="no x">no</skipped></testcase>
</testsuite></testsuites>
"""


def test_what_pytest_reports_is_counted(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    row = counted(report, Row("A", "1.2"))
    assert row.passed == 1
    assert row.failed == ("a::test_bad", "a::test_torn_down")
    assert row.skipped == (("no x", 2),)
    assert not row.good
    assert table([row]).splitlines()[3:] == [
        "| A | 1.2 | 1 | 2 | 2 |",
        "",
        "A: failed",
        "  a::test_bad",
        "  a::test_torn_down",
        "",
        "A: skipped",
        "  2 of: no x",
    ]


def test_a_server_that_was_not_tried_is_not_good_by_counting_nothing(tmp_path: Path) -> None:
    assert not counted(tmp_path / "none.xml", Row("A", "1")).good
    (tmp_path / "empty.xml").write_text("<testsuites/>")
    assert not counted(tmp_path / "empty.xml", Row("A", "1")).good
    absent = Row("A", missing="a (PyPI)")
    assert absent.good
    assert table([absent]).splitlines()[3:] == [
        "| A |  | not installed |  |  |",
        "",
        "A: please install a (PyPI)",
    ]
