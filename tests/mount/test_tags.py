"""Tags of objects: whatever is done to a file, it keeps them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.acquaint import acquaint
from tests.harness.minio import listed_headers
from tests.harness.mounts import Mount, Mounts
from tests.harness.posix import fsync_path
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness

pytestmark = pytest.mark.needs("tags")

MIB = 1 << 20
TAGS = {"team": "red and blue", "scan": "clean+1"}


def tag(bucket: Witness, key: str) -> None:
    tag_set = [{"Key": name, "Value": value} for name, value in TAGS.items()]
    bucket.client.put_object_tagging(Bucket=bucket.name, Key=key, Tagging={"TagSet": tag_set})


def tags(bucket: Witness, key: str) -> dict[str, str]:
    answer = bucket.client.get_object_tagging(Bucket=bucket.name, Key=key)
    return {one["Key"]: one["Value"] for one in answer["TagSet"]}


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" and more")


def overwrite(path: Path) -> None:
    path.write_bytes(b"new")


def cut(path: Path) -> None:
    os.truncate(path, 2)


def change_mode(path: Path) -> None:
    path.chmod(0o600)
    fsync_path(path)


def write_parts(path: Path) -> None:
    """An upload in parts."""
    path.write_bytes(bytes(24 * MIB))


def stream(path: Path) -> None:
    """An upload that runs beside the writer."""
    with path.open("wb", 0) as file:
        for _ in range(80):
            file.write(bytes(MIB))


CHANGES = (append, overwrite, cut, change_mode, write_parts, stream)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_keeps_them(
    mount: Mounts, bucket: Witness, change: Callable[[Path], None]
) -> None:
    bucket.put("f", b"some bytes")
    tag(bucket, "f")
    path = mount(bucket).path / "f"
    change(path)
    assert tags(bucket, "f") == TAGS
    change(path)
    assert tags(bucket, "f") == TAGS


@pytest.mark.needs("marker_tags")
def test_a_rename_keeps_them(mount: Mounts, bucket: Witness) -> None:
    for key in ("f", "d/inner", "d/"):
        bucket.put(key, b"x" if key != "d/" else b"")
        tag(bucket, key)
    path = mount(bucket).path
    (path / "f").rename(path / "f.html")  # which changes the type as well
    (path / "d").rename(path / "e")
    for key in ("f.html", "e/inner", "e/"):
        assert tags(bucket, key) == TAGS, key
    os.stat(path / "e")  # as chmod(1) does: before, the kernel need not know the owner
    (path / "e").chmod(0o700)
    fsync_path(path / "e")
    assert tags(bucket, "e/") == TAGS


@pytest.mark.parametrize("option", ["writeback", "exclusive_create=open"])
def test_a_rename_before_the_upload_keeps_them(mount: Mounts, bucket: Witness, option: str) -> None:
    bucket.put("f", b"x")
    tag(bucket, "f")
    mounted = mount(bucket, option)
    with (mounted.path / "f").open("wb") as file:
        file.write(b"new")
        file.flush()
        (mounted.path / "f").rename(mounted.path / "g")
    mounted.stop()
    assert bucket.get("g") == b"new"
    assert tags(bucket, "g") == TAGS


@pytest.mark.real_endpoint
def test_what_is_renamed_over_a_file_has_its_own(mount: Mounts, bucket: Witness) -> None:
    bucket.put("f", b"x")
    tag(bucket, "f")
    path = mount(bucket).path
    (path / "new").write_bytes(b"y")
    (path / "new").rename(path / "f")
    assert tags(bucket, "f") == {}


class TestRequests:
    """What it costs."""

    @staticmethod
    def known(mount: Mounts, bucket: Witness, counted: Proxy) -> Mount:
        """A mount that is not the first one of its bucket."""
        made = mount(bucket, "open_ttl=60", url=counted.url, start=False)
        acquaint(made)
        made.start()
        return made

    @staticmethod
    def counted_write(mounted: Mount, counted: Proxy) -> dict[str, int]:
        (mounted.path / "f").stat()
        counted.clear()
        (mounted.path / "f").write_bytes(b"new")
        return counted.counts()

    def test_a_file_without_any_costs_one_put(
        self, mount: Mounts, bucket: Witness, counted: Proxy
    ) -> None:
        bucket.put("f", b"x")
        mounted = self.known(mount, bucket, counted)
        assert self.counted_write(mounted, counted) == {"PutObject": 1}, counted.story()

    def test_one_that_has_some_is_asked_for_them(
        self, mount: Mounts, bucket: Witness, counted: Proxy
    ) -> None:
        bucket.put("f", b"x")
        tag(bucket, "f")
        mounted = self.known(mount, bucket, counted)
        told = self.counted_write(mounted, counted)
        assert told == {"GetObjectTagging": 1, "PutObject": 1}, counted.story()

    def test_what_a_listing_or_the_index_tells_is_not_enough(
        self, mount: Mounts, bucket: Witness, counted: Proxy
    ) -> None:
        bucket.put("f", b"x")
        mounted = self.known(mount, bucket, counted)
        (mounted.path / "f").stat()
        mounted.stop()
        tag(bucket, "f")
        mounted.start()
        os.listdir(mounted.path)
        told = self.counted_write(mounted, counted)
        assert told == {"GetObjectTagging": 1, "PutObject": 1}, counted.story()
        assert tags(bucket, "f") == TAGS

    def test_nor_is_a_listing_with_headers(
        self, mount: Mounts, bucket: Witness, counted: Proxy
    ) -> None:
        bucket.put("d/f", b"x")
        bucket.put("d/g", b"x")
        tag(bucket, "d/f")
        with listed_headers(counted, bucket.client, bucket.name):
            mounted = self.known(mount, bucket, counted)
            os.listdir(mounted.path / "d")
            (mounted.path / "d" / "f").write_bytes(b"new")
            (mounted.path / "d" / "g").write_bytes(b"new")
            assert tags(bucket, "d/f") == TAGS
            counted.clear()
            (mounted.path / "d" / "g").write_bytes(b"newer")
            assert counted.counts() == {"PutObject": 1}, counted.story()


def test_what_others_have_tagged_since_is_kept(mount: Mounts, bucket: Witness) -> None:
    path = mount(bucket, "open_ttl=0").path / "f"
    path.write_bytes(b"ours")
    tag(bucket, "f")
    append(path)
    assert tags(bucket, "f") == TAGS


def test_keys_that_may_not_tag_can_write(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    bucket.put("f", b"x")
    tag(bucket, "f")
    mounted = mount(bucket, url=counted.url)
    mounted.expected.append("stored without its tags")
    with counted.fault(
        "PutObject", when=lambda request: "x-amz-tagging" in request.headers,
        status=403, code="AccessDenied",
    ):  # fmt: skip
        (mounted.path / "f").write_bytes(b"new")
    assert bucket.get("f") == b"new"


def test_a_crash_before_the_upload_keeps_them(mount: Mounts, bucket: Witness) -> None:
    """Also what waits in the journal is uploaded with the tags, a new file without others'."""
    for key in ("f", "g"):
        bucket.put(key, b"x")
        tag(bucket, key)
    mounted = mount(bucket, "writeback")
    (mounted.path / "f").write_bytes(b"new")
    (mounted.path / "fresh").write_bytes(b"fresh")
    (mounted.path / "fresh").rename(mounted.path / "g")
    mounted.kill9()
    mounted.start()
    mounted.stop()
    assert (bucket.get("f"), tags(bucket, "f")) == (b"new", TAGS)
    assert (bucket.get("g"), tags(bucket, "g")) == (b"fresh", {})
