"""``bucketfs size``, ``check`` and ``gc``: what they say is what a mount shows, and what goes."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from bucketfs.store.base import LOCKS, PROBE
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.system.conftest import Place

MIB = 1 << 20


def asked(place: Place, command: str, *words: str, prefix: str = "") -> Any:
    spec = f"{place.bucket.name}:/{prefix}" if prefix else place.bucket.name
    return place.run(command, *words, spec, "-o", place.options)


def told(place: Place, command: str, *words: str, prefix: str = "", code: int = 0) -> list[Any]:
    done = asked(place, command, "--json", *words, prefix=prefix)
    assert (done.returncode, done.stderr) == (code, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_size_is_what_du_says_of_a_mount(place: Place) -> None:
    place.bucket.put_many({f"d{n % 3}/{n}": bytes(100 * n) for n in range(40)} | {"f": b"12345"})
    (found,) = told(place, "size")
    assert found["objects"] == 41
    assert place.mount().returncode == 0
    counted = subprocess.check_output(["du", "-sb", "--apparent-size", *_entries(place)], text=True)
    sizes = {path: int(size) for size, path in map(str.split, counted.splitlines())}
    for one in found["prefixes"]:
        if one["name"]:
            empty = os.stat(place.path / one["name"]).st_size
            assert sizes[str(place.path / one["name"])] - empty == one["bytes"]
    assert found["prefixes"][-1] == {"name": "", "objects": 1, "bytes": 5}
    assert found["classes"] == {"STANDARD": {"objects": 41, "bytes": found["bytes"]}}
    done = asked(place, "size", prefix="d1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{place.bucket.name}:/d1: 13 objects, ")


def test_nothing_is_logged_that_is_well(place: Place) -> None:
    options = place.options.partition(",logfile=")[0]
    done = place.run("size", place.bucket.name, "-o", options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{place.bucket.name}: 0 objects, 0 B\n"


def _entries(place: Place) -> list[str]:
    return [str(path) for path in sorted(place.path.iterdir())]


def test_check_names_what_a_mount_does_not_show(place: Place) -> None:
    keys = ["good", "d/f", "f", "f/below", "a//b", "x" * 300, "g/.."]
    place.bucket.put_many(dict.fromkeys(keys, b"x"))
    (found,) = told(place, "check", code=1)
    hidden, shadowed = ({one["key"] for one in found[kind]} for kind in ("hidden", "shadowed"))
    assert hidden == {"a//b", "x" * 300, "g/.."}
    assert shadowed == {"f"}
    assert place.mount().returncode == 0
    shown = {str(path.relative_to(place.path)) for path in place.path.rglob("*") if path.is_file()}
    assert shown == set(keys) - hidden - shadowed
    done = asked(place, "check", prefix="d")
    assert (done.returncode, done.stdout) == (
        0, f"{place.bucket.name}:/d: 1 object; nothing is odd\n",
    )  # fmt: skip


@pytest.fixture
def littered(place: Place) -> Place:
    """Unfinished uploads, and objects of bucketfs that it could not delete."""
    client = place.bucket.client
    for key in ("one", "d/two"):
        client.create_multipart_upload(Bucket=place.bucket.name, Key=key)
    place.bucket.put_many({"good": b"x", f"{PROBE}aa": b"1", f"d/{PROBE}bb": b"1"})
    return place


def test_gc_removes_what_is_left(littered: Place) -> None:
    (found,) = told(littered, "check", code=1)
    assert {one["key"] for one in found["uploads"]} == {"one", "d/two"}
    assert found["probes"] == [f"{PROBE}aa", f"d/{PROBE}bb"]
    done = asked(littered, "gc")
    assert done.stdout == f"{littered.bucket.name}: 0 uploads, 0 objects removed\n"
    old = {("d/two", False), (f"d/{PROBE}bb", False)}

    def planned() -> set[tuple[str, bool]]:
        found = told(littered, "gc", "--older", "1s", "--dry-run", prefix="d")
        return {(one["key"], one["removed"]) for one in found}

    until(lambda: planned() == old, "they are a second old at the server")
    assert len(littered.bucket.uploads()) == 2
    done = asked(littered, "gc", "--older", "1s", prefix="d")
    assert done.returncode == 0
    assert "upload d/two, " in done.stdout
    assert done.stdout.endswith(":/d: 1 upload, 1 object removed\n")
    assert littered.bucket.uploads() == ["one"]
    assert littered.bucket.keys() == [f"{PROBE}aa", "good"]
    assert len(told(littered, "gc", "--older", "0s")) == 2
    assert (littered.bucket.uploads(), littered.bucket.keys()) == ([], ["good"])


def test_gc_removes_locks_that_nobody_renews(place: Place) -> None:
    place.bucket.put_many({f"{LOCKS}/aa": b"{}", f"d/{LOCKS}/bb": b"{}", f"{LOCKS}.txt": b"1"})
    assert told(place, "gc") == []
    found = told(place, "gc", "--older", "0s")
    assert {one["key"] for one in found} == {f"{LOCKS}/aa", f"d/{LOCKS}/bb"}
    assert place.bucket.keys() == [f"{LOCKS}.txt"]


def test_gc_tells_what_stays(littered: Place, counted: Proxy) -> None:
    spec, options = littered.bucket.name, f"{littered.options},url={counted.url}"
    with counted.fault("AbortMultipartUpload", key="one", status=403, code="AccessDenied"):
        done = littered.run("gc", "--older", "0s", spec, "-o", options)
    assert done.returncode == 1
    assert "bucketfs: upload one, " in done.stderr
    assert "1 upload, 2 objects removed" in done.stdout


@pytest.mark.parametrize("command", ["size", "check", "gc"])
def test_words(place: Place, command: str) -> None:
    assert place.here(command, "--help").returncode == 0
    assert place.here(command).returncode == 2
    assert place.here(command, "a", "b").returncode == 2
    assert place.here(command, ":/").returncode == 2
    done = place.run(command, "no-such-bucket-here", "-o", place.options)
    assert (done.returncode, "does not exist at" in done.stderr) == (5, True)
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_age(place: Place) -> None:
    done = place.here("gc", "--older", "soon", place.bucket.name)
    assert (done.returncode, "--older soon: " in done.stderr) == (2, True)
