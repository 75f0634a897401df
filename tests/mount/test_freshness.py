"""How soon what other clients write shows, and what looking for it costs."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.harness.mounts import Mount, Mounts
from tests.harness.posix import fsync_path, is_gone, refused
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

#: Entries that take the kernel several requests to read.
MANY = 1200


@pytest.fixture
def mounted(bucket: Witness, mount: Mounts, counted: Proxy) -> Callable[..., Mount]:
    """Mounts the bucket through the proxy; what is known to exist is trusted for an hour."""

    def start(*options: str) -> Mount:
        made = mount(bucket, "stat_cache_expire=1h", *options, url=counted.url)
        counted.clear()
        return made

    return start


@pytest.mark.parametrize("open_ttl", ["0", "500ms"])
def test_what_others_do_shows_in_the_next_listing(
    mounted: Callable[..., Mount], bucket: Witness, open_ttl: str
) -> None:
    bucket.put_many({"d/stays": b"1", "d/goes": b"1", "d/grows": b"1"})
    path = mounted(f"open_ttl={open_ttl}").path / "d"
    assert sorted(os.listdir(path)) == ["goes", "grows", "stays"]
    for name in os.listdir(path):
        (path / name).stat()  # the kernel may keep that for an hour
    bucket.put_many({"d/new": b"2", "d/sub/new": b"3", "d/grows": b"12345"})
    bucket.delete("d/goes")
    until(lambda: sorted(os.listdir(path)) == ["grows", "new", "stays", "sub"], "others' changes")
    until(lambda: is_gone(path / "goes"), "the kernel has forgotten what a listing did not show")
    assert (path / "new").read_bytes() == b"2"
    assert (path / "sub/new").read_bytes() == b"3"
    assert (path / "grows").stat().st_size == 5
    assert (path / "grows").read_bytes() == b"12345"


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("open_ttl", ["0", "500ms"])
def test_a_name_that_was_free_is_found_once_others_have_made_it(
    mounted: Callable[..., Mount], bucket: Witness, open_ttl: str, listed: bool
) -> None:
    bucket.put("d/f", b"1")
    path = mounted(f"open_ttl={open_ttl}").path / "d"
    if listed:
        os.listdir(path)
    for name in ("new", "sub"):
        assert is_gone(path / name)
    bucket.put_many({"d/new": b"22", "d/sub/deep": b"333"})
    until(lambda: not is_gone(path / "new"), "the new file")
    assert (path / "new").stat().st_size == 2
    assert (path / "new").read_bytes() == b"22"
    until((path / "sub").is_dir, "the new directory")
    assert (path / "sub/deep").read_bytes() == b"333"


def test_a_listing_is_asked_for_once_as_long_as_it_is_young(
    mounted: Callable[..., Mount], bucket: Witness, counted: Proxy
) -> None:
    bucket.put_many({f"{n:02}": b"1" for n in range(20)})
    path = mounted("open_ttl=60").path
    subprocess.check_output(["ls", "-l", str(path)])
    counted.clear()
    for command in (["ls"], ["ls", "-l"], ["find"]):
        subprocess.check_output([*command, str(path)])
    for number in range(300):
        assert is_gone(path / f"no{number}")
    assert counted.counts() == {}, counted.story()


def test_a_listing_that_is_not_young_is_one_list(
    mounted: Callable[..., Mount], bucket: Witness, counted: Proxy
) -> None:
    bucket.put_many({f"{n:02}": b"1" for n in range(20)})
    path = mounted("open_ttl=0").path
    subprocess.check_output(["ls", "-l", str(path)])
    for command in (["ls"], ["ls", "-l"], ["find"]):
        counted.clear()
        subprocess.check_output([*command, str(path)])
        assert counted.counts() == {"ListObjectsV2": 1}, counted.story()


@pytest.mark.parametrize("options", [("immutable",), ("immutable", "open_ttl=0")])
def test_immutable_data_is_asked_for_once(
    mount: Mounts, bucket: Witness, counted: Proxy, options: tuple[str, ...]
) -> None:
    bucket.put_many({f"d{n}/f": b"1" for n in range(3)})
    path = mount(bucket, *options, url=counted.url).path
    subprocess.check_output(["ls", "-lR", str(path)])
    assert is_gone(path / "d0/new")
    bucket.put("d0/new", b"2")
    counted.clear()
    shown = subprocess.check_output(["ls", "-lR", str(path)], text=True)
    assert is_gone(path / "d0/new") == ("new" not in shown)
    if "open_ttl=0" in options:
        assert "new" in shown, "what is given beside it wins"
    else:
        assert counted.counts() == {}, counted.story()


def test_an_open_directory_is_read_on_while_it_is_listed_anew(
    mounted: Callable[..., Mount], bucket: Witness
) -> None:
    """What is there all the time comes once, whatever changes meanwhile."""
    bucket.put_many({f"d/{number:04}" + "x" * 100: b"" for number in range(MANY)})
    path = mounted("open_ttl=0").path / "d"
    before = set(os.listdir(path))
    with os.scandir(path) as entries:
        read = [next(entries).name]
        went = sorted(before)[1000:1010]
        bucket.delete(*(f"d/{name}" for name in went))
        bucket.put_many({f"d/0500new{n}": b"" for n in range(10)})
        (path / "0001own").touch()
        assert len(os.listdir(path)) == MANY + 1
        read += [entry.name for entry in entries]
    assert len(read) == len(set(read))
    assert before - set(went) <= set(read)
    assert not set(went) & set(read), "they were gone before the kernel came to them"


def test_creating_what_others_have_just_made(
    mounted: Callable[..., Mount], bucket: Witness
) -> None:
    path = mounted("open_ttl=0").path
    assert os.listdir(path) == []
    bucket.put("taken", b"theirs")
    with pytest.raises(FileExistsError):
        os.open(path / "taken", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with pytest.raises(OSError, match=os.strerror(errno.EEXIST)):
        (path / "taken").mkdir()
    assert bucket.get("taken") == b"theirs"


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("flags", [os.O_TRUNC, os.O_APPEND, 0])
def test_who_may_create_a_file_does_so_when_others_have_removed_it(
    mounted: Callable[..., Mount], bucket: Witness, flags: int, held: bool
) -> None:
    path = mounted("open_ttl=0").path / "f"
    path.write_bytes(b"old")
    with path.open("rb") if held else nullcontext():
        bucket.delete("f")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
        os.write(fd, b"new")
        os.close(fd)
    assert bucket.get("f") == path.read_bytes() == b"new"


def opened(path: Path, flags: int) -> bytes:
    """Opened as a shell does, and read or written to, without a look at what it is."""
    descriptor = os.open(path, flags)
    try:
        if flags & os.O_ACCMODE == os.O_RDONLY:
            return os.read(descriptor, 100)
        os.write(descriptor, b"written")
        return b""
    finally:
        os.close(descriptor)


LINK = {"mode": str(stat.S_IFLNK | 0o777)}


@pytest.mark.needs("metadata")
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("look", ["stat", "read", "write", "cut", "chmod"])
def test_a_file_that_others_made_a_link(
    mounted: Callable[..., Mount], bucket: Witness, look: str, listed: bool
) -> None:
    """It is followed; the link's own bytes, which are its target, are neither read nor written."""
    bucket.put("d/f", b"a file")
    bucket.put("d/target", b"of the link")
    path = mounted("open_ttl=0").path / "d" / "f"
    assert path.stat().st_size == 6
    bucket.put("d/f", b"target", **LINK)
    if listed:
        os.listdir(path.parent)
    if look == "stat" and listed:  # else that may be as old as `stat_cache_expire`
        assert path.stat().st_size == 11
        assert path.is_symlink()
    elif look == "read":
        assert opened(path, os.O_RDONLY) == b"of the link"
    elif look == "write":
        opened(path, os.O_WRONLY | os.O_TRUNC)
        assert bucket.get("d/target") == b"written"
    elif look == "cut":
        os.truncate(path, 2)
        assert bucket.get("d/target") == b"of"
    elif look == "chmod":
        path.chmod(0o600)
        fsync_path(path)
        assert bucket.metadata("d/target")["mode"] == str(stat.S_IFREG | 0o600)
    assert bucket.get("d/f") == b"target"
    assert bucket.metadata("d/f") == LINK


@pytest.mark.needs("metadata")
@pytest.mark.parametrize("look", [Path.lstat, Path.read_bytes, os.readlink])
def test_a_link_that_others_made_a_file(
    mounted: Callable[..., Mount], bucket: Witness, look: Callable[[Path], object]
) -> None:
    """Its bytes are no target of a link."""
    bucket.put("d/f", b"target", **LINK)
    bucket.put("d/target", b"of the link")
    path = mounted("open_ttl=0").path / "d" / "f"
    assert path.read_bytes() == b"of the link"
    bucket.put("d/f", b"a file")
    os.listdir(path.parent)
    if look is os.readlink:
        with refused(errno.EINVAL):
            look(path)
    else:
        look(path)
    assert path.read_bytes() == b"a file"
    assert not path.is_symlink()


def cut(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("use", [Path.read_bytes, cut])
def test_who_may_not_is_told_that_there_is_none(
    mounted: Callable[..., Mount], bucket: Witness, use: Callable[[Path], object]
) -> None:
    path = mounted("open_ttl=0").path / "f"
    path.write_bytes(b"")
    path.stat()
    bucket.delete("f")
    with refused(errno.ENOENT):
        use(path)
    assert not bucket.exists("f")
