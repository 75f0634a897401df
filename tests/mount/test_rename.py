"""Renaming: POSIX's rules, what lies in the bucket afterwards, and state that follows the file."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from tests.conftest import Folder
from tests.harness.acquaint import acquaint
from tests.harness.http import Request
from tests.harness.mounts import Mounts
from tests.harness.posix import RENAME_EXCHANGE, RENAME_NOREPLACE, refused, renameat2
from tests.harness.proxy import Proxy
from tests.harness.seaweedfs import seaweedfs
from tests.harness.waiting import until
from tests.harness.witness import Witness


@pytest.mark.needs("markers")
def test_a_file_gets_a_new_key(here: Folder, module_bucket: Witness) -> None:
    (here / "old").write_bytes(b"content")
    os.chmod(here / "old", 0o640)
    os.utime(here / "old", ns=(1_500_000_000_000_000_001, 1_600_000_000_000_000_002))
    (here / "old").rename(here / "new")
    assert module_bucket.keys(here.prefix) == [here.prefix, here.prefix + "new"]
    assert module_bucket.get(here.prefix + "new") == b"content"
    info = (here / "new").stat()
    assert (info.st_mode & 0o7777, info.st_mtime_ns) == (0o640, 1_600_000_000_000_000_002)
    assert not (here / "old").exists()


def test_over_an_existing_file(folder: Folder, module_bucket: Witness) -> None:
    (folder / "a").write_bytes(b"winner")
    (folder / "b").write_bytes(b"a longer loser")
    (folder / "a").rename(folder / "b")
    assert os.listdir(folder.path) == ["b"]
    assert (folder / "b").read_bytes() == b"winner"
    if not folder.local:
        assert module_bucket.get(folder.prefix + "b") == b"winner"
        assert not module_bucket.exists(folder.prefix + "a")


def test_refusals(folder: Folder) -> None:
    (folder / "file").write_text("x")
    (folder / "dir/sub").mkdir(parents=True)
    (folder / "full").mkdir()
    (folder / "full/f").write_text("x")
    cases = [
        ("file", "dir", errno.EISDIR),
        ("dir", "file", errno.ENOTDIR),
        ("dir", "full", errno.ENOTEMPTY),
        ("dir", "dir/sub/inside", errno.EINVAL),
        ("dir/sub", "dir", errno.ENOTEMPTY),
        ("absent", "x", errno.ENOENT),
        ("file", "absent/x", errno.ENOENT),
        ("file", "file/x", errno.ENOTDIR),
        ("dir", "full/f", errno.ENOTDIR),
    ]
    for old, new, number in cases:
        with refused(number):
            os.rename(folder / old, folder / new)
    assert sorted(os.listdir(folder.path)) == ["dir", "file", "full"]


def test_onto_itself_does_nothing(folder: Folder) -> None:
    (folder / "f").write_text("x")
    (folder / "d").mkdir()
    os.rename(folder / "f", folder / "f")
    os.rename(folder / "d", folder / "d")
    assert (folder / "f").read_text() == "x"


@pytest.mark.needs("markers")
def test_a_directory_over_an_empty_one(folder: Folder, module_bucket: Witness) -> None:
    (folder / "a/sub").mkdir(parents=True)
    (folder / "a/sub/f").write_text("x")
    (folder / "b").mkdir()
    (folder / "a").rename(folder / "b")
    assert os.listdir(folder.path) == ["b"]
    assert (folder / "b/sub/f").read_text() == "x"
    if not folder.local:
        p = folder.prefix
        assert module_bucket.keys(p + "a") == []
        assert set(module_bucket.keys(p + "b")) >= {f"{p}b/", f"{p}b/sub/", f"{p}b/sub/f"}


def test_a_directory_with_everything_below(folder: Folder) -> None:
    for name in ("d/one", "d/e/two", "d/e/g/three"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "d/link").symlink_to("one")
    (folder / "d/empty").mkdir()
    (folder / "to").mkdir()
    (folder / "d").rename(folder / "to/moved")
    assert sorted(os.listdir(folder / "to/moved")) == ["e", "empty", "link", "one"]
    assert (folder / "to/moved/e/g/three").read_text() == "d/e/g/three"
    assert os.readlink(folder / "to/moved/link") == "one"
    assert (folder / "to/moved/link").read_text() == "d/one"
    assert not (folder / "d").exists()
    (folder / "d").mkdir()
    assert os.listdir(folder / "d") == []


@pytest.mark.needs("any_key")
def test_hidden_keys_move_with_their_directory(foreign: Folder, module_bucket: Witness) -> None:
    module_bucket.put(foreign.prefix + "d/seen", b"1")
    module_bucket.put(foreign.prefix + "d//hidden", b"2")
    (foreign / "d").rename(foreign / "e")
    assert module_bucket.get(foreign.prefix + "e//hidden") == b"2"
    assert not module_bucket.exists(foreign.prefix + "d//hidden")


def test_noreplace(folder: Folder) -> None:
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")
    with refused(errno.EEXIST):
        renameat2(folder / "a", folder / "b", RENAME_NOREPLACE)
    renameat2(folder / "a", folder / "c", RENAME_NOREPLACE)
    assert sorted(os.listdir(folder.path)) == ["b", "c"]
    assert (folder / "b").read_text() == "b"


def test_exchange_is_not_supported(here: Folder) -> None:
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    with refused(errno.EINVAL):
        renameat2(here / "a", here / "b", RENAME_EXCHANGE)
    assert ((here / "a").read_text(), (here / "b").read_text()) == ("a", "b")


def test_an_open_file_is_read_on_under_its_new_name(folder: Folder) -> None:
    (folder / "a").write_bytes(b"0123456789")
    with open(folder / "a", "rb", 0) as file:
        assert file.read(2) == b"01"
        (folder / "a").rename(folder / "b")
        assert file.read(2) == b"23"
        (folder / "b").rename(folder / "c")
        assert file.read() == b"456789"
        assert os.fstat(file.fileno()).st_ino == (folder / "c").stat().st_ino


def test_the_replaced_file_stays_readable_where_it_is_open(folder: Folder) -> None:
    (folder / "old").write_bytes(b"old content")
    (folder / "new").write_bytes(b"new")
    with open(folder / "old", "rb", 0) as file:
        assert file.read(3) == b"old"
        (folder / "new").rename(folder / "old")
        assert file.read() == b" content"
    assert (folder / "old").read_bytes() == b"new"


@pytest.mark.needs("markers")
def test_a_dirty_file_is_uploaded_under_its_new_name(
    folder: Folder, module_bucket: Witness
) -> None:
    with open(folder / "a", "wb", 0) as file:
        file.write(b"first ")
        (folder / "a").rename(folder / "b")
        file.write(b"second")
        assert os.listdir(folder.path) == ["b"]
    assert (folder / "b").read_bytes() == b"first second"
    if not folder.local:
        keys = module_bucket.keys(folder.prefix)
        assert keys == [folder.prefix, folder.prefix + "b"]
        assert module_bucket.get(folder.prefix + "b") == b"first second"


def test_a_dirty_file_follows_its_parent(folder: Folder, module_bucket: Witness) -> None:
    (folder / "outer/inner").mkdir(parents=True)
    with open(folder / "outer/inner/f", "wb", 0) as file:
        file.write(b"before ")
        (folder / "outer").rename(folder / "moved")
        file.write(b"after")
    assert (folder / "moved/inner/f").read_bytes() == b"before after"
    if not folder.local:
        assert module_bucket.get(folder.prefix + "moved/inner/f") == b"before after"
        assert module_bucket.keys(folder.prefix + "outer") == []


def test_a_dirty_file_over_another(folder: Folder, module_bucket: Witness) -> None:
    (folder / "target").write_bytes(b"old")
    with open(folder / "temp", "wb", 0) as file:
        file.write(b"new")
        (folder / "temp").rename(folder / "target")
        file.write(b"er")
    assert (folder / "target").read_bytes() == b"newer"
    if not folder.local:
        assert module_bucket.get(folder.prefix + "target") == b"newer"
        assert not module_bucket.exists(folder.prefix + "temp")


def test_onto_a_file_that_is_dirty(folder: Folder) -> None:
    """What is written to a file after it was replaced goes nowhere, as to an unlinked one."""
    (folder / "new").write_bytes(b"new")
    with open(folder / "target", "wb", 0) as file:
        file.write(b"dirty")
        (folder / "new").rename(folder / "target")
        file.write(b" more")
    assert (folder / "target").read_bytes() == b"new"


@pytest.mark.time_limit(90)
def test_readers_never_miss_a_file_that_is_replaced(folder: Folder) -> None:
    """The editors' way to save: write aside and rename over. There is always one or the other."""
    target = folder / "target"
    target.write_bytes(b"0")
    trouble: list[OSError] = []
    seen: set[bytes] = set()
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                seen.add(target.read_bytes())
                target.stat()
        except OSError as exc:
            trouble.append(exc)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 16):
        (folder / "temp").write_bytes(str(number).encode())
        (folder / "temp").rename(target)
    stop.set()
    reader.join()
    assert not trouble
    assert seen <= {str(number).encode() for number in range(16)}
    assert target.read_bytes() == b"15"


