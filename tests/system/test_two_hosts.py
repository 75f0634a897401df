"""Two mounts on two hosts: each row of the table in docs/semantics.md that says what they promise.

The hosts are network namespaces; a partition is a link that is down.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from tests.harness.feed import Feed
from tests.harness.hosts import Hosts, at, hosts
from tests.harness.posix import is_gone
from tests.harness.proxy import Proxy, proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness
from tests.scale.readers import HostMount, mounted

pytestmark = [
    pytest.mark.slow("mounts on two hosts, and waits for leases: two minutes"),
    pytest.mark.needs_root("makes network namespaces"),
    pytest.mark.time_limit(600),
]

LEASE = 3.0
#: Others' changes show within this many seconds, beside what is promised: the machine is busy.
SLACK = 3.0
#: Nothing shows by itself within a test.
HOUR = ("stat_cache_expire=1h", "open_ttl=1h")
#: A partition is noticed soon.
HASTY = ("retries=1", "connect_timeout=1", "readwrite_timeout=2", "op_timeout=5")


@pytest.fixture(scope="module")
def where() -> Iterator[Hosts]:
    with hosts() as made:
        yield made


@pytest.fixture
def through(where: Hosts, bucket: Witness) -> Iterator[Proxy]:
    """The endpoint, as the hosts reach it; it can tell what is changed."""
    with proxy(bucket.endpoint.url, host=where.outside) as made:
        yield made


Pair = Callable[..., Sequence[HostMount]]


@pytest.fixture
def pair(need_fuse: None, where: Hosts, bucket: Witness, through: Proxy) -> Iterator[Pair]:
    """A mount on each host."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(
            mounted(bucket, bucket.endpoint.at(through.url), where, 2, *options)
        )


@contextmanager
def cut_off(host: str) -> Iterator[None]:
    """The host reaches nobody."""
    _link(host, "down")
    try:
        yield
    finally:
        _link(host, "up")


def _link(host: str, state: str) -> None:
    subprocess.run(at(host, "ip", "link", "set", "room", state), check=True)
    if state == "up":  # the route has gone with the link
        gateway = subprocess.run(
            at(host, "ip", "-4", "-o", "address", "show", "room"),
            capture_output=True, text=True, check=True,
        ).stdout.split()[3].partition("/")[0]  # fmt: skip
        gateway = gateway.rpartition(".")[0] + ".1"
        subprocess.run(at(host, "ip", "route", "replace", "default", "via", gateway), check=True)


def within(seconds: float, condition: Callable[[], object], what: str) -> None:
    """Wait for something, and tell how long it took (`pytest -s`)."""
    began = time.monotonic()
    until(condition, what, timeout=seconds + SLACK)
    told(what, time.monotonic() - began)


def told(what: str, seconds: float) -> None:
    print(f"{what}: {seconds:.2f} s")


def test_what_one_has_closed_the_other_opens_after_open_ttl(pair: Pair) -> None:
    a, b = (mount.path / "f" for mount in pair("open_ttl=1", "stat_cache_expire=3"))
    a.write_bytes(b"first")
    within(1, b.exists, "the new name")
    assert b.read_bytes() == b"first"
    with b.open("rb", buffering=0) as opened:
        assert opened.read() == b"first"
        a.write_bytes(b"the second")
        within(1, lambda: b.read_bytes() == b"the second", "the new bytes")
        opened.seek(0)
        assert opened.read() == b"first", "an open file stays in its version"
    within(3, lambda: b.stat().st_size == 10, "the size")
    a.unlink()
    within(3, lambda: is_gone(b), "the name is gone")


