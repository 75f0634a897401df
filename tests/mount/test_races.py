"""Two mounts want the same name at once: one gets it, the other is told, nothing is lost.

BUCKETFS_TEST_ROUNDS sets the number of rounds.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.mounts import Mount, Mounts
from tests.harness.waiting import until
from tests.harness.witness import Witness

ROUNDS = int(os.environ.get("BUCKETFS_TEST_ROUNDS", "5"))

RENAME_NOREPLACE = 1
AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)

#: Takes a path and what tells the two from each other.
Taker = Callable[[Path, bytes], None]


def mkdir(path: Path, who: bytes) -> None:
    os.mkdir(path)


def symlink(path: Path, who: bytes) -> None:
    os.symlink(who, path)


def exclusive(path: Path, who: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        os.write(fd, who)
    finally:
        os.close(fd)


def rename(path: Path, who: bytes) -> None:
    """As `mv -n` does: over nothing."""
    beside = path.with_name(f"{path.name}.{who.decode()}")
    beside.write_bytes(who)
    names = os.fsencode(beside), os.fsencode(path)
    if _libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), "renameat2")


def rename_directory(path: Path, who: bytes) -> None:
    beside = path.with_name(f"{path.name}.{who.decode()}")
    beside.mkdir()
    (beside / "who").write_bytes(who)
    names = os.fsencode(beside), os.fsencode(path)
    if _libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), "renameat2")


def race(take: Taker, paths: list[Path]) -> list[int]:
    """Both at once; the errno of each, 0 for who has it."""
    outcome = [-1, -1]
    gate = threading.Barrier(2)

    def run(number: int) -> None:
        gate.wait()
        try:
            take(paths[number], b"%d" % number)
            outcome[number] = 0
        except OSError as error:
            outcome[number] = error.errno or -1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def two(bucket: Witness, mount: Mounts, *options: str) -> list[Mount]:
    """Two mounts, which have both listed the bucket: each takes every name for free."""
    both = [mount(bucket, *options) for _ in range(2)]
    for mounted in both:
        mounted.expected.append("was changed by someone else")
        assert os.listdir(mounted.path) == []
    return both


def held(bucket: Witness, take: Taker, name: str) -> bytes:
    """Who has the name in the bucket, as far as it says so."""
    if take is rename_directory:
        return bucket.get(f"{name}/who")
    return bucket.get(name)


@pytest.mark.time_limit(60 + ROUNDS)
@pytest.mark.needs("one_winner")
@pytest.mark.parametrize(
    "take",
    [
        pytest.param(mkdir, marks=pytest.mark.needs("one_marker")),
        symlink,
        exclusive,
        rename,
        pytest.param(rename_directory, marks=pytest.mark.needs("one_marker")),
    ],
)
def test_exactly_one_gets_the_name(bucket: Witness, mount: Mounts, take: Taker) -> None:
    strict = take in (rename, rename_directory)
    both = two(bucket, mount, *(["exclusive_create=open"] if strict else []))
    counts: Counter[str] = Counter()
    for number in range(ROUNDS):
        name = f"{take.__name__}{number}"
        outcome = race(take, [mounted.path / name for mounted in both])
        assert sorted(outcome) == [0, errno.EEXIST], f"round {number}"
        winner = outcome.index(0)
        if take is not mkdir:
            assert held(bucket, take, name) == b"%d" % winner
        # who has lost sees the other's under the name
        path = both[1 - winner].path / name
        until(lambda p=path: os.path.lexists(p), "the name is seen")  # type: ignore[misc]
        if take in (rename, exclusive):
            assert path.read_bytes() == b"%d" % winner
        if take is exclusive:
            # none where the loser's open saw the winner's file already
            beside = [bucket.get(key) for key in bucket.keys(f"{name}.conflict-")]
            assert beside in ([], [b"%d" % (1 - winner)])
            counts["conflict copies"] += len(beside)
        counts[f"won by mount {winner}"] += 1
    print(f"races for a name by {take.__name__}: {ROUNDS}, one winner each: {dict(counts)}")


@pytest.mark.needs("one_winner")
@pytest.mark.time_limit(60 + ROUNDS)
def test_exclusive_at_open(bucket: Witness, mount: Mounts) -> None:
    """Lock files: who gets the descriptor has the lock, and may write into it."""
    both = [mount(bucket, "exclusive_create=open") for _ in range(2)]
    descriptors: dict[bytes, int] = {}

    def take(path: Path, who: bytes) -> None:
        descriptors[who] = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)

    for number in range(ROUNDS):
        name = f"lock{number}"
        descriptors.clear()
        outcome = race(take, [mounted.path / name for mounted in both])
        assert sorted(outcome) == [0, errno.EEXIST], f"round {number}"
        ((who, fd),) = descriptors.items()
        assert bucket.get(name) == b""
        os.write(fd, who)
        os.close(fd)
        assert bucket.keys(name) == [name]
        assert bucket.get(name) == who
        (both[0].path / name).unlink()
    print(f"races for a lock file: {ROUNDS}, one winner each")


@pytest.mark.parametrize("kept", [True, False])
def test_the_option_says_who_wins(bucket: Witness, mount: Mounts, kept: bool) -> None:
    mounted = mount(bucket, *([] if kept else ["conflict=overwrite"]))
    mounted.expected.append("was changed by someone else")
    bucket.put("f", b"base")
    with open(mounted.path / "f", "r+b", 0) as file:
        assert file.read() == b"base"
        file.write(b" mine")
        bucket.put("f", b"theirs")
        if kept:
            with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
                file.close()
            assert caught.value.errno == errno.ESTALE
    assert bucket.get("f") == (b"theirs" if kept else b"base mine")
    assert len(bucket.keys("f.conflict-")) == kept
    assert (mounted.path / "f").read_bytes() == bucket.get("f")