def test_metadata_set_while_open_survives_rename(folder: Folder) -> None:
    with open(folder / "a", "wb", 0) as file:
        file.write(b"x")
        os.fchmod(file.fileno(), 0o600)
        (folder / "a").rename(folder / "b")
        os.utime(file.fileno(), ns=(3, 1_600_000_000_000_000_004))
    info = (folder / "b").stat()
    assert (info.st_mode & 0o7777, info.st_mtime_ns) == (0o600, 1_600_000_000_000_000_004)


class TestAnotherClient:
    """It writes the same names while a rename is under way, and loses nothing by that."""

    @pytest.mark.parametrize("old", ["d/old", "d"])
    def test_under_the_old_name(
        self, bucket: Witness, mount: Mounts, counted: Proxy, old: str
    ) -> None:
        """Wherever the endpoint honours no condition, up to the look before the deletion."""
        bucket.put_many({"d/old": b"mine", "d/1": b"1", "d/2": b"2"})
        path = mount(bucket, url=counted.url).path
        assert sorted(os.listdir(path / "d")) == ["1", "2", "old"]
        assert (path / "d/old").stat().st_size == 4
        wrote: list[Request] = []

        def store_theirs(request: Request) -> bool:
            is_next = request.operation not in ("CopyObject", "GetObject")
            copied = bucket.exists("new") or bucket.exists("new/old")
            if copied and is_next and not wrote:
                bucket.put("d/old", b"theirs")
                wrote.append(request)
            return False

        with counted.fault(when=store_theirs):
            (path / old).rename(path / "new")
        assert len(wrote) == 1
        assert (path / "d/old").read_bytes() == bucket.get("d/old") == b"theirs"
        new = path / "new" if old == "d/old" else path / "new/old"
        assert new.read_bytes() == b"mine"
        assert bucket.exists("d/1") == (old == "d/old")

    @pytest.mark.needs("conditions")
    def test_under_the_new_name(self, bucket: Witness, mount: Mounts, counted: Proxy) -> None:
        """At an endpoint that honours conditions on what a copy replaces; they write just then."""
        bucket.put_many({"a": b"mine", "b": b"mine, too", "over": b"old", "d/f": b"f"})

        theirs = {"free", "e/f", "over", "other"}

        def is_false(request: Request) -> bool:
            if request.key in theirs:
                theirs.remove(request.key)
                bucket.put(request.key, b"theirs")
            found = bucket.head(request.key)
            wanted = request.headers.get("if-match")
            is_other = wanted is not None and (
                found is None or found["ETag"].strip('"') != wanted.strip('"')
            )
            return is_other or ("if-none-match" in request.headers and found is not None)

        with counted.fault("CopyObject", when=is_false, status=412, code="PreconditionFailed"):
            mounted = mount(bucket, url=counted.url, start=False)
            acquaint(mounted)
            mounted.start()
            path = mounted.path
            for name in os.listdir(path):
                (path / name).stat()
            counted.clear()
            with refused(errno.EEXIST):
                renameat2(path / "a", path / "free", RENAME_NOREPLACE)
            with refused(errno.EEXIST):
                renameat2(path / "d", path / "e", RENAME_NOREPLACE)
            assert bucket.get("free") == bucket.get("e/f") == b"theirs"
            assert (path / "free").read_bytes() == (path / "e/f").read_bytes() == b"theirs"
            assert (bucket.get("a"), bucket.get("d/f")) == (b"mine", b"f")
            # it may be replaced: the kernel looks, and asks again
            (path / "a").rename(path / "over")
            (path / "b").rename(path / "other")
        assert (bucket.get("over"), bucket.get("other")) == (b"mine", b"mine, too")
        assert sorted(bucket.keys()) == ["d/f", "e/f", "free", "other", "over"]
        copies = [(r.key, r.status) for r in counted.requests if r.operation == "CopyObject"]
        assert copies == [
            ("free", 412), ("e/f", 412), ("over", 412), ("over", 200), ("other", 412),
            ("other", 200),
        ]  # fmt: skip


