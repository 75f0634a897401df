"""Objects that other tools wrote, and ours as other tools see them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import Folder
from tests.harness.mounts import Mount, Mounts
from tests.harness.waiting import until
from tests.harness.watchdog import scratch_base
from tests.harness.witness import Witness


def test_objects_without_metadata(foreign: Folder, module_bucket: Witness) -> None:
    module_bucket.put(foreign.prefix + "file", b"12345")
    module_bucket.put(foreign.prefix + "dir/file", b"")
    head = module_bucket.head(foreign.prefix + "file")
    assert head is not None
    info = (foreign / "file").stat()
    assert info.st_mode == stat.S_IFREG | 0o644
    assert (info.st_uid, info.st_gid) == (os.getuid(), os.getgid())
    assert info.st_size == 5
    assert int(info.st_mtime) == int(head["LastModified"].timestamp())
    assert info.st_blocks * 512 >= 5
    info = (foreign / "dir").stat()
    assert info.st_mode == stat.S_IFDIR | 0o755
    assert (info.st_uid, info.st_gid) == (os.getuid(), os.getgid())


FORMS = {
    "s3fs": (
        {
            "mode": "33184",
            "uid": "1001",
            "gid": "1002",
            "mtime": "1700000000.123456789",
            "atime": "1700000001",
            "ctime": "1700000002.000000005",
        },
        (0o100640, 1001, 1002, 1_700_000_000_123_456_789),
    ),
    "s3fs 1.90": (
        {"mode": "33261", "mtime": "1700000000"},
        (0o100755, 0, 0, 1_700_000_000 * 10**9),
    ),
    "rclone": ({"mtime": "1700000000.89938138"}, (0o100644, 0, 0, 1_700_000_000_899_381_380)),
    "rclone, one digit": ({"mtime": "1700000000.5"}, (0o100644, 0, 0, 1_700_000_000_500_000_000)),
    "google": (
        {
            "goog_reserved_posix_mode": "600",
            "goog_reserved_posix_uid": "7",
            "goog_reserved_posix_gid": "8",
            "goog_reserved_file_mtime": "1600000000",
        },
        (0o100600, 7, 8, 1_600_000_000 * 10**9),
    ),
    "s3sync": ({"permissions": "33152", "owner": "5", "group": "6"}, (0o100600, 5, 6, None)),
    "nonsense": (
        {"mode": "rwx", "uid": "-", "gid": "1e9", "mtime": "yesterday", "xattr": "%%%"},
        (0o100644, 0, 0, None),
    ),
    "huge numbers": (
        {"mode": "9" * 30, "uid": "9" * 30, "mtime": "9" * 30},
        (0o100644, 0, 0, None),
    ),
}


@pytest.mark.needs_root("reads files of other owners")
@pytest.mark.parametrize("form", FORMS)
def test_metadata_of_other_tools(foreign: Folder, module_bucket: Witness, form: str) -> None:
    metadata, (mode, uid, gid, mtime) = FORMS[form]
    module_bucket.put(foreign.prefix + "f", b"content", **metadata)
    info = (foreign / "f").stat()
    assert (oct(info.st_mode), info.st_uid, info.st_gid) == (oct(mode), uid, gid)
    if mtime is not None:
        assert info.st_mtime_ns == mtime
    assert (foreign / "f").read_bytes() == b"content"


def test_a_chmod_of_what_others_have_replaced_shows_no_old_bytes(
    foreign: Folder, module_bucket: Witness
) -> None:
    """Length and time are those of the version before: the kernel does not see that it is one."""
    module_bucket.put(foreign.prefix + "f", b"the first version", mtime="1700000000")
    assert (foreign / "f").read_bytes() == b"the first version"
    module_bucket.put(foreign.prefix + "f", b"the other version", mtime="1700000000")
    (foreign / "f").chmod(0o600)

    def is_stored() -> bool:
        head = module_bucket.head(foreign.prefix + "f")
        return head is not None and head["Metadata"].get("mode") == str(stat.S_IFREG | 0o600)

    until(is_stored, "the new mode is in the bucket")
    assert (foreign / "f").read_bytes() == b"the other version"


def test_symlinks_of_s3fs(foreign: Folder, module_bucket: Witness) -> None:
    module_bucket.put(foreign.prefix + "l", b"target/of it", mode="41471")
    assert (foreign / "l").is_symlink()
    assert os.readlink(foreign / "l") == "target/of it"
    entries = {entry.name: entry.is_symlink() for entry in os.scandir(foreign.path)}
    assert entries == {"l": True}


def test_symlinks_are_seen_after_a_plain_listing(foreign: Folder, module_bucket: Witness) -> None:
    """A listing carries no modes: what it called a file may turn out to be a link."""
    module_bucket.put(foreign.prefix + "l", b"target", mode="41471")
    assert os.listdir(foreign.path) == ["l"]
    assert os.readlink(foreign / "l") == "target"
    found = subprocess.check_output(["find", ".", "-type", "l"], cwd=foreign.path, text=True)
    assert found == "./l\n"


@pytest.mark.needs_root("enters directories of other owners")
@pytest.mark.parametrize(
    ("options", "file", "directory", "owner"),
    [
        (("umask=0027",), 0o750, 0o750, (0, 0)),
        (("umask=077", "uid=1234", "gid=5678"), 0o700, 0o700, (1234, 5678)),
        (("uid=1234",), 0o644, 0o755, (1234, 0)),
    ],
)
def test_umask_uid_gid(
    mount: Mounts,
    bucket: Witness,
    options: tuple[str, ...],
    file: int,
    directory: int,
    owner: tuple[int, int],
) -> None:
    """The libfuse rule s3fs follows: umask= replaces all permission bits by 0777 without it."""
    bucket.put("file", b"x")
    bucket.put("dir/file", b"x")
    mounted = mount(bucket, *options)
    for name, wanted in (("file", file), ("dir", directory)):
        info = (mounted.path / name).stat()
        assert oct(stat.S_IMODE(info.st_mode)) == oct(wanted)
        assert (info.st_uid, info.st_gid) == owner


@contextmanager
def s3fs(mount: Mount) -> Iterator[Path]:
    """The same bucket, mounted by s3fs."""
    base = scratch_base()
    path = base / "s3fs"
    path.mkdir()
    options = (
        f"url={mount.bucket.endpoint.url},use_path_request_style,use_xattr,"
        f"passwd_file={mount.scratch / 'passwd'},endpoint={mount.bucket.endpoint.region}"
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            ["s3fs", mount.bucket.name, str(path), "-f", "-o", options],
            env=environ,
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: path.is_mount() or process.poll() is not None, "s3fs mounted")
        assert process.poll() is None, (base / "log").read_text()
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)
        process.kill()
        process.wait()
        shutil.rmtree(base)


@pytest.mark.needs("marker_metadata")
@pytest.mark.needs_root("gives a file to somebody else")
@pytest.mark.skipif(not shutil.which("s3fs"), reason="s3fs is not installed")
def test_s3fs_shows_what_we_wrote(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket)
    path = mounted.path
    (path / "f").write_bytes(b"content")
    os.chmod(path / "f", 0o640)
    os.chown(path / "f", 1001, 1002)
    os.utime(path / "f", ns=(1_500_000_000_000_000_000, 1_600_000_000_123_456_789))
    os.setxattr(path / "f", "user.k", b"value")
    with (path / "f").open("rb") as file:
        os.fsync(file.fileno())  # attributes are merged over a moment; this waits for it
    (path / "l").symlink_to("f")
    (path / "d").mkdir(mode=0o750)
    os.mkfifo(path / "fifo", 0o600)
    with s3fs(mounted) as theirs:
        assert sorted(os.listdir(theirs)) == ["d", "f", "fifo", "l"]
        for name in ("f", "l", "d", "fifo"):
            ours, other = os.lstat(path / name), os.lstat(theirs / name)
            assert oct(other.st_mode) == oct(ours.st_mode), name
            assert (other.st_uid, other.st_gid) == (ours.st_uid, ours.st_gid), name
        assert (theirs / "f").stat().st_mtime_ns == 1_600_000_000_123_456_789
        assert os.getxattr(theirs / "f", "user.k") == b"value"
        assert (theirs / "l").read_bytes() == b"content"


@pytest.mark.needs("marker_metadata")
@pytest.mark.skipif(not shutil.which("s3fs"), reason="s3fs is not installed")
def test_we_show_what_s3fs_wrote(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket, "stat_cache_expire=0")
    with s3fs(mounted) as theirs:
        (theirs / "f").write_bytes(b"content")
        os.chmod(theirs / "f", 0o604)
        os.utime(theirs / "f", ns=(1_500_000_000_000_000_000, 1_600_000_000_123_456_789))
        (theirs / "d").mkdir()
        os.chmod(theirs / "d", 0o711)
        (theirs / "l").symlink_to("f")
        os.mkfifo(theirs / "fifo", 0o600)
    path = mounted.path
    assert sorted(os.listdir(path)) == ["d", "f", "fifo", "l"]
    assert (path / "f").stat().st_mode == stat.S_IFREG | 0o604
    assert (path / "f").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert (path / "d").stat().st_mode == stat.S_IFDIR | 0o711
    assert os.readlink(path / "l") == "f"
    assert (path / "l").read_bytes() == b"content"
    assert stat.S_ISFIFO((path / "fifo").stat().st_mode)


def test_a_directory_without_a_slash_after_a_remount(bucket: Witness, mount: Mounts) -> None:
    """The listing shows a file, what is remembered of it says that it is a directory."""
    bucket.put("old", b"", mode=str(stat.S_IFDIR | 0o750))
    mounted = mount(bucket)
    assert (mounted.path / "old").stat().st_mode == stat.S_IFDIR | 0o750
    mounted.remount()
    assert os.listdir(mounted.path) == ["old"]
    assert os.listdir(mounted.path / "old") == []
    assert (mounted.path / "old").stat().st_mode == stat.S_IFDIR | 0o750


@pytest.mark.needs("versions")
def test_versioning_switched_on_under_a_mount(
    mount: Mounts, bucket: Witness, outlives: ExitStack
) -> None:
    mounted = mount(bucket)
    mounted.expected.append("versioning was switched on")
    for number in range(5):
        (mounted.path / f"f{number}").write_bytes(b"1")
    bucket.versioning()
    outlives.callback(bucket.forget_versions)
    for number in range(5):
        with (mounted.path / f"f{number}").open("ab") as file:
            file.write(b"2")
    keys = [f"f{number}" for number in range(5)]
    assert bucket.keys() == keys
    assert {bucket.get(key) for key in keys} == {b"12"}
