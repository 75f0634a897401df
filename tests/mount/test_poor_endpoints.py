"""Mounts of endpoints that can do less than S3, each of which refuses, ignores or loses something.

What a program does works all the same, or fails with an error that says so; nothing is reported as
done that is not.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.harness.mounts import Mount, Mounts
from tests.harness.poor import blind, forgetful, refusing, trimming
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness

MIB = 1 << 20
Poor = Callable[[Proxy], AbstractContextManager[object]]


@pytest.fixture
def mounted(bucket: Witness, mount: Mounts, counted: Proxy) -> Callable[..., Mount]:
    """Mounts the bucket through the proxy."""
    return lambda *options: mount(bucket, *options, url=counted.url)


@pytest.fixture
def moto(bucket: Witness) -> None:
    """What is changed on its way has no right signature any more."""
    if not bucket.endpoint.moto:
        pytest.skip("this endpoint checks signatures")


@contextmanager
def fails(number: int) -> Iterator[None]:
    """A call in the block fails with this errno."""
    with pytest.raises(OSError, match=f"Errno {number}"):
        yield


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidRequest")])
def test_without_multipart(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness, status: int, code: str
) -> None:
    """The very first file, too."""
    with refusing(counted, "CreateMultipartUpload", status=status, code=code):
        made = mounted()
        for size in (20 * MIB, 70 * MIB):
            body = os.urandom(MIB) * (size // MIB)
            (made.path / f"{size}").write_bytes(body)
            assert bucket.get(f"{size}") == body
        with open(made.path / f"{20 * MIB}", "ab") as file:
            file.write(b"tail")
        assert bucket.head(f"{20 * MIB}")["ContentLength"] == 20 * MIB + 4  # type: ignore[index]
    # without each header that it may have been refused for, and once more beside the writer
    assert counted.count("CreateMultipartUpload") <= 5, counted.story()


@pytest.mark.parametrize("operation", ["CopyObject", "UploadPartCopy"])
def test_without_copies(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness, operation: str
) -> None:
    body = os.urandom(6 * MIB)
    bucket.put_many({"small": b"small", "large": body, "d/f": b"in it"})
    with refusing(counted, operation):
        made = mounted()
        (made.path / "small").rename(made.path / "moved")
        (made.path / "large").rename(made.path / "moved large")
        (made.path / "d").rename(made.path / "e")
        os.chmod(made.path / "moved", 0o600)
        with open(made.path / "moved large", "ab") as file:
            file.write(b"tail")
        made.remount()
        assert (made.path / "moved").stat().st_mode & 0o777 == 0o600
    assert bucket.get("moved large") == body + b"tail"
    assert bucket.keys() == ["e/f", "moved", "moved large"]
    # an endpoint that compares checksums is asked without one, too, and both without a condition
    assert counted.count(operation) <= 3, counted.story()


@pytest.mark.needs("no_directories")
def test_without_batches_and_new_listings(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    bucket.put_many({f"d/{number}": b"x" for number in range(12)})
    with refusing(counted, "DeleteObjects", "ListObjectsV2"):
        made = mounted()
        assert len(os.listdir(made.path / "d")) == 12
        shutil.rmtree(made.path / "d")
        made.remount()
        assert os.listdir(made.path) == []
    assert bucket.keys() == []
    assert counted.count("DeleteObjects") <= 2, "with either sum"
    assert counted.count("ListObjectsV2") <= 1, counted.story()


@pytest.mark.parametrize("kind", ["refused", "ignored"])
@pytest.mark.parametrize("options", [(), ("probe=0",)], ids=["asked", "not asked"])
def test_without_conditions(
    mounted: Callable[..., Mount],
    counted: Proxy,
    bucket: Witness,
    kind: str,
    options: tuple[str, ...],
    request: pytest.FixtureRequest,
) -> None:
    """What others have stored meanwhile stays all the same: it is looked at just before."""

    def conditional() -> AbstractContextManager[object]:
        if kind == "ignored":
            request.getfixturevalue("moto")
            return blind(counted)
        names = ("if-match", "if-none-match", "x-amz-copy-source-if-match")
        return counted.fault(
            "",
            when=lambda r: r.method != "GET" and any(name in r.headers for name in names),
            status=501,
            code="NotImplemented",
        )

    bucket.put_many({"old": b"old", "theirs": b"1"})
    with conditional():
        made = mounted(*options)
        made.expected.append("'theirs' was changed by someone else")
        (made.path / "new").write_bytes(b"new")
        (made.path / "old").write_bytes(b"newer")
        os.mkdir(made.path / "d")
        (made.path / "new").rename(made.path / "d/new")
        subprocess.check_call(["mv", "-n", made.path / "old", made.path / "moved"])
        with open(made.path / "theirs", "r+b", 0) as file:
            file.write(b"2")
            bucket.put("theirs", b"3 of others")
            with fails(errno.ESTALE):
                os.fsync(file.fileno())
        assert bucket.get("theirs") == b"3 of others"
        assert bucket.get("d/new") == b"new"
        assert bucket.get("moved") == b"newer"
        assert bucket.keys(".bucketfs-probe-") == []


def test_without_checksums(mounted: Callable[..., Mount], counted: Proxy, bucket: Witness) -> None:
    """As s3proxy: 501 for each that is sent, that of a first upload among them."""

    def summed(request: object) -> bool:
        return any("checksum" in name for name in request.headers)  # type: ignore[attr-defined]

    with counted.fault("", when=summed, status=501, code="NotImplemented") as fault:
        made = mounted()
        for name in ("a", "b"):
            (made.path / name).write_bytes(b"content")
        shutil.copytree(made.path, made.path / "d", ignore=lambda *_: ["d"])
        shutil.rmtree(made.path / "d")
        assert bucket.keys() == ["a", "b"]
        struck = fault.struck
        made.remount()
        (made.path / "c").write_bytes(b"content")
        assert fault.struck == struck, "known from the mount before"


def test_without_user_metadata(
    moto: None, mounted: Callable[..., Mount], counted: Proxy, bucket: Witness, tmp_path: Path
) -> None:
    """Links are refused; programs that set modes and times go on, and nothing claims to be set."""
    source = tmp_path / "f"
    source.write_bytes(b"content")
    os.utime(source, (1, 2))
    source.chmod(0o640)
    with forgetful(counted):
        made = mounted()
        made.expected.append("the endpoint keeps no user metadata")
        for make in (
            lambda: os.symlink("target", made.path / "link"),
            lambda: os.mkfifo(made.path / "fifo"),
            lambda: os.setxattr(made.path, "user.a", b"b"),
        ):
            with fails(errno.ENOTSUP):
                make()
        assert bucket.keys() == []
        assert sorted(os.listdir(made.path)) == []
        subprocess.check_call(["cp", "-p", source, made.path / "copied"])
        subprocess.check_call(f"tar c -C {tmp_path} f | tar x -C {made.path}", shell=True)
        if shutil.which("rsync"):
            subprocess.check_call(["rsync", "-t", source, made.path / "synced"])
        counted.clear()
        os.chmod(made.path / "copied", 0o600)
        os.utime(made.path / "copied", (1, 2))
        assert (made.path / "copied").stat().st_mtime != 2, "it is not, and does not say so"
        made.remount()
        assert counted.count("CopyObject", "PutObject") == 0, counted.story()
        assert (made.path / "f").read_bytes() == b"content"
        assert (made.path / "f").stat().st_mode & 0o777 == 0o644


def test_metadata_that_was_only_changed_is_looked_at(
    moto: None, mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    """The first chmod finds out, from the file that was stored last; the next cost nothing."""
    with forgetful(counted):
        made = mounted()
        for name in ("a", "b"):
            (made.path / name).write_bytes(name.encode())
        for name in ("a", "b"):
            os.chmod(made.path / name, 0o600)
            os.sync()
            fd = os.open(made.path / name, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        assert counted.count("CopyObject") == 0, counted.story()
    assert bucket.get("a") == b"a"


def test_markers_that_lose_their_slash(
    moto: None, mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    """An empty directory is there as long as the mount is, and no file takes its name."""
    with (
        trimming(counted),
        counted.fault(
            "HeadObject", when=lambda r: r.key.endswith("/"), status=400, code="InvalidRequest"
        ),
    ):
        made = mounted("stat_cache_expire=0", "open_ttl=0")
        os.mkdir(made.path / "d")
        os.makedirs(made.path / "e/s")
        assert bucket.keys() == []
        assert sorted(os.listdir(made.path)) == ["d", "e"]
        assert (made.path / "d").is_dir()
        (made.path / "d/f").write_bytes(b"content")
        with fails(errno.ENOTEMPTY):
            os.rmdir(made.path / "e")
        os.rmdir(made.path / "e/s")
        os.rmdir(made.path / "e")
        (made.path / "d/f").unlink()
        assert os.listdir(made.path) == ["d"]
        os.chmod(made.path / "d", 0o700)
        (made.path / "d").rename(made.path / "g")
        (made.path / "g/f").write_bytes(b"content")
        made.remount()
        assert os.listdir(made.path) == ["g"]
        assert (made.path / "g/f").read_bytes() == b"content"
        shutil.rmtree(made.path / "g")
    assert bucket.keys() == []
    stored = [r.key for r in counted.requests if r.operation == "PutObject" and r.key[-1] == "/"]
    assert len(stored) == 1, "learned from the first, and known to the next mount"


def test_a_file_that_others_are_below(
    mounted: Callable[..., Mount], counted: Proxy, bucket: Witness
) -> None:
    """As versitygw: no file can be below a file; that is no conflict with anybody."""
    with counted.fault("PutObject", key="d/f", status=409, code="ObjectParentIsFile"):
        made = mounted()
        os.mkdir(made.path / "d")
        with fails(errno.ENOTDIR):
            (made.path / "d/f").write_bytes(b"content")
    made.expected.append("ObjectParentIsFile")
    until_saved = made.path / "d/f"
    assert until_saved.read_bytes() == b"content"
