"""What the kernel, libfuse and pyfuse3 do, on which bucketfs's design stands.

Each test mounts a `TinyFs`, does something through the kernel and looks at the requests that came.
One that fails after an upgrade names the part of the design to think over again.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.harness.mounts import SHARED, as_user
from tests.harness.posix import refused
from tests.harness.tinyfs import Tiny, tiny
from tests.harness.waiting import until

pytestmark = pytest.mark.usefixtures("need_fuse")

OTHERS = {"options": ("default_permissions", *SHARED)}


def named(tiny_fs: Tiny, *ops: str) -> list[str]:
    """Requests since the last call as ``op name``, only those of `ops`."""
    return [f"{r['op']} {r.get('name', '')}".strip() for r in tiny_fs.requests() if r["op"] in ops]


def missing(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    return False


def test_untyped_entries_are_shown_but_not_remembered() -> None:
    """A readdirplus entry without type bits is DT_UNKNOWN, its reference is given back at once."""
    with tiny(untyped=True, files=("a", "b")) as fs:
        assert sorted(os.listdir(fs.mountpoint)) == ["a", "b"]
        until(lambda: "forget" in fs._record.read_text(), "FORGET")
        assert fs.ops("entry", "forget", "lookup", "getattr") == [
            "entry",
            "entry",
            "forget",
            "forget",
        ]
        assert all(entry.is_file() for entry in os.scandir(fs.mountpoint))
        assert named(fs, "lookup") == ["lookup a", "lookup b"]


def test_find_asks_for_the_type_of_untyped_entries() -> None:
    with tiny(untyped=True, files=("a",), links=("l",)) as fs:
        found = subprocess.check_output(["find", ".", "-type", "l"], cwd=fs.mountpoint, text=True)
        assert found == "./l\n"
        assert named(fs, "lookup") == ["lookup a", "lookup l"]


def test_typed_entries_cost_nothing_until_stat() -> None:
    with tiny(files=("a", "b"), attr_timeout=0) as fs:
        names = [entry.name for entry in os.scandir(fs.mountpoint) if entry.is_file()]
        assert sorted(names) == ["a", "b"]
        assert fs.ops("lookup", "getattr") == ["getattr"] * len(fs.ops("getattr"))
        os.stat(fs.mountpoint / "a")
        assert fs.ops("lookup", "getattr") == ["getattr"]


def test_a_type_that_changes_in_getattr_is_an_io_error() -> None:
    """Announcing a symlink as a file in readdirplus is safe only if a LOOKUP comes next."""
    with tiny(links=("l",), mistyped=True, attr_timeout=0) as fs:
        os.listdir(fs.mountpoint)
        with refused(errno.EIO):
            os.lstat(fs.mountpoint / "l")
    with tiny(links=("l",), mistyped=True, attr_timeout=0, entry_timeout=0) as fs:
        os.listdir(fs.mountpoint)
        assert (fs.mountpoint / "l").is_symlink()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_TRUNC])
def test_estale_from_open_is_tried_once_more(flags: int) -> None:
    with tiny(files=("a",), stale_opens=1) as fs:
        os.stat(fs.mountpoint / "a")
        os.close(os.open(fs.mountpoint / "a", flags))
        ops = fs.requests()
        opened = [r["inode"] for r in ops if r["op"] == "open"]
        assert len(opened) == 2
        assert opened[0] != opened[1]
    with tiny(files=("a",), stale_opens=2) as fs, refused(errno.ESTALE):
        os.open(fs.mountpoint / "a", flags)


def test_missing_names_can_be_remembered_and_create_overrides_it() -> None:
    with tiny(negative=60.0) as fs:
        assert all(missing(fs.mountpoint / "n") for _ in range(3))
        assert named(fs, "lookup") == ["lookup n"]
        os.close(os.open(fs.mountpoint / "n", os.O_CREAT | os.O_RDWR, 0o600))
        os.stat(fs.mountpoint / "n")
        assert named(fs, "lookup", "create") == ["create n"]


def test_enoent_is_not_remembered() -> None:
    with tiny() as fs:
        assert all(missing(fs.mountpoint / "n") for _ in range(3))
        assert named(fs, "lookup") == ["lookup n"] * 3


def opened_flags(fs: Tiny, name: str, flags: int) -> tuple[str, int]:
    fs.requests()
    os.close(os.open(fs.mountpoint / name, flags, 0o640))
    (request,) = [r for r in fs.requests() if r["op"] in ("open", "create")]
    return request["op"], request["flags"]


def test_flags_of_open_and_create() -> None:
    with tiny(files=("a",)) as fs:
        op, flags = opened_flags(fs, "a", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        assert (op, flags & (os.O_TRUNC | os.O_APPEND)) == ("open", os.O_TRUNC | os.O_APPEND)
        assert not flags & (os.O_CREAT | os.O_EXCL)
        wanted = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        op, flags = opened_flags(fs, "new", wanted)
        assert (op, flags & wanted) == ("create", wanted)
        with pytest.raises(FileExistsError):
            os.open(fs.mountpoint / "a", os.O_CREAT | os.O_EXCL)
        assert not fs.ops("open", "create")


def test_append_offsets_are_the_kernels() -> None:
    with tiny(files=("a",)) as fs:
        size = os.stat(fs.mountpoint / "a").st_size
        with (
            open(fs.mountpoint / "a", "ab", 0) as first,
            open(fs.mountpoint / "a", "ab", 0) as second,
        ):
            first.write(b"1")
            second.write(b"22")
            first.write(b"3")
        offsets = [r["offset"] for r in fs.requests() if r["op"] == "write"]
        assert offsets == [size, size + 1, size + 3]


def setattrs(fs: Tiny) -> list[Any]:
    return [(r["fields"], r["fh"]) for r in fs.requests() if r["op"] == "setattr"]


def test_set_ids_are_cleared_by_the_kernel_before_a_write_in_a_plain_mount() -> None:
    with tiny(files=("a",), modes={"a": 0o6777}, agreed=False, **OTHERS) as fs:
        path = fs.mountpoint / "a"

        def write() -> None:
            os.write(os.open(path, os.O_WRONLY), b"x")

        os.stat(path)
        fs.requests()
        as_user(write)
        requests = fs.requests()
        changes = [r for r in requests if r["op"] in ("setattr", "write")]
        assert [r["op"] for r in changes] == ["setattr", "write"]
        assert (changes[0]["fields"], changes[0]["mode"]) == (["mode"], 0o777)


def test_a_setattr_of_nothing_takes_set_ids_before_a_write() -> None:
    """It comes with HANDLE_KILLPRIV_V2 from who may not leave them."""
    with tiny(files=("a",), modes={"a": 0o6777}, **OTHERS) as fs:
        path = fs.mountpoint / "a"

        def write() -> None:
            os.write(os.open(path, os.O_WRONLY), b"x")

        os.stat(path)
        fs.requests()
        as_user(write)
        requests = fs.requests()
        changes = [r for r in requests if r["op"] in ("setattr", "write")]
        assert [r["op"] for r in changes] == ["setattr", "write"]
        assert changes[0]["fields"] == []
        assert os.stat(path).st_mode & 0o7777 == 0o777


@pytest.mark.needs_root("gives files away")
def test_cutting_and_giving_away_name_no_mode() -> None:
    with tiny(files=("a",), modes={"a": 0o6777}, **OTHERS) as fs:
        path = fs.mountpoint / "a"
        as_user(lambda: os.truncate(path, 1))
        os.chown(path, 7, 7)
        assert setattrs(fs) == [(["size"], False), (["uid", "gid"], False)]


def test_set_ids_survive_open_with_truncation() -> None:
    """With atomic O_TRUNC the kernel leaves clearing set-ids to us, where it is due."""
    with tiny(files=("a",), modes={"a": 0o6777}, **OTHERS) as fs:
        path = fs.mountpoint / "a"
        as_user(lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)))
        assert not setattrs(fs)


def test_default_permissions_are_checked_by_the_kernel() -> None:
    with tiny(files=("a",), **OTHERS) as fs:
        path = fs.mountpoint / "a"
        for action, wanted in (
            (lambda: os.chmod(path, 0o600), errno.EPERM),
            (lambda: os.chown(path, 1000, 1000), errno.EPERM),
            (lambda: os.utime(path), errno.EACCES),
            (lambda: os.utime(path, (1, 2)), errno.EPERM),
            (lambda: os.truncate(path, 0), errno.EACCES),
        ):
            with refused(wanted):
                as_user(action)
        assert not fs.ops("setattr")


@pytest.mark.needs_root("changes the group")
def test_fields_of_setattr() -> None:
    with tiny(files=("a",)) as fs:
        path = fs.mountpoint / "a"
        os.utime(path, ns=(1, 2))
        subprocess.check_call(["touch", "-a", path])
        subprocess.check_call(["touch", "-m", path])
        os.chmod(path, 0o600)
        os.chown(path, -1, 7)
        os.truncate(path, 1)
        with open(path, "r+b") as file:
            os.ftruncate(file.fileno(), 2)
            os.fchmod(file.fileno(), 0o640)
        assert setattrs(fs) == [
            (["atime", "mtime"], False),
            (["atime"], False),
            (["mtime"], False),
            (["mode"], False),
            (["gid"], False),
            (["size"], False),
            (["size"], True),
            (["mode"], False),
        ]


def test_flush_comes_at_each_close_and_its_error_arrives() -> None:
    with tiny(files=("a",), flush_errno=errno.EDQUOT) as fs:
        fd = os.open(fs.mountpoint / "a", os.O_WRONLY)
        for one in (os.dup(fd), fd):
            with refused(errno.EDQUOT):
                os.close(one)
        assert fs.ops("flush") == ["flush", "flush"]


def test_keep_cache_saves_the_second_read() -> None:
    for keep, reads in ((True, 1), (False, 2)):
        with tiny(files=("a",), keep_cache=keep) as fs:
            for _ in range(2):
                (fs.mountpoint / "a").read_bytes()
            assert len(fs.ops("read")) == reads


def test_mapped_pages_are_written_before_the_last_flush() -> None:
    with tiny(files=("a",)) as fs:
        fd = os.open(fs.mountpoint / "a", os.O_RDWR)
        mapped = mmap.mmap(fd, 4)
        mapped[0] = 90
        os.close(fd)
        assert fs.ops("write", "flush") == ["write", "flush"]
        mapped[1] = 90
        mapped.close()
        until(lambda: "release" in fs._record.read_text(), "RELEASE")
        assert fs.ops("write", "release") == ["write", "release"]


def test_getxattr_is_asked_at_writes() -> None:
    for supported, agreed, asked in ((True, False, 3), (True, True, 1), (False, True, 0)):
        with tiny(files=("a",), xattr=supported, agreed=agreed) as fs:
            os.truncate(fs.mountpoint / "a", 1)
            fs.requests()
            with open(fs.mountpoint / "a", "r+b", 0) as file:
                file.writelines([b"x"] * 3)
            assert len(fs.ops("getxattr")) == asked


def test_references_are_counted_by_entries_and_lookups() -> None:
    """Each answered entry and lookup is one reference; unlink gives all of them back together."""
    with tiny(files=("a",), entry_timeout=0) as fs:
        path = fs.mountpoint / "a"
        os.listdir(fs.mountpoint)
        for _ in range(2):
            os.stat(path)
        requests = fs.requests()
        given = sum(r["op"] in ("entry", "lookup") for r in requests)
        os.unlink(path)
        until(lambda: "forget" in fs._record.read_text(), "FORGET")
        requests = fs.requests()
        given += sum(r["op"] in ("entry", "lookup") for r in requests)
        assert sum(r["count"] for r in requests if r["op"] == "forget") == given


@pytest.mark.parametrize(("agreed", "together"), [(True, 4), (False, 1)])
def test_lookups_in_one_directory(agreed: bool, together: int) -> None:
    with tiny(delay=0.2, agreed=agreed) as fs, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda n: missing(fs.mountpoint / n), "abcd"))
        assert len(named(fs, "lookup")) == 4
        assert fs.overlapping() == together


def test_one_name_is_looked_up_once_by_all_who_want_it() -> None:
    with tiny(delay=0.2, negative=60.0) as fs, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: missing(fs.mountpoint / "a"), range(4)))
        assert named(fs, "lookup") == ["lookup a"]


def test_a_file_is_made_when_no_lookup_in_its_directory_is_under_way() -> None:
    with tiny(delay=0.2) as fs, ThreadPoolExecutor(2) as pool:
        looking = pool.submit(missing, fs.mountpoint / "a")
        until(lambda: '"lookup", "name": "a"' in fs._record.read_text(), "LOOKUP")
        os.close(os.open(fs.mountpoint / "b", os.O_CREAT | os.O_WRONLY))
        assert looking.result()
        assert fs.ops("looked", "create")[-2:] == ["looked", "create"]


@pytest.mark.needs_root("mounts fusectl")
def test_background_limits_without_sysfs(tmp_path: Path) -> None:
    subprocess.check_call(["mount", "-t", "fusectl", "fusectl", tmp_path])
    try:
        for agreed, limits in ((True, ["64", "48"]), (False, ["12", "9"])):
            with tiny(agreed=agreed) as fs:
                connection = tmp_path / str(os.minor(os.stat(fs.mountpoint).st_dev))
                files = (connection / name for name in ("max_background", "congestion_threshold"))
                assert [file.read_text().strip() for file in files] == limits
    finally:
        subprocess.check_call(["umount", tmp_path])


def test_an_ordinary_exception_ends_the_mount() -> None:
    with tiny(files=("a",), raise_on="a") as fs:
        with contextlib.suppress(OSError):
            os.open(fs.mountpoint / "a", os.O_RDONLY)
        assert fs.process.wait(10) != 0
