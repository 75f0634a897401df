"""Lines that commands print, made of what daemons tell."""

from __future__ import annotations

from typing import Any

import pytest

from bucketfs.cli import show
from bucketfs.cli.commands import warm


class TestRate:
    def test_nothing_is_known_at_first(self) -> None:
        assert show.Rate().at(100, 5.0) == 0.0

    def test_only_the_last_seconds_count(self) -> None:
        rate = show.Rate()
        for second in range(60):
            rate.at(second * 1000.0, float(second))
        assert rate.at(59_000.0 + 10, 60.0) < 1000
        assert rate.at(59_000.0 + 10, 80.0) == pytest.approx(0, abs=1)


class TestWarm:
    def told(self, **other: Any) -> dict[str, Any]:
        return {
            "found_files": 400, "found_bytes": 4 << 30, "listed": True, "files": 12,
            "bytes": 1 << 30, "fetched": 1 << 29, "skipped": 0, "failures": 0, **other,
        }  # fmt: skip

    def test_progress(self) -> None:
        assert (
            warm.line(self.told(), 100 << 20)
            == "12 of 400 files, 1.0 GiB of 4.0 GiB, 100 MiB/s, 30 s left"
        )
        assert warm.line(self.told(), 0.0) == "12 of 400 files, 1.0 GiB of 4.0 GiB"
        assert warm.line(self.told(listed=False), 0.0) == "400 files, 4.0 GiB found"

    def test_what_was_done(self) -> None:
        text = warm.summary(self.told(skipped=1), 2.0)
        assert text.startswith("12 files, 1.0 GiB in the cache; 512 MiB fetched in 2.0 s (256 MiB/")
        assert text.endswith("; 1 file not saved yet left alone")
