"""`-o locks=bucket`: flock and fcntl locks that two mounts share."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bucketfs.store.base import LOCKS
from tests.harness.mounts import Mount, Mounts
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

pytestmark = pytest.mark.needs("conditions")

#: What is here is trusted for long: only a lock has it looked at anew.
OPTIONS = ("locks=bucket", "stat_cache_expire=1h", "open_ttl=1h")

Lock = Callable[[int, int], None]


def by_fcntl(fd: int, operation: int) -> None:
    fcntl.lockf(fd, operation)


LOCKINGS = [pytest.param(fcntl.flock, id="flock"), pytest.param(by_fcntl, id="fcntl")]


@pytest.fixture
def pair(bucket: Witness, mount: Mounts) -> tuple[Mount, Mount]:
    """Two mounts of a bucket that share their locks."""
    return mount(bucket, *OPTIONS), mount(bucket, *OPTIONS)


def is_free(path: Path, lock: Lock, operation: int = fcntl.LOCK_EX) -> bool:
    """Whether another program could lock a file now."""
    fd = os.open(path, os.O_RDWR)
    try:
        lock(fd, operation | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    finally:
        os.close(fd)
    return True


def lock_objects(bucket: Witness) -> list[str]:
    return named(bucket, LOCKS)


def locks_in(bucket: Witness) -> list[object]:
    """What the lock objects say; the last that unlocks a file deletes its object at any moment."""
    rows = []
    for key in lock_objects(bucket):
        with contextlib.suppress(bucket.client.exceptions.NoSuchKey):
            rows += json.loads(bucket.get(key))["locks"]
    return rows


def named(bucket: Witness, part: str) -> list[str]:
    """Keys with something in them."""
    return [key for key in sorted(bucket.keys()) if part in key]


@pytest.mark.parametrize("lock", LOCKINGS)
def test_one_mount_has_it_and_then_the_other(
    pair: tuple[Mount, Mount], bucket: Witness, lock: Lock
) -> None:
    a, b = (each.path / "f" for each in pair)
    a.write_bytes(b"1")
    fd = os.open(a, os.O_RDWR)
    lock(fd, fcntl.LOCK_EX)
    assert not is_free(b, lock)
    assert not is_free(b, lock, fcntl.LOCK_SH)
    lock(fd, fcntl.LOCK_SH)
    assert not is_free(b, lock)
    assert is_free(b, lock, fcntl.LOCK_SH)
    lock(fd, fcntl.LOCK_UN)
    assert is_free(b, lock)
    os.close(fd)
    # where a deletion would ignore its condition, an empty table stays
    until(lambda: locks_in(bucket) == [], "nothing is locked in the bucket")


@pytest.mark.parametrize("lock", LOCKINGS)
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_APPEND])
def test_under_a_lock_an_open_file_is_what_the_other_left(
    pair: tuple[Mount, Mount], lock: Lock, flags: int
) -> None:
    """Both have it open all the time; neither closes it between its turns."""
    paths = [each.path / "f" for each in pair]
    paths[0].write_bytes(b"0")
    opened = [os.open(path, flags) for path in paths]
    for turn in range(1, 7):
        fd = opened[turn % 2]
        lock(fd, fcntl.LOCK_EX)
        text = os.pread(fd, 4096, 0)
        assert text == b"".join(b"%d" % before for before in range(turn))
        if flags & os.O_APPEND:
            os.write(fd, b"%d" % turn)
        else:
            os.pwrite(fd, b"%d" % turn, len(text))
        assert os.fstat(fd).st_size == turn + 1
        lock(fd, fcntl.LOCK_UN)
    for fd in opened:
        os.close(fd)


@pytest.mark.parametrize("lock", LOCKINGS)
@pytest.mark.parametrize("anew", [False, True])
def test_who_appends_under_a_lock_and_reads_nothing_overwrites_nothing(
    bucket: Witness, mount: Mounts, lock: Lock, anew: bool
) -> None:
    options = ("locks=bucket", "stat_cache_expire=1h", "open_ttl=0")
    paths = [mount(bucket, *options).path / "f" for _ in range(2)]
    paths[0].write_bytes(b"0")
    opened = {number: os.open(path, os.O_WRONLY | os.O_APPEND) for number, path in enumerate(paths)}
    expected = b"0"
    for turn in range(1, 7):
        if anew:
            os.close(opened[turn % 2])
            opened[turn % 2] = os.open(paths[turn % 2], os.O_WRONLY | os.O_APPEND)
        fd = opened[turn % 2]
        lock(fd, fcntl.LOCK_EX)
        more = b"%d" % turn * (1 if turn < 4 else 300_000)
        os.write(fd, more)
        lock(fd, fcntl.LOCK_UN)
        expected += more
    for fd in opened.values():
        os.close(fd)
    assert bucket.get("f") == expected


def test_a_signal_does_not_end_a_lock_before_all_is_stored(
    bucket: Witness, mount: Mounts, counted: Proxy
) -> None:
    path = mount(bucket, *OPTIONS, url=counted.url).path / "f"
    path.write_bytes(b"1")
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: heard.append(number))
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, b"2")
        with counted.fault("PutObject", key="f", delay=2):
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            fcntl.flock(fd, fcntl.LOCK_UN)
        assert bucket.get("f") == b"2"
        assert heard
    finally:
        signal.signal(signal.SIGALRM, before)
        os.close(fd)


def test_a_lock_that_is_lost_before_it_is_had_is_not_had(
    bucket: Witness, mount: Mounts, counted: Proxy
) -> None:
    """The lease ends while the file is looked at anew."""
    made = mount(bucket, *OPTIONS, "lock_lease=3", "retries=1", url=counted.url)
    made.expected += ["the locks on 'f' are lost", "setlk", "the lease of 'f'"]
    (made.path / "f").write_bytes(b"1")
    fd = os.open(made.path / "f", os.O_RDWR)
    with ThreadPoolExecutor(1) as pool, counted.fault("HeadObject", key="f", delay=6):
        asked = pool.submit(fcntl.flock, fd, fcntl.LOCK_EX)
        until(lambda: lock_objects(bucket) != [], "the bucket has the lock")
        with counted.fault("PutObject", status=500), pytest.raises(OSError, match="Errno 5"):
            asked.result(30)
    with pytest.raises(OSError, match="Errno 5"):
        os.close(fd)


def test_an_older_descriptors_end_leaves_a_newer_ones_lock(pair: tuple[Mount, Mount]) -> None:
    """The child of a process has inherited what its parent locked by, and closed since."""
    mount, other = pair
    path = mount.path / "f"
    path.write_bytes(b"1")
    old = os.open(path, os.O_RDWR)
    fcntl.lockf(old, fcntl.LOCK_EX)
    fcntl.lockf(old, fcntl.LOCK_UN)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[old]) as child:
        os.close(old)
        with path.open("r+b") as new:
            fcntl.lockf(new, fcntl.LOCK_EX)
            assert mount.status()["open_files"] == 2
            child.communicate()
            until(lambda: mount.status()["open_files"] == 1, "the older one's end is heard")
            assert not is_free(other.path / "f", by_fcntl)
        assert is_free(other.path / "f", by_fcntl)


def test_a_child_that_closes_what_it_has_inherited_stores_nothing(
    pair: tuple[Mount, Mount], bucket: Witness
) -> None:
    path = pair[0].path / "f"
    path.write_bytes(b"1")
    with path.open("r+b", buffering=0) as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        file.write(b"half")
        subprocess.run(["true"], check=True)
        assert bucket.get("f") == b"1"
    assert bucket.get("f") == b"half"


def test_what_a_close_has_stored_under_a_lock_is_not_only_promised(
    bucket: Witness, mount: Mounts
) -> None:
    path = mount(bucket, *OPTIONS, "writeback").path / "f"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"1")
    assert bucket.get("f") == b"1"


@pytest.mark.parametrize("lock", LOCKINGS)
def test_a_file_that_both_make_is_one(
    pair: tuple[Mount, Mount], bucket: Witness, lock: Lock
) -> None:
    opened = [os.open(each.path / "new", os.O_RDWR | os.O_CREAT) for each in pair]
    for number, fd in enumerate(opened):
        lock(fd, fcntl.LOCK_EX)
        text = os.pread(fd, 10, 0)
        os.pwrite(fd, b"%d" % number, len(text))
        lock(fd, fcntl.LOCK_UN)
    for fd in opened:
        os.close(fd)
    assert bucket.get("new") == b"01"
    assert named(bucket, "conflict") == []


def test_ranges(pair: tuple[Mount, Mount]) -> None:
    a, b = (each.path / "f" for each in pair)
    a.write_bytes(bytes(100))
    with a.open("r+b") as ours, b.open("r+b") as theirs:
        fcntl.lockf(ours, fcntl.LOCK_EX, 10, 0)
        fcntl.lockf(theirs, fcntl.LOCK_EX, 10, 10)
        with pytest.raises(BlockingIOError):
            fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB, 20, 0)
        fcntl.lockf(ours, fcntl.LOCK_UN, 5, 0)
        fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
        kind, _, start, length, pid = in_the_way(theirs.fileno(), 0, 100)
        assert (kind, start, length, pid) == (fcntl.F_WRLCK, 5, 5, 0)
        assert in_the_way(ours.fileno(), 20, 80)[0] == fcntl.F_UNLCK


def in_the_way(fd: int, start: int, length: int) -> tuple[int, ...]:
    """What F_GETLK says: type, whence, start, length, pid."""
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    return struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, asked))


def holding(
    path: Path, lock: str, writes: bytes = b"", *, wait: bool = True
) -> subprocess.Popen[bytes]:
    """A program that locks a file, appends to it, says so, and sleeps."""
    code = (
        "import fcntl, os, sys, time\n"
        f"fd = os.open({str(path)!r}, os.O_RDWR)\n"
        f"fcntl.{lock}(fd, fcntl.LOCK_EX)\n"
        f"os.pwrite(fd, {writes!r}, os.fstat(fd).st_size)\n"
        "print('locked', flush=True)\n"
        "time.sleep(600)\n"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    if wait:
        assert program.stdout is not None
        assert program.stdout.readline() == b"locked\n"
    return program


def kill(program: subprocess.Popen[bytes]) -> None:
    with program:
        program.kill()


@pytest.mark.parametrize("lock", ["flock", "lockf"])
def test_the_death_of_a_program_gives_its_lock_to_who_waits(
    pair: tuple[Mount, Mount], lock: str
) -> None:
    a, b = (each.path / "f" for each in pair)
    a.write_bytes(b"1")
    first = holding(a, lock)
    second = holding(b, lock, wait=False)
    try:
        assert second.stdout is not None
        assert not is_free(b, fcntl.flock if lock == "flock" else by_fcntl)
        kill(first)
        assert second.stdout.readline() == b"locked\n"
    finally:
        kill(second)


@pytest.mark.parametrize("lock", ["flock", "lockf"])
def test_who_waits_can_be_interrupted(pair: tuple[Mount, Mount], lock: str) -> None:
    a, b = (each.path / "f" for each in pair)
    a.write_bytes(b"1")
    first, second = holding(a, lock), holding(b, lock, wait=False)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(2)
        second.send_signal(signal.SIGTERM)
        assert second.wait(10) == -signal.SIGTERM
        kill(first)
        # the one that was interrupted does not have it
        until(lambda: is_free(a, fcntl.flock if lock == "flock" else by_fcntl), "the lock is free")
    finally:
        kill(second)
        kill(first)


SHORT = (*OPTIONS, "lock_lease=3")


def overtake(slow: Mount, other: Mount) -> None:
    """A mount stands still until its lease is over, and another appends to `f` under a lock."""
    slow.signal(signal.SIGSTOP)
    with (other.path / "f").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0, os.SEEK_END)
        file.write(b"other\n")
    slow.signal(signal.SIGCONT)


def test_the_locks_of_a_dead_mount_end(bucket: Witness, mount: Mounts) -> None:
    dead, other = mount(bucket, *SHORT), mount(bucket, *SHORT)
    other.expected.append("has not renewed its locks")
    (other.path / "f").write_bytes(b"1")
    program = holding(dead.path / "f", "flock")
    assert not is_free(other.path / "f", fcntl.flock)
    dead.kill9()
    kill(program)
    with (other.path / "f").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    dead.start()


def test_who_has_slept_too_long_overwrites_nothing(bucket: Witness, mount: Mounts) -> None:
    slow, other = mount(bucket, *SHORT), mount(bucket, *SHORT)
    slow.expected += ["the locks on 'f' are lost", "'f' had a lock that was lost", "flush|write"]
    (other.path / "f").write_bytes(b"base\n")
    fd = os.open(slow.path / "f", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.pwrite(fd, b"slow\n", 5)
    overtake(slow, other)
    for change in (
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.ftruncate(fd, 0),
        lambda: os.fsync(fd),
    ):
        with pytest.raises(OSError, match="Errno 5"):
            change()
    with pytest.raises(OSError, match="Errno 5"):
        os.close(fd)
    assert bucket.get("f") == b"base\nother\n"
    (aside,) = named(bucket, "conflict")
    assert bucket.get(aside) == b"base\nslow\n"
    # opened anew, it is as ever
    with (slow.path / "f").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert file.read() == b"base\nother\n"
        file.write(b"again\n")
    assert bucket.get("f") == b"base\nother\nagain\n"


@pytest.mark.parametrize("lock", LOCKINGS)
def test_whose_file_was_put_aside_gets_no_lock_on_it(
    bucket: Witness, mount: Mounts, lock: Lock
) -> None:
    """What another program on the mount wrote lost against others', and this one's file with it."""
    slow, other = mount(bucket, *SHORT), mount(bucket, *SHORT)
    slow.expected += ["the locks on 'f' are lost", "'f' had a lock that was lost", "flush|write"]
    (other.path / "f").write_bytes(b"base\n")
    bystander = os.open(slow.path / "f", os.O_RDWR)
    program = holding(slow.path / "f", "flock", b"slow\n")
    overtake(slow, other)
    kill(program)
    until(lambda: named(bucket, "conflict") != [], "it is put aside")
    for _ in range(2):
        with pytest.raises(OSError, match=f"Errno {errno.ESTALE}"):
            lock(bystander, fcntl.LOCK_EX)
    with pytest.raises(OSError, match=f"Errno {errno.ESTALE}"):
        os.fsync(bystander)  # which is told once
    with pytest.raises(OSError, match=f"Errno {errno.ESTALE}"):
        lock(bystander, fcntl.LOCK_EX)
    # nor who opens it now: by its old name, which the kernel may have yet, or by the new one
    (aside,) = named(bucket, "conflict")
    with (slow.path / aside).open("r+b") as copy:
        with pytest.raises(OSError, match=f"Errno {errno.ESTALE}"):
            lock(copy.fileno(), fcntl.LOCK_EX)
        assert copy.read() == b"base\nslow\n"
    with pytest.raises(OSError, match="Errno 5"):
        os.close(bystander)
    assert bucket.get("f") == b"base\nother\n"
    with (slow.path / "f").open("r+b") as file:
        lock(file.fileno(), fcntl.LOCK_EX)
        assert file.read() == b"base\nother\n"


def test_a_lost_lock_can_be_taken_again_by_who_has_written_nothing(
    bucket: Witness, mount: Mounts
) -> None:
    slow, other = mount(bucket, *SHORT), mount(bucket, *SHORT)
    slow.expected.append("the locks on 'f' are lost")
    (other.path / "f").write_bytes(b"base\n")
    with (slow.path / "f").open("r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        slow.signal(signal.SIGSTOP)
        with (other.path / "f").open("r+b") as theirs:
            fcntl.flock(theirs, fcntl.LOCK_EX)
            theirs.write(b"other")
        slow.signal(signal.SIGCONT)
        with pytest.raises(OSError, match="Errno 5"):
            file.write(b"x")
        fcntl.flock(file, fcntl.LOCK_EX)
        assert slow.status()["locks"] == {"files": 1, "lost": 1}
        assert file.read() == b"other"
        file.write(b"more")
    assert bucket.get("f") == b"othermore"


def test_the_name_of_lock_objects_is_not_shown(pair: tuple[Mount, Mount], bucket: Witness) -> None:
    a, b = pair
    (a.path / "d").mkdir()
    (a.path / "d" / "f").write_bytes(b"1")
    with (a.path / "d" / "f").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (key,) = lock_objects(bucket)
        assert json.loads(bucket.get(key))["file"] == "d/f"
        for each in pair:
            assert [names for _, names, _ in os.walk(each.path)] == [["d"], []]
            with pytest.raises(PermissionError):
                (each.path / LOCKS).mkdir()
        os.remove(b.path / "d" / "f")
        os.rmdir(b.path / "d")


def test_the_end_of_a_mount_gives_locks_back(pair: tuple[Mount, Mount], bucket: Witness) -> None:
    a, b = pair
    (a.path / "f").write_bytes(b"1")
    program = holding(a.path / "f", "flock")
    a.signal(signal.SIGTERM)
    assert a.wait() == 0
    assert is_free(b.path / "f", fcntl.flock)
    kill(program)
    a.start()


def test_an_endpoint_that_ignores_conditions_is_refused(bucket: Witness, mount: Mounts) -> None:
    with pytest.raises(AssertionError, match="locks=bucket: the endpoint is not known to honour"):
        mount(bucket, "locks=bucket", "probe=0")


def test_without_the_option_nothing_is_asked(bucket: Witness, mount: Mounts) -> None:
    a, b = mount(bucket), mount(bucket)
    (a.path / "f").write_bytes(b"1")
    with (a.path / "f").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_free(b.path / "f", fcntl.flock)
        assert lock_objects(bucket) == []


def test_large_files_go_through_in_pieces(pair: tuple[Mount, Mount]) -> None:
    a, b = pair
    data = os.urandom(5 << 20)
    (a.path / "large").write_bytes(data)
    assert (a.path / "large").read_bytes() == data
    assert (b.path / "large").read_bytes() == data


def test_locks_of_an_open_file_end_with_it(pair: tuple[Mount, Mount]) -> None:
    """F_OFD_SETLK: neither a process has them, nor does the kernel say when they end."""
    a, b = (each.path / "f" for each in pair)
    a.write_bytes(b"1")
    fd = os.open(a, os.O_RDWR)
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    os.close(os.open(a, os.O_RDONLY))
    assert not is_free(b, by_fcntl)
    os.close(fd)
    until(lambda: is_free(b, by_fcntl), "the lock has ended")


def test_unsaved_attributes_do_not_keep_the_old_bytes(
    pair: tuple[Mount, Mount], bucket: Witness
) -> None:
    a, b = (each.path / "f" for each in pair)
    # on a busy machine they are tried before the lock is asked for, and refused: others' version
    pair[1].expected.append("f cannot be saved: .*PreconditionFailed")
    a.write_bytes(b"1")
    with b.open("r+b", buffering=0) as theirs:
        assert theirs.read() == b"1"
        a.write_bytes(b"the second")
        os.fchmod(theirs.fileno(), 0o600)
        fcntl.flock(theirs, fcntl.LOCK_EX)
        theirs.seek(0)
        assert theirs.read() == b"the second"
    assert b.stat().st_mode in (0o100600, 0o100644)
    assert bucket.get("f") == b"the second"
    assert named(bucket, "conflict") == []


def test_without_its_relay_a_mount_ends(bucket: Witness, mount: Mounts) -> None:
    made = mount(bucket, *OPTIONS)
    made.expected.append("the process between the kernel and bucketfs has ended")
    (made.path / "f").write_bytes(b"1")
    (relay,) = [
        int(child)
        for thread in Path(f"/proc/{made.pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]
    os.kill(relay, signal.SIGKILL)
    assert made.wait() == 0
    assert not made.path.is_mount()
    made.start()
    assert (made.path / "f").read_bytes() == b"1"


def test_each_process_ends_with_the_other(bucket: Witness, mount: Mounts) -> None:
    made = mount(bucket, *OPTIONS)
    (children,) = Path(f"/proc/{made.pid}/task/{made.pid}").glob("children")
    (relay,) = children.read_text().split()
    made.kill9()
    until(lambda: not Path(f"/proc/{relay}").exists(), "the relay has ended")
    made.start()
