"""Extended attributes: xattr(7)'s rules, kept in s3fs's format."""

from __future__ import annotations

import base64
import errno
import json
import os
import urllib.request
from urllib.parse import quote, unquote

import pytest

from tests.conftest import Folder
from tests.harness.mounts import Mounts
from tests.harness.posix import fsync_path, refused
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness


def stored(bucket: Witness, key: str) -> dict[str, bytes]:
    """The attributes of an object, decoded from s3fs's form."""
    packed = bucket.metadata(key).get("xattr", "%7B%7D")
    return {name: base64.b64decode(v) for name, v in json.loads(unquote(packed)).items()}


@pytest.mark.needs("marker_metadata", "full_metadata")
def test_set_get_list_remove(folder: Folder, module_bucket: Witness) -> None:
    for name in ("f", "d"):
        path = folder / name
        path.mkdir() if name == "d" else path.write_text("x")
        os.setxattr(path, "user.one", b"1")
        os.setxattr(path, "user.two", bytes(range(256)))
        os.setxattr(path, "user.empty", b"")
        assert os.getxattr(path, "user.one") == b"1"
        assert os.getxattr(path, "user.two") == bytes(range(256))
        assert os.getxattr(path, "user.empty") == b""
        mine = {name for name in os.listxattr(path) if name.startswith("user.")}
        assert mine == {"user.one", "user.two", "user.empty"}
        os.removexattr(path, "user.one")
        with refused(errno.ENODATA):
            os.getxattr(path, "user.one")
        with refused(errno.ENODATA):
            os.removexattr(path, "user.one")
        fsync_path(path)
    if not folder.local:
        wanted = {"user.two": bytes(range(256)), "user.empty": b""}
        assert stored(module_bucket, folder.prefix + "f") == wanted
        assert stored(module_bucket, folder.prefix + "d/") == wanted


