"""The mount against a local directory: the same random operations must have the same results.

Hypothesis draws programs of file-system calls. Each call is made twice, below the mount and below
a local directory, and must return the same value or fail with the same errno; after each the two
trees must look the same, and at the end the objects in the bucket must hold what the files do.

``BUCKETFS_TEST_RANDOM=N`` (`tests.harness.examples`) draws other programs in each run, N times as
many. ``BUCKETFS_TEST_STEPS`` (default 40) sets how long they are, and with ``BUCKETFS_TEST_SHRINK``
set a failing one is made short, which takes minutes.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.harness.examples import examples
from tests.harness.mounts import Mount, Mounts
from tests.harness.watchdog import scratch_base
from tests.harness.witness import Witness

EXAMPLES = examples(12)
STEPS = int(os.environ.get("BUCKETFS_TEST_STEPS", "40"))

PHASES = [Phase.generate]
if "BUCKETFS_TEST_SHRINK" in os.environ:
    PHASES.append(Phase.shrink)

MIB = 1 << 20

#: Times before this were set by the program, later ones by the clock and not comparable.
LONG_AGO = 1_600_000_000 * 10**9

#: Few names, so that calls meet each other's results; the first exist from the start.
PATHS = st.sampled_from(
    ["a", "d", "d/a", "d/d", "b", "e", "d/b", "e/a", "d/d/a", "e/d", "l", "l/a"]
)
MODES = st.sampled_from([0o600, 0o644, 0o755, 0o400, 0o4755, 0o1777])
DATA = st.builds(
    lambda letter, size: letter * size,
    st.sampled_from([b"A", b"B", b"C", b"\x00"]),
    st.sampled_from([0, 1, 7, 100, 4096, 5000, 70_000]),
)
OFFSETS = st.sampled_from([0, 1, 50, 4095, 4096, 9000, 100_000])
TIMES = st.integers(0, LONG_AGO - 1)
OPENING = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_RDWR,
        os.O_RDWR | os.O_CREAT,
        os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_RDWR | os.O_CREAT | os.O_APPEND,
        os.O_RDWR | os.O_TRUNC,
    ]
)


@dataclass
class Pair:
    """Two descriptors of what should be the same file."""

    ours: int
    theirs: int


def outcome(action: Callable[[], Any]) -> Any:
    """The value of a call or the name of its errno."""
    try:
        return action()
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, str(exc))


def look(info: os.stat_result) -> tuple[Any, ...]:
    """What of a stat must agree."""
    mtime = info.st_mtime_ns if info.st_mtime_ns < LONG_AGO else "recent"
    if stat.S_ISDIR(info.st_mode):
        return (oct(info.st_mode), mtime)
    return (oct(info.st_mode), mtime, info.st_size, info.st_nlink, info.st_uid, info.st_gid)


def tree(top: Path) -> dict[str, Any]:
    """Everything below `top`: attributes, and the content of files and links."""

    def fail(exc: OSError) -> None:
        raise exc

    found: dict[str, Any] = {}
    for directory, names, files in os.walk(top, onerror=fail):
        for name in (*names, *files):
            path = Path(directory, name)
            info = path.lstat()
            body: Any = None
            if stat.S_ISREG(info.st_mode):
                body = path.read_bytes()
            elif stat.S_ISLNK(info.st_mode):
                body = os.readlink(path)
            found[str(path.relative_to(top))] = (look(info), body)
    return found


class Machine(RuleBasedStateMachine):
    """One program, below a fresh directory of the mount and a fresh local one."""

    mount: Mount
    local: Path
    numbers = itertools.count()
    handles = Bundle("handles")

    @initialize()
    def begin(self) -> None:
        name = f"p{next(self.numbers)}"
        self.prefix = name + "/"
        self.ours, self.theirs = self.mount.path / name, self.local / name
        for top in (self.ours, self.theirs):
            (top / "d/d").mkdir(parents=True)
            (top / "a").write_bytes(b"first")
            (top / "d/a").write_bytes(b"second")
        self.open: list[Pair] = []
        self.big = 2
        self.remounts = 1

    def both(self, action: Callable[[Path], Any]) -> Any:
        """Make a call below both directories; the common result."""
        ours, theirs = outcome(lambda: action(self.ours)), outcome(lambda: action(self.theirs))
        assert ours == theirs, f"mount: {ours!r:.200}, local: {theirs!r:.200}"
        return ours

    def on(self, pair: Pair, action: Callable[[int], Any]) -> Any:
        """Make a call on both descriptors; the common result."""
        ours, theirs = outcome(lambda: action(pair.ours)), outcome(lambda: action(pair.theirs))
        assert ours == theirs, f"mount: {ours!r:.200}, local: {theirs!r:.200}"
        return ours

    @rule(path=PATHS, mode=MODES)
    def mkdir(self, path: str, mode: int) -> None:
        self.both(lambda top: os.mkdir(top / path, mode))

    @rule(path=PATHS)
    def rmdir(self, path: str) -> None:
        self.both(lambda top: os.rmdir(top / path))

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        self.both(lambda top: os.unlink(top / path))

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: str, new: str) -> None:
        self.both(lambda top: os.rename(top / old, top / new))

    @rule(path=PATHS, content=PATHS)
    def symlink(self, path: str, content: str) -> None:
        self.both(lambda top: os.symlink(content, top / path))

    @rule(path=PATHS, mode=MODES)
    def chmod(self, path: str, mode: int) -> None:
        self.both(lambda top: os.chmod(top / path, mode))

    @rule(path=PATHS, uid=st.sampled_from([-1, 0, 5]), gid=st.sampled_from([-1, 0, 6]))
    def chown(self, path: str, uid: int, gid: int) -> None:
        self.both(lambda top: os.lchown(top / path, uid, gid))

    @rule(path=PATHS, mtime=TIMES, follow=st.booleans())
    def utime(self, path: str, mtime: int, follow: bool) -> None:
        self.both(lambda top: os.utime(top / path, ns=(mtime, mtime), follow_symlinks=follow))

    @rule(path=PATHS, size=OFFSETS)
    def truncate(self, path: str, size: int) -> None:
        self.both(lambda top: os.truncate(top / path, size))

    @rule(path=PATHS, data=DATA)
    def write_file(self, path: str, data: bytes) -> None:
        self.both(lambda top: (top / path).write_bytes(data))

    @rule(path=PATHS, data=DATA)
    def append_file(self, path: str, data: bytes) -> None:
        def append(top: Path) -> int:
            with open(top / path, "ab", 0) as file:
                return file.write(data)

        self.both(append)

    @precondition(lambda self: self.big > 0)
    @rule(path=PATHS, offset=OFFSETS)
    def write_big(self, path: str, offset: int) -> None:
        def write(top: Path) -> int:
            with open(top / path, "r+b", 0) as file:
                file.seek(offset)
                return file.write(b"big!" * (6 * MIB // 4))

        if self.both(write) == 6 * MIB:
            self.big -= 1

    @rule(path=PATHS)
    def stat(self, path: str) -> None:
        self.both(lambda top: look(os.lstat(top / path)))
        self.both(lambda top: look(os.stat(top / path)))

    @rule(path=PATHS)
    def listdir(self, path: str) -> None:
        self.both(lambda top: sorted(os.listdir(top / path)))

    @rule(target=handles, path=PATHS, flags=OPENING, mode=MODES)
    def open_file(self, path: str, flags: int, mode: int) -> Any:
        ours = outcome(lambda: os.open(self.ours / path, flags, mode))
        theirs = outcome(lambda: os.open(self.theirs / path, flags, mode))
        if isinstance(ours, str) or isinstance(theirs, str):
            assert ours == theirs
            return multiple()
        pair = Pair(ours, theirs)
        self.open.append(pair)
        return pair

    @rule(pair=handles, offset=OFFSETS, data=DATA)
    def write(self, pair: Pair, offset: int, data: bytes) -> None:
        if pair in self.open:
            self.on(pair, lambda fd: os.pwrite(fd, data, offset))

    @rule(pair=handles, offset=OFFSETS, size=st.sampled_from([1, 100, 5000, 200_000]))
    def read(self, pair: Pair, offset: int, size: int) -> None:
        if pair in self.open:
            self.on(pair, lambda fd: os.pread(fd, size, offset))

    @rule(pair=handles, size=OFFSETS)
    def ftruncate(self, pair: Pair, size: int) -> None:
        if pair in self.open:
            self.on(pair, lambda fd: os.ftruncate(fd, size))

    @rule(pair=handles, mode=MODES, mtime=TIMES)
    def change_open(self, pair: Pair, mode: int, mtime: int) -> None:
        if pair in self.open:
            self.on(pair, lambda fd: os.fchmod(fd, mode))
            self.on(pair, lambda fd: os.utime(fd, ns=(mtime, mtime)))

    @rule(pair=handles)
    def fsync_and_fstat(self, pair: Pair) -> None:
        if pair in self.open:
            self.on(pair, os.fsync)
            self.on(pair, lambda fd: look(os.fstat(fd)))

    @rule(pair=consumes(handles))
    def close(self, pair: Pair) -> None:
        if pair in self.open:
            self.open.remove(pair)
            self.on(pair, os.close)

    @precondition(lambda self: self.remounts > 0)
    @rule()
    def remount(self) -> None:
        self.remounts -= 1
        for pair in self.open:
            self.on(pair, os.close)
        self.open.clear()
        self.mount.remount()
        for directory, _, _ in os.walk(self.theirs):
            ours, theirs = self.ours / Path(directory).relative_to(self.theirs), Path(directory)
            if theirs.stat().st_mtime_ns >= LONG_AGO:
                # that its entries changed is known to a mount only; the bucket has what was set
                set_before = ours.stat().st_mtime_ns
                os.utime(theirs, ns=(set_before, set_before))

    @invariant()
    def trees_agree(self) -> None:
        if hasattr(self, "ours"):
            ours, theirs = tree(self.ours), tree(self.theirs)
            assert ours.keys() == theirs.keys()
            for name, seen in theirs.items():
                assert ours[name][0] == seen[0], name
                assert ours[name][1] == seen[1], f"content of {name}"

    def teardown(self) -> None:
        if not hasattr(self, "ours"):
            return
        for pair in self.open:
            os.close(pair.ours)
            os.close(pair.theirs)
        for name, (_, body) in tree(self.theirs).items():
            key = self.prefix + name
            if isinstance(body, bytes):
                assert self.mount.bucket.get(key) == body, f"object {key}"
            elif isinstance(body, str):
                assert self.mount.bucket.get(key) == body.encode(), f"object {key}"
            else:
                assert self.mount.bucket.exists(key + "/"), f"marker {key}/"


@pytest.fixture
def machine(mount: Mounts, bucket: Witness) -> Iterator[type[Machine]]:
    """`Machine` with a mount that trusts what it knows: nobody else writes to the bucket."""
    base = scratch_base()

    class Bound(Machine):
        local = base

    Bound.mount = mount(bucket, "stat_cache_expire=3600", "open_ttl=3600", "multipart_size=5")
    yield Bound
    shutil.rmtree(base)


@pytest.mark.needs_root("compares what root may do, whatever the modes are")
@pytest.mark.hypothesis
@pytest.mark.time_limit(1800)
def test_the_mount_behaves_like_a_local_directory(machine: type[Machine]) -> None:
    old = os.umask(0o022)
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=PHASES,
            ),
        )
    finally:
        os.umask(old)
