"""Lines that commands print, made of what daemons tell."""

from __future__ import annotations

from typing import Any

import pytest

from bucketfs.cli import show
from bucketfs.cli.commands import check, size, top, warm
from bucketfs.store.base import ObjectInfo, UploadInfo


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


class TestTop:
    def look(self, clock: float, **other: Any) -> dict[str, Any]:
        return {
            "clock": clock, "source": "bucket", "mountpoint": "/m", "uptime": 61.0,
            "calls": {}, "requests": {}, "open_files": 1, "in_progress": 0, "failed": 0,
            "cache": {"held": 1 << 30, "limit": 2 << 30, "read_here": 0, "read_fetched": 0},
            "waiting": {
                "files": 2, "bytes": 5, "removals": 0,
                "stages": {"uploading": 2, "retrying": 1, "waiting": 0},
            },
            "slowest": [], **other,
        }  # fmt: skip

    def looks(self) -> tuple[dict[str, Any], dict[str, Any]]:
        get = {"requests": 10, "failures": 0, "repeated": 0, "sent": 0, "received": 100}
        before = self.look(
            10.0,
            calls={"read": {"count": 5, "seconds": 1.0, "durations": [5]}},
            requests={"GetObject": {**get, "seconds": 1.0}},
        )
        more = {"requests": 14, "failures": 1, "repeated": 1, "received": 4100, "seconds": 3.0}
        after = self.look(
            12.0,
            calls={
                "read": {"count": 25, "seconds": 1.02, "durations": [25]},
                "open": {"count": 2, "seconds": 0.0, "durations": [2]},
            },
            requests={"GetObject": {**get, **more}},
            cache={"held": 1 << 30, "limit": 2 << 30, "read_here": 300, "read_fetched": 100},
            slowest=[{"call": "write", "path": "d/f", "seconds": 12.3}],
        )
        return before, after

    def test_figures_are_a_second(self) -> None:
        told = top.figures(*self.looks())
        assert told["calls"]["read"] == {"rate": 10.0, "mean": pytest.approx(0.001)}
        get = told["requests"]["GetObject"]
        assert (get["rate"], get["mean"], get["failures"]) == (2.0, 0.5, 0.5)
        assert (told["received"], told["sent"], told["read"]) == (2000.0, 0.0, 200.0)
        assert told["hit_rate"] == 0.75

    def test_nothing_happens(self) -> None:
        before, _ = self.looks()
        told = top.figures(before, {**before, "clock": 11.0})
        assert (told["calls"], told["requests"], told["hit_rate"]) == ({}, {}, None)
        assert top.frame([before], [before])[3] == "  none"

    def test_a_frame(self) -> None:
        before, after = self.looks()
        text = "\n".join(top.frame([before, before], [after, after]))
        assert text.count("bucket at /m, up 1 min 1 s") == 2
        for words in (
            "read 10.0 1.00 ms",
            "GetObject 2.0 500 ms 0.5 0.5",
            "read 200 B/s by programs, 75% of it from the cache",
            "waiting 2 files, 5 B uploads 2 uploading, 1 retrying open 1 file",
            "12.3 s write d/f",
        ):
            assert words in " ".join(text.split())

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.00021, "0.21 ms"), (0.035, "35 ms"), (1.25, "1.2 s"), (61.0, "1 min 1 s")],
    )
    def test_times(self, seconds: float, text: str) -> None:
        assert show.short(seconds) == text


def listed(*keys: str, size: int = 1, storage_class: str = "") -> list[ObjectInfo]:
    return [ObjectInfo(key, size, "e", 0, storage_class=storage_class) for key in keys]


class TestSize:
    def test_sums(self) -> None:
        sizes = size.Sizes("p/")
        for info in [
            *listed("p/a/1", "p/a/b/2", size=10),
            *listed("p/f", size=5, storage_class="GLACIER"),
        ]:
            sizes.add(info)
        text = [" ".join(line.split()) for line in size.lines(sizes, "bucket:/p")]
        assert text == [
            "bucket:/p: 3 objects, 25 B", "", "bytes objects storage class", "20 B 2 STANDARD",
            "5 B 1 GLACIER", "", "bytes objects prefix", "20 B 2 a/", "5 B 1 (no further slash)",
        ]  # fmt: skip

    def test_many_prefixes_are_counted(self) -> None:
        sizes = size.Sizes("")
        for info in listed(*(f"{n}/f" for n in range(100))):
            sizes.add(info)
        assert list(size.lines(sizes, "b"))[-1] == "  and 60 more; --json has all"

    def test_nothing_is_there(self) -> None:
        assert list(size.lines(size.Sizes(""), "b")) == ["b: 0 objects, 0 B"]


class TestCheck:
    def look(self, *infos: ObjectInfo, prefix: str = "") -> check.Found:
        found = check.Found()
        keys = check.Keys(prefix, found)
        for info in infos:
            keys.add(info)
        return found

    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("a//b", "two slashes"),
            ("/a", "two slashes"),
            ("a//", "two slashes"),
            ("a/../b", "'..'"),
            ("a/.", "'.'"),
            ("a\0b", "NUL"),
            ("ä" * 128, "256 bytes, 255 are the most"),
        ],
    )
    def test_what_cannot_be_a_file(self, path: str, words: str) -> None:
        assert words in check.hidden_because(path)

    @pytest.mark.parametrize("path", ["", "a", "a/", "a/b.c/", "..a", "ä" * 127])
    def test_what_can(self, path: str) -> None:
        assert check.hidden_because(path) == ""

    def test_shadowed_names(self) -> None:
        found = self.look(*listed("a", "a-b", "a.c", "a/b", "a/b/c", "a0", "b/", "b/c"))
        assert [one.key for one in found.shadowed] == ["a", "a/b"]
        assert not found.hidden

    def test_an_empty_one_may_be_a_directory(self) -> None:
        found = self.look(*listed("p/a", size=0), *listed("p/a/b"), prefix="p/")
        (one,) = found.shadowed
        assert "mark directories" in one.why

    def test_an_order_of_its_own(self) -> None:
        found = self.look(*listed("b", "a"))
        assert not found.sorted
        assert "in an order of its own" in "\n".join(check.lines(found, "b", 0))

    def test_uploads_by_age(self) -> None:
        found = check.Found(uploads=[UploadInfo("old", "1", 0), UploadInfo("new", "2", 999_990)])
        text = "\n".join(check.lines(found, "b", 1_000_000))
        for words in ("1  less than an hour", "1  a week and more", "old: 11 d 13 h old", "gc b"):
            assert words in text
