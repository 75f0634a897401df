"""``bucketfs info``, ``versions``, ``restore`` and ``presign``: the commands about one object."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from tests.system.conftest import Place


@pytest.fixture
def mounted(place: Place) -> Iterator[Place]:
    """A mount of a bucket that keeps versions."""
    place.bucket.versioning()
    assert place.mount().returncode == 0
    yield place
    place.bucket.forget_versions()


def test_info(mounted: Place) -> None:
    path = mounted.path / "d" / "f.txt"
    path.parent.mkdir()
    path.write_text("hello")
    os.setxattr(path, "user.s3.metadata.colour", b"blue")
    os.setxattr(path, "user.s3.cache_control", b"no-cache")
    os.sync()
    done = mounted.here("flush", str(mounted.path))
    assert done.returncode == 0, done.stderr
    done = mounted.here("info", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"s3://{mounted.bucket.name}/d/f.txt" in done.stdout
    told = json.loads(mounted.here("info", "--json", str(path)).stdout)
    head = mounted.bucket.head("d/f.txt")
    assert head is not None
    assert told["etag"] == head["ETag"].strip('"')
    assert told["version_id"] == head["VersionId"]
    assert (told["size"], told["cached"], told["stage"]) == (5, 5, "clean")
    assert told["metadata"] == {"colour": "blue"}
    assert (told["content_type"], told["headers"]) == ("text/plain", {"cache-control": "no-cache"})
    done = mounted.here("info", str(path.with_name("nothing")))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "bucketfs: d/nothing: No such file or directory\n"
    assert mounted.here("info").returncode == 2
    assert mounted.here("info", "/").returncode == 3


def test_an_old_version_comes_back(mounted: Place) -> None:
    path = mounted.path / "report"
    for text in ("first", "second", "third, which is longer"):
        path.write_text(text)
    path.chmod(0o640)
    path.unlink()
    assert mounted.here("flush", str(mounted.path)).returncode == 0
    assert not path.exists()
    done = mounted.here("versions", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "deleted" in done.stdout.splitlines()[1]
    told = json.loads(mounted.here("versions", "--json", str(path)).stdout)["versions"]
    first = [version for version in told if version["size"] == len("first")][-1]
    done = mounted.here("restore", str(path), "--version", first["id"])
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text() == "first"
    second = next(version for version in told if version["size"] == len("second"))
    assert mounted.here("restore", str(path), "--version", second["id"]).returncode == 0
    assert path.read_text() == "second"
    assert mounted.bucket.get("report") == b"second"


def test_what_cannot_be_restored(mounted: Place) -> None:
    path = mounted.path / "f"
    path.write_text("x")
    done = mounted.here("restore", str(path), "--version", "nonsense")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bucketfs: f: ")
    assert len(done.stderr.splitlines()) == 1
    assert path.read_text() == "x"
    for words in ([], ["--version", "1", "--from-archive"], ["--from-archive", "--days", "0"]):
        done = mounted.here("restore", str(path), *words)
        assert done.returncode == 2, done
    with path.open("ab", 0) as file:
        file.write(b"more")
        done = mounted.here("restore", str(path), "--version", "1")
        assert done.returncode == 1
        assert "changes that are not in the bucket" in done.stderr


def test_from_the_archive(mounted: Place) -> None:
    try:
        mounted.bucket.client.put_object(
            Bucket=mounted.bucket.name, Key="cold", Body=b"ice", StorageClass="GLACIER"
        )
    except ClientError as error:
        pytest.skip(f"the store has no archive: {error}")
    path = mounted.path / "cold"
    with pytest.raises(PermissionError):
        path.read_bytes()
    done = mounted.here("restore", str(path), "--from-archive", "--days", "3", "--tier", "Bulk")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(mounted.here("info", "--json", str(path)).stdout)
    assert "restore" in told
    assert path.read_bytes() == b"ice"


def test_an_address_for_others(mounted: Place) -> None:
    path = mounted.path / "f"
    path.write_text("for all")
    done = mounted.here("presign", str(path), "--expires", "10m")
    assert (done.returncode, done.stderr) == (0, "")
    assert "=600" in done.stdout
    with urllib.request.urlopen(done.stdout.strip()) as answer:
        assert answer.read() == b"for all"
    for wrong in (["--expires", "8d"], ["--expires", "soon"], []):
        words = ["presign", *wrong, *([str(path)] if wrong else [])]
        assert mounted.here(*words).returncode == 2
    assert mounted.here("presign", str(mounted.path)).returncode == 1


def test_paths_of_old_versions(place: Place) -> None:
    """They are read as files, and commands say so instead of finding nothing there."""
    place.bucket.versioning()
    place.bucket.put("f", b"one")
    place.bucket.put("f", b"two")
    assert place.mount("versions").returncode == 0
    one = min((place.path / ".versions" / "f").iterdir())
    assert one.read_bytes() == b"one"
    for command in ("info", "presign", "versions", "refresh", "warm", "evict", "restore"):
        words = ["--from-archive"] if command == "restore" else []
        done = place.here(command, *words, str(one))
        assert (done.returncode, done.stdout) == (1, ""), command
        assert "without .versions (bucketfs versions PATH" in done.stderr, done.stderr
    assert place.here("info", str(place.path / "f")).returncode == 0
    place.here("umount", str(place.path))
    place.bucket.forget_versions()
