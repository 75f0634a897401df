"""``bucketfs warm`` and ``bucketfs evict`` through a real mount."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.system.conftest import Place
from tests.system.test_control import is_served, refuse, started, status_of

MIB = 1 << 20


@pytest.fixture
def slow(place: Place, counted: Proxy) -> Iterator[Place]:
    """Mounted through the proxy, which outlives the mount."""
    assert place.mount(f"url={counted.url}", "retries=1", "cache_size=64M").returncode == 0
    yield place
    if place.path.is_mount():
        place.here("umount", str(place.path))
    until(lambda: not is_served(place.path), "the daemon has ended")


def asked(place: Place, *words: str, code: int = 0) -> dict[str, Any]:
    """``bucketfs COMMAND --json PATH``."""
    done = place.here(words[0], "--json", str(place.path.joinpath(*words[1:])))
    assert done.returncode == code, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def held(place: Place) -> int:
    cache: int = status_of(place)["cache"]["held"]
    return cache


class TestWarm:
    def test_reading_takes_no_request_for_data(self, slow: Place, counted: Proxy) -> None:
        files = {f"d/{n}": bytes([n]) * 5000 for n in range(30)}
        files |= {"d/sub/deep/big": bytes(range(256)) * 4096 * 20, "d/empty": b"", "other": b"x"}
        slow.bucket.put_many(files)
        done = slow.here("warm", str(slow.path / "d"))
        assert (done.returncode, done.stderr) == (0, "")
        assert "d: 32 files, 20.1 MiB in the cache; 20.1 MiB fetched in " in done.stdout
        counted.clear()
        for name in files:
            if name != "other":
                assert (slow.path / name).read_bytes() == files[name]
        assert counted.count("GetObject") == 0
        told = asked(slow, "warm", "d")
        assert (told["files"], told["fetched"], told["failures"]) == (32, 0, 0)
        assert counted.count("GetObject") == 0
        (slow.path / "other").read_bytes()
        assert counted.count("GetObject") == 1

    def test_a_file(self, slow: Place, counted: Proxy) -> None:
        """But for its beginning, which comes when it is looked up."""
        slow.bucket.put_many({"f": bytes(MIB), "g": b"x"})
        told = asked(slow, "warm", "f")
        assert (told["files"], told["bytes"]) == (1, MIB)
        assert MIB - told["fetched"] <= MIB // 8
        assert "nothing was missing" in slow.here("warm", str(slow.path / "f")).stdout

    def test_it_stops_when_the_cache_is_full(self, slow: Place, counted: Proxy) -> None:
        slow.bucket.put_many({f"old/{n}": bytes(MIB) for n in range(40)})
        slow.bucket.put_many({f"new/{n:02}": bytes([n]) * MIB for n in range(80)})
        assert asked(slow, "warm", "old")["files"] == 40
        counted.clear()
        done = slow.here("warm", str(slow.path / "new"))
        assert done.returncode == 1
        assert "the cache is full (64.0 MiB): stopped at new/" in done.stderr
        assert "not warmed; raise cache_size" in done.stderr
        # the beginnings of more have come with what was asked of them
        gets = [one for one in counted.requests if one.operation == "GetObject"]
        fetched = len({one.key for one in gets if one.received > MIB // 2})
        assert 50 <= fetched <= 60
        assert held(slow) <= 64 * MIB
        counted.clear()
        # what was fetched has stayed; read in an order in which nothing is fetched ahead
        for n in reversed(range(fetched)):
            assert (slow.path / f"new/{n:02}").read_bytes() == bytes([n]) * MIB
        assert counted.count("GetObject") == 0, counted.story()

    def test_of_several_paths_none_pushes_out_another(self, slow: Place, counted: Proxy) -> None:
        slow.bucket.put_many({f"{d}/{n}": bytes(MIB) for d in "ab" for n in range(40)})
        done = slow.here("warm", "--json", str(slow.path / "a"), str(slow.path / "b"))
        first, second = map(json.loads, done.stdout.splitlines())
        assert (done.returncode, first["full"]) == (1, "")
        assert second["full"].startswith("b/")
        counted.clear()
        for n in range(40):
            (slow.path / f"a/{n}").read_bytes()
        assert counted.count("GetObject") == 0

    def test_ctrl_c_ends_the_work(self, slow: Place, counted: Proxy) -> None:
        slow.bucket.put_many({f"d/{n:03}": b"x" * 2 * MIB for n in range(20)})
        stalled = counted.fault("GetObject", stall=True)
        with stalled, started(slow, "warm", str(slow.path / "d")) as process:
            until(lambda: counted.count("GetObject") > 0, "it fetches")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) != 0
        counted.clear()
        assert (slow.path / "d/019").read_bytes() == b"x" * 2 * MIB
        fetched = {one.key for one in counted.requests if one.operation == "GetObject"}
        assert fetched == {"d/019"}, counted.story()

    def test_what_fails_is_named(self, slow: Place, counted: Proxy) -> None:
        slow.bucket.put_many({"d/bad": b"x", "d/good": b"y", "d/long": bytes(2 * MIB)})
        with counted.fault("GetObject", key="d/long", status=403, code="AccessDenied"):
            done = slow.here("warm", str(slow.path / "d"))
        assert done.returncode == 1
        assert f"bucketfs: {slow.path / 'd/long'}: " in done.stderr
        assert "2 files, 2 B in the cache" in done.stdout

    def test_words(self, slow: Place) -> None:
        for command in ("warm", "evict"):
            assert slow.here(command).returncode == 2
            assert slow.here(command, "--help").returncode == 0
            assert slow.here(command, "/").returncode == 3
        done = slow.here("warm", str(slow.path / "absent"))
        assert (done.returncode, "No such file or directory" in done.stderr) == (1, True)


class TestEvict:
    def test_what_the_bucket_has_goes(self, slow: Place, counted: Proxy) -> None:
        slow.bucket.put_many({f"d/{n}": bytes(8192) for n in range(10)} | {"dd": b"x" * 8192})
        asked(slow, "warm")
        told = asked(slow, "evict", "d")
        assert told["files"] == 10
        assert told["bytes"] >= 10 * 8192
        counted.clear()
        (slow.path / "dd").read_bytes()
        assert counted.count("GetObject") == 0
        done = slow.here("evict", str(slow.path))
        assert "1 file, 8.0 KiB dropped from the cache" in done.stdout
        assert held(slow) == 0

    def test_what_is_not_in_the_bucket_stays(self, slow: Place, counted: Proxy) -> None:
        refuse(slow, counted, "waits")
        denied = counted.fault("PutObject", status=403, code="AccessDenied")
        with denied, (slow.path / "open").open("wb", 0) as file:
            file.write(b"half")
            assert asked(slow, "evict")["files"] == 0
            assert (slow.path / "waits").read_bytes() == b"waits"
            assert (slow.path / "open").read_bytes() == b"half"
            (slow.path / "open").unlink()
        assert slow.here("flush", str(slow.path)).returncode == 0
        assert slow.bucket.get("waits") == b"waits"

    def test_a_file_that_is_open(self, slow: Place, counted: Proxy) -> None:
        body = bytes(range(256)) * 4096 * 30
        slow.bucket.put_many({"f": body})
        asked(slow, "warm", "f")
        with (slow.path / "f").open("rb") as file:
            assert file.read(10) == body[:10]
            assert asked(slow, "evict", "f")["bytes"] > 0
            file.seek(29 * MIB)
            assert file.read() == body[29 * MIB :]
        assert (slow.path / "f").read_bytes() == body
