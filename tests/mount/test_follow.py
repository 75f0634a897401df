"""`-o follow`: what others change shows within a second, and what they do not is not asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.endpoint import REPOSITORY
from tests.harness.feed import Feed
from tests.harness.mounts import Mount, Mounts
from tests.harness.posix import is_gone
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

#: Nothing shows without the feed within a test.
HOUR = ("stat_cache_expire=1h", "open_ttl=1h")


@pytest.fixture
def other(bucket: Witness, counted: Proxy) -> Witness:
    """Another client of the bucket, whose changes the feed tells."""
    counted.feed = Feed(ping=0.1)
    endpoint = bucket.endpoint.at(counted.url)
    return Witness(endpoint, bucket.name, endpoint.client())


def says(mount: Mount) -> str:
    """What ``bucketfs status`` shows of the feed."""
    command = [sys.executable, "-m", "bucketfs", "status", str(mount.path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    return next((line for line in done.stdout.splitlines() if line.startswith("  follow")), "")


@pytest.fixture
def following(other: Witness, mount: Mounts, counted: Proxy) -> Callable[..., Mount]:
    """Mounts the bucket, and waits until the feed tells."""

    def start(*options: str, prefix: str = "") -> Mount:
        made = mount(other, "follow", *(options or HOUR), url=counted.url, prefix=prefix)
        until(lambda: "connected" in says(made), "the feed")
        counted.clear()
        return made

    return start


@pytest.mark.parametrize("encoded", [False, True])
def test_what_others_make_change_and_remove_shows(
    following: Callable[..., Mount], other: Witness, counted: Proxy, encoded: bool
) -> None:
    assert counted.feed is not None
    counted.feed.encoded = encoded
    other.put_many({"d/stays": b"1", "d/goes": b"1", "d/gröws +%": b"1"})
    path = following().path / "d"
    assert sorted(os.listdir(path)) == ["goes", "gröws +%", "stays"]
    for name in os.listdir(path):
        (path / name).read_bytes()
    assert is_gone(path / "new")
    other.put_many({"d/new": b"2", "d/sub/new": b"3", "d/gröws +%": b"12345", "e/f": b"1"})
    other.delete("d/goes")
    until(lambda: sorted(os.listdir(path)) == ["gröws +%", "new", "stays", "sub"], "the names")
    until(lambda: is_gone(path / "goes"), "the removed file")
    until(lambda: not is_gone(path / "new"), "the free name")
    until(lambda: (path / "gröws +%").read_bytes() == b"12345", "the new bytes")
    until((path.parent / "e" / "f").is_file, "the new directory")
    assert (path / "new").read_bytes() == b"2"
    assert (path / "sub/new").read_bytes() == b"3"


@pytest.mark.needs("no_directories", "checksums")
def test_a_directory_without_objects_is_gone(
    following: Callable[..., Mount], other: Witness
) -> None:
    other.put_many({"a/b/c/1": b"1", "a/b/c/2": b"1", "f": b"1"})
    path = following().path
    assert [len(names) for _, _, names in os.walk(path)] == [1, 0, 0, 2]
    other.delete("a/b/c/1", "a/b/c/2")
    until(lambda: os.listdir(path) == ["f"], "the empty directories are gone")
    until(lambda: is_gone(path / "a"), "by name, too")


def test_an_open_file_stays_as_it_is(following: Callable[..., Mount], other: Witness) -> None:
    other.put("f", b"old")
    path = following().path / "f"
    with path.open("rb") as opened:
        assert opened.read() == b"old"
        other.put("f", b"longer")
        until(lambda: path.read_bytes() == b"longer", "the new version")
        opened.seek(0)
        assert opened.read() == b"old"
    assert path.stat().st_size == 6


def test_who_may_create_a_file_does_so_when_others_have_removed_it(
    following: Callable[..., Mount], other: Witness
) -> None:
    """Though the kernel takes it for granted that it is there."""
    other.put("d/f", b"1")
    other.put("d/seen", b"1")
    path = following().path / "d"
    assert (path / "f").read_bytes() == b"1"
    assert (path / "seen").stat().st_size == 1
    other.delete("d/f")
    other.put("d/seen", b"22")
    until(lambda: (path / "seen").stat().st_size == 2, "what was told after it")
    (path / "f").write_bytes(b"2")
    assert other.get("d/f") == b"2"


def test_attributes_that_others_change_show(
    following: Callable[..., Mount], other: Witness
) -> None:
    other.put("f", b"1", mode="33188")
    path = following().path / "f"
    assert path.stat().st_mode == 0o100644
    other.put("f", b"1", mode="33152")
    until(lambda: path.stat().st_mode == 0o100600, "the same bytes with another mode")


def test_what_nobody_changes_is_not_asked_for(
    following: Callable[..., Mount], other: Witness, counted: Proxy
) -> None:
    other.put_many({f"d/{number}": b"1" for number in range(5)})
    path = following("stat_cache_expire=0", "open_ttl=0").path / "d"
    for _ in range(2):
        seen = {name: (path / name).read_bytes() for name in os.listdir(path)}
        assert len(seen) == 5
        assert is_gone(path / "free")
    counted.clear()
    for _ in range(3):
        assert len([(path / name).read_bytes() for name in os.listdir(path)]) == 5
        assert is_gone(path / "free")
    assert not counted.counts(), counted.story()


def test_own_changes_cost_no_more_than_without(
    following: Callable[..., Mount], other: Witness, counted: Proxy, mount: Mounts
) -> None:
    assert counted.feed is not None
    feed = counted.feed
    other.put("d/there", b"1")

    def change(path: Path) -> None:
        (path / "f").write_bytes(b"1")
        (path / "f").chmod(0o600)
        subprocess.run(["sync", str(path / "f")], check=True)
        (path / "f").rename(path / "g")
        assert (path / "g").stat().st_mode == 0o100600
        (path / "g").write_bytes(b"22")
        assert sorted(os.listdir(path)) == ["g", "there"]
        assert (path / "g").read_bytes() == b"22"
        (path / "g").unlink()

    counts = []
    for mounted in (mount(other, *HOUR, url=counted.url), following()):
        path = mounted.path / "d"
        os.listdir(path)
        change(path)  # what has to be found out of the endpoint first
        counted.clear()
        change(path)
        until(lambda: feed.told[-1] == ("d/g", "ObjectRemoved:Delete"), "the feed has told all")
        assert os.listdir(path) == ["there"]
        counts.append(counted.counts())
    assert counts[0] == counts[1], counted.story()


def test_what_was_changed_in_a_gap_shows(
    following: Callable[..., Mount], other: Witness, counted: Proxy
) -> None:
    assert counted.feed is not None
    feed = counted.feed
    other.put_many({"d/goes": b"1", "d/grows": b"1"})
    mount = following()
    path = mount.path / "d"
    for name in os.listdir(path):
        (path / name).read_bytes()
    assert is_gone(path / "new")
    feed.down = True
    counted.cut_feed()
    until(lambda: "down" in says(mount), "the mount has noticed")
    other.put_many({"d/new": b"2", "d/grows": b"12345"})
    other.delete("d/goes")
    assert sorted(os.listdir(path)) == ["goes", "grows"]  # the configured times hold
    feed.down = False
    until(lambda: sorted(os.listdir(path)) == ["grows", "new"], "what was changed meanwhile")
    assert (path / "grows").read_bytes() == b"12345"
    until(lambda: not is_gone(path / "new"), "the kernel was told")
    assert (path / "new").read_bytes() == b"2"
    assert is_gone(path / "goes")
    assert mount.log.read_text().count("is down") == 1


def test_a_feed_that_falls_silent_is_dead(
    following: Callable[..., Mount], other: Witness, counted: Proxy
) -> None:
    assert counted.feed is not None
    mount = following()
    counted.feed.silent = True
    until(lambda: "down" in says(mount), "the silence is noticed")
    assert "ReadTimeout" in says(mount)


def test_configured_times_hold_while_the_feed_is_down(
    following: Callable[..., Mount], other: Witness, counted: Proxy
) -> None:
    assert counted.feed is not None
    other.put("d/f", b"1")
    mount = following("stat_cache_expire=0", "open_ttl=0")
    assert os.listdir(mount.path / "d") == ["f"]
    counted.feed.down = True
    counted.cut_feed()
    until(lambda: "down" in says(mount), "the mount has noticed")
    other.put("d/g", b"1")
    assert sorted(os.listdir(mount.path / "d")) == ["f", "g"]


def test_below_a_prefix(following: Callable[..., Mount], other: Witness, counted: Proxy) -> None:
    other.put_many({"a b/d/f": b"1", "c": b"1"})
    path = following(prefix="a b").path
    assert os.listdir(path) == ["d"]
    counted.clear()
    other.put_many({"c": b"2", "a": b"2"})
    other.put("a b/g", b"1")
    until(lambda: sorted(os.listdir(path)) == ["d", "g"], "the new name")
    assert counted.count("ListObjectsV2") == 1, counted.story()


@pytest.mark.parametrize("status", [0, 501])
def test_a_server_without_a_feed(
    mount: Mounts, bucket: Witness, counted: Proxy, status: int
) -> None:
    bucket.put("f", b"1")
    with counted.fault("ListenNotification" if status else "none", status=status):
        made = mount(bucket, "follow", url=counted.url)
        until(lambda: "no feed" in made.log.read_text(), "one line")
        assert (made.path / "f").read_bytes() == b"1"
        bucket.put("g", b"2")
        until(lambda: sorted(os.listdir(made.path)) == ["f", "g"], "the usual times hold")
        assert "not offered" in says(made)
        made.down()
        counted.clear()
        made.start()
        until(lambda: made.log.read_text().count("no feed") == 2, "one line")
    assert not counted.count("ListenNotification"), "it is remembered"


def test_keys_without_the_right_to_listen(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    with counted.fault("ListenNotification", status=403, code="AccessDenied"):
        made = mount(bucket, "follow", url=counted.url)
        until(lambda: "is down" in made.log.read_text(), "one line")
        assert "AccessDenied" in made.log.read_text()
        assert "down" in says(made)


def test_all_buckets(mount: Mounts, other: Witness, counted: Proxy) -> None:
    assert counted.feed is not None
    other.put("f", b"1")
    made = mount(other, "follow", *HOUR, url=counted.url, start=False)
    made.source = ":/"
    made.start()
    assert not counted.feed.connections
    path = made.path / other.name
    assert os.listdir(path) == ["f"]
    until(lambda: "connected" in says(made), "the feed of the bucket that was entered")
    assert other.name in says(made)
    os.listdir(path)
    other.put("g", b"1")
    until(lambda: sorted(os.listdir(path)) == ["f", "g"], "the new name")


def test_an_unmount_does_not_wait_for_the_feed(following: Callable[..., Mount]) -> None:
    """Which would go on, ping by ping."""
    assert following().stop() == 0
