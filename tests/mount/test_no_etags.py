"""A mount behind a proxy that takes the ETags out of answers."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from tests.harness.mounts import Mount, Mounts
from tests.harness.posix import refused
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness

MIB = 1 << 20
SAID = r"names no ETags"


@pytest.fixture(params=["writable", "ro"])
def stripped(
    request: pytest.FixtureRequest, mount: Mounts, bucket: Witness, counted: Proxy
) -> Iterator[Mount]:
    bucket.put("old", b"old")
    with counted.fault("", strip="etag"):
        options = ["ro"] if request.param == "ro" else []
        mounted = mount(bucket, f"url={counted.url}", "open_ttl=0", "stat_cache_expire=0", *options)
        mounted.expected.append(SAID)
        yield mounted
        assert mounted.log.read_text().count("names no ETags") == 1


def test_reading(stripped: Mount, bucket: Witness) -> None:
    assert (stripped.path / "old").read_bytes() == b"old"
    bucket.put("old", b"new bytes")
    assert (stripped.path / "old").read_bytes() == b"new bytes"
    assert os.listdir(stripped.path) == ["old"]


@pytest.mark.parametrize("stripped", ["writable"], indirect=True)
def test_writing_and_removing(stripped: Mount, bucket: Witness) -> None:
    path = stripped.path
    (path / "new").write_bytes(b"1")
    with (path / "new").open("ab") as file:
        file.write(b"2")
    assert bucket.get("new") == b"12"
    large = os.urandom(80 * MIB)
    (path / "large").write_bytes(large)
    assert bucket.get("large") == large
    (path / "new").rename(path / "newer")
    assert bucket.keys() == ["large", "newer", "old"]
    (path / "old").unlink()
    (path / "newer").unlink()
    assert bucket.keys() == ["large"]
    assert os.listdir(path) == ["large"]


@pytest.mark.parametrize("stripped", ["writable"], indirect=True)
def test_a_conflict_is_seen(stripped: Mount, bucket: Witness) -> None:
    stripped.expected += ["changed by someone else", "ESTALE"]
    file = (stripped.path / "old").open("r+b", buffering=0)
    file.write(b"ours")
    bucket.put("old", b"theirs!")
    with refused(errno.ESTALE):
        file.close()
    assert bucket.get("old") == b"theirs!"
    assert len(bucket.keys()) == 2
