"""A mount that outlives its daemon: an orderly restart, and one that was killed."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.keeper import Keeper
from tests.harness.mounts import Mount, Mounts
from tests.harness.posix import refused
from tests.harness.program import Program
from tests.harness.witness import Witness

MIB = 1 << 20


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    keeper = Keeper(tmp_path / "notify")
    yield keeper
    keeper.close()


@pytest.fixture
def here(mount: Mounts, bucket: Witness, keeper: Keeper) -> Mount:
    """A mount that is kept."""
    made = mount(bucket, "dbglevel=info", start=False)
    made.keeper = keeper
    made.start()
    return made


@pytest.fixture
def program() -> Iterator[Program]:
    with Program() as program:
        yield program


class TestOrderly:
    def test_a_reader_goes_on(self, here: Mount, bucket: Witness, program: Program) -> None:
        data = os.urandom(24 * MIB)
        bucket.put("d/big", data)
        program("file = open(path, 'rb')", path=str(here.path / "d/big"))
        assert program("file.read(1 << 20)") == data[:MIB]
        here.restart()
        assert program("file.read()") == data[MIB:]

    def test_a_writer_goes_on(self, here: Mount, bucket: Witness, program: Program) -> None:
        program("file = open(path, 'wb', buffering=0)", path=str(here.path / "f"))
        program("file.write(b'a' * (1 << 20))")
        here.restart()
        assert not bucket.exists("f")
        assert program("os.fstat(file.fileno()).st_size") == MIB
        program("file.write(b'b' * (1 << 20)); file.close()")
        assert bucket.get("f") == b"a" * MIB + b"b" * MIB

    def test_many_things_go_on(self, here: Mount, bucket: Witness, program: Program) -> None:
        """What has a name: files, directories, the place in a listing, the working directory."""
        for number in range(300):
            bucket.put(f"d/{number:03}", b"x")
        bucket.put("e/changed", b"0123456789")
        top = str(here.path)
        program("os.chdir(top + '/d')", top=top)
        program("listing = os.scandir('.'); first = next(listing).name")
        program("changed = os.open(top + '/e/changed', os.O_RDWR); os.pwrite(changed, b'ab', 2)")
        program("moved = os.open(top + '/moved', os.O_WRONLY | os.O_CREAT)")
        program("new = os.open(top + '/new', os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)")
        program("os.mkdir(top + '/made')")
        number = program("os.stat('007').st_ino")
        here.restart()
        assert program("os.stat('007').st_ino") == number
        assert program("os.getcwd()") == f"{top}/d"
        left = program("[entry.name for entry in listing]")
        assert sorted([program("first"), *left]) == [f"{number:03}" for number in range(300)]
        assert program("os.pread(changed, 20, 0)") == b"01ab456789"
        program("os.pwrite(changed, b'cd', 4); os.close(changed)")
        assert bucket.get("e/changed") == b"01abcd6789"
        program(
            "os.rename(top + '/moved', top + '/made/m'); os.write(moved, b'm'); os.close(moved)"
        )
        assert bucket.get("made/m") == b"m"
        assert program("os.fstat(new).st_mode & 0o777") == 0o640
        program("os.close(new)")
        assert bucket.get("new") == b""
        assert not list(here.scratch.glob("cache/*/unsaved/*"))

    def test_who_asks_meanwhile_waits(self, here: Mount, bucket: Witness, program: Program) -> None:
        bucket.put("f", b"x")
        here.signal(signal.SIGUSR1)
        here.signal(signal.SIGTERM)
        assert here.wait() == 0
        program.begin("open(path).read()", path=str(here.path / "f"))
        here.start()
        assert program.end() == "x"

    def test_the_next_signal_unmounts(
        self, here: Mount, bucket: Witness, keeper: Keeper, program: Program
    ) -> None:
        here.restart()
        here.restart()
        program("file = open(path, 'w'); file.write('x'); file.close()", path=str(here.path / "f"))
        here.signal(signal.SIGTERM)
        assert here.wait() == 0
        assert bucket.get("f") == b"x"
        assert not here.path.is_mount()
        assert keeper.held == {}

    def test_unmounting_ends_it(self, here: Mount, keeper: Keeper) -> None:
        here.restart()
        assert here.stop() == 0
        assert keeper.held == {}


class TestKilled:
    def test_the_mount_stands(self, here: Mount, bucket: Witness, program: Program) -> None:
        bucket.put("d/f", b"x" * 10)
        program("file = open(path, 'rb', buffering=0); file.read(1)", path=str(here.path / "d/f"))
        here.die()
        program.begin("open(path).read()", path=str(here.path / "d/f"))
        here.start()
        assert program.end() == "x" * 10
        assert os.listdir(here.path / "d") == ["f"]
        (here.path / "d/g").write_text("y")
        assert bucket.get("d/g") == b"y"
        with refused(errno.ESTALE):
            program("os.fsync(file.fileno())")

    def test_what_was_asked_is_answered(
        self, here: Mount, bucket: Witness, program: Program
    ) -> None:
        """The kernel asks the next daemon what this one has read and not answered."""
        bucket.put("d/f", b"x")
        here.signal(signal.SIGSTOP)
        program.begin("open(path).read()", path=str(here.path / "d/f"))
        here.die()
        here.start()
        assert program.end() == "x"
