"""Mounts whose credentials may do less than all: the policies of ``docs/permissions.md``."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.mounts import Mount, Mounts
from tests.harness.rights import SecondUser, policies
from tests.harness.waiting import until
from tests.harness.witness import Witness

BLIND = "listing is not allowed"


@pytest.fixture
def stocked(bucket: Witness) -> Witness:
    bucket.put_many(
        {
            "hello.txt": b"hello",
            "dir/deep/x.csv": b"1,2",
            "pub/a.txt": b"a",
            "pub/d/b.txt": b"b",
        }
    )
    return bucket


class Allowed:
    """Mounts the bucket as a user who may do what a policy says."""

    user: SecondUser

    def __init__(self, stocked: Witness, mount: Mounts, stack: ExitStack) -> None:
        self._stocked, self._mount, self._stack = stocked, mount, stack

    def __call__(
        self, use: str, *options: str, prefix: str = "", expected: tuple[str, ...] = ()
    ) -> Mount:
        self.user = SecondUser(self._stocked, use, self._stack)
        mounted = self._mount(self.user.bucket, *options, prefix=prefix, start=False)
        mounted.expected += [*expected, "stays in the bucket: DeleteObject"]
        mounted.start()
        return mounted


@pytest.fixture
def allowed(stocked: Witness, mount: Mounts, outlives: ExitStack) -> Allowed:
    return Allowed(stocked, mount, outlives)


def refused(action: Callable[[], object]) -> None:
    with pytest.raises(PermissionError):
        action()


def said(mounted: Mount, *words: str) -> None:
    """One line of the log has all of these words."""
    lines = mounted.log.read_text().splitlines()
    assert any(all(word in line for word in words) for line in lines), mounted.tail()


def ours(keys: list[str]) -> list[str]:
    return [key for key in keys if ".bucketfs-probe-" not in key]


def test_the_documentation_has_a_policy_for_each_use() -> None:
    assert len(policies()) == 6


def test_reading_and_writing(allowed: Allowed, stocked: Witness) -> None:
    path = allowed("Reading and writing").path
    (path / "new").write_bytes(b"1")
    os.rename(path / "new", path / "dir" / "new")
    os.rename(path / "dir", path / "other")  # many are deleted together
    (path / "hello.txt").unlink()
    assert stocked.keys() == ["other/deep/x.csv", "other/new", "pub/a.txt", "pub/d/b.txt"]


def test_below_a_prefix(allowed: Allowed, stocked: Witness) -> None:
    mounted = allowed("Reading and writing below a prefix", prefix="pub/")
    path = mounted.path
    assert sorted(os.listdir(path)) == ["a.txt", "d"]
    assert (path / "d" / "b.txt").read_bytes() == b"b"
    assert not (path / "absent").exists()
    assert (path / "d").stat().st_mode & 0o777 == 0o755
    (path / "e").mkdir()
    os.rename(path / "a.txt", path / "e" / "c.txt")
    (path / "new").write_bytes(b"new")
    (path / "d" / "b.txt").unlink()
    assert stocked.keys("pub/") == ["pub/d/", "pub/e/", "pub/e/c.txt", "pub/new"]
    assert stocked.get("pub/e/c.txt") == b"a"


def test_a_root_that_may_not_be_listed_names_what_to_mount(
    allowed: Allowed, stocked: Witness
) -> None:
    del stocked
    with pytest.raises(AssertionError, match=r"ended: 6[\s\S]*BUCKET:/PREFIX"):
        allowed("Reading and writing below a prefix")


def test_reading(allowed: Allowed, stocked: Witness) -> None:
    """The first file is refused at its close, the next one when it is opened."""
    mounted = allowed("Reading", expected=("EACCES", "is not saved yet"))
    path = mounted.path
    assert sorted(os.listdir(path)) == ["dir", "hello.txt", "pub"]
    assert (path / "dir" / "deep" / "x.csv").read_bytes() == b"1,2"
    refused(lambda: (path / "dir" / "first").write_bytes(b"1"))
    said(mounted, "flush failed", "PutObject of 'dir/first'", "(needed: s3:PutObject)")
    refused(lambda: os.open(path / "dir" / "second", os.O_WRONLY | os.O_CREAT))
    said(mounted, "create failed", "PutObject of 'dir/second'", "beforehand")
    (path / "dir" / "first").unlink()
    refused((path / "made").mkdir)
    refused(lambda: os.open(path / "hello.txt", os.O_WRONLY))
    refused(lambda: os.chmod(path / "hello.txt", 0o600))
    refused(lambda: os.truncate(path / "hello.txt", 0))
    refused((path / "hello.txt").unlink)
    said(mounted, "DeleteObject of 'hello.txt'", "(needed: s3:DeleteObject)")
    assert (path / "hello.txt").read_bytes() == b"hello"
    assert sorted(os.listdir(path)) == ["dir", "hello.txt", "pub"]
    assert os.listdir(path / "dir") == ["deep"]


@pytest.fixture
def undeletable(allowed: Allowed) -> Mount:
    return allowed("Writing without deleting", expected=("EACCES", "is still there", "stay behind"))


def test_writing_without_deleting(undeletable: Mount, stocked: Witness) -> None:
    path = undeletable.path
    (path / "new").write_bytes(b"1")
    (path / "new").write_bytes(b"22")
    with (path / "hello.txt").open("ab") as file:
        file.write(b"!")
    os.chmod(path / "new", 0o600)
    refused((path / "hello.txt").unlink)
    (path / "made").mkdir()
    refused((path / "made").rmdir)
    assert ours(sorted(os.listdir(path))) == ["dir", "hello.txt", "made", "new", "pub"]
    assert stocked.get("hello.txt") == b"hello!"
    assert stocked.get("new") == b"22"


def test_renaming_without_deleting_leaves_nothing_once_that_is_known(
    undeletable: Mount, stocked: Witness
) -> None:
    """An editor's save by rename, too: the file is as it was."""
    path = undeletable.path
    refused((path / "hello.txt").unlink)
    refused(lambda: os.rename(path / "hello.txt", path / "other"))
    (path / "hello.txt~").write_bytes(b"edited")
    refused(lambda: os.rename(path / "hello.txt~", path / "hello.txt"))
    refused((path / "dir" / "deep" / "x.csv").unlink)
    refused(lambda: os.rename(path / "dir", path / "other"))
    said(undeletable, "rename failed", "DeleteObject of 'hello.txt'", "nothing has changed")
    wanted = ["dir/deep/x.csv", "hello.txt", "hello.txt~", "pub/a.txt", "pub/d/b.txt"]
    assert [key for key in ours(stocked.keys()) if key != "dir/deep/"] == wanted
    assert (path / "hello.txt").read_bytes() == b"hello"


