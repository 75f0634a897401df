"""Directories: their forms in the bucket, making and removing them, reading long ones."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

import pytest

from tests.conftest import Folder
from tests.harness.mounts import Mounts
from tests.harness.posix import DirectoryStream, fsync_path, refused
from tests.harness.witness import Witness

#: More than a page of a listing and than the kernel asks for at once.
MANY = 1200


def test_implicit_directories(foreign: Folder, module_bucket: Witness) -> None:
    module_bucket.put(foreign.prefix + "one/two/three/file", b"deep")
    assert (foreign / "one").is_dir()
    assert (foreign / "one/two/three/file").read_bytes() == b"deep"
    assert os.listdir(foreign.path) == ["one"]
    assert os.listdir(foreign / "one/two") == ["three"]
    assert (foreign / "one/two").stat().st_mode == stat.S_IFDIR | 0o755


KEPT, BESIDE = pytest.mark.needs("kept_markers"), pytest.mark.needs("beside")


@pytest.mark.parametrize(
    ("key", "content_type", "metadata"),
    [
        pytest.param("d/", "application/x-directory", {}, marks=KEPT),
        pytest.param("d/", "", {"mode": "493"}, marks=KEPT),
        pytest.param("d/", "binary/octet-stream", {"mode": "16877"}, marks=KEPT),
        ("d_$folder$", "", {}),
        pytest.param("d", "application/x-directory", {}, marks=BESIDE),
        pytest.param("d", "", {"mode": "16877"}, marks=BESIDE),
    ],
)
def test_forms_of_directory_markers(
    foreign: Folder,
    module_bucket: Witness,
    key: str,
    content_type: str,
    metadata: dict[str, str],
) -> None:
    module_bucket.put(foreign.prefix + key, b"", content_type=content_type, **metadata)
    assert (foreign / "d").is_dir()
    assert os.listdir(foreign.path) == ["d"]
    assert os.listdir(foreign / "d") == []
    assert stat.S_IMODE((foreign / "d").stat().st_mode) == 0o755
    (foreign / "d/file").write_text("x")
    assert os.listdir(foreign / "d") == ["file"]
    assert module_bucket.get(foreign.prefix + "d/file") == b"x"
    (foreign / "d/file").unlink()
    (foreign / "d").rmdir()
    assert not (foreign / "d").exists()
    assert not [k for k in module_bucket.keys(foreign.prefix) if k.startswith(foreign.prefix + "d")]


def test_folder_markers_of_hadoop(mount: Mounts, bucket: Witness) -> None:
    """A listing shows ``dir_$folder$`` always; only ``compat_dir`` looks a name up that way."""
    bucket.put("d_$folder$")
    bucket.put("full_$folder$")
    bucket.put("full/file")
    path = mount(bucket).path
    assert sorted(os.listdir(path)) == ["d", "full"]
    assert (path / "d").is_dir()
    assert os.listdir(path / "d") == []
    (path / "d").rmdir()
    assert sorted(os.listdir(path)) == ["full"]
    assert bucket.keys("d") == []


@pytest.mark.needs("marker_metadata")
@pytest.mark.needs("kept_markers")
def test_mkdir_writes_a_marker(here: Folder, module_bucket: Witness) -> None:
    (here / "d").mkdir(mode=0o750)
    head = module_bucket.head(here.prefix + "d/")
    assert head is not None
    assert head["ContentLength"] == 0
    assert head["ContentType"] == "application/x-directory"
    assert int(head["Metadata"]["mode"]) & 0o7777 == 0o750
    (here / "d").rmdir()
    assert not module_bucket.exists(here.prefix + "d/")


def test_mkdir_and_rmdir_refusals(folder: Folder) -> None:
    (folder / "d").mkdir()
    (folder / "f").write_text("x")
    for name in ("d", "f"):
        with refused(errno.EEXIST):
            (folder / name).mkdir()
    with refused(errno.ENOENT):
        (folder / "absent/d").mkdir()
    with refused(errno.ENOTDIR):
        (folder / "f/d").mkdir()
    with refused(errno.ENOTDIR):
        (folder / "f").rmdir()
    with refused(errno.ENOENT):
        (folder / "absent").rmdir()
    (folder / "d/file").write_text("x")
    with refused(errno.ENOTEMPTY):
        (folder / "d").rmdir()
    with refused(errno.EISDIR):
        (folder / "d").unlink()
    with refused(errno.EISDIR):
        (folder / "d").write_text("x")
    (folder / "d/file").unlink()
    (folder / "d").rmdir()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_directory_that_is_gone_has_no_links(folder: Folder, how: str) -> None:
    for name in ("d", "other"):
        (folder / name).mkdir()
    opened = os.open(folder / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert os.fstat(opened).st_nlink == 2
        if how == "removed":
            (folder / "d").rmdir()
        else:
            (folder / "other").rename(folder / "d")
        assert os.fstat(opened).st_nlink == 0
        assert os.listdir(opened) == []
    finally:
        os.close(opened)


@pytest.mark.needs("kept_markers")
def test_a_directory_stays_when_its_last_file_goes(foreign: Folder, module_bucket: Witness) -> None:
    for name in ("removed", "moved"):
        module_bucket.put(f"{foreign.prefix}{name}/file", b"x")
    (foreign / "removed/file").unlink()
    (foreign / "moved/file").rename(foreign / "file")
    for name in ("removed", "moved"):
        assert (foreign / name).is_dir()
        assert os.listdir(foreign / name) == []
        assert module_bucket.exists(f"{foreign.prefix}{name}/")


@pytest.mark.needs("kept_markers")
def test_a_directory_stays_when_its_last_directory_goes(
    foreign: Folder, module_bucket: Witness
) -> None:
    module_bucket.put(foreign.prefix + "outer/inner/", b"")
    (foreign / "outer/inner").rmdir()
    assert os.listdir(foreign / "outer") == []
    assert module_bucket.exists(foreign.prefix + "outer/")


def test_dot_entries_and_inode_numbers(folder: Folder) -> None:
    (folder / "d").mkdir()
    (folder / "f").write_text("x")
    entries = {entry.name: entry.inode() for entry in os.scandir(folder.path)}
    for name, inode in entries.items():
        assert (folder / name).stat().st_ino == inode
    assert len(set(entries.values())) == 2
    assert (folder / "d/..").stat().st_ino == folder.path.stat().st_ino
    assert (folder / "d/.").stat().st_ino == (folder / "d").stat().st_ino


def test_types_in_a_listing_are_true(folder: Folder) -> None:
    (folder / "d").mkdir()
    (folder / "f").write_text("x")
    (folder / "l").symlink_to("f")
    kinds = {
        entry.name: (entry.is_dir(follow_symlinks=False), entry.is_file(), entry.is_symlink())
        for entry in os.scandir(folder.path)
    }
    assert kinds == {
        "d": (True, False, False),
        "f": (False, True, False),
        "l": (False, True, True),
    }


def test_link_count_counts_subdirectories(folder: Folder) -> None:
    assert folder.path.stat().st_nlink in (1, 2)
    before = folder.path.stat().st_nlink
    (folder / "d").mkdir()
    (folder / "f").write_text("x")
    after = folder.path.stat().st_nlink
    assert after == before + 1 or before == after == 1
    assert (folder / "f").stat().st_nlink == 1


def test_directory_times_follow_changes(folder: Folder) -> None:
    """Making, renaming and removing an entry changes the directory's mtime and ctime."""
    (folder / "d").mkdir()
    directory = folder / "d"

    def changed(action: Callable[[], object]) -> bool:
        os.utime(directory, (1_000_000_000, 1_000_000_000))
        before = time.time() - 60
        action()
        info = directory.stat()
        return info.st_mtime > before and info.st_ctime > before

    assert changed(lambda: (directory / "f").write_text("x"))
    assert changed(lambda: (directory / "f").rename(directory / "g"))
    assert changed((directory / "sub").mkdir)
    assert changed((directory / "sub").rmdir)
    assert changed((directory / "g").unlink)


