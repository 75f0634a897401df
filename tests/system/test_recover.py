"""What a mount that was killed left: listed, uploaded, copied out, deleted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bucketfs.cli.socket.client import await_exit
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.system.conftest import Place, run
from tests.system.test_command import daemon_of
from tests.system.test_control import refuse, status_of, waiting

#: Each starts the program half a dozen times.
pytestmark = pytest.mark.time_limit(180)

BIG = os.urandom(200_000)


def cache(place: Place) -> Path:
    return Path(place.options.partition("use_cache=")[2].partition(",")[0])


def recover(place: Place, *words: str) -> Any:
    return place.here("recover", *words, "--cache", str(cache(place)))


def left(place: Place) -> dict[str, dict[str, Any]]:
    done = recover(place, place.bucket.name, "--json")
    entries = [entry for line in done.stdout.splitlines() for entry in json.loads(line)["left"]]
    assert done.returncode == (1 if entries else 0), done.stderr
    return {entry["name"]: entry for entry in entries}


def opened(place: Place) -> int:
    return int(status_of(place)["open_files"])


@pytest.fixture
def killed(place: Place, counted: Proxy) -> Place:
    """A mount whose daemon was killed with three files waiting for their upload."""
    assert place.mount(f"url={counted.url}", "retries=1").returncode == 0
    (place.path / "d").mkdir()
    with counted.fault("PutObject", status=403, code="AccessDenied"):
        for name, body in (("small", b"small"), ("d/big", BIG), ("..odd\nname", b"odd")):
            with pytest.raises(PermissionError):
                (place.path / name).write_bytes(body)
        # release comes after close, and writes to the journal
        until(lambda: len(waiting(place)) == 3 and not opened(place), "they wait")
        daemon = daemon_of(place.path)
        os.kill(daemon, signal.SIGKILL)
        assert await_exit(daemon, 20), "it is dead, and with it its lock on the cache"
    run(["umount", "-l", str(place.path)])
    place.options = place.options.replace(place.bucket.endpoint.url, counted.url)
    return place


def test_listed_and_copied_out(killed: Place, tmp_path: Path) -> None:
    found = left(killed)
    assert found.keys() == {"small", "d/big", "..odd\nname"}
    assert {entry["kind"] for entry in found.values()} == {"file"}
    assert found["d/big"]["size"] == len(BIG)
    assert not any(entry["damaged"] for entry in found.values())
    done = recover(killed)
    assert done.returncode == 1
    assert f"bucket {killed.bucket.name} at " in done.stdout
    assert "..odd\\x0aname" in done.stdout
    assert recover(killed, "another-bucket").returncode == 0

    out = tmp_path / "out"
    (out / "d").mkdir(parents=True)
    (out / "d" / "big").write_text("not to be written over")
    done = recover(killed, "--save", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "small").read_bytes() == b"small"
    assert (out / "d" / "big.1").read_bytes() == BIG
    assert (out / "d" / "big").read_text() == "not to be written over"
    assert len(left(killed)) == 3


def test_damaged_and_discarded(killed: Place, tmp_path: Path) -> None:
    (pages,) = (path for path in tmp_path.rglob("*.pages") if path.stat().st_size == len(BIG))
    os.truncate(pages, 1000)
    found = left(killed)
    assert found["d/big"]["damaged"]
    assert "1000 bytes instead of" in found["d/big"]["note"]
    assert recover(killed, "--save", str(tmp_path / "out")).returncode == 1

    done = recover(killed, "--discard", "small", "nothing")
    assert done.returncode == 1
    assert done.stdout == "discarded: file small, 5 B\n"
    assert "nothing: nothing of this name is left" in done.stderr
    assert left(killed).keys() == {"d/big", "..odd\nname"}
    assert recover(killed, "--discard").returncode == 2
    assert recover(killed, "another-bucket", "--discard", "--all").returncode == 0
    assert left(killed).keys() == {"d/big", "..odd\nname"}
    done = recover(killed, killed.bucket.name, "--discard", "d/big")
    assert (done.returncode, done.stderr) == (0, "")
    assert left(killed).keys() == {"..odd\nname"}
    assert recover(killed, "--discard", "--all").returncode == 0
    assert left(killed) == {}


def test_applied(killed: Place) -> None:
    recover(killed, "--discard", "..odd\nname")  # moto has no such keys
    done = killed.run("recover", killed.bucket.name, "--apply", "-o", killed.options)
    assert (done.returncode, done.stderr) == (0, "")
    assert killed.bucket.get("small") == b"small"
    assert killed.bucket.get("d/big") == BIG
    assert left(killed) == {}


def test_not_applied(killed: Place, counted: Proxy) -> None:
    with counted.fault("PutObject", key="small", status=403, code="AccessDenied"):
        recover(killed, "--discard", "..odd\nname")
        words = ("recover", killed.bucket.name, "--apply", "-o", f"{killed.options},retries=1")
        done = killed.run(*words)
        assert done.returncode == 1
        assert "small: PutObject" in done.stderr
        assert killed.bucket.get("d/big") == BIG
        assert left(killed).keys() == {"small"}
    done = killed.run(*words[:3], "-o", f"{words[4]},url=http://127.0.0.1:1")
    assert done.returncode == 0
    assert f"filled from {counted.url}; name it with --cache" in done.stdout
    (directory,) = (path.parent for path in cache(killed).glob("*/journal.sqlite"))
    done = killed.run(*words, "-o", "url=http://127.0.0.1:1", "--cache", str(directory))
    assert done.returncode == 7
    assert left(killed).keys() == {"small"}
    assert killed.run(*words).returncode == 0


def test_a_mount_in_use_is_left_alone(place: Place, counted: Proxy) -> None:
    assert place.mount(f"url={counted.url}", "retries=1").returncode == 0
    refuse(place, counted, "f")
    done = recover(place)
    assert (done.returncode, "a mount uses it" in done.stdout) == (0, True)
    done = recover(place, "--discard", "--all")
    assert "left alone" in done.stderr
    options = place.options.replace(place.bucket.endpoint.url, counted.url)
    done = place.run("recover", place.bucket.name, "--apply", "-o", options)
    assert done.returncode == 1
    assert "a mount uses it" in done.stderr
    assert place.here("umount", str(place.path)).returncode == 0
    assert place.bucket.get("f") == b"f"


def test_rescued_files(place: Place, counted: Proxy, tmp_path: Path) -> None:
    assert place.mount(f"url={counted.url}", "retries=1").returncode == 0
    with counted.fault("PutObject", status=400, code="EntityTooLarge"):
        with pytest.raises(OSError, match="large"):
            (place.path / "f").write_bytes(b"f")
        until(lambda: status_of(place)["failed"], "it was given up")
    assert place.here("umount", str(place.path)).returncode == 0
    ((name, entry),) = left(place).items()
    assert entry["kind"] == "rescued"
    assert entry["note"].startswith("f: ")
    out = tmp_path / "out"
    assert recover(place, "--save", str(out)).returncode == 0
    assert (out / name).read_bytes() == b"f"
    assert recover(place, "--discard", name).returncode == 0
    assert left(place) == {}


@pytest.mark.parametrize(
    "words",
    [
        ("--apply",),
        ("a", "b"),
        ("--discard", "x", "--all"),
        ("a", "b", "--discard", "x"),
        ("a", "--discard"),
        ("--all",),
        ("--apply", "--discard", "x"),
        ("-o", "url=http://x"),
        ("--nonsense",),
    ],
)
def test_words(place: Place, words: tuple[str, ...]) -> None:
    assert place.here("recover", *words).returncode == 2


def test_no_such_directory(place: Place, tmp_path: Path) -> None:
    assert place.here("recover", "--cache", str(tmp_path / "none")).returncode == 1
    done = place.here("recover", "--cache", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "nothing is left\n")
