"""Mode, owner and times: what POSIX wants, and how it stands in the bucket."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Folder
from tests.harness.mounts import Mounts, as_user
from tests.harness.posix import fsync_path, refused
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

MTIME, ATIME = 1_600_000_000_123_456_789, 1_500_000_000_000_000_001


def mode(folder: Folder, name: str) -> int:
    return stat.S_IMODE(os.lstat(folder / name).st_mode)


@pytest.mark.needs("marker_metadata")
@pytest.mark.parametrize(
    "bits",
    [
        pytest.param(0o000, marks=pytest.mark.needs_root("opens what nobody may read")),
        *(0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o1777),
    ],
)
def test_chmod(folder: Folder, module_bucket: Witness, bits: int) -> None:
    (folder / "f").write_text("x")
    (folder / "d").mkdir()
    for name in ("f", "d"):
        os.chmod(folder / name, bits)
        assert mode(folder, name) == bits
        fsync_path(folder / name)
    if not folder.local:
        written = module_bucket.metadata(folder.prefix + "f")["mode"]
        assert written == str(stat.S_IFREG | bits)
        written = module_bucket.metadata(folder.prefix + "d/")["mode"]
        assert int(written) & 0o7777 == bits
    os.chmod(folder / "d", 0o755)


def test_the_mode_asked_for_at_creation(folder: Folder, module_bucket: Witness) -> None:
    old = os.umask(0o027)
    try:
        os.close(os.open(folder / "f", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(folder / "d", 0o777)
        os.close(os.open(folder / "readonly", os.O_CREAT | os.O_RDWR, 0o444))
    finally:
        os.umask(old)
    assert (mode(folder, "f"), mode(folder, "d"), mode(folder, "readonly")) == (0o640, 0o750, 0o440)
    if not folder.local:
        assert module_bucket.metadata(folder.prefix + "f")["mode"] == str(0o100640)


def overwrite(path: Path) -> None:
    path.write_bytes(b"new")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.chmod(0o600),
        lambda path: os.utime(path, (1, 2)),
        pytest.param(overwrite, marks=pytest.mark.needs_root("writes to a file of mode 0000")),
    ],
)
def test_what_stands_for_unreadable_attributes_is_not_stored(
    mount: Mounts, bucket: Witness, counted: Proxy, change: Callable[[Path], object]
) -> None:
    """The object may be read again, or by others: what it carries stays."""
    said = {"mode": str(stat.S_IFREG | 0o640), "gid": "7", "color": "red"}
    bucket.put("d/f", b"old", content_type="text/x-odd", **said)
    mounted = mount(bucket, "open_ttl=1h", url=counted.url)
    mounted.expected.append("failed with EACCES")
    path = mounted.path / "d" / "f"
    with (
        counted.fault("HeadObject", status=403, code="AccessDenied"),
        counted.fault("GetObject", status=403, code="AccessDenied"),
    ):
        os.listdir(path.parent)
        assert path.stat().st_mode == stat.S_IFREG
        with refused(errno.EACCES):
            change(path)
    change(path)
    fsync_path(path)
    found = bucket.head("d/f")
    assert found is not None
    assert (found["ContentType"], found["Metadata"]["color"]) == ("text/x-odd", "red")
    assert found["Metadata"]["gid"] == "7"
    assert found["Metadata"]["mode"] in (said["mode"], str(stat.S_IFREG | 0o600))


@pytest.mark.parametrize("body", [b"old", b"newer"])
@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.chmod(0o600),
        lambda path: os.utime(path, (1, 2)),
        lambda path: os.setxattr(path, "user.a", b"1"),
        lambda path: os.removexattr(path, "user.s3.metadata.shape"),
    ],
)
def test_what_others_have_set_stays(
    mount: Mounts, bucket: Witness, change: Callable[[Path], object], body: bytes
) -> None:
    """An attribute is stored together with all the others: those that the bucket has now."""
    said = {"mode": str(stat.S_IFREG | 0o666), "color": "red", "shape": "round"}
    bucket.put("d/f", b"old", content_type="text/x-odd", **said)
    path = mount(bucket, "open_ttl=500ms", "stat_cache_expire=1h").path / "d" / "f"
    assert path.stat().st_mode & 0o777 == 0o666
    time.sleep(1)  # another second, too: Last-Modified has whole ones
    bucket.put("d/f", body, content_type="text/y-odd", **said | {"color": "blue", "gid": "7"})
    change(path)
    fsync_path(path)
    found = bucket.head("d/f")
    assert found is not None
    assert bucket.get("d/f") == body
    assert (found["ContentType"], found["Metadata"]["color"]) == ("text/y-odd", "blue")
    assert found["Metadata"]["gid"] == "7"
    assert found["Metadata"]["ctime"], "the change is stored"


@pytest.mark.parametrize("listed", [False, True])
def test_what_others_have_set_while_it_is_open(
    mount: Mounts, bucket: Witness, listed: bool
) -> None:
    bucket.put("d/f", b"old", mode=str(stat.S_IFREG | 0o640), color="red")
    path = mount(bucket, "open_ttl=500ms", "stat_cache_expire=1h").path / "d" / "f"
    with path.open("rb") as opened:
        assert opened.read() == b"old"
        time.sleep(1)  # another second, too: Last-Modified has whole ones
        bucket.put("d/f", b"old", mode=str(stat.S_IFREG | 0o640), color="blue", gid="7")
        if listed:
            assert os.listdir(path.parent) == ["f"]
        path.chmod(0o600)
        assert (path.stat().st_mode & 0o777, path.stat().st_gid) == (0o600, 7)
        fsync_path(path)
        opened.seek(0)
        assert opened.read() == b"old"
    assert bucket.metadata("d/f")["color"] == "blue"
    assert bucket.metadata("d/f")["mode"] == str(stat.S_IFREG | 0o600)


@pytest.mark.needs_root("changes the owner")
def test_chown(folder: Folder, module_bucket: Witness) -> None:
    (folder / "f").write_text("x")
    (folder / "d").mkdir()
    for name in ("f", "d"):
        os.chown(folder / name, 1234, 5678)
        os.chown(folder / name, -1, 99)
        os.chown(folder / name, 77, -1)
        info = (folder / name).stat()
        assert (info.st_uid, info.st_gid) == (77, 99)
        fsync_path(folder / name)
    if not folder.local:
        written = module_bucket.metadata(folder.prefix + "f")
        assert (written["uid"], written["gid"]) == ("77", "99")


def test_times_have_nanoseconds(folder: Folder, module_bucket: Witness) -> None:
    (folder / "f").write_text("x")
    (folder / "d").mkdir()
    for name in ("f", "d"):
        os.utime(folder / name, ns=(ATIME, MTIME))
        info = (folder / name).stat()
        assert (info.st_atime_ns, info.st_mtime_ns) == (ATIME, MTIME)
        assert abs(info.st_ctime - time.time()) < 60
        fsync_path(folder / name)
    if not folder.local:
        written = module_bucket.metadata(folder.prefix + "f")
        assert written["mtime"] == "1600000000.123456789"
        assert written["atime"] == "1500000000.000000001"
        assert abs(float(written["ctime"]) - time.time()) < 60


@pytest.mark.parametrize("seconds", [0, -1, -123456789, 2**31, 2**33])
def test_times_far_away(folder: Folder, seconds: int) -> None:
    (folder / "f").write_text("x")
    os.utime(folder / "f", ns=(seconds * 10**9 + 5, seconds * 10**9 + 7))
    info = (folder / "f").stat()
    assert (info.st_atime_ns, info.st_mtime_ns) == (seconds * 10**9 + 5, seconds * 10**9 + 7)


def test_changes_arrive_by_themselves(here: Folder, module_bucket: Witness) -> None:
    """Nobody needs to fsync: a change of metadata is in the bucket after a short while."""
    (here / "f").write_text("x")
    os.chmod(here / "f", 0o600)
    key = here.prefix + "f"
    until(lambda: module_bucket.metadata(key)["mode"] == str(0o100600), "mode", timeout=5)


def test_one_time_omitted(folder: Folder) -> None:
    (folder / "f").write_text("x")
    os.utime(folder / "f", ns=(ATIME, MTIME))
    subprocess.check_call(["touch", "-a", "-d", "@1000000000.5", folder / "f"])
    info = (folder / "f").stat()
    assert (info.st_atime_ns, info.st_mtime_ns) == (1_000_000_000_500_000_000, MTIME)
    subprocess.check_call(["touch", "-m", "-d", "@1100000000.25", folder / "f"])
    info = (folder / "f").stat()
    assert info.st_atime_ns == 1_000_000_000_500_000_000
    assert info.st_mtime_ns == 1_100_000_000_250_000_000


def test_times_of_now(folder: Folder) -> None:
    (folder / "f").write_text("x")
    os.utime(folder / "f", ns=(ATIME, MTIME))
    before = time.time() - 2
    os.utime(folder / "f")
    info = (folder / "f").stat()
    assert min(info.st_atime, info.st_mtime) > before


def test_writing_changes_mtime(folder: Folder) -> None:
    (folder / "f").write_text("x")
    os.utime(folder / "f", ns=(ATIME, MTIME))
    before = time.time() - 2
    with open(folder / "f", "ab") as file:
        file.write(b"y")
    assert (folder / "f").stat().st_mtime > before
    os.utime(folder / "f", ns=(ATIME, MTIME))
    os.truncate(folder / "f", 1)
    assert (folder / "f").stat().st_mtime > before


def test_reading_changes_nothing_in_the_bucket(here: Folder, module_bucket: Witness) -> None:
    (here / "f").write_text("x")
    before = module_bucket.head(here.prefix + "f")
    assert (here / "f").read_text() == "x"
    os.listdir(here.path)
    after = module_bucket.head(here.prefix + "f")
    assert before is not None
    assert after is not None
    assert (before["Metadata"], before["ETag"]) == (after["Metadata"], after["ETag"])


@pytest.mark.needs_root("changes the owner")
def test_changes_move_ctime_only(folder: Folder) -> None:
    (folder / "f").write_text("x")
    os.utime(folder / "f", ns=(ATIME, MTIME))
    before = (folder / "f").stat().st_ctime_ns
    time.sleep(0.02)  # the local file system's clock ticks every few milliseconds
    os.chmod(folder / "f", 0o600)
    info = (folder / "f").stat()
    assert info.st_ctime_ns > before
    assert (info.st_atime_ns, info.st_mtime_ns) == (ATIME, MTIME)
    os.chown(folder / "f", 1, 1)
    assert (folder / "f").stat().st_ctime_ns >= info.st_ctime_ns


@pytest.mark.needs_root("changes the owner")
def test_set_on_an_open_descriptor(folder: Folder, module_bucket: Witness) -> None:
    """Mode, owner and times set before close are those of the uploaded object."""
    with open(folder / "f", "wb", 0) as file:
        file.write(b"content")
        os.fchmod(file.fileno(), 0o604)
        os.fchown(file.fileno(), 11, 12)
        os.utime(file.fileno(), ns=(ATIME, MTIME))
    info = (folder / "f").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o604, 11, 12)
    assert (info.st_atime_ns, info.st_mtime_ns) == (ATIME, MTIME)
    if not folder.local:
        written = module_bucket.metadata(folder.prefix + "f")
        assert written["mode"] == str(0o100604)
        assert (written["uid"], written["gid"]) == ("11", "12")
        assert written["mtime"] == "1600000000.123456789"


@pytest.mark.needs_root("changes the owner")
def test_copying_with_attributes(folder: Folder) -> None:
    (folder / "a").write_bytes(b"content")
    os.chmod(folder / "a", 0o751)
    os.chown(folder / "a", 21, 22)
    os.utime(folder / "a", ns=(ATIME, MTIME))
    subprocess.check_call(["cp", "-a", folder / "a", folder / "b"])
    info = (folder / "b").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o751, 21, 22)
    assert info.st_mtime_ns == MTIME


@pytest.mark.needs("marker_metadata")
@pytest.mark.needs_root("changes the owner")
def test_all_of_it_survives_a_remount(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket)
    file, directory = mounted.path / "f", mounted.path / "d"
    file.write_bytes(b"content")
    directory.mkdir()
    for path in (file, directory):
        os.chown(path, 31, 32)
        os.chmod(path, 0o2710)
        os.utime(path, ns=(ATIME, MTIME))
    wanted = [path.stat() for path in (file, directory)]
    mounted.remount()
    for path, old in zip((file, directory), wanted, strict=True):
        new = path.stat()
        for name in ("st_mode", "st_uid", "st_gid", "st_size", "st_atime_ns", "st_mtime_ns"):
            assert getattr(new, name) == getattr(old, name), name
        assert new.st_ctime_ns // 10**9 == old.st_ctime_ns // 10**9


def test_content_type_and_other_headers_survive_chmod(
    foreign: Folder, module_bucket: Witness
) -> None:
    key = foreign.prefix + "page.html"
    module_bucket.client.put_object(
        Bucket=module_bucket.name,
        Key=key,
        Body=b"<p>",
        ContentType="text/x-special",
        CacheControl="max-age=7",
        ContentEncoding="identity",
        Metadata={"custom": "kept"},
    )
    os.chmod(foreign / "page.html", 0o600)
    fsync_path(foreign / "page.html")
    head = module_bucket.head(key)
    assert head is not None
    assert head["ContentType"] == "text/x-special"
    assert head["CacheControl"] == "max-age=7"
    assert module_bucket.metadata(key)["custom"] == "kept"
    assert module_bucket.metadata(key)["mode"] == str(0o100600)


def test_content_type_by_extension(here: Folder, module_bucket: Witness) -> None:
    for name, wanted in (("a.html", "text/html"), ("b.json", "application/json")):
        (here / name).write_text("x")
        head = module_bucket.head(here.prefix + name)
        assert head is not None
        assert head["ContentType"] == wanted


@pytest.mark.needs_root("changes the owner")
def test_only_the_owner_may_change(folder: Folder) -> None:
    (folder / "f").write_text("x")
    os.chown(folder / "f", 1000, 1000)
    os.chmod(folder / "f", 0o644)
    path = folder / "f"
    for action, number in (
        (lambda: os.chmod(path, 0o777), errno.EPERM),
        (lambda: os.chown(path, 1001, -1), errno.EPERM),
        (lambda: os.utime(path, (1, 1)), errno.EPERM),
        (lambda: os.utime(path), errno.EACCES),
        (lambda: os.truncate(path, 0), errno.EACCES),
        (lambda: os.close(os.open(path, os.O_WRONLY)), errno.EACCES),
        (lambda: os.unlink(path), errno.EACCES),
    ):
        with refused(number):
            as_user(action, uid=1001, gid=1001)
    as_user(lambda: os.chmod(path, 0o600))
    as_user(lambda: os.utime(path, (5, 6)))
    with refused(errno.EPERM):
        as_user(lambda: os.chown(path, 0, -1))
    with refused(errno.EPERM):
        as_user(lambda: os.chown(path, -1, 55))
    with refused(errno.EACCES):
        as_user(lambda: os.close(os.open(path, os.O_RDONLY)), uid=1001, gid=1001)


def test_new_files_belong_to_their_maker(folder: Folder, module_bucket: Witness) -> None:
    os.chmod(folder.path, 0o777)
    path = folder / "f"
    as_user(lambda: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)))
    as_user(lambda: os.mkdir(folder / "d"))
    as_user(lambda: os.symlink("f", folder / "l"))
    for name in ("f", "d", "l"):
        info = os.lstat(folder / name)
        assert (info.st_uid, info.st_gid) == (1000, 1000)
    if not folder.local:
        written = module_bucket.metadata(folder.prefix + "f")
        assert (written["uid"], written["gid"]) == ("1000", "1000")


def test_sticky_directories(folder: Folder) -> None:
    (folder / "tmp").mkdir()
    os.chmod(folder / "tmp", 0o1777)
    path, other = folder / "tmp/f", folder / "tmp/g"
    as_user(lambda: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)))
    with refused(errno.EPERM):
        as_user(lambda: os.unlink(path), uid=1001, gid=1001)
    with refused(errno.EPERM):
        as_user(lambda: os.rename(path, other), uid=1001, gid=1001)
    as_user(lambda: os.rename(path, other))
    as_user(lambda: os.unlink(other))


def test_writing_by_another_user_clears_set_ids(folder: Folder) -> None:
    path = folder / "f"
    for action in (
        lambda: os.write(os.open(path, os.O_WRONLY), b"y"),
        lambda: os.truncate(path, 0),
        lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    ):
        path.write_text("x")
        os.chmod(path, 0o6777)
        as_user(action)
        assert mode(folder, "f") == 0o777


@pytest.mark.needs_root("changes the owner")
def test_chown_clears_set_ids(folder: Folder) -> None:
    (folder / "f").write_text("x")
    os.chmod(folder / "f", 0o6755)
    os.chown(folder / "f", 1000, 1000)
    assert mode(folder, "f") == 0o755


@pytest.mark.needs_root("changes the owner")
def test_set_group_id_directories_hand_on_their_group(folder: Folder) -> None:
    (folder / "d").mkdir()
    os.chown(folder / "d", 0, 4321)
    os.chmod(folder / "d", 0o2777)
    as_user(lambda: os.close(os.open(folder / "d/f", os.O_CREAT | os.O_WRONLY, 0o644)))
    as_user(lambda: os.mkdir(folder / "d/sub"))
    assert ((folder / "d/f").stat().st_gid, (folder / "d/sub").stat().st_gid) == (4321, 4321)
    assert mode(folder, "d/sub") & stat.S_ISGID


@pytest.mark.needs_root("changes the owner")
def test_chmod_by_a_stranger_to_the_group_drops_set_group_id(folder: Folder) -> None:
    (folder / "f").write_text("x")
    os.chown(folder / "f", 1000, 4321)
    as_user(lambda: os.chmod(folder / "f", 0o2755))
    assert mode(folder, "f") == 0o755


def test_the_content_type_follows_the_name(here: Folder, module_bucket: Witness) -> None:
    def kind(name: str) -> str:
        head = module_bucket.head(here.prefix + name)
        assert head is not None
        return str(head["ContentType"])

    (here / "index.html.new").write_text("<p>x</p>")
    assert kind("index.html.new") == "application/octet-stream"
    (here / "index.html.new").rename(here / "index.html")
    assert kind("index.html") == "text/html"
    (here / "index.html").rename(here / "a.tar.gz")
    assert kind("a.tar.gz") == "application/gzip"
    os.setxattr(here / "a.tar.gz", "user.s3.content_type", b"text/x-mine")
    fsync_path(here / "a.tar.gz")
    (here / "a.tar.gz").rename(here / "b.json")
    assert kind("b.json") == "text/x-mine"
