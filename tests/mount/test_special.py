"""Symbolic links and special files."""

from __future__ import annotations

import errno
import os
import socket
import stat

import pytest

from tests.conftest import Folder
from tests.harness.mounts import Mounts
from tests.harness.posix import refused
from tests.harness.witness import Witness

TARGETS = ["f", "../elsewhere", "/absolute/path", "dangling", "with space ", "ünï/日本", "x" * 1000]


@pytest.mark.parametrize("target", TARGETS, ids=ascii)
def test_symlinks(folder: Folder, module_bucket: Witness, target: str) -> None:
    link = folder / "link"
    link.symlink_to(target)
    assert os.readlink(link) == target
    info = os.lstat(link)
    assert stat.S_ISLNK(info.st_mode)
    assert info.st_size == len(os.fsencode(target))
    if not folder.local:
        key = folder.prefix + "link"
        assert module_bucket.get(key) == os.fsencode(target)
        assert stat.S_ISLNK(int(module_bucket.metadata(key)["mode"]))
    link.rename(folder / "moved")
    assert os.readlink(folder / "moved") == target


def test_symlinks_are_followed(folder: Folder) -> None:
    (folder / "d").mkdir()
    (folder / "d/f").write_text("content")
    (folder / "to-file").symlink_to("d/f")
    (folder / "to-dir").symlink_to("d")
    (folder / "chain").symlink_to("to-file")
    assert (folder / "to-file").read_text() == "content"
    assert (folder / "to-dir/f").read_text() == "content"
    (folder / "chain").write_text("changed")
    assert (folder / "d/f").read_text() == "changed"
    assert (folder / "to-dir").is_symlink()
    assert (folder / "to-dir").is_dir()


def test_symlink_refusals(folder: Folder) -> None:
    (folder / "f").write_text("x")
    with refused(errno.EEXIST):
        (folder / "f").symlink_to("x")
    (folder / "loop").symlink_to("loop")
    with refused(errno.ELOOP):
        (folder / "loop").stat()
    with refused(errno.EINVAL):
        os.readlink(folder / "f")


def test_a_symlink_over_and_under_a_rename(folder: Folder) -> None:
    (folder / "a").write_text("a")
    (folder / "new").symlink_to("a")
    (folder / "current").symlink_to("absent")
    (folder / "new").rename(folder / "current")
    assert os.readlink(folder / "current") == "a"
    (folder / "a").rename(folder / "current")
    assert (folder / "current").read_text() == "a"
    assert not (folder / "current").is_symlink()


@pytest.mark.needs_root("changes the owner")
def test_owner_and_times_of_the_link_itself(folder: Folder) -> None:
    (folder / "l").symlink_to("target")
    os.lchown(folder / "l", 41, 42)
    os.utime(folder / "l", ns=(5, 1_600_000_000_000_000_006), follow_symlinks=False)
    info = os.lstat(folder / "l")
    assert (info.st_uid, info.st_gid, info.st_mtime_ns) == (41, 42, 1_600_000_000_000_000_006)
    assert os.readlink(folder / "l") == "target"


@pytest.mark.needs_root("makes devices")
def test_a_link_of_a_remount(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket)
    (mounted.path / "l").symlink_to("some/target")
    os.mkfifo(mounted.path / "fifo", 0o640)
    os.mknod(mounted.path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(mounted.path / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    os.chmod(mounted.path / "null", 0o660)
    mounted.remount()
    assert sorted(os.listdir(mounted.path)) == ["disk", "fifo", "l", "null"]
    kinds = {
        e.name: stat.S_IFMT(e.stat(follow_symlinks=False).st_mode) for e in os.scandir(mounted.path)
    }
    assert kinds == {
        "disk": stat.S_IFBLK,
        "fifo": stat.S_IFIFO,
        "l": stat.S_IFLNK,
        "null": stat.S_IFCHR,
    }
    assert os.readlink(mounted.path / "l") == "some/target"
    info = os.lstat(mounted.path / "null")
    assert (info.st_mode, info.st_rdev) == (stat.S_IFCHR | 0o660, os.makedev(1, 3))
    assert os.lstat(mounted.path / "disk").st_rdev == os.makedev(259, 70_000)
    assert stat.S_IMODE(os.lstat(mounted.path / "fifo").st_mode) == 0o640


def test_fifos(folder: Folder, module_bucket: Witness) -> None:
    os.mkfifo(folder / "fifo", 0o600)
    reader = os.open(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(folder / "fifo", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(writer)
    os.close(reader)
    if not folder.local:
        key = folder.prefix + "fifo"
        assert stat.S_ISFIFO(int(module_bucket.metadata(key)["mode"]))
        assert module_bucket.get(key) == b""
    (folder / "fifo").rename(folder / "moved")
    assert stat.S_ISFIFO(os.lstat(folder / "moved").st_mode)
    (folder / "moved").unlink()
    with refused(errno.EEXIST):
        (folder / "f").write_text("x")
        os.mkfifo(folder / "f")


def test_sockets(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("sock")
        server.listen()
        assert stat.S_ISSOCK(os.lstat("sock").st_mode)
        client.connect("sock")
    os.unlink("sock")
    assert os.listdir(".") == []


def test_mknod_of_a_regular_file(folder: Folder, module_bucket: Witness) -> None:
    os.mknod(folder / "f", stat.S_IFREG | 0o640)
    assert (folder / "f").read_bytes() == b""
    assert stat.S_IMODE((folder / "f").stat().st_mode) == 0o640
    if not folder.local:
        assert module_bucket.exists(folder.prefix + "f")
