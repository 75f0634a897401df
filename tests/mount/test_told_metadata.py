"""Listings that bring user metadata alone, as those of Tigris and Yandex do."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.mounts import Mount, Mounts
from tests.harness.posix import fsync_path
from tests.harness.proxy import Proxy
from tests.harness.told_metadata import TIGRIS, YANDEX, is_extended, tigris, yandex
from tests.harness.witness import Witness

HOSTS = {"tigris": (TIGRIS, tigris), "yandex": (YANDEX, yandex)}


@pytest.fixture
def through_proxy(monkeypatch: pytest.MonkeyPatch, counted: Proxy, bucket: Witness) -> None:
    """Mounts reach any host through the counting proxy, and so the test's endpoint."""
    if not bucket.endpoint.moto:
        pytest.skip("requests are rewritten on their way, which breaks their signatures")
    monkeypatch.setenv("http_proxy", counted.url)


@pytest.fixture(params=["tigris", "yandex"])
def told(
    request: pytest.FixtureRequest,
    bucket: Witness,
    mount: Mounts,
    counted: Proxy,
    through_proxy: None,
    outlives: ExitStack,
) -> Mount:
    """A mount whose listings tell the metadata of the files in ``d``."""
    for number in range(20):
        bucket.put(
            f"d/f{number:02}", b"x" * number, content_type="image/png",
            mode=str(stat.S_IFREG | 0o600 + number % 8), uid="1234", gid="5678",
            mtime="1600000000.123456789",
        )  # fmt: skip
    bucket.put("d/plain", b"foreign")
    bucket.put("d/link", b"f00", mode=str(stat.S_IFLNK | 0o777))
    bucket.put("d/old-directory", content_type="application/x-directory")
    bucket.client.put_object(
        Bucket=bucket.name, Key="d/page", Body=b"<p>", ContentType="text/x-odd",
        CacheControl="max-age=60", Metadata={"colour": "blue", "mode": str(0o100640)},
    )  # fmt: skip
    url, like = HOSTS[request.param]
    outlives.enter_context(like(counted, bucket.client, bucket.name))
    return mount(bucket, "open_ttl=60", url=url)


def test_attributes_cost_no_request_of_their_own(told: Mount, counted: Proxy) -> None:
    counted.clear()
    with os.scandir(told.path / "d") as entries:
        found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    assert len(found) == 24
    for number in range(20):
        status = found[f"f{number:02}"]
        assert (status.st_size, status.st_uid, status.st_gid) == (number, 1234, 5678)
        assert stat.S_IMODE(status.st_mode) == 0o600 + number % 8
        assert status.st_mtime_ns == 1_600_000_000_123_456_789
    assert stat.S_ISLNK(found["link"].st_mode)
    assert stat.S_IMODE(found["plain"].st_mode) == 0o644
    assert stat.S_ISDIR(found["old-directory"].st_mode)
    asked = {request.key for request in counted.requests if request.operation != "ListObjectsV2"}
    # what only a content type tells
    assert asked <= {"d", "d/", "d/old-directory"}, counted.story()


def change_mode(path: Path) -> Path:
    path.chmod(0o600)
    fsync_path(path)
    return path


def set_attribute(path: Path) -> Path:
    os.setxattr(path, "user.a", b"1")
    fsync_path(path)
    return path


def set_header(path: Path) -> Path:
    os.setxattr(path, "user.s3.metadata.shape", b"round")
    fsync_path(path)
    return path


def write(path: Path) -> Path:
    path.write_bytes(b"new")
    return path


def append(path: Path) -> Path:
    with path.open("ab") as file:
        file.write(b"more")
    return path


def cut(path: Path) -> Path:
    os.truncate(path, 1)
    return path


def rename(path: Path) -> Path:
    return path.rename(path.with_name("page.html"))


@pytest.mark.parametrize(
    "change", [change_mode, set_attribute, set_header, write, append, cut, rename]
)
def test_a_change_keeps_what_no_listing_tells(
    told: Mount, bucket: Witness, counted: Proxy, change: Callable[[Path], Path]
) -> None:
    os.listdir(told.path / "d")
    counted.clear()
    path = change(told.path / "d" / "page")
    head = bucket.head(f"d/{path.name}")
    assert head is not None
    assert (head["ContentType"], head["CacheControl"]) == ("text/x-odd", "max-age=60")
    assert head["Metadata"]["colour"] == "blue"
    assert counted.count("GetObjectTagging") == 0, counted.story()
    if change is not rename:
        looked = counted.count("HeadObject")
        counted.clear()
        change(path)
        # a copy, which no condition protects here, looks by itself
        assert counted.count("HeadObject") == looked - 1, counted.story()


def test_headers_are_shown(told: Mount) -> None:
    os.listdir(told.path / "d")
    path = told.path / "d" / "page"
    assert os.getxattr(path, "user.s3.content_type") == b"text/x-odd"
    assert os.getxattr(path, "user.s3.cache_control") == b"max-age=60"
    assert os.getxattr(path, "user.s3.metadata.colour") == b"blue"


@pytest.mark.usefixtures("through_proxy")
@pytest.mark.parametrize(("status", "code"), [(400, "InvalidArgument"), (501, "NotImplemented")])
def test_an_endpoint_that_refuses_is_asked_once(
    mount: Mounts, bucket: Witness, counted: Proxy, status: int, code: str
) -> None:
    bucket.put("d/f", b"x", mode=str(0o100640))
    with counted.fault("ListObjectsV2", when=is_extended, status=status, code=code) as fault:
        path = mount(bucket, url=YANDEX).path
        assert os.listdir(path / "d") == ["f"]
        assert os.listdir(path) == ["d"]
        assert stat.S_IMODE((path / "d" / "f").stat().st_mode) == 0o640
    assert fault.struck == 1
    assert counted.count("ListObjects") == 0


@pytest.mark.usefixtures("through_proxy")
def test_an_endpoint_that_tells_nothing_is_asked_for_each(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    """Tigris shows nothing of objects without metadata: that alone says nothing of others."""
    bucket.put("d/f", b"x", mode=str(0o100640))
    path = mount(bucket, url=TIGRIS).path  # whose listings are those of the test's endpoint here
    os.listdir(path / "d")
    assert stat.S_IMODE((path / "d" / "f").stat().st_mode) == 0o640
