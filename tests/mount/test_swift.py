"""One bucket, two APIs: what Swift's clients store in it, and what they see of ours.

What a large object of Swift is to S3 is emulated in ``tests/store/test_large.py``.
"""

from __future__ import annotations

import hashlib
import os

import pytest

from tests.conftest import Folder
from tests.harness.mounts import Mount, Mounts
from tests.harness.swift import META, Swift
from tests.harness.witness import Witness

pytestmark = pytest.mark.real_endpoint

KINDS = pytest.mark.parametrize("kind", ["dlo", "slo"])
MIB = 1 << 20


@pytest.fixture
def swift(module_bucket: Witness) -> Swift:
    return Swift(module_bucket)


def segments(size: int, count: int = 3) -> list[bytes]:
    return [os.urandom(size) for _ in range(count)]


def plain(swift: Swift, key: str, data: bytes) -> None:
    """An object of its own has these bytes, as Swift sees it."""
    assert not swift.is_large(key)
    assert swift.get(key) == data
    assert swift.head(key)[META + "color"] == "blue"


@KINDS
def test_reading(foreign: Folder, swift: Swift, kind: str) -> None:
    data = swift.large(
        kind, foreign.prefix + "f", foreign.prefix + "f_segments/", segments(100_000)
    )
    assert (foreign / "f").stat().st_size == len(data)
    assert (foreign / "f").read_bytes() == data
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(foreign.path)}
    assert sizes["f"] == len(data)
    assert (foreign / "f").read_bytes() == data


@KINDS
def test_reading_anywhere(mount: Mounts, bucket: Witness, kind: str) -> None:
    data = Swift(bucket).large(kind, "f", "segments/", segments(9 * MIB))
    mounted = mount(bucket)
    with (mounted.path / "f").open("rb", buffering=0) as file:
        for at in (0, 9 * MIB - 10, 20 * MIB, 5, 27 * MIB - 7):
            assert os.pread(file.fileno(), 100_000, at) == data[at : at + 100_000]
    assert os.listdir(mounted.path) == ["f", "segments"]
    assert (mounted.path / "f").read_bytes() == data
    mounted.remount()
    assert (mounted.path / "f").read_bytes() == data


@KINDS
def test_a_new_version_is_seen(foreign: Folder, swift: Swift, kind: str) -> None:
    for _ in range(2):
        data = swift.large(kind, foreign.prefix + "f", foreign.prefix + "s/", segments(50_000))
        assert (foreign / "f").read_bytes() == data


@KINDS
@pytest.mark.parametrize("size", [100_000, 9 * MIB, 30 * MIB])
def test_appending_makes_a_plain_object(
    foreign: Folder, swift: Swift, kind: str, size: int
) -> None:
    """Where the store could copy what is unchanged, too."""
    data = swift.large(kind, foreign.prefix + "f", foreign.prefix + "s/", segments(size))
    with (foreign / "f").open("ab") as file:
        file.write(b"more")
    plain(swift, foreign.prefix + "f", data + b"more")
    assert (foreign / "f").read_bytes() == data + b"more"


@KINDS
def test_writing_in_the_middle_and_over_it(foreign: Folder, swift: Swift, kind: str) -> None:
    data = swift.large(kind, foreign.prefix + "f", foreign.prefix + "s/", segments(9 * MIB))
    with (foreign / "f").open("r+b") as file:
        file.seek(10 * MIB)
        file.write(b"here")
    plain(swift, foreign.prefix + "f", data[: 10 * MIB] + b"here" + data[10 * MIB + 4 :])
    swift.large(kind, foreign.prefix + "g", foreign.prefix + "s/", segments(1000))
    (foreign / "g").write_bytes(b"new")
    plain(swift, foreign.prefix + "g", b"new")


@KINDS
@pytest.mark.parametrize("size", [100_000, 9 * MIB])
def test_attributes_do_not_cost_the_bytes(
    foreign: Folder, swift: Swift, kind: str, size: int
) -> None:
    """CopyObject with new metadata would leave an empty object."""
    data = swift.large(kind, foreign.prefix + "f", foreign.prefix + "s/", segments(size))
    os.chmod(foreign / "f", 0o600)
    os.utime(foreign / "f", (1, 2))
    with (foreign / "f").open("rb") as file:
        os.fsync(file.fileno())
    plain(swift, foreign.prefix + "f", data)
    assert swift.head(foreign.prefix + "f")[META + "mode"] == str(0o100600)
    assert (foreign / "f").read_bytes() == data


