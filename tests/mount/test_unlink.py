"""Unlinked files that are still open: usable, in no listing, and gone in the end."""

from __future__ import annotations

import errno
import os

import pytest

from tests.conftest import Folder
from tests.harness.posix import refused
from tests.harness.witness import Witness


def test_unlink_removes_the_object(here: Folder, module_bucket: Witness) -> None:
    (here / "f").write_bytes(b"x")
    assert module_bucket.exists(here.prefix + "f")
    (here / "f").unlink()
    assert not module_bucket.exists(here.prefix + "f")
    with refused(errno.ENOENT):
        (here / "f").unlink()


def test_an_open_file_can_be_read_after_unlink(folder: Folder) -> None:
    (folder / "f").write_bytes(b"0123456789" * 1000)
    with open(folder / "f", "rb", 0) as file:
        (folder / "f").unlink()
        assert os.listdir(folder.path) == []
        assert not (folder / "f").exists()
        assert file.read() == b"0123456789" * 1000
        info = os.fstat(file.fileno())
        assert (info.st_size, info.st_nlink) == (10_000, 0)


@pytest.mark.needs("markers")
def test_an_open_file_can_be_written_after_unlink(folder: Folder, module_bucket: Witness) -> None:
    with open(folder / "f", "w+b", 0) as file:
        file.write(b"before")
        (folder / "f").unlink()
        file.write(b" after")
        os.fsync(file.fileno())
        file.seek(0)
        assert file.read() == b"before after"
        file.truncate(3)
        file.seek(0)
        assert file.read() == b"bef"
        os.fchmod(file.fileno(), 0o600)
        with open(f"/proc/self/fd/{file.fileno()}", "ab") as again:
            again.write(b"ore")
        file.seek(0)
        assert file.read() == b"before"
        assert os.listdir(folder.path) == []
        if not folder.local:
            assert module_bucket.keys(folder.prefix) == [folder.prefix]
    assert os.listdir(folder.path) == []
    if not folder.local:
        assert module_bucket.keys(folder.prefix) == [folder.prefix]


def test_a_new_file_may_take_the_name(folder: Folder, module_bucket: Witness) -> None:
    (folder / "f").write_bytes(b"first")
    with open(folder / "f", "r+b", 0) as old:
        (folder / "f").unlink()
        (folder / "f").write_bytes(b"second")
        old.write(b"FIRST")
        old.seek(0)
        assert old.read() == b"FIRST"
        assert (folder / "f").read_bytes() == b"second"
    assert (folder / "f").read_bytes() == b"second"
    if not folder.local:
        assert module_bucket.get(folder.prefix + "f") == b"second"


def test_the_directory_of_an_unlinked_open_file_can_go(folder: Folder) -> None:
    (folder / "d").mkdir()
    with open(folder / "d/f", "w+b", 0) as file:
        file.write(b"x")
        (folder / "d/f").unlink()
        (folder / "d").rmdir()
        file.write(b"y")
        file.seek(0)
        assert file.read() == b"xy"
    assert os.listdir(folder.path) == []


def test_unlinking_a_symlink_leaves_its_target(folder: Folder) -> None:
    (folder / "target").write_text("x")
    (folder / "link").symlink_to("target")
    (folder / "link").unlink()
    assert os.listdir(folder.path) == ["target"]


def test_hard_links_are_refused(here: Folder) -> None:
    (here / "a").write_text("x")
    with refused(errno.EPERM, errno.EOPNOTSUPP):
        os.link(here / "a", here / "b")
    assert os.listdir(here.path) == ["a"]