@pytest.mark.needs("marker_metadata")
def test_times_of_a_directory_with_entries(folder: Folder, module_bucket: Witness) -> None:
    """``cp -a``, ``tar`` and ``rsync`` set a directory's times after they have filled it."""
    (folder / "d/sub").mkdir(parents=True)
    (folder / "d/file").write_text("x")
    for when in (1_400_000_000_123_456_789, 0):
        os.utime(folder / "d", ns=(when, when))
        assert (folder / "d").stat().st_mtime_ns == when
    fsync_path(folder / "d")
    if not folder.local:
        assert float(module_bucket.metadata(folder.prefix + "d/")["mtime"]) == 0
    (folder / "d/file").write_text("changed")
    assert (folder / "d").stat().st_mtime_ns == 0


def test_reading_a_long_directory(mount: Mounts, bucket: Witness) -> None:
    bucket.put_many({f"long/{number:05}": b"" for number in range(MANY)})
    mounted = mount(bucket)
    names = os.listdir(mounted.path / "long")
    assert len(names) == MANY
    assert sorted(names) == [f"{number:05}" for number in range(MANY)]
    _positions_hold(DirectoryStream(mounted.path / "long"), names)


def _positions_hold(stream: DirectoryStream, names: list[str]) -> None:
    """telldir, seekdir and rewinddir in a stream of `names`."""
    marks = {}
    for number, name in enumerate(names):
        if number % 500 == 3:
            marks[number] = stream.tell()
        assert stream.read() == name
    for number in reversed(list(marks)):
        stream.seek(marks[number])
        assert stream.rest() == names[number:]
    stream.rewind()
    assert stream.rest() == names
    stream.close()


