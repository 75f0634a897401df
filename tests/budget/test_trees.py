"""The budget for whole directories: walking, reading, moving and removing them.

Like test_requests: a mount of its own a test, and a proxy that counts.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.mounts import Mount
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness

Mounted = Callable[..., Mount]
#: Too large to be the object of a symbolic link, so that readdir can tell the type.
PLAIN = bytes(5000)


def asked_for(counted: Proxy, *operations: str) -> Counter[str]:
    """How often each key was asked for by these operations."""
    return Counter(r.key for r in counted.requests if r.operation in operations)


@pytest.mark.time_limit(120)
def test_listing_takes_a_list_a_thousand(mounted: Mounted, counted: Proxy, bucket: Witness) -> None:
    bucket.put_many({f"{number:05}": b"" for number in range(2200)})
    path = mounted().path
    assert len(os.listdir(path)) == 2200
    assert counted.counts() == {"ListObjectsV2": 3}, counted.story()
    counted.clear()
    assert len(os.listdir(path)) == 2200
    assert counted.counts() == {}, counted.story()


def test_metadata_list_never_heads(mounted: Mounted, counted: Proxy, bucket: Witness) -> None:
    bucket.put_many({f"d{n % 3}/f{n:02}": b"123" for n in range(30)})
    path = mounted("metadata=list").path
    subprocess.check_call(f"find {path} -size +1000; ls -lR {path} >/dev/null", shell=True)
    assert set(counted.counts()) == {"ListObjectsV2"}, counted.story()
    counted.clear()
    assert (path / "d1/f01").read_bytes() == b"123"
    assert counted.counts() == {"GetObject": 1}, counted.story()


@pytest.mark.time_limit(120)
def test_finding_asks_for_each_object_once(
    mounted: Mounted, counted: Proxy, bucket: Witness
) -> None:
    keys = [f"d{d:02}/f{n}" for d in range(12) for n in range(10)]
    bucket.put_many(dict.fromkeys(keys, PLAIN))
    path = mounted().path
    subprocess.check_call(["find", str(path), "-size", "+100"])
    asked = asked_for(counted, "HeadObject", "GetObject")
    assert all(asked.pop(key) == 1 for key in keys), counted.story()
    assert sum(asked.values()) <= 2, "nor does a directory without marker cost a HEAD each"
    assert counted.count("GetObject") <= 5, "who only looks gets no bytes"
    assert counted.count("ListObjectsV2") <= 5, counted.story()
    counted.clear()
    subprocess.check_call(["find", str(path), "-size", "+100"])
    assert counted.counts() == {}, counted.story()


@pytest.mark.time_limit(120)
def test_names_of_who_only_looks_bring_their_attributes_along(
    mounted: Mounted, counted: Proxy, bucket: Witness
) -> None:
    keys = [f"d/{number:04}" for number in range(1200)]
    bucket.put_many(dict.fromkeys(keys, b"x"))
    mount = mounted()
    with counted.fault("HeadObject", delay=0.01):  # a network's round trip
        subprocess.check_call(["ls", "-l", str(mount.path / "d")], stdout=subprocess.DEVNULL)
    asked = asked_for(counted, "HeadObject", "GetObject")
    assert [asked[key] for key in keys] == [1] * len(keys)
    lookups = mount.status()["operations"]["lookup"]
    assert lookups < len(keys) / 2, "those of the first names, mostly"


@pytest.mark.time_limit(120)
def test_who_reads_names_alone_has_no_attributes_asked_for(
    mounted: Mounted, counted: Proxy, bucket: Witness
) -> None:
    """Also a program that has looked at files elsewhere just before."""
    bucket.put_many({f"{d}/{number:03}": b"x" for d in "ab" for number in range(600)})
    path = mounted().path
    for number in range(10):
        (path / f"a/{number:03}").stat()
    assert len(os.listdir(path / "b")) == 600
    asked = asked_for(counted, "HeadObject", "GetObject")
    assert not [key for key in asked if key.startswith("b/0")], counted.story()


@pytest.mark.time_limit(120)
@pytest.mark.parametrize("threads", [1, 16])
def test_reading_small_files_is_one_get_each(
    mounted: Mounted, counted: Proxy, bucket: Witness, threads: int
) -> None:
    keys = [f"f{n:03}" for n in range(100)]
    bucket.put_many({key: PLAIN + key.encode() for key in keys})
    path = mounted().path
    names = sorted(os.listdir(path))
    counted.clear()
    with ThreadPoolExecutor(threads) as pool:
        bodies = list(pool.map(lambda name: (path / name).read_bytes(), names))
    assert bodies == [PLAIN + key.encode() for key in keys]
    assert counted.counts() == {"GetObject": 100}, counted.story()


def test_moving_a_tree_copies_everything_before_it_deletes(
    mounted: Mounted, counted: Proxy, bucket: Witness
) -> None:
    bucket.put_many({f"d/s{n % 4}/f{n:02}": b"x" for n in range(60)})
    path = mounted().path
    os.listdir(path)
    counted.clear()
    (path / "d").rename(path / "e")
    kinds = [r.operation for r in counted.requests]
    assert kinds.count("CopyObject") == 60, counted.story()
    assert kinds.count("DeleteObjects") == 1, counted.story()
    assert kinds[-1] == "DeleteObjects", counted.story()
    assert len(kinds) <= 60 + 1 + 3, counted.story()
    assert len(bucket.keys("e/")) == 60
    assert bucket.keys("d/") == []


@pytest.mark.time_limit(120)
def test_removing_a_tree(mounted: Mounted, counted: Proxy, bucket: Witness) -> None:
    bucket.put_many({f"d/s{n % 3}/f{n:03}": PLAIN for n in range(300)})
    path = mounted("metadata=list").path
    with counted.fault("DeleteObjects", delay=0.02):  # a network's round trip
        subprocess.check_call(["rm", "-r", str(path / "d")])
    assert bucket.keys() == [], "when rm has ended"
    assert counted.count("DeleteObject") <= 16, "the first few wait, each for its own"
    assert counted.count("DeleteObjects") <= 40, counted.story()
    assert counted.count("PutObject") <= 2, "no markers for directories about to go"
    assert counted.count("HeadObject", "GetObject") <= 3, counted.story()
    assert counted.count("ListObjectsV2") <= 12, counted.story()


def test_removing_by_name_leaves_the_directory(
    mounted: Mounted, counted: Proxy, bucket: Witness
) -> None:
    bucket.put_many({f"d/f{n:03}": PLAIN for n in range(60)})
    path = mounted("metadata=list").path
    os.listdir(path / "d")
    counted.clear()
    subprocess.check_call("rm d/*", shell=True, cwd=path)
    fd = os.open(path / "d", os.O_RDONLY)
    os.fsync(fd)  # what was removed in a hurry is gone from here on
    os.close(fd)
    assert bucket.keys() == ["d/"]
    assert counted.count("PutObject") == 1, counted.story()
    assert counted.count("DeleteObject") <= 8, counted.story()
    assert counted.count() <= 8 + 1 + 20, counted.story()


def test_removing_with_other_tools_habits(
    mounted: Mounted, counted: Proxy, bucket: Witness
) -> None:
    """What is removed and made again at once is the new one."""
    bucket.put_many({f"d/f{n:03}": PLAIN for n in range(60)})
    path = mounted("metadata=list").path
    shutil.rmtree(path / "d")
    (path / "d").mkdir()
    for number in range(60):
        Path(path / f"d/f{number:03}").write_bytes(b"new")
    assert len(bucket.keys("d/")) == 61
    assert {bucket.get(f"d/f{n:03}") for n in (0, 30, 59)} == {b"new"}


@pytest.mark.skipif(Path("/sys/fs/selinux/enforce").exists(), reason="the kernel answers itself")
def test_a_long_listing_is_told_once_that_there_are_no_labels(
    mounted: Mounted, bucket: Witness
) -> None:
    """For "no data" `ls -l` would ask for each entry; of ENOTSUP it takes note."""
    bucket.put("f", b"x")
    path = mounted().path
    with pytest.raises(OSError, match=os.strerror(errno.ENOTSUP)):
        os.getxattr(path / "f", "security.selinux")
    with pytest.raises(OSError, match=os.strerror(errno.ENOTSUP)):
        os.setxattr(path / "f", "security.selinux", b"label")
    os.setxattr(path / "f", "user.kept", b"1")
    assert os.listxattr(path / "f") == ["user.kept"]
