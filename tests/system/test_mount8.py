"""mount(8), /etc/fstab and umount(8) with both names of the type."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.harness.waiting import until
from tests.system.conftest import Place, daemon_of, run

pytestmark = pytest.mark.usefixtures("helpers")

TYPES = ("bucketfs", "fuse.bucketfs")

#: What fstab lines carry for mount(8) and systemd; no file system may choke on it.
FSTAB_WORDS = "_netdev,nofail,noauto,user,x-systemd.automount,x-systemd.idle-timeout=60,comment=x"


def line_of(path: Path) -> list[str]:
    """The words of the mount's line in /proc/mounts."""
    lines = Path("/proc/mounts").read_text(errors="surrogateescape").splitlines()
    (line,) = (words for words in map(str.split, lines) if words[1] == str(path))
    return line


@pytest.mark.parametrize("kind", TYPES)
def test_mount_and_umount(place: Place, kind: str) -> None:
    place.bucket.put("file", b"content")
    done = run(["mount", "-t", kind, place.bucket.name, str(place.path), "-o", place.options])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place.path / "file").read_bytes() == b"content"
    source, _, shown, *_ = line_of(place.path)
    assert (source, shown) == (place.bucket.name, "fuse.bucketfs")
    done = run(["umount", str(place.path)])
    assert (done.returncode, done.stderr) == (0, "")
    assert not place.path.is_mount()


@pytest.mark.parametrize("kind", TYPES)
def test_fstab_line(place: Place, tmp_path: Path, kind: str) -> None:
    place.bucket.put("sub/file", b"content")
    fstab = tmp_path / "fstab"
    source = f"{place.bucket.name}:/sub"
    words = FSTAB_WORDS.replace("noauto,", "")
    fstab.write_text(f"{source} {place.path} {kind} {place.options},{words},ro 0 0\n")
    done = run(["mount", "-a", "-T", str(fstab)])
    assert (done.returncode, done.stderr) == (0, "")
    assert (place.path / "file").read_bytes() == b"content"
    shown, _, _, flags, *_ = line_of(place.path)
    assert shown == source
    # ``user`` implies the other three (mount(8)).
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(flags.split(","))
    assert run(["umount", str(place.path)]).returncode == 0


@pytest.mark.parametrize("kind", TYPES)
def test_every_word_of_fstab_at_once(place: Place, kind: str) -> None:
    options = f"{place.options},rw,dev,suid,relatime,nonempty,{FSTAB_WORDS}"
    done = run(["mount", "-t", kind, place.bucket.name, str(place.path), "-o", options])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", TYPES)
def test_a_missing_bucket_is_said_and_nothing_is_mounted(place: Place, kind: str) -> None:
    done = run(["mount", "-t", kind, "no-such-bucket", str(place.path), "-o", place.options])
    assert done.returncode == 32
    assert "no-such-bucket does not exist" in done.stderr
    assert not place.path.is_mount()


def is_read_only(path: Path) -> bool:
    return "ro" in line_of(path)[3].split(",")


@pytest.mark.parametrize("kind", TYPES)
def test_remount(place: Place, kind: str) -> None:
    words = ["mount", "-t", kind, place.bucket.name, str(place.path), "-o", place.options]
    assert run(words).returncode == 0
    kept = set(line_of(place.path)[3].split(",")) - {"rw"}
    (place.path / "before").write_bytes(b"x")
    with (place.path / "open").open("wb"):
        done = run(["mount", "-o", "remount,ro", str(place.path)])
        assert done.returncode == 32
        assert "files open for writing" in done.stderr
        assert not is_read_only(place.path)
    assert run(["mount", "-o", "remount,ro", str(place.path)]).returncode == 0
    assert is_read_only(place.path)
    assert kept <= set(line_of(place.path)[3].split(",")), "nosuid and nodev stay"
    with pytest.raises(OSError, match="Read-only") as refused:
        (place.path / "after").write_bytes(b"x")
    assert refused.value.errno == errno.EROFS
    assert (place.path / "before").read_bytes() == b"x"
    assert run(["mount", "-o", "remount,rw", str(place.path)]).returncode == 0
    (place.path / "after").write_bytes(b"x")
    assert place.bucket.get("after") == b"x"


def test_a_mount_that_was_started_read_only_stays_so(place: Place) -> None:
    words = ["mount", "-t", "bucketfs", place.bucket.name, str(place.path)]
    assert run([*words, "-o", f"{place.options},ro"]).returncode == 0
    done = run(["mount", "-o", "remount,rw", str(place.path)])
    assert done.returncode == 32
    assert "mounted read-only; unmount it and mount it again" in done.stderr
    assert is_read_only(place.path)


def test_remount_of_nothing(place: Place) -> None:
    helper = ["/sbin/mount.bucketfs", place.bucket.name, str(place.path), "-o", "rw,remount,ro"]
    done = run(helper)
    assert done.returncode == 32
    assert "no bucket is mounted there" in done.stderr


def test_the_daemon_has_the_name_of_the_program(place: Place) -> None:
    words = ["mount", "-t", "bucketfs", place.bucket.name, str(place.path), "-o", place.options]
    assert run(words).returncode == 0
    assert Path(f"/proc/{daemon_of(place.path)}/comm").read_text() == "bucketfs\n"


def test_a_wrong_option_is_named(place: Place) -> None:
    words = ["mount", "-t", "bucketfs", place.bucket.name, str(place.path), "-o", "passwd_fil=x"]
    done = run(words)
    assert done.returncode == 1
    assert "did you mean passwd_file?" in done.stderr


def test_fake_mounts_nothing(place: Place) -> None:
    words = ["mount", "-f", "-t", "bucketfs", place.bucket.name, str(place.path)]
    assert run([*words, "-o", place.options]).returncode == 0
    assert not place.path.is_mount()


def test_data_is_in_the_bucket_after_umount(place: Place) -> None:
    words = ["mount", "-t", "bucketfs", place.bucket.name, str(place.path), "-o", place.options]
    assert run(words).returncode == 0
    (place.path / "file").write_bytes(b"x" * 1_000_000)
    assert run(["umount", str(place.path)]).returncode == 0
    assert place.bucket.get("file") == b"x" * 1_000_000


def test_the_daemon_ends_with_the_mount(place: Place) -> None:
    words = ["mount", "-t", "bucketfs", place.bucket.name, str(place.path), "-o", place.options]
    assert run(words).returncode == 0
    assert run(["umount", str(place.path)]).returncode == 0
    log = place.passwd.parent / "log"
    until(lambda: "unmounted" in log.read_text(), "the last line of the log")


@pytest.mark.parametrize("kind", TYPES)
def test_all_buckets_in_fstab(place: Place, tmp_path: Path, kind: str) -> None:
    place.bucket.put("file", b"content")
    fstab = tmp_path / "fstab"
    words = FSTAB_WORDS.replace("noauto,", "")
    fstab.write_text(f":/ {place.path} {kind} {place.options},{words} 0 0\n")
    for _ in range(2):  # what is there is not mounted again
        done = run(["mount", "-a", "-T", str(fstab)])
        assert (done.returncode, done.stderr) == (0, "")
    assert (place.path / place.bucket.name / "file").read_bytes() == b"content"
    assert line_of(place.path)[0] == ":/"
    assert run(["umount", str(place.path)]).returncode == 0