def test_positions_in_a_short_directory(folder: Folder) -> None:
    for number in range(20):
        (folder / f"f{number}").write_text("")
    names = os.listdir(folder.path)
    _positions_hold(DirectoryStream(folder.path), names)


def test_removing_while_reading(folder: Folder) -> None:
    """``rm -r`` style: entries are removed as the stream goes on; each is seen exactly once."""
    wanted = {f"f{number:03}" for number in range(60)}
    for name in wanted:
        (folder / name).write_text("")
    stream = DirectoryStream(folder.path)
    seen = []
    while (name := stream.read()) is not None:
        seen.append(name)
        (folder / name).unlink()
    stream.close()
    assert sorted(seen) == sorted(wanted)
    assert os.listdir(folder.path) == []


def test_entries_made_while_reading_appear_after_rewind(folder: Folder) -> None:
    (folder / "old").write_text("")
    stream = DirectoryStream(folder.path)
    assert stream.rest() == ["old"]
    (folder / "new").write_text("")
    stream.rewind()
    assert sorted(stream.rest()) == ["new", "old"]
    stream.close()


def test_an_open_directory_that_is_removed_reads_empty(folder: Folder) -> None:
    (folder / "d").mkdir()
    fd = os.open(folder / "d", os.O_RDONLY)
    try:
        (folder / "d").rmdir()
        assert os.listdir(fd) == []
        with refused(errno.ENOENT):
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    finally:
        os.close(fd)


@pytest.mark.needs("kept_markers")
def test_a_prefix_is_the_root(mount: Mounts, bucket: Witness) -> None:
    bucket.put("inside/deep/file", b"x")
    bucket.put("outside", b"y")
    mounted = mount(bucket, prefix="inside/deep")
    assert os.listdir(mounted.path) == ["file"]
    (mounted.path / "new").write_text("z")
    (mounted.path / "d").mkdir()
    assert bucket.get("inside/deep/new") == b"z"
    assert bucket.exists("inside/deep/d/")
    assert bucket.get("outside") == b"y"


def test_changes_of_others_show_after_the_listing_expires(
    foreign: Folder, module_bucket: Witness
) -> None:
    module_bucket.put(foreign.prefix + "one", b"1")
    assert os.listdir(foreign.path) == ["one"]
    module_bucket.put(foreign.prefix + "two", b"2")
    module_bucket.delete(foreign.prefix + "one")
    assert os.listdir(foreign.path) == ["two"]
    assert not (foreign / "one").exists()
    assert (foreign / "two").read_bytes() == b"2"