@pytest.mark.needs("markers")
def test_directories_at_a_server_that_copies_no_markers(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    mounted = mount(bucket, url=counted.url)
    (mounted.path / "d/e").mkdir(parents=True)
    (mounted.path / "d/file").write_text("x")
    with seaweedfs(counted) as fault:
        (mounted.path / "d").rename(mounted.path / "new")
        assert fault.struck == 2
    assert bucket.keys() == ["new/", "new/e/", "new/file"]
    mounted.remount()
    assert sorted(os.listdir(mounted.path / "new")) == ["e", "file"]


@pytest.mark.needs("markers")
def test_a_directory_whose_originals_cannot_be_deleted(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    """The call fails; what programs make under each name from then on is there in the bucket."""
    bucket.put("d/f", b"1")
    bucket.put("d/g", b"2")
    mounted = mount(bucket, "retries=1", "open_ttl=60", url=counted.url)
    mounted.expected.append("AccessDenied|made up by the proxy")
    old, new = mounted.path / "d", mounted.path / "e"
    number = old.stat().st_ino
    assert not new.exists()
    with (
        counted.fault("DeleteObjects", status=403, code="AccessDenied"),
        counted.fault("DeleteObject", status=403, code="AccessDenied"),
        refused(errno.EACCES),
    ):
        old.rename(new)
    until(lambda: new.exists() and old.stat().st_ino != number, "the kernel to ask again")
    (old / "old").write_bytes(b"old")
    (new / "new").write_bytes(b"new")
    for directory, made in ((old, "old"), (new, "new")):
        assert sorted(os.listdir(directory)) == ["f", "g", made]
        assert bucket.exists(f"{directory.name}/{made}")
