"""A bucket as it was: ``-o at=``."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.harness.endpoint import REPOSITORY
from tests.harness.mounts import Mounts
from tests.harness.posix import refused
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

pytestmark = pytest.mark.needs("versions")


@pytest.fixture
def versioned(bucket: Witness) -> Iterator[Witness]:
    bucket.versioning()
    yield bucket
    bucket.forget_versions()


def next_second() -> str:
    """Wait for another second, which is as fine as Last-Modified is; ``at=`` the one before.

    All that was done is of a second before that one: Swift rounds times up.
    """
    now = int(time.time()) + 1
    until(lambda: int(time.time()) > now, "the clock shows another second")
    return f"at={datetime.fromtimestamp(now, UTC).isoformat()}"


def tree_of(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def test_what_stood_there_then(mount: Mounts, versioned: Witness, counted: Proxy) -> None:
    versioned.put("kept", b"same")
    versioned.put("d/changed", b"old", mode=str(0o100640))
    versioned.put("d/deleted", b"was here")
    versioned.put("gone/f", b"with its directory")
    versioned.put("again", b"first")
    next_second()
    versioned.delete("again")
    then = next_second()
    versioned.put("d/changed", b"newer")
    versioned.put("d/added", b"not yet")
    versioned.put("later/f", b"not yet")
    versioned.put("again", b"second")
    versioned.delete("d/deleted", "gone/f")
    mounted = mount(versioned, then, url=counted.url)
    path = mounted.path
    assert f"at={mounted.status()['at']}" == then
    assert sorted(os.listdir(path)) == ["d", "gone", "kept"]
    assert tree_of(path) == {
        "d/changed": b"old",
        "d/deleted": b"was here",
        "gone/f": b"with its directory",
        "kept": b"same",
    }
    assert os.stat(path / "d" / "changed").st_mode & 0o777 == 0o640
    assert not (path / "again").exists()
    assert not (path / "d" / "added").exists()
    assert not (path / "later").exists()
    with refused(errno.EROFS):
        (path / "new").write_bytes(b"x")
    writing = {"PutObject", "DeleteObject", "DeleteObjects", "CopyObject"}
    assert not writing & counted.counts().keys(), counted.story()


def told(path: Path, name: str) -> str:
    return os.getxattr(path, f"user.s3.{name}").decode()


@pytest.mark.needs("tags")
def test_what_the_store_knows_is_of_that_version(mount: Mounts, versioned: Witness) -> None:
    where = {"Bucket": versioned.name, "Key": "f"}
    first = versioned.client.put_object(**where, Body=b"old", Tagging="a=old")["VersionId"]
    then = next_second()
    versioned.client.put_object(**where, Body=b"newer", Tagging="a=new")
    path = mount(versioned, then).path / "f"
    assert told(path, "version_id") == first
    assert told(path, "tags") == "a=old"
    with urllib.request.urlopen(told(path, "presigned_url")) as answer:
        assert answer.read() == b"old"


@pytest.mark.parametrize(("command", "says"), [("info", "etag"), ("versions", "current")])
def test_commands_that_look(mount: Mounts, versioned: Witness, command: str, says: str) -> None:
    versioned.put("f", b"old")
    then = next_second()
    versioned.put("f", b"new")
    path = mount(versioned, then).path / "f"
    done = subprocess.run(
        [sys.executable, "-m", "bucketfs", command, str(path)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


def test_a_name_is_looked_up_without_a_listing(mount: Mounts, versioned: Witness) -> None:
    versioned.put("d/f", b"old")
    then = next_second()
    for number in range(30):
        versioned.put("d/f", b"new %d" % number)
    assert (mount(versioned, then).path / "d" / "f").read_bytes() == b"old"


def test_now_is_what_stands_there(mount: Mounts, versioned: Witness) -> None:
    versioned.put("f", b"1")
    versioned.put("f", b"2")
    next_second()
    assert tree_of(mount(versioned, "at=0s ago").path) == {"f": b"2"}


def test_when_a_version_was_stored(mount: Mounts, versioned: Witness) -> None:
    versioned.put("p/other", b"before")
    versioned.put("p/d/f@1", b"old")
    next_second()
    versioned.put("p/d/f@1", b"new")
    versioned.put("p/other", b"at that time")
    (version,) = (
        each["VersionId"]
        for each in versioned.client.list_object_versions(Bucket=versioned.name, Prefix="p/d/")[
            "Versions"
        ]
        if each["IsLatest"]
    )
    next_second()
    versioned.put("p/other", b"later")
    versioned.delete("p/d/f@1")
    mounted = mount(versioned, f"at=d/f@1@{version}", prefix="p/")
    assert mounted.status()["at"] == f"version {version} of d/f@1"
    assert tree_of(mounted.path) == {"d/f@1": b"new", "other": b"at that time"}


def test_when_something_was_deleted(mount: Mounts, versioned: Witness) -> None:
    versioned.put("f", b"x")
    versioned.put("g", b"stays")
    next_second()
    marker = versioned.client.delete_object(Bucket=versioned.name, Key="f")["VersionId"]
    next_second()
    versioned.put("f", b"again")
    assert tree_of(mount(versioned, f"at=f@{marker}").path) == {"g": b"stays"}


def test_no_such_version(mount: Mounts, versioned: Witness) -> None:
    versioned.put("f", b"x")
    made = mount(versioned, "at=f@nosuchid", start=False)
    with pytest.raises(AssertionError, match="f has no version nosuchid: bucketfs versions PATH"):
        made.start()


def test_no_such_commit(mount: Mounts, bucket: Witness) -> None:
    commit = "0123456789abcdef" * 2
    made = mount(bucket, f"at={commit}", start=False)
    with pytest.raises(AssertionError, match=f"there is no bucket {commit}.{bucket.name}, as Pach"):
        made.start()


def test_a_bucket_without_versions_says_so(mount: Mounts, bucket: Witness) -> None:
    bucket.put("f", b"x")
    next_second()
    made = mount(bucket, "at=1s")
    made.expected.append("the bucket keeps no versions")
    assert tree_of(made.path) == {"f": b"x"}
