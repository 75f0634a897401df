"""``bucketfs top`` through a real mount."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import threading
from typing import Any

from tests.harness.endpoint import REPOSITORY
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.system.conftest import Place
from tests.system.test_control import Writer, started


def once(place: Place, path: str = "") -> dict[str, Any]:
    done = place.here("top", "--once", "--json", str(place.path / path))
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_what_happens_now(place: Place) -> None:
    place.bucket.put_many({f"d/{n:03}": b"x" * 1000 for n in range(200)})
    assert place.mount().returncode == 0
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            for entry in os.scandir(place.path / "d"):
                with open(entry.path, "rb") as file:
                    file.read()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        told = once(place)
        text = place.here("top", "--once", str(place.path)).stdout
    finally:
        over.set()
        reader.join()
    assert told["mountpoint"] == str(place.path)
    assert told["calls"]["open"]["rate"] > 10
    assert 0 < told["calls"]["open"]["mean"] < 1
    assert told["read"] > 0
    assert told["cache"]["held"] > 0
    assert f"{place.bucket.name} at {place.path}, up " in text
    for words in ("calls of the kernel", "requests", "by programs"):
        assert words in text


def test_requests_and_the_slowest_calls(place: Place, counted: Proxy) -> None:
    assert place.mount(f"url={counted.url}").returncode == 0
    with counted.fault("PutObject", key="d/slow", stall=True):
        (place.path / "d").mkdir()
        writer = Writer(place.path / "d" / "slow", b"x" * 5000)
        until(lambda: once(place)["slowest"], "a call waits for the upload")
        told = once(place)
        assert told["slowest"][0]["path"] == "d/slow"
        assert told["slowest"][0]["call"] == "flush"
        assert told["slowest"][0]["seconds"] > 0.5
        assert told["waiting"]["stages"]["uploading"] == 1
    assert writer.join() is None
    place.bucket.put("late", b"y" * 1000)
    with started(place, "top", "--json", str(place.path)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert (place.path / "late").read_bytes() == b"y" * 1000
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert sum(line["received"] for line in lines) > 0
    assert any("GetObject" in line["requests"] for line in lines)


def test_on_a_terminal_until_q(place: Place) -> None:
    assert place.mount().returncode == 0
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bucketfs", "top", str(place.path)],
        cwd=REPOSITORY, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    while b"open" not in text:
        assert select.select([ours], [], [], 30)[0]
        text += os.read(ours, 4096)
    os.write(ours, b"q")
    assert process.wait(30) == 0
    text += os.read(ours, 4096)
    os.close(ours)
    assert text.startswith(b"\x1b[?1049h")
    assert b"\x1b[?1049l" in text
    assert place.bucket.name.encode() in text


def test_words(place: Place) -> None:
    assert place.here("top", "--help").returncode == 0
    assert place.here("top", "a", "b").returncode == 2
    assert place.here("top", "--once", "/").returncode == 3
