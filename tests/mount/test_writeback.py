"""`-o writeback` through the kernel: what close promised outlives the daemon."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.harness.acquaint import acquaint
from tests.harness.mounts import Mount, Mounts, wait_for_key
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

MIB = 1 << 20
#: What the log may say: uploads were refused, and a mount was killed.
EXPECTED = "made up by the proxy|is not saved yet|was not unmounted"


def writeback(mount: Mounts, bucket: Witness, counted: Proxy, *options: str) -> Mount:
    mounted = mount(bucket, "writeback", "retries=1", *options, url=counted.url, start=False)
    acquaint(mounted)
    mounted.start()
    mounted.expected.append(EXPECTED)
    os.listdir(mounted.path)
    counted.clear()
    return mounted


def test_closed_files_are_uploaded_later(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    path = writeback(mount, bucket, counted).path
    for number in range(20):
        (path / f"f{number}").write_bytes(b"%d" % number)
    for number in range(20):
        wait_for_key(bucket, f"f{number}")
        assert bucket.get(f"f{number}") == b"%d" % number
    assert counted.count("PutObject") == 20, counted.story()


def test_fsync_waits_for_the_bucket(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    path = writeback(mount, bucket, counted).path
    with open(path / "f", "wb", 0) as file:
        file.write(b"bytes")
        os.fsync(file.fileno())
        assert bucket.get("f") == b"bytes"


def test_what_waits_is_renamed_and_removed_without_a_request(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    path = writeback(mount, bucket, counted, "max_thread_count=1").path
    with counted.fault("PutObject", stall=True, key="first"):
        (path / "first").write_bytes(b"bytes")
        until(lambda: counted.count("PutObject") == 1, "the upload is tried")
        counted.clear()
        (path / "a").write_bytes(b"bytes")
        os.rename(path / "a", path / "b")
        assert (path / "b").read_bytes() == b"bytes"
        os.unlink(path / "b")
        assert os.listdir(path) == ["first"]
        assert counted.counts() == {}, counted.story()


@pytest.mark.parametrize("is_new", [True, False])
def test_a_name_is_others_after_a_conflict_in_the_background(
    mount: Mounts, bucket: Witness, counted: Proxy, is_new: bool
) -> None:
    ours, theirs = os.urandom(3 * MIB + 1), os.urandom(2 * MIB + 1)
    if not is_new:
        bucket.put("f", os.urandom(4 * MIB))
    mounted = writeback(mount, bucket, counted)
    mounted.expected.append("changed by someone else")
    path = mounted.path
    with counted.fault("PutObject", status=503, code="SlowDown", key="f"):
        (path / "f").write_bytes(ours)
        until(lambda: counted.count("PutObject") >= 1, "the upload is tried")
        assert (path / "f").read_bytes() == ours
        bucket.put("f", theirs)

    names: list[str] = []

    def both() -> bool:
        names[:] = bucket.keys("f")  # no probe
        # s3proxy lists what is being stored under another name
        return len(names) == 2 and names[1].endswith("Z")

    until(both, "ours is beside theirs")
    name, beside = names
    assert (name, beside.partition(".conflict-")[0]) == ("f", "f")
    until(lambda: (path / "f").read_bytes() == theirs, "the name is theirs")
    assert (path / beside).read_bytes() == ours
    assert sorted(os.listdir(path)) == ["f", beside]
    assert (bucket.get("f"), bucket.get(beside)) == (theirs, ours)
    mounted.remount()
    assert ((path / "f").read_bytes(), (path / beside).read_bytes()) == (theirs, ours)


def written(path: Path) -> dict[str, bytes]:
    """Files of several sizes, some of them renamed, changed and removed again."""
    bodies = {f"d{n % 3}/f{n}": os.urandom(n * 3000) for n in range(30)}
    bodies["large"] = os.urandom(20 * MIB)
    for number in range(3):
        os.mkdir(path / f"d{number}")
    for name, body in bodies.items():
        (path / name).write_bytes(body)
    with open(path / "d0/f3", "ab") as file:
        file.write(b"more")
    bodies["d0/f3"] += b"more"
    os.rename(path / "d0/f6", path / "moved")
    bodies["moved"] = bodies.pop("d0/f6")
    os.unlink(path / "d1/f4")
    del bodies["d1/f4"]
    os.rename(path / "d2", path / "d3")
    return {name.replace("d2/", "d3/"): body for name, body in bodies.items()}


def test_what_was_closed_outlives_kill_9(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    mounted = writeback(mount, bucket, counted)
    with (
        counted.fault("PutObject", status=503, code="SlowDown", key="d0/f9"),
        counted.fault("CreateMultipartUpload", status=503, code="SlowDown"),
    ):
        bodies = written(mounted.path)
        mounted.kill9()
    assert not bucket.exists("d0/f9")
    assert not bucket.exists("large")
    mounted.start()
    for name, body in bodies.items():
        assert (mounted.path / name).read_bytes() == body, name
    mounted.remount()
    keys = [key for key in bucket.keys() if not key.endswith("/")]  # noqa: SIM118 - a method
    assert sorted(keys) == sorted(bodies)
    for name, body in bodies.items():
        assert bucket.get(name) == body, name
    assert bucket.uploads() == []


def test_what_arrived_when_the_daemon_was_killed_is_known_as_its_own(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    """An upload beside the writer says when the file began to change, the journal when it ended."""
    mounted = writeback(mount, bucket, counted)
    body = os.urandom(MIB) * 100
    with counted.fault("CompleteMultipartUpload", acts=True, stall=True):
        with open(mounted.path / "f", "wb", 0) as file:
            file.write(body[: 80 * MIB])
            until(bucket.uploads, "its upload has begun")
            file.write(body[80 * MIB :])
        wait_for_key(bucket, "f")
        mounted.kill9()
    mounted.start()
    mounted.remount()
    assert bucket.keys() == ["f"]
    assert bucket.get("f") == body
    assert bucket.uploads() == []


def test_sigterm_drains(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    mounted = writeback(mount, bucket, counted)
    for number in range(50):
        (mounted.path / f"f{number}").write_bytes(b"bytes")
    mounted.signal(signal.SIGTERM)
    assert mounted.wait() == 0
    assert len(bucket.keys()) == 50


def test_what_unmounting_could_not_upload_waits_for_the_next_mount(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    mounted = writeback(mount, bucket, counted)
    mounted.expected += ["could not be saved at unmount", "1 files are not in the bucket"]
    with counted.fault("PutObject", status=503, code="SlowDown"):
        (mounted.path / "f").write_bytes(b"bytes")
        assert mounted.stop() == 1
    assert not bucket.exists("f")
    mounted.start()
    assert (mounted.path / "f").read_bytes() == b"bytes"
    wait_for_key(bucket, "f")
