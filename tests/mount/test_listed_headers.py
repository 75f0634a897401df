"""Listings that bring what was stored with the objects, as those of MinIO and RustFS do."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import pytest

from tests.harness.minio import listed_headers
from tests.harness.mounts import Mount, Mounts
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness

MANY = 30


@pytest.fixture
def like_minio(bucket: Witness, mount: Mounts, counted: Proxy) -> Iterator[Mount]:
    """A mount of a bucket whose listings bring headers, with objects that have some."""
    for number in range(MANY):
        bucket.put(
            f"d/f{number:02}", b"x" * number, content_type="image/png",
            mode=str(stat.S_IFREG | 0o600 + number % 8), uid="1234", gid="5678",
            mtime="1600000000.123456789",
        )  # fmt: skip
    bucket.put("d/plain", b"foreign")
    bucket.put("d/link", b"f00", mode=str(stat.S_IFLNK | 0o777))
    with listed_headers(counted, bucket.client, bucket.name):
        yield mount(bucket, f"url={counted.url}")


def test_attributes_cost_no_request_of_their_own(like_minio: Mount, counted: Proxy) -> None:
    counted.clear()
    with os.scandir(like_minio.path / "d") as entries:
        found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    assert len(found) == MANY + 2
    for number in range(MANY):
        status = found[f"f{number:02}"]
        assert (status.st_size, status.st_uid, status.st_gid) == (number, 1234, 5678)
        assert stat.S_IMODE(status.st_mode) == 0o600 + number % 8
        assert status.st_mtime_ns == 1_600_000_000_123_456_789
    assert stat.S_ISLNK(found["link"].st_mode)
    assert stat.S_ISREG(found["plain"].st_mode)
    asked = [request for request in counted.requests if request.operation != "ListObjectsV2"]
    assert all(request.key in ("d", "d/") for request in asked), counted.story()


def test_what_is_not_ours_is_kept_when_attributes_change(
    like_minio: Mount, bucket: Witness
) -> None:
    bucket.client.put_object(
        Bucket=bucket.name, Key="e/f", Body=b"x", ContentType="text/x-odd",
        CacheControl="max-age=60", Metadata={"colour": "blue", "mode": str(0o100640)},
    )  # fmt: skip
    path = like_minio.path / "e" / "f"
    assert os.listdir(path.parent) == ["f"]
    os.chmod(path, 0o600)
    os.fsync(fd := os.open(path, os.O_RDONLY))
    os.close(fd)
    head = bucket.head("e/f")
    assert head is not None
    assert (head["ContentType"], head["CacheControl"]) == ("text/x-odd", "max-age=60")
    kept = bucket.metadata("e/f")
    assert (kept["colour"], kept["mode"]) == ("blue", str(0o100600))
    assert "Expires" not in head


def test_others_changes_of_attributes_show(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    bucket.put("f", b"x", mode=str(0o100600))
    with listed_headers(counted, bucket.client, bucket.name):
        path = mount(bucket, f"url={counted.url}", "stat_cache_expire=0").path
        assert [stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(path)] == [0o600]
        bucket.put("f", b"y", mode=str(0o100644))
        assert [stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(path)] == [0o644]


def test_a_store_that_overlooks_the_question_is_not_asked_again(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    bucket.put("d/f", b"x", mode=str(0o100640))
    path = mount(bucket, f"url={counted.url}").path
    os.listdir(path / "d")
    counted.clear()
    assert stat.S_IMODE((path / "d" / "f").stat().st_mode) == 0o640
    bucket.put("e/f", b"x", mode=str(0o100600))
    assert stat.S_IMODE((path / "e" / "f").stat().st_mode) == 0o600
    os.listdir(path / "e")
    listings = [request for request in counted.requests if request.operation == "ListObjectsV2"]
    assert listings, counted.story()
    assert not any("metadata" in request.query for request in listings), counted.story()


def test_a_store_that_refuses_the_question_is_not_asked_again(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    bucket.put("d/f", b"x")
    with counted.fault(
        "ListObjectsV2",
        when=lambda request: "metadata" in request.query,
        status=400,
        code="InvalidArgument",
    ) as fault:
        path = mount(bucket, f"url={counted.url}").path
        assert os.listdir(path / "d") == ["f"]
        assert os.listdir(path) == ["d"]
    assert fault.struck == 1