def test_with_a_feed_it_shows_within_a_second(pair: Pair, through: Proxy) -> None:
    through.feed = feed = Feed(ping=0.1)
    a, b = (mount.path for mount in pair("follow", *HOUR))
    until(lambda: feed.connections == 2, "both listen")
    assert os.listdir(b) == []
    (a / "f").write_bytes(b"first")
    within(1, lambda: os.listdir(b) == ["f"], "the name, with a feed")
    assert (b / "f").read_bytes() == b"first"
    with (b / "f").open("rb", buffering=0) as opened:
        assert opened.read() == b"first"
        (a / "f").write_bytes(b"the second")
        within(1, lambda: (b / "f").stat().st_size == 10, "the attributes, with a feed")
        opened.seek(0)
        assert opened.read() == b"first", "an open file stays in its version"
    assert (b / "f").read_bytes() == b"the second"
    (a / "f").unlink()
    within(1, lambda: is_gone(b / "f"), "the name is gone, with a feed")


def test_with_a_feed_a_partition_ends_the_trust(pair: Pair, through: Proxy, where: Hosts) -> None:
    through.feed = Feed(ping=0.1)
    mounts = pair("follow", "open_ttl=1", "stat_cache_expire=1", *HASTY)
    a, b = (mount.path / "f" for mount in mounts)
    a.write_bytes(b"first")
    within(1, b.exists, "the name")
    with cut_off(where.readers[1]):
        a.write_bytes(b"second!")
        time.sleep(8)  # silent for six seconds is down
        with pytest.raises(OSError, match="Errno"):
            b.read_bytes()
    until(lambda: reads(b) == b"second!", "what was changed meanwhile")


def reads(path: os.PathLike[str]) -> bytes:
    """The bytes of a file, none while it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_both_change_a_file(pair: Pair, bucket: Witness) -> None:
    mounts = pair()
    a, b = (mount.path / "f" for mount in mounts)
    a.write_bytes(b"base")
    within(1, b.exists, "the name")
    ours, theirs = a.open("r+b"), b.open("r+b")
    ours.write(b"ours")
    theirs.write(b"their")
    ours.close()
    with pytest.raises(OSError, match=f"Errno {errno.ESTALE}"):
        theirs.close()
    assert bucket.get("f") == b"ours"
    assert set_aside(bucket) == b"their"


def test_local_locks_are_each_machines_own(pair: Pair) -> None:
    a, b = (mount.path / "f" for mount in pair())
    a.write_bytes(b"1")
    within(1, b.exists, "the name")
    with a.open("r+b") as ours, b.open("r+b") as theirs:
        for file in (ours, theirs):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_locks_in_the_bucket_are_one_for_all(pair: Pair, bucket: Witness) -> None:
    a, b = (mount.path / "f" for mount in pair("locks=bucket", *HOUR))
    a.write_bytes(b"0")
    with a.open("r+b", buffering=0) as ours, b.open("r+b", buffering=0) as theirs:
        for turn, file in enumerate([ours, theirs] * 3, 1):
            began = time.monotonic()
            fcntl.flock(file, fcntl.LOCK_EX)
            told("a lock that the other has given up", time.monotonic() - began)
            other = theirs if file is ours else ours
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.seek(0)
            text = file.read()
            assert len(text) == turn
            file.write(b"%d" % turn)
            fcntl.flock(file, fcntl.LOCK_UN)
    assert bucket.get("f") == b"0123456"


def test_who_waits_for_a_lock_gets_it_and_sees_what_was_written(pair: Pair) -> None:
    a, b = (mount.path / "f" for mount in pair("locks=bucket", *HOUR))
    a.write_bytes(b"0")
    with a.open("r+b", buffering=0) as ours, b.open("r+b", buffering=0) as theirs:
        fcntl.flock(ours, fcntl.LOCK_EX)
        with ThreadPoolExecutor(1) as waiting:
            has = waiting.submit(fcntl.flock, theirs, fcntl.LOCK_EX)
            with pytest.raises(TimeoutError):
                has.result(2)  # it asks less and less often
            ours.write(b"the second")
            began = time.monotonic()
            fcntl.flock(ours, fcntl.LOCK_UN)
            has.result(20)
            told("what was written, to who has waited for the lock", time.monotonic() - began)
        assert theirs.read() == b"the second"


def test_who_is_cut_off_keeps_its_bytes(pair: Pair, bucket: Witness, where: Hosts) -> None:
    mounts = pair(*HASTY)
    a, b = (mount.path / "f" for mount in mounts)
    a.write_bytes(b"base")
    within(1, b.exists, "the name")
    with b.open("r+b", buffering=0) as file:
        file.read()
        file.seek(0)
        with cut_off(where.readers[1]):
            file.write(b"cut off")
            began = time.monotonic()
            with pytest.raises(OSError, match="Errno"):
                os.fsync(file.fileno())
            assert time.monotonic() - began < 60
            a.write_bytes(b"connected")
        until(lambda: fails_with(errno.ESTALE, file), "others' version is met")
    assert bucket.get("f") == b"connected"
    assert set_aside(bucket) == b"cut off"


def fails_with(number: int, file: io.FileIO) -> bool:
    """Whether a file cannot be stored for this reason; the network may not be back yet."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        return error.errno == number
    return False