def test_the_first_rename_without_deleting_says_what_it_left(
    undeletable: Mount, stocked: Witness
) -> None:
    path = undeletable.path
    refused(lambda: os.rename(path / "pub" / "a.txt", path / "pub" / "c.txt"))
    said(undeletable, "'pub/a.txt' is still there, and so is its copy 'pub/c.txt'")
    assert sorted(os.listdir(path / "pub")) == ["a.txt", "c.txt", "d"]
    refused(lambda: os.rename(path / "dir" / "deep", path / "dir" / "other"))
    said(undeletable, "rename failed", "DeleteObject")
    assert sorted(os.listdir(path / "dir")) == ["deep", "other"]
    assert (path / "dir" / "deep" / "x.csv").read_bytes() == b"1,2"
    assert (path / "dir" / "other" / "x.csv").read_bytes() == b"1,2"
    assert "dir/deep/x.csv" in stocked.keys()  # noqa: SIM118  (the bucket's, not a mapping's)


@pytest.fixture
def publisher(allowed: Allowed) -> Mount:
    return allowed(
        "Publishing: writing without reading",
        "stat_cache_expire=0",
        "open_ttl=0",
        expected=(BLIND, "EACCES", "was changed by someone else"),
    )


def test_publishing(publisher: Mount, stocked: Witness, tmp_path: Path) -> None:
    path = publisher.path
    (path / "new").write_bytes(b"1")
    assert (path / "new").read_bytes() == b"1"
    (path / "new").write_bytes(b"22")
    (path / "made").mkdir()
    (path / "made" / "file").write_bytes(b"3")
    source = tmp_path / "tree"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "c").write_bytes(b"4")
    subprocess.run(["cp", "-a", source, path], check=True)
    pack = subprocess.run(["tar", "-C", tmp_path, "-cf", "-", "tree"], stdout=-1, check=True)
    subprocess.run(["tar", "-C", path / "made", "-xf", "-"], input=pack.stdout, check=True)
    refused(lambda: os.listdir(path))
    said(publisher, "readdir failed", "(needed: s3:ListBucket)")
    refused((path / "new").unlink)
    refused(lambda: os.rename(path / "new", path / "newer"))
    assert stocked.get("new") == b"22"
    assert stocked.get("made/file") == b"3"
    assert stocked.get("tree/a/b/c") == b"4"
    assert stocked.get("made/tree/a/b/c") == b"4"
    assert publisher.log.read_text().count(BLIND) == 1


