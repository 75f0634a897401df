"""Bytes that change on the cache's disk, or on their way to the bucket, through the kernel."""

from __future__ import annotations

import os

import pytest

from tests.harness.mounts import Mount, Mounts
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness

MIB = 1 << 20
DATA = os.urandom(6 * MIB + 777)


@pytest.fixture
def mounted(mount: Mounts, bucket: Witness, counted: Proxy) -> Mount:
    """A mount whose requests pass the proxy, and which may warn of damage."""
    mounted = mount(bucket, "retries=2", "stat_cache_expire=600", "open_ttl=600", url=counted.url)
    mounted.expected.append("damaged on the disk")
    return mounted


def flipped(mounted: Mount, at: int) -> None:
    """Unmount, change a bit of the only page file there is, and mount again."""
    assert mounted.stop() == 0
    (path,) = (mounted.scratch / "cache").rglob("*.pages")
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 16]))
    mounted.start()


def test_a_flipped_bit_in_the_cache_is_fetched_once(
    mounted: Mount, bucket: Witness, counted: Proxy
) -> None:
    bucket.put("f", DATA)
    assert (mounted.path / "f").read_bytes() == DATA
    counted.clear()
    flipped(mounted, 3 * MIB + 99)
    assert (mounted.path / "f").read_bytes() == DATA
    gets = [request for request in counted.requests if request.operation == "GetObject"]
    assert [request.headers["range"] for request in gets] == [f"bytes={3 * MIB}-{4 * MIB - 1}"]
    counted.clear()
    mounted.remount()
    assert (mounted.path / "f").read_bytes() == DATA
    assert counted.count("GetObject") == 0


def test_a_flipped_bit_is_not_uploaded(mounted: Mount, bucket: Witness) -> None:
    """The part around a change comes from the cache where the store does not copy it."""
    (mounted.path / "f").write_bytes(DATA)
    flipped(mounted, 50)
    with (mounted.path / "f").open("r+b") as file:
        file.seek(3000)
        file.write(b"patch")
    assert bucket.get("f") == DATA[:3000] + b"patch" + DATA[3005:]
    assert "damaged on the disk" in mounted.log.read_text()


@pytest.mark.needs("signed_sums")
def test_an_upload_that_is_changed_on_its_way(
    mounted: Mount, bucket: Witness, counted: Proxy
) -> None:
    """Over plain http the signature covers the body; what the server refuses is sent again."""
    with counted.fault("PutObject", flip_sent=1000, times=1) as fault:
        (mounted.path / "f").write_bytes(DATA[:5000])
    assert fault.struck == 1
    assert bucket.get("f") == DATA[:5000]


def test_a_save_that_never_arrives_is_no_save_of_the_same_bytes(
    mounted: Mount, bucket: Witness, counted: Proxy
) -> None:
    """The object that stands there has these bytes: they are those of the version before."""
    path = mounted.path / "f"
    path.write_bytes(DATA[:5000])
    old = bucket.metadata("f")["mtime"]
    mounted.expected += ["PutObject", "cannot be saved"]
    with counted.fault("PutObject", status=500):
        with pytest.raises(OSError, match="Errno 5"):
            path.write_bytes(DATA[:5000])
        assert bucket.metadata("f")["mtime"] == old
    assert mounted.stop() == 0
    assert bucket.metadata("f")["mtime"] != old