def test_create_and_replace(folder: Folder) -> None:
    path = folder / "f"
    path.write_text("x")
    with refused(errno.ENODATA):
        os.setxattr(path, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    with refused(errno.EEXIST):
        os.setxattr(path, "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(path, "user.b", b"1", os.XATTR_CREATE)
    os.setxattr(path, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.a") == b"3"


@pytest.mark.needs("full_metadata")
def test_sizes(here: Folder) -> None:
    path = here / "f"
    path.write_text("x")
    os.setxattr(path, "user.fits", b"v" * 300)
    with refused(errno.ENOSPC, errno.E2BIG):
        os.setxattr(path, "user.big", b"v" * 5000)
    with refused(errno.ENOSPC):
        for number in range(20):
            os.setxattr(path, f"user.n{number}", b"v" * 200)
    assert os.getxattr(path, "user.fits") == b"v" * 300
    assert path.read_text() == "x"
    with refused(errno.ERANGE):
        os.setxattr(path, "user." + "n" * 256, b"")


def test_other_namespaces(here: Folder) -> None:
    path = here / "f"
    path.write_text("x")
    with refused(errno.EOPNOTSUPP):
        os.setxattr(path, "system.nonsense", b"1")
    with refused(errno.ENODATA, errno.EOPNOTSUPP):
        os.getxattr(path, "security.capability")


def test_they_belong_to_the_file(folder: Folder) -> None:
    path = folder / "f"
    with open(path, "wb", 0) as file:
        os.setxattr(file.fileno(), "user.a", b"open")
        file.write(b"content")
    path.rename(folder / "g")
    assert os.getxattr(folder / "g", "user.a") == b"open"
    (folder / "g").write_bytes(b"overwritten")
    os.chmod(folder / "g", 0o600)
    assert os.getxattr(folder / "g", "user.a") == b"open"


def test_they_survive_a_remount(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket)
    (mounted.path / "f").write_text("x")
    os.setxattr(mounted.path / "f", "user.kept", b"\x00\xffvalue")
    mounted.remount()
    assert os.listxattr(mounted.path / "f") == ["user.kept"]
    assert os.getxattr(mounted.path / "f", "user.kept") == b"\x00\xffvalue"


def test_those_of_s3fs_are_read(foreign: Folder, module_bucket: Witness) -> None:
    packed = quote(json.dumps({"user.k": base64.b64encode(b"v+k").decode()}), safe="")
    module_bucket.put(foreign.prefix + "f", b"x", mode="33188", xattr=packed)
    assert os.getxattr(foreign / "f", "user.k") == b"v+k"
    os.setxattr(foreign / "f", "user.l", b"2")
    fsync_path(foreign / "f")
    assert stored(module_bucket, foreign.prefix + "f") == {"user.k": b"v+k", "user.l": b"2"}


def test_without_extended_attributes(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket, "use_xattr=0")
    (mounted.path / "f").write_text("x")
    with refused(errno.EOPNOTSUPP):
        os.setxattr(mounted.path / "f", "user.a", b"1")
    with refused(errno.EOPNOTSUPP):
        os.getxattr(mounted.path / "f", "user.a")


def test_names_without_a_namespace(here: Folder) -> None:
    path = here / "f"
    path.write_text("x")
    os.setxattr(path, "key", b"as in s3fs")
    assert os.getxattr(path, "key") == b"as in s3fs"
    assert os.listxattr(path) == ["key"]
    os.removexattr(path, "key")
    with refused(errno.ENODATA):
        os.getxattr(path, "key")


class TestOfTheStore:
    """``user.s3.*``."""

    @pytest.mark.needs("tags")
    def test_what_is_read(self, foreign: Folder, module_bucket: Witness) -> None:
        key = foreign.prefix + "page.html"
        module_bucket.client.put_object(
            Bucket=module_bucket.name, Key=key, Body=b"hello", ContentType="text/x-page",
            CacheControl="max-age=60", Metadata={"colour": "blue"}, Tagging="a=1&b=two%20words",
        )  # fmt: skip
        path = foreign / "page.html"
        head = module_bucket.head(key)
        assert head is not None
        expected = {
            "etag": head["ETag"].strip('"'),
            "content_type": "text/x-page",
            "cache_control": "max-age=60",
            "metadata.colour": "blue",
            "storage_class": "STANDARD",
            "tags": "a=1&b=two+words",
        }
        for name, value in expected.items():
            assert os.getxattr(path, f"user.s3.{name}") == value.encode(), name
        for name in ("content_encoding", "metadata.shape", "nonsense", "restore"):
            with refused(errno.ENODATA):
                os.getxattr(path, f"user.s3.{name}")
        assert os.listxattr(path) == []

    def test_an_address_for_others(self, foreign: Folder, module_bucket: Witness) -> None:
        module_bucket.put(foreign.prefix + "f", b"for all")
        url = os.getxattr(foreign / "f", "user.s3.presigned_url").decode()
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == b"for all"

    @pytest.mark.needs("tags")
    def test_what_is_set(self, here: Folder, module_bucket: Witness) -> None:
        path, key = here / "f", here.prefix + "f"
        path.write_text("x")
        os.setxattr(path, "user.s3.content_type", b"text/x-odd")
        os.setxattr(path, "user.s3.cache_control", b"no-store")
        os.setxattr(path, "user.s3.metadata.colour", b"red")
        os.setxattr(path, "user.s3.tags", b"project=x&stage=raw")
        assert os.getxattr(path, "user.s3.metadata.colour") == b"red"
        fsync_path(path)
        head = module_bucket.head(key)
        assert head is not None
        assert (head["ContentType"], head["CacheControl"]) == ("text/x-odd", "no-store")
        assert head["Metadata"]["colour"] == "red"
        tags = module_bucket.client.get_object_tagging(Bucket=module_bucket.name, Key=key)
        said = {tag["Key"]: tag["Value"] for tag in tags["TagSet"]}
        assert said == {"project": "x", "stage": "raw"}
        for name in ("content_type", "cache_control", "metadata.colour", "tags"):
            os.removexattr(path, f"user.s3.{name}")
        fsync_path(path)
        head = module_bucket.head(key)
        assert head is not None
        assert head["ContentType"] == "application/octet-stream"
        assert "CacheControl" not in head
        assert "colour" not in head["Metadata"]
        tags = module_bucket.client.get_object_tagging(Bucket=module_bucket.name, Key=key)
        assert tags["TagSet"] == []
        assert path.read_text() == "x"

    def test_what_cannot_be_set(self, here: Folder) -> None:
        path = here / "f"
        path.write_text("x")
        for name, value, code in (
            ("etag", b"1", errno.EPERM),
            ("storage_class", b"GLACIER", errno.EPERM),
            ("metadata.mode", b"1", errno.EPERM),
            ("metadata.UPPER", b"1", errno.EINVAL),
            ("metadata.a", "ü".encode(), errno.EINVAL),
            ("cache_control", b"a\nb", errno.EINVAL),
            ("tags", b"no equals sign", errno.EINVAL),
            ("tags", b"=no name", errno.EINVAL),
            ("metadata.a", b"x" * 3000, errno.ENOSPC),
        ):
            with refused(code):
                os.setxattr(path, f"user.s3.{name}", value)

    @pytest.mark.needs("tags")
    @pytest.mark.parametrize("code", ["BadRequest", "InvalidTag"])
    def test_tags_that_the_store_refuses(
        self, mount: Mounts, bucket: Witness, counted: Proxy, code: str
    ) -> None:
        bucket.put("f", b"x")
        path = mount(bucket, url=counted.url).path / "f"
        with counted.fault("PutObjectTagging", status=400, code=code), refused(errno.EINVAL):
            os.setxattr(path, "user.s3.tags", b"a=1")
        os.setxattr(path, "user.s3.tags", b"a=1")

    def test_an_object_that_is_not_there_yet(self, here: Folder) -> None:
        with open(here / "f", "wb", 0) as file:
            file.write(b"x")
            for name in ("etag", "tags", "version_id", "presigned_url"):
                with refused(errno.ENODATA):
                    os.getxattr(file.fileno(), f"user.s3.{name}")