@KINDS
def test_renaming(foreign: Folder, swift: Swift, kind: str) -> None:
    data = swift.large(kind, foreign.prefix + "f", foreign.prefix + "s/", segments(100_000))
    os.rename(foreign / "f", foreign / "g")
    assert swift.is_large(foreign.prefix + "g")
    assert (foreign / "g").read_bytes() == data
    (foreign / "d").mkdir()
    os.rename(foreign / "g", foreign / "d" / "g.txt")
    plain(swift, foreign.prefix + "d/g.txt", data)
    assert (foreign / "d" / "g.txt").read_bytes() == data
    assert sorted(os.listdir(foreign.path)) == ["d", "s"]


@KINDS
def test_renaming_a_directory_with_its_segments(
    foreign: Folder, swift: Swift, module_bucket: Witness, kind: str
) -> None:
    """The manifest would name segments that are not there any more."""
    prefix = foreign.prefix + "old/"
    data = swift.large(kind, prefix + "f", prefix + "f_segments/", segments(100_000))
    module_bucket.put(prefix + "empty")
    os.rename(foreign / "old", foreign / "new")
    plain(swift, foreign.prefix + "new/f", data)
    assert module_bucket.keys(prefix) == []
    assert (foreign / "new" / "f").read_bytes() == data
    assert (foreign / "new" / "empty").read_bytes() == b""


@KINDS
def test_removing(foreign: Folder, swift: Swift, module_bucket: Witness, kind: str) -> None:
    """As Swift's DELETE does: the segments stay."""
    swift.large(kind, foreign.prefix + "f", foreign.prefix + "s/", segments(1000))
    (foreign / "f").unlink()
    assert os.listdir(foreign.path) == ["s"]
    assert len(module_bucket.keys(foreign.prefix + "s/")) == 3


def test_metadata_goes_both_ways(foreign: Folder, swift: Swift) -> None:
    swift.put(foreign.prefix + "f", b"data", X_Object_Meta_Color="blue", Content_Type="text/x-f")
    os.chmod(foreign / "f", 0o640)
    with (foreign / "f").open("ab") as file:
        file.write(b"!")
    seen = swift.head(foreign.prefix + "f")
    assert (seen[META + "color"], seen["content-type"]) == ("blue", "text/x-f")
    assert seen[META + "mode"] == str(0o100640)
    assert float(seen[META + "mtime"]) == pytest.approx((foreign / "f").stat().st_mtime)
    swift.put(foreign.prefix + "g", X_Object_Meta_Mode=str(0o100600), X_Object_Meta_Mtime="7")
    assert (foreign / "g").stat().st_mode == 0o100600
    assert (foreign / "g").stat().st_mtime == 7


def test_directories_of_swift(foreign: Folder, swift: Swift) -> None:
    """Its clients make an object without a slash, by its content type."""
    swift.put(foreign.prefix + "d", Content_Type="application/directory")
    swift.put(foreign.prefix + "e", Content_Type="application/directory")
    swift.put(foreign.prefix + "e/f", b"x")
    assert os.listdir(foreign / "d") == []
    assert os.listdir(foreign / "e") == ["f"]
    (foreign / "d" / "new").write_bytes(b"1")
    assert swift.get(foreign.prefix + "d/new") == b"1"


@pytest.fixture
def registry(mount: Mounts, bucket: Witness) -> Mount:
    """A container of images that the Singularity registry client pushes to and pulls from."""
    return mount(bucket, "nomultipart")


def test_images_of_a_registry(registry: Mount, bucket: Witness) -> None:
    """``sregistry push`` is one PUT of an octet stream, ``pull`` a GET."""
    swift, image = Swift(bucket), os.urandom(20 * MIB)
    swift.put("ubuntu:20.04@1a2b.sif", image, Content_Type="application/octet-stream")
    assert (registry.path / "ubuntu:20.04@1a2b.sif").read_bytes() == image
    ours = os.urandom(20 * MIB)
    (registry.path / "debian:12@3c4d.sif").write_bytes(ours)
    assert swift.get("debian:12@3c4d.sif") == ours


def test_the_etag_is_the_md5_sum(registry: Mount, bucket: Witness) -> None:
    """Without nomultipart it is not, and ``swift download`` takes the object for damaged."""
    data = os.urandom(MIB) * 70  # long enough to be streamed
    (registry.path / "whole").write_bytes(data)
    with (registry.path / "whole").open("ab") as file:
        file.write(b"!")
    swift = Swift(bucket)
    assert swift.etag("whole") == hashlib.md5(data + b"!", usedforsecurity=False).hexdigest()
    registry.remount(
        *(option for option in registry.options if option != "nomultipart"), "nonempty"
    )
    (registry.path / "parts").write_bytes(data)
    assert "-" in swift.etag("parts")
