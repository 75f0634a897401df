"""`-o publish=unmount` through the kernel: no file is in the bucket before the mount's end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import trio

from bucketfs.tree.saving import later
from tests.harness.mounts import Mount, Mounts
from tests.harness.witness import Witness
from tests.mount.test_writeback import written

MIB = 1 << 20
#: Long enough for every task of write-back: the lull, and attributes a moment later.
LONG = later.LULL_MOST + later.ATTRIBUTE_DELAY + 1.0


def held(mount: Mounts, bucket: Witness, *options: str) -> Mount:
    mounted = mount(bucket, "publish=unmount", *options)
    mounted.expected.append("was not unmounted")
    return mounted


def files(bucket: Witness) -> list[str]:
    """Keys of files; directories are there at once."""
    return [key for key in bucket.keys() if not key.endswith("/")]  # noqa: SIM118 - a method


def wait_in_vain(bucket: Witness) -> list[str]:
    """What write-back would have published by now: time itself is what is tested."""
    trio.run(trio.sleep, LONG)
    return files(bucket)


def test_nothing_before_the_end(mount: Mounts, bucket: Witness) -> None:
    mounted = held(mount, bucket)
    bodies = written(mounted.path)
    with open(mounted.path / "synced", "wb", 0) as file:
        file.write(b"bytes")
        os.fsync(file.fileno())
    bodies["synced"] = b"bytes"
    os.chmod(mounted.path / "d0/f9", 0o640)
    os.utime(mounted.path / "moved", (1, 1))
    assert wait_in_vain(bucket) == []
    for name, body in bodies.items():
        assert (mounted.path / name).read_bytes() == body, name
    assert mounted.stop() == 0
    assert sorted(files(bucket)) == sorted(bodies)
    for name, body in bodies.items():
        assert bucket.get(name) == body, name
    mode = int(bucket.metadata("d0/f9")["mode"])
    assert stat.S_IMODE(mode) == 0o640
    assert bucket.uploads() == []


def test_an_object_keeps_its_bytes_until_then(mount: Mounts, bucket: Witness) -> None:
    bucket.put("f", b"old")
    mounted = held(mount, bucket)
    (mounted.path / "f").write_bytes(b"new")
    with open(mounted.path / "f", "ab") as file:
        file.write(b"er")
    trio.run(trio.sleep, LONG)
    assert bucket.get("f") == b"old"
    assert (mounted.path / "f").read_bytes() == b"newer"
    assert mounted.stop() == 0
    assert bucket.get("f") == b"newer"


def test_kill_9_leaves_all_to_the_next_mount(mount: Mounts, bucket: Witness) -> None:
    mounted = held(mount, bucket)
    bodies = written(mounted.path)
    mounted.kill9()
    assert files(bucket) == []
    mounted.start()
    (mounted.path / "another").write_bytes(b"mine")
    bodies["another"] = b"mine"
    assert wait_in_vain(bucket) == []
    for name, body in bodies.items():
        assert (mounted.path / name).read_bytes() == body, name
    assert mounted.stop() == 0
    assert {name: bucket.get(name) for name in files(bucket)} == bodies


def test_a_later_mount_without_the_option_publishes_at_once(mount: Mounts, bucket: Witness) -> None:
    mounted = held(mount, bucket)
    (mounted.path / "f").write_bytes(b"mine")
    mounted.kill9()
    mounted.options = ("publish=close",)
    mounted.start()
    mounted.remount()
    assert bucket.get("f") == b"mine"


def test_what_the_cache_cannot_hold_is_published_early(mount: Mounts, bucket: Witness) -> None:
    mounted = held(mount, bucket, "cache_size=64M")
    bodies = {f"f{number}": os.urandom(20 * MIB) for number in range(3)}
    for name, body in bodies.items():
        (mounted.path / name).write_bytes(body)
    assert files(bucket) == ["f1", "f2"], "half of the cache may wait"
    line = "f1 is uploaded before the end of the mount, others may be, too"
    assert mounted.log.read_text().count(line) == 1
    assert wait_in_vain(bucket) == ["f1", "f2"]
    assert mounted.stop() == 0
    assert {name: bucket.get(name) for name in files(bucket)} == bodies


def test_no_part_of_a_large_file_waits_at_the_store(mount: Mounts, bucket: Witness) -> None:
    """Stores throw away uploads that are unfinished for long."""
    mounted = held(mount, bucket)
    piece = os.urandom(8 * MIB)
    with open(mounted.path / "f", "wb", 0) as file:
        file.writelines(piece for _ in range(12))
        assert bucket.uploads() == []
    assert (wait_in_vain(bucket), bucket.uploads()) == ([], [])
    assert mounted.stop() == 0
    assert bucket.get("f") == piece * 12


@pytest.mark.needs("hidden_parts")
def test_a_file_that_the_cache_cannot_hold(mount: Mounts, bucket: Witness) -> None:
    mounted = held(mount, bucket, "cache_size=64M")
    piece = os.urandom(8 * MIB)
    with open(mounted.path / "f", "wb", 0) as file:
        file.writelines(piece for _ in range(24))
        assert files(bucket) == []
    assert bucket.get("f") == piece * 24
    assert mounted.stop() == 0


@pytest.mark.needs("markers")
def test_what_is_removed_before_the_end_was_never_there(mount: Mounts, bucket: Witness) -> None:
    mounted = held(mount, bucket)
    os.mkdir(mounted.path / "d")
    (mounted.path / "d/f").write_bytes(b"bytes")
    os.rename(mounted.path / "d", mounted.path / "e")
    (mounted.path / "e/g").write_bytes(b"bytes")
    os.unlink(mounted.path / "e/f")
    assert mounted.stop() == 0
    assert bucket.keys() == ["e/", "e/g"]


def shown(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def test_listings_keep_what_waits(mount: Mounts, bucket: Witness) -> None:
    mounted = held(mount, bucket, "stat_cache_expire=0")
    (mounted.path / "f").write_bytes(b"bytes")
    bucket.put("theirs", b"bytes")
    assert shown(mounted.path) == ["f", "theirs"]
    assert (mounted.path / "f").stat().st_size == 5