def test_attributes_of_what_was_published(publisher: Mount, stocked: Witness) -> None:
    """A copy takes the right to read: the bytes, which are here, are stored once more."""
    path = publisher.path
    (path / "new").write_bytes(b"bytes")
    os.chmod(path / "new", 0o600)
    with (path / "new").open("rb") as file:
        os.fsync(file.fileno())
    assert stocked.metadata("new")["mode"] == str(0o100600)
    with (path / "new").open("ab") as file:
        file.write(b" and more")
    os.utime(path / "new", (1, 2))
    with (path / "new").open("rb") as file:
        os.fsync(file.fileno())
        assert file.read() == b"bytes and more"
    assert stocked.get("new") == b"bytes and more"
    assert stocked.metadata("new")["mtime"] == "2.000000000"
    if shutil.which("rsync"):
        subprocess.run(["rsync", "-a", "--inplace", path / "new", path / "other"], check=True)
        until(lambda: stocked.metadata("other")["mtime"] == "2.000000000", "the time is saved")


def test_publishing_a_large_file(publisher: Mount, stocked: Witness) -> None:
    """Its upload in parts ends with a look that is refused."""
    data = os.urandom(1 << 20) * 70
    (publisher.path / "large").write_bytes(data)
    assert stocked.get("large") == data


def test_publishing_under_a_name_that_is_taken(publisher: Mount, stocked: Witness) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        (publisher.path / "hello.txt").write_bytes(b"ours")
    assert stocked.get("hello.txt") == b"hello"
    (beside,) = stocked.keys("hello.txt.conflict-")
    assert stocked.get(beside) == b"ours"


def test_reading_by_name(allowed: Allowed) -> None:
    mounted = allowed("Reading by name", "ro", expected=(BLIND, "EACCES"))
    path = mounted.path
    assert (path / "hello.txt").read_bytes() == b"hello"
    assert (path / "dir" / "deep" / "x.csv").read_bytes() == b"1,2"
    assert (path / "dir").stat().st_mode & 0o777 == 0o111
    refused((path / "absent").read_bytes)
    refused(lambda: os.listdir(path))
    said(mounted, "(needed: s3:ListBucket)")
    for number in range(10):
        refused((path / "dir" / f"absent{number}").read_bytes)
    assert mounted.log.read_text().count(BLIND) == 1


def test_neither_listing_nor_writing_is_refused(allowed: Allowed) -> None:
    with pytest.raises(AssertionError, match=r"ended: 6[\s\S]*mount with -o ro"):
        allowed("Reading by name")


def test_many_removals_that_are_refused(undeletable: Mount, stocked: Witness) -> None:
    """`rm -r` goes ahead of the answers; what is refused is there again."""
    path = undeletable.path
    undeletable.expected.append("removed objects? cannot be deleted in the bucket")
    names = [f"f{number:02}" for number in range(30)]
    stocked.put_many({f"many/{name}": b"x" for name in names})
    assert sorted(os.listdir(path / "many")) == names
    done = subprocess.run(["rm", "-rf", path / "many"], check=False, capture_output=True)
    assert done.returncode == 1
    assert sorted(os.listdir(path / "many")) == names
    assert len([key for key in stocked.keys("many/") if key != "many/"]) == len(names)


def test_rights_that_are_given_later(allowed: Allowed, stocked: Witness) -> None:
    """A file that was refused is in the bucket then, and the next one is not refused."""
    mounted = allowed("Reading", expected=("EACCES", "is not saved yet"))
    path = mounted.path / "dir"
    refused(lambda: (path / "first").write_bytes(b"1"))
    refused(lambda: os.open(path / "second", os.O_WRONLY | os.O_CREAT))
    allowed.user.may("Reading and writing")
    (path / "second").write_bytes(b"2")
    until(lambda: stocked.exists("dir/first"), "the refused file is in the bucket")
    assert stocked.get("dir/second") == b"2"
