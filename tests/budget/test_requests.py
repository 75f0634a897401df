"""The budget of S3 requests: what the endpoint receives for each thing a program does.

The numbers are the contract of the design, not what happens to come out. A mount of its own a
test, with a proxy that counts; what mounting itself costs is not counted.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.mounts import Mount
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness

MIB = 1 << 20


def test_creating_a_file_is_one_put(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    path = mounted().path
    os.listdir(path)
    counted.clear()
    subprocess.check_call("echo x > new", shell=True, cwd=path)
    assert counted.counts() == {"PutObject": 1}, counted.story()
    assert "expect" not in counted.requests[0].headers
    counted.clear()
    assert (path / "new").read_text() == "x\n"
    assert (path / "new").stat().st_size == 2
    assert counted.counts() == {}, counted.story()
    assert bucket.get("new") == b"x\n"


def test_creating_many_files_is_one_put_each(mounted: Callable[..., Mount], counted: Proxy) -> None:
    path = mounted().path
    os.listdir(path)
    counted.clear()
    for number in range(10):
        (path / f"f{number}").write_bytes(bytes(1000))
    assert counted.counts() == {"PutObject": 10}, counted.story()


def test_creating_in_a_fresh_directory(mounted: Callable[..., Mount], counted: Proxy) -> None:
    """A directory made here is known to be empty."""
    path = mounted().path
    os.listdir(path)
    counted.clear()
    (path / "d").mkdir()
    assert counted.counts() == {"PutObject": 1}, counted.story()
    (path / "d/f").write_text("x")
    assert counted.counts() == {"PutObject": 2}, counted.story()


def test_overwriting_a_known_file_is_one_put(mounted: Callable[..., Mount], counted: Proxy) -> None:
    path = mounted().path
    (path / "f").write_bytes(b"old")
    counted.clear()
    (path / "f").write_bytes(b"new")
    assert counted.counts() == {"PutObject": 1}, counted.story()


def test_empty_files_are_one_put(mounted: Callable[..., Mount], counted: Proxy) -> None:
    path = mounted().path
    os.listdir(path)
    counted.clear()
    (path / "empty").touch()
    assert counted.counts() in ({"PutObject": 1}, {"PutObject": 1, "CopyObject": 1}), (
        counted.story()
    )
    counted.clear()
    os.close(os.open(path / "empty2", os.O_CREAT | os.O_WRONLY, 0o644))
    assert counted.counts() == {"PutObject": 1}, counted.story()


@pytest.mark.time_limit(120)
def test_listing_a_thousand_objects(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    bucket.put_many({f"d/{number:04}": b"" for number in range(1000)})
    path = mounted().path
    assert len(os.listdir(path / "d")) == 1000
    assert set(counted.counts()) <= {"ListObjectsV2", "HeadObject", "GetObject"}
    assert counted.count("ListObjectsV2") <= 3, counted.story()
    # of the directory's name and its marker, never of an entry
    assert counted.count("HeadObject", "GetObject") <= 2
    assert not any("d/0" in r.key for r in counted.requests)
    counted.clear()
    assert len(os.listdir(path / "d")) == 1000
    assert counted.counts() == {}, counted.story()


@pytest.mark.time_limit(120)
def test_a_long_listing_without_metadata(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    bucket.put_many({f"{number:04}": b"123" for number in range(1000)})
    path = mounted("metadata=list").path
    output = subprocess.check_output(["ls", "-l"], cwd=path, text=True).splitlines()
    assert len(output) == 1001
    assert counted.counts() in ({"ListObjectsV2": 1}, {"ListObjectsV2": 2}), counted.story()
    counted.clear()
    subprocess.check_call(["ls", "-l"], cwd=path, stdout=subprocess.DEVNULL)
    assert counted.counts() == {}, counted.story()


def test_a_long_listing_heads_each_object_once(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    bucket.put_many({f"{number:02}": b"123" for number in range(30)})
    made = mounted()
    subprocess.check_call(["ls", "-l"], cwd=made.path, stdout=subprocess.DEVNULL)
    # the first ones by GET: one file that is looked at is mostly read next
    assert counted.count("HeadObject", "GetObject") == 30, counted.story()
    counted.clear()
    subprocess.check_call(["ls", "-l"], cwd=made.path, stdout=subprocess.DEVNULL)
    assert counted.counts() == {}, counted.story()
    made.remount()
    counted.clear()
    subprocess.check_call(["ls", "-l"], cwd=made.path, stdout=subprocess.DEVNULL)
    assert counted.count("HeadObject") == 0, "known across mounts by key, ETag and time"


def test_reading_a_file_just_listed_is_one_get(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    bucket.put("f", b"content")
    path = mounted().path
    os.listdir(path)
    counted.clear()
    assert (path / "f").read_bytes() == b"content"
    assert counted.counts() == {"GetObject": 1}, counted.story()
    counted.clear()
    assert (path / "f").read_bytes() == b"content"
    assert set(counted.counts()) <= {"HeadObject"}
    assert counted.count() <= 1, counted.story()


def test_a_cold_lookup(mounted: Callable[..., Mount], counted: Proxy, bucket: Witness) -> None:
    bucket.put("d/e/f", b"content")
    path = mounted().path
    assert (path / "d/e/f").stat().st_size == 7
    assert set(counted.counts()) <= {"HeadObject", "GetObject", "ListObjectsV2"}
    assert counted.count() <= 6, counted.story()
    counted.clear()
    assert not (path / "d/e/absent").exists()
    assert counted.count() <= 2, counted.story()
    counted.clear()
    for number in range(20):
        assert not (path / f"d/e/absent{number}").exists()
    assert counted.count() <= 8, "repeated misses in one directory turn into one listing"


def appended(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


@pytest.mark.parametrize("size", [7, 60_000, 300_000])
def test_the_first_read_of_a_name_that_nobody_listed(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness, size: int
) -> None:
    """The lookup brings the first bytes: stat, open and read of these are one round trip."""
    body = os.urandom(size)
    bucket.put("f", body)
    path = mounted().path
    with open(path / "f", "rb", 0) as file:
        assert file.read(1) == body[:1]
        first = counted.requests[:2]
        assert {r.operation for r in first} == {"GetObject", "ListObjectsV2"}, counted.story()
        assert file.read() == body[1:]
    assert counted.count("HeadObject") == 0, counted.story()
    assert counted.count("GetObject") == 1 + (size > 64 << 10), counted.story()


def test_names_that_are_only_looked_at_bring_no_bytes_for_long(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    """Each in a directory of its own, so that none of them is listed."""
    bucket.put_many({f"d{number:02}/f": b"123" for number in range(40)} | {"e/f": b"123"})
    path = mounted().path
    for number in range(40):
        assert (path / f"d{number:02}/f").stat().st_size == 3
    of_files = [r.operation for r in counted.requests if r.key.endswith("/f")]
    assert of_files.count("GetObject") <= 16, counted.story()
    counted.clear()
    assert (path / "d39/f").read_bytes() == b"123"
    counted.clear()
    assert (path / "e/f").read_bytes() == b"123"
    assert counted.count("HeadObject") == 0, counted.story()


def test_appending_downloads_a_beginning_at_most(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    body = os.urandom(6 * MIB)
    bucket.put("f", body)
    path = mounted().path / "f"
    appended(path, b"tail")
    # which came with the lookup
    assert sum(r.received for r in counted.requests if r.operation == "GetObject") <= 64 << 10
    assert counted.count("UploadPartCopy") >= 1, counted.story()
    assert sum(request.sent for request in counted.requests) < MIB
    assert bucket.get("f") == body + b"tail"


def test_appending_again_copies_in_one_request(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    """Pieces are tried first, then the whole: what is faster here is known from then on."""
    body = os.urandom(40 * MIB)
    bucket.put("f", body)
    path = mounted().path / "f"
    appended(path, b"once")
    counted.clear()
    appended(path, b"again")
    counts = counted.counts()
    # one look after the upload is completed; one before where the endpoint ignores conditions there
    assert counts.pop("HeadObject") <= 2, counted.story()
    assert counts == {
        "CreateMultipartUpload": 1,
        "UploadPartCopy": 1,
        "UploadPart": 1,
        "CompleteMultipartUpload": 1,
    }, counted.story()
    assert bucket.get("f") == body + b"onceagain"


def test_patching_uploads_the_touched_parts_only(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    body = bytearray(os.urandom(32 * MIB))
    bucket.put("f", bytes(body))
    path = mounted().path / "f"
    with open(path, "r+b", 0) as file:
        file.seek(16 * MIB + 100)
        file.write(b"patched")
    body[16 * MIB + 100 : 16 * MIB + 107] = b"patched"
    received = sum(r.received for r in counted.requests if r.operation == "GetObject")
    sent = sum(request.sent for request in counted.requests)
    assert received <= 12 * MIB
    assert sent <= 17 * MIB
    assert counted.count("UploadPartCopy") >= 1, counted.story()
    assert bucket.get("f") == body


def test_renaming_a_file(mounted: Callable[..., Mount], counted: Proxy, bucket: Witness) -> None:
    bucket.put_many({"old": b"content", "over": b"old content"})
    path = mounted().path
    os.listdir(path)
    (path / "old").stat()
    (path / "over").stat()
    for old, new in (("old", "new"), ("new", "over")):
        counted.clear()
        (path / old).rename(path / new)
        counts = counted.counts()
        if not bucket.endpoint.moto:
            # an endpoint that ignores If-Match in a DELETE is asked just before: what others have
            # stored under the old name since the copy must not go with the original
            assert counts.pop("HeadObject", 0) <= 1, counted.story()
        assert counts == {"CopyObject": 1, "DeleteObject": 1}, counted.story()


def test_renaming_a_file_that_was_not_uploaded_yet(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    path = mounted().path
    os.listdir(path)
    counted.clear()
    with open(path / "temp", "wb", 0) as file:
        file.write(b"x")
        (path / "temp").rename(path / "final")
    assert counted.counts() == {"PutObject": 1}, counted.story()
    assert bucket.keys() == ["final"]


def test_renaming_and_deleting_a_tree(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    bucket.put_many({f"d/s{n % 4}/f{n}": b"x" for n in range(24)})
    path = mounted().path
    os.listdir(path)
    counted.clear()
    (path / "d").rename(path / "e")
    assert counted.count("ListObjectsV2") <= 4, counted.story()
    assert counted.count("CopyObject") == 24, counted.story()
    assert counted.count("DeleteObjects") == 1, counted.story()
    assert counted.count("DeleteObject", "HeadObject", "PutObject") <= 3, counted.story()


@pytest.mark.needs_root("changes the owner")
def test_metadata_changes_are_merged(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    bucket.put("f", b"content")
    path = mounted().path / "f"
    path.stat()
    counted.clear()
    os.chmod(path, 0o600)
    os.chown(path, 5, 6)
    os.utime(path, (1, 2))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    assert counted.count("CopyObject") == 1, counted.story()
    assert counted.count("PutObject", "GetObject") == 0, counted.story()
    written = bucket.metadata("f")
    assert (written["mode"], written["uid"], float(written["mtime"])) == (str(0o100600), "5", 2)


@pytest.mark.needs_root("changes the owner")
def test_metadata_set_before_close_costs_nothing(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    path = mounted().path
    os.listdir(path)
    counted.clear()
    with open(path / "f", "wb", 0) as file:
        file.write(b"x")
        os.fchmod(file.fileno(), 0o600)
        os.fchown(file.fileno(), 5, 6)
        os.utime(file.fileno(), (1, 2))
    assert counted.counts() == {"PutObject": 1}, counted.story()
    assert bucket.metadata("f")["uid"] == "5"


def test_copying_with_cp_and_untarring(
    mounted: Callable[..., Mount], counted: Proxy, tmp_path: Path
) -> None:
    """``tar x`` and ``cp -p`` set times after close: at most one copy a file more."""
    source = tmp_path / "tree"
    source.mkdir()
    for number in range(5):
        (source / f"f{number}").write_bytes(bytes(100))
    path = mounted().path
    os.listdir(path)
    counted.clear()
    subprocess.check_call(f"tar c -C {source} . | tar x -C {path}", shell=True)
    os.sync()
    assert counted.count("PutObject") <= 6, counted.story()
    assert counted.count("GetObject", "HeadObject") == 0, counted.story()
    assert counted.count("CopyObject") <= 5, counted.story()


def test_deleting_a_file(mounted: Callable[..., Mount], counted: Proxy, bucket: Witness) -> None:
    bucket.put_many({"d/a": bytes(5000), "d/b": bytes(5000)})  # too large to be symbolic links
    path = mounted().path
    assert sorted(os.listdir(path / "d")) == ["a", "b"]
    counted.clear()
    (path / "d/a").unlink()
    assert counted.counts() == {"DeleteObject": 1}, counted.story()
    counted.clear()
    (path / "d/b").unlink()
    assert counted.count("DeleteObject") == 1, counted.story()
    assert counted.count("PutObject") == 1, "the marker that keeps the directory"
    assert counted.count() == 2, counted.story()
