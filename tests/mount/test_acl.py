"""POSIX access control lists through the mount, as on a local file system."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import Folder
from tests.harness.mounts import SHARED, Mount, Mounts, as_user
from tests.harness.posix import fsync_path, refused
from tests.harness.witness import Witness

if not shutil.which("setfacl"):
    pytest.skip("needs getfacl and setfacl (package acl)", allow_module_level=True)


@pytest.fixture(scope="module")
def shared(module_mounts: Mounts, module_bucket: Witness) -> Mount:
    """One mount with lists, for all tests here."""
    return module_mounts(module_bucket, *SHARED, "enable_acl")


def run(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def getfacl(path: Path) -> list[str]:
    """The list of a path, with effective rights and numbers for names."""
    return run("getfacl", "--omit-header", "--numeric", "--no-effective", path).split()


def set_acl(path: Path, entries: str) -> None:
    run("setfacl", "-m", entries, path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def with_umask(umask: int, action: Sequence[str | Path]) -> None:
    subprocess.run(action, check=True, umask=umask)


def test_set_and_get(folder: Folder) -> None:
    path = folder / "f"
    path.write_text("x")
    path.chmod(0o640)
    assert getfacl(path) == ["user::rw-", "group::r--", "other::---"]
    set_acl(path, "u:1234:rw,g:77:r")
    wanted = ["user::rw-", "user:1234:rw-", "group::r--", "group:77:r--", "mask::rw-", "other::---"]
    assert getfacl(path) == wanted
    assert mode(path) == 0o660
    assert run("ls", "-l", path).split()[0] == "-rw-rw----+"
    run("setfacl", "-x", "u:1234", path)
    assert getfacl(path) == ["user::rw-", "group::r--", "group:77:r--", "mask::r--", "other::---"]
    assert mode(path) == 0o640
    run("setfacl", "-b", path)
    assert getfacl(path) == ["user::rw-", "group::r--", "other::---"]
    assert run("ls", "-l", path).split()[0] == "-rw-r-----"
    run("setfacl", "-b", path)
    run("setfacl", "-k", folder.path)


def test_chmod_changes_the_mask(folder: Folder) -> None:
    path = folder / "f"
    path.write_text("x")
    set_acl(path, "u:1234:rwx,g::rx")
    path.chmod(0o704)
    assert getfacl(path) == ["user::rwx", "user:1234:rwx", "group::r-x", "mask::---", "other::r--"]
    assert mode(path) == 0o704
    path.chmod(0o751)
    assert getfacl(path) == ["user::rwx", "user:1234:rwx", "group::r-x", "mask::r-x", "other::--x"]


@pytest.mark.needs("full_metadata")
@pytest.mark.parametrize("umask", [0o002, 0o022])
def test_a_default_list_is_inherited(folder: Folder, umask: int) -> None:
    top = folder / "d"
    top.mkdir()
    run("setfacl", "-d", "-m", "u:1234:rwx,g::rx,o::-", top)
    with_umask(umask, ["touch", top / "f"])
    with_umask(umask, ["mkdir", top / "sub"])
    with_umask(umask, ["mkfifo", top / "fifo"])
    with_umask(umask, ["ln", "-s", "f", top / "link"])
    file = ["user::rw-", "user:1234:rwx", "group::r-x", "mask::rw-", "other::---"]
    assert getfacl(top / "f") == file
    assert getfacl(top / "fifo") == file
    assert mode(top / "f") == 0o660
    access = ["user::rwx", "user:1234:rwx", "group::r-x", "mask::rwx", "other::---"]
    assert getfacl(top / "sub") == [*access, *(f"default:{entry}" for entry in access)]
    with_umask(umask, ["install", "-m", "600", "/dev/null", top / "private"])
    assert mode(top / "private") == 0o600
    run("setfacl", "-k", top)
    with_umask(0o022, ["touch", top / "plain"])
    assert mode(top / "plain") == 0o644
    assert getfacl(top / "plain") == ["user::rw-", "group::r--", "other::r--"]


def test_a_strict_umask_stays_in_force(here: Folder) -> None:
    """The kernel does not tell what it has taken: rather too little than too much."""
    top = here / "d"
    top.mkdir()
    run("setfacl", "-d", "-m", "u:1234:rw", top)
    with_umask(0o077, ["touch", top / "f"])
    assert mode(top / "f") == 0o600


def test_the_kernel_enforces_them(folder: Folder) -> None:
    path = folder / "f"
    path.write_text("secret")
    path.chmod(0o600)

    def read() -> str:
        with path.open() as file:
            return file.read()

    def write() -> None:
        with path.open("a") as file:
            file.write("!")

    with refused(errno.EACCES):
        as_user(read)
    set_acl(path, "u:1000:r")
    assert as_user(read) == "secret"
    with refused(errno.EACCES):
        as_user(write)
    set_acl(path, "u:1000:rw")
    as_user(write)
    assert path.read_text() == "secret!"
    path.chmod(0o600)  # no rights in the mask
    with refused(errno.EACCES):
        as_user(read)
    run("setfacl", "-b", "-m", "g:2000:r", path)
    with refused(errno.EACCES):
        as_user(read)
    assert as_user(read, gid=2000) == "secret!"


def test_only_the_owner_sets_them(folder: Folder) -> None:
    path = folder / "f"
    path.write_text("x")
    set_acl(path, "u:1234:r")
    value = os.getxattr(path, "system.posix_acl_access")
    path.chmod(0o666)
    with refused(errno.EPERM):
        as_user(lambda: os.setxattr(path, "system.posix_acl_access", value))
    os.chown(path, 1000, 3000)
    path.chmod(0o2750)
    as_user(lambda: os.setxattr(path, "system.posix_acl_access", value))
    assert not path.stat().st_mode & stat.S_ISGID  # who is not of its group
    path.chmod(0o2750)
    as_user(lambda: os.setxattr(path, "system.posix_acl_access", value), gid=3000)
    assert path.stat().st_mode & stat.S_ISGID


def test_what_cannot_be_set(folder: Folder) -> None:
    path = folder / "f"
    path.write_text("x")
    for value in (b"nonsense", b"\x02\0\0\0" + bytes(8)):
        with refused(errno.EINVAL, errno.EOPNOTSUPP):
            os.setxattr(path, "system.posix_acl_access", value)
    (folder / "d").mkdir()
    run("setfacl", "-d", "-m", "u:1:r", folder / "d")
    default = os.getxattr(folder / "d", "system.posix_acl_default")
    with refused(errno.EACCES):
        os.setxattr(path, "system.posix_acl_default", default)


@pytest.mark.parametrize(
    "copy",
    [
        "cp -a {source} {target}",
        "rsync -aA {source}/ {target}/",
        "mkdir {target}; tar -C {source} --acls -cf - . | tar -C {target} --acls -xf -",
    ],
    ids=["cp", "rsync", "tar"],
)
def test_copies_bring_them(folder: Folder, tmp_path: Path, copy: str) -> None:
    if not shutil.which(copy.split(maxsplit=1)[0]):
        pytest.skip(f"needs {copy.split(maxsplit=1)[0]}")
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_text("x")
    (source / "d").mkdir()
    set_acl(source / "f", "u:1234:rw,g:5:-")
    run("setfacl", "-d", "-m", "g:7:rwx", source / "d")
    wanted = [getfacl(source / name) for name in (".", "f", "d")]
    there, back = folder / "copy", tmp_path / "back"
    for one, other in ((source, there), (there, back)):
        subprocess.check_call(copy.format(source=one, target=other), shell=True)
        assert [getfacl(other / name) for name in (".", "f", "d")] == wanted


@pytest.mark.needs_root("acts as other users")
def test_the_kernel_enforces_them_in_all_buckets(mount: Mounts, bucket: Witness) -> None:
    made = mount(bucket, *SHARED, "enable_acl", start=False)
    made.source = ":/"
    made.start()
    path = made.path / bucket.name / "f"
    path.write_text("x")
    path.chmod(0o640)
    with refused(errno.EACCES):
        as_user(path.read_text, uid=1234, gid=1234)
    set_acl(path, "u:1234:r,u:1235:-")
    assert as_user(path.read_text, uid=1234, gid=1234) == "x"
    path.chmod(0o644)
    with refused(errno.EACCES):
        as_user(path.read_text, uid=1235, gid=1235)
    assert as_user(path.read_text, uid=1236, gid=1236) == "x"
    for top in (made.path, made.path / bucket.name):
        assert getfacl(top) == ["user::rwx", "group::r-x", "other::r-x"]


def test_they_are_kept_in_the_metadata(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket, "enable_acl")
    path = mounted.path / "f"
    path.write_text("x")
    set_acl(path, "u:1234:rw")
    wanted = getfacl(path)
    fsync_path(path)
    assert "system.posix_acl_access" in bucket.metadata("f")["xattr"]
    assert int(bucket.metadata("f")["mode"]) == 0o100664
    path.write_text("other")
    path.rename(mounted.path / "g")
    mounted.remount()
    assert getfacl(mounted.path / "g") == wanted
    mounted.stop()
    assert bucket.metadata("g")["mode"] == str(0o100664)


def test_without_the_option(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket, "enable_acl")
    path = mounted.path / "f"
    path.write_text("x")
    set_acl(path, "u:1234:rw")
    value = os.getxattr(path, "system.posix_acl_access")
    mounted.stop()
    path = mount(bucket).path / "f"
    with refused(errno.EOPNOTSUPP):
        os.getxattr(path, "system.posix_acl_access")
    with refused(errno.EOPNOTSUPP):
        os.setxattr(path, "system.posix_acl_access", value)
    assert os.listxattr(path) == []
    path.chmod(0o600)  # of which the list, which is still stored, has to know
    fsync_path(path)
    mounted.start()
    assert "mask::---" in getfacl(mounted.path / "f")