def set_aside(bucket: Witness) -> bytes:
    """The one conflict copy, which may be stored only when the network is back."""

    def found() -> list[str]:
        return [key for key in sorted(bucket.keys()) if "conflict" in key]

    until(found, "the conflict copy")
    (copy,) = found()
    return bucket.get(copy)


def test_who_was_cut_off_stores_what_nobody_else_has_changed(
    pair: Pair, bucket: Witness, where: Hosts
) -> None:
    mounts = pair(*HASTY)
    file = (mounts[1].path / "f").open("wb", buffering=0)
    with cut_off(where.readers[1]):
        file.write(b"cut off")
        with pytest.raises(OSError, match="Errno"):
            file.close()
        assert not bucket.exists("f")
    until(lambda: bucket.exists("f"), "it is tried again", timeout=60)
    assert bucket.get("f") == b"cut off"


def test_who_is_cut_off_loses_its_locks_and_overwrites_nothing(
    pair: Pair, bucket: Witness, where: Hosts
) -> None:
    mounts = pair("locks=bucket", f"lock_lease={LEASE:g}", *HASTY)
    a, b = (mount.path / "f" for mount in mounts)
    a.write_bytes(b"base")
    within(1, b.exists, "the name")
    with b.open("r+b", buffering=0) as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        file.write(b"cut off")
        with cut_off(where.readers[1]):
            with a.open("r+b", buffering=0) as other:
                began = time.monotonic()
                fcntl.lockf(other, fcntl.LOCK_EX)
                waited = time.monotonic() - began
                told(f"the lock of one that is cut off, whose lease is {LEASE:g} s", waited)
                assert LEASE * 0.9 < waited < 2 * LEASE + SLACK
                other.write(b"connected")
            with pytest.raises(OSError, match=f"Errno {errno.EIO}"):
                file.write(b"more")
        with pytest.raises(OSError, match=f"Errno {errno.EIO}"):
            os.fsync(file.fileno())
        with pytest.raises(OSError, match=f"Errno {errno.EIO}"):
            file.close()
    assert bucket.get("f") == b"connected"
    assert set_aside(bucket) == b"cut off"


def test_who_is_killed_leaves_what_it_has_closed(pair: Pair, bucket: Witness) -> None:
    mounts = pair()
    a, b = (mount.path for mount in mounts)
    (b / "closed").write_bytes(b"whole")
    file = (b / "open").open("wb", buffering=0)
    file.write(b"half")
    mounts[1].kill9()
    with pytest.raises(OSError, match="Errno"):
        file.close()
    assert sorted(os.listdir(a)) == ["closed"]
    assert (a / "closed").read_bytes() == b"whole"


def test_who_is_killed_leaves_what_it_has_closed_and_its_locks_end(pair: Pair) -> None:
    mounts = pair("locks=bucket", f"lock_lease={LEASE:g}")
    a, b = (mount.path for mount in mounts)
    (b / "closed").write_bytes(b"whole")
    file = (b / "closed").open("r+b", buffering=0)
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(b"half!")
    mounts[1].kill9()
    with pytest.raises(OSError, match="Errno"):
        file.close()
    with (a / "closed").open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert other.read() == b"whole"
