"""``bucketfs set`` and ``bucketfs log-level`` of a mount that stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.conftest import Place
from tests.system.test_control import status_of

MIB = 1 << 20


def change(place: Place, *words: str) -> None:
    done = place.here("set", *words, str(place.path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_open_ttl(place: Place) -> None:
    place.bucket.put("f", b"old")
    assert place.mount("immutable").returncode == 0
    assert (place.path / "f").read_bytes() == b"old"
    place.bucket.put("f", b"newer")
    assert (place.path / "f").read_bytes() == b"old"
    change(place, "open_ttl=0")
    assert (place.path / "f").read_bytes() == b"newer"
    change(place, "open_ttl=1d")
    place.bucket.put("f", b"the newest")
    assert (place.path / "f").read_bytes() == b"newer"


def test_open_ttl_of_all_buckets(place: Place) -> None:
    place.bucket.put("f", b"old")
    done = place.run(":/", str(place.path), "-o", f"{place.options},immutable")
    assert done.returncode == 0, done.stderr
    change(place, "open_ttl=0", "stat_cache_expire=0")  # before the bucket is entered
    file = place.path / place.bucket.name / "f"
    assert file.read_bytes() == b"old"
    place.bucket.put("f", b"newer")
    assert file.read_bytes() == b"newer"
    change(place, "open_ttl=1d", "stat_cache_expire=1d")
    assert file.read_bytes() == b"newer"
    place.bucket.put("f", b"the newest")
    assert file.read_bytes() == b"newer"


def test_cache_size(place: Place) -> None:
    place.bucket.put_many({f"d/{n}": bytes(4 * MIB) for n in range(25)})
    assert place.mount("cache_size=200M").returncode == 0
    assert place.here("warm", str(place.path)).returncode == 0
    assert status_of(place)["cache"]["held"] >= 100 * MIB
    change(place, "cache_size=64M")
    cache = status_of(place)["cache"]
    assert (cache["held"] <= 64 * MIB, cache["limit"]) == (True, 64 * MIB)
    change(place, "cache_size=200M")
    assert place.here("warm", str(place.path)).returncode == 0
    assert status_of(place)["cache"]["held"] >= 100 * MIB


def test_log_level(place: Place, tmp_path: Path) -> None:
    assert place.mount().returncode == 0
    log = tmp_path / "log"
    place.bucket.put("a", b"1")
    (place.path / "a").read_bytes()
    assert "DEBUG" not in log.read_text()
    assert place.here("log-level", "dbg", str(place.path)).returncode == 0
    place.bucket.put("b", b"1")
    (place.path / "b").read_bytes()
    text = log.read_text()
    assert "changed by bucketfs set: dbglevel=dbg" in text
    assert "DEBUG: GetObject 'b': ok" in text
    change(place, "dbglevel=warn")
    before = len(log.read_text())
    (place.path / "a").read_bytes()
    assert "DEBUG" not in log.read_text()[before:]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["allow_other=1"], "allow_other cannot change under a mount: unmount, and mount again"),
        (["max_thread_count=4"], "what can change: stat_cache_expire, open_ttl, cache_size, dbgl"),
        (["open_tll=1"], "open_tll: no such option; open_ttl?"),
        (["cache_size=1M"], "cache_size=1M: must be at least 64Mi"),
        (["open_ttl=soon"], "open_ttl=soon: "),
        ([], "usage: bucketfs set"),
    ],
)
def test_refusals(place: Place, words: list[str], line: str) -> None:
    done = place.here("set", *words, str(place.path))
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr


def test_words(place: Place) -> None:
    assert place.here("log-level").returncode == 2
    done = place.here("log-level", "loud", str(place.path))
    assert (done.returncode, "must be one of crit, err" in done.stderr) == (2, True)
    assert place.here("set", "open_ttl=1", "/").returncode == 3
    assert place.here("set", "--help").returncode == place.here("log-level", "-h").returncode == 0
