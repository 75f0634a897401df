"""A mount that outlives its daemon: an orderly restart, and one that was killed."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bucketfs.cli.socket import client
from bucketfs.fuse.keeper import RECORD, Record
from tests.harness.keeper import Keeper
from tests.harness.mounts import Mount, Mounts
from tests.harness.posix import refused
from tests.harness.program import Program
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

MIB = 1 << 20
#: The byte of the kernel's first request that says whether it can ask again.
REQUEST_FLAGS2 = 40 + 16


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


def killed(here: Mount, *, written: int) -> None:
    """Kill a daemon as soon as it has written down so many open files."""

    def is_written() -> bool:
        (diary,) = here.scratch.glob("cache/*/diary")
        lines = diary.read_text().splitlines()
        return sum(line[:4] == '["o"' for line in lines) >= written

    until(is_written, "the diary")
    here.die()


class TestOrderly:
    def test_a_reader_goes_on(self, here: Mount, bucket: Witness, program: Program) -> None:
        data = os.urandom(24 * MIB)
        bucket.put("d/big", data)
        program("file = open(path, 'rb')", path=str(here.path / "d/big"))
        assert program("file.read(1 << 20)") == data[:MIB]
        here.restart()
        assert program("file.read()") == data[MIB:]

    @pytest.mark.needs("metadata")
    def test_a_file_that_others_made_a_link_is_one(self, here: Mount, bucket: Witness) -> None:
        bucket.put("d/f", b"a file")
        bucket.put("d/target", b"of the link")
        path = here.path / "d" / "f"
        assert path.stat().st_size == 6
        here.restart()
        bucket.put("d/f", b"target", mode=str(stat.S_IFLNK | 0o777))
        until(lambda: os.listdir(path.parent) and path.stat().st_size == 11, "the link")
        assert path.is_symlink()

    def test_a_writer_goes_on(self, here: Mount, bucket: Witness, program: Program) -> None:
        program("file = open(path, 'wb', buffering=0)", path=str(here.path / "f"))
        program("file.write(b'a' * (1 << 20))")
        here.restart()
        assert not bucket.exists("f")
        assert program("os.fstat(file.fileno()).st_size") == MIB
        program("file.write(b'b' * (1 << 20)); file.close()")
        assert bucket.get("f") == b"a" * MIB + b"b" * MIB

    def test_who_has_saved_writes_on(self, here: Mount, bucket: Witness, program: Program) -> None:
        program("log = open(path, 'ab', buffering=0)", path=str(here.path / "log"))
        program("os.fchmod(log.fileno(), 0o640); log.write(b'1'); os.fsync(log.fileno())")
        here.restart()
        program("log.write(b'2'); log.close()")
        assert bucket.get("log") == b"12"
        assert program("os.stat(path).st_mode & 0o777") == 0o640

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

    def test_a_removed_file_goes_on(self, here: Mount, bucket: Witness, program: Program) -> None:
        bucket.put("old", b"0123456789")
        program("old = os.open(top + '/old', os.O_RDONLY)", top=str(here.path))
        program("new = os.open(top + '/new', os.O_RDWR | os.O_CREAT); os.write(new, b'abc')")
        program("os.pread(old, 1, 0); os.unlink(top + '/old'); os.unlink(top + '/new')")
        here.restart()
        assert program("os.pread(old, 10, 0)") == b"0123456789"
        program("os.pwrite(new, b'd', 3)")
        assert program("os.pread(new, 10, 0)") == b"abcd"
        assert program("os.fstat(new).st_nlink") == 0
        program("os.close(old); os.close(new)")
        assert os.listdir(here.path) == []
        assert bucket.keys() == []
        assert not list(here.scratch.glob("cache/*/unsaved/*"))

    def test_a_removed_file_shares_no_bytes_with_a_new_one(
        self, here: Mount, bucket: Witness, program: Program
    ) -> None:
        """The cache knows a version of these bytes, and so does the removed file."""
        data = os.urandom(MIB)
        bucket.put("f", data)
        program(
            "old = os.open(path, os.O_RDWR); os.pread(old, 1 << 20, 0)", path=str(here.path / "f")
        )
        program("import mmap; os.unlink(path)")
        here.restart()
        bucket.put("f", data)
        until(lambda: os.listdir(here.path) == ["f"], "the new file")
        assert program("open(path, 'rb').read()") == data
        program("os.pwrite(old, b'changed', 500_000)")
        program("new, pages = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 1 << 20)")
        assert program("os.preadv(new, [pages], 0)") == MIB  # past what the kernel has of it
        assert program("pages[:]") == data
        assert program("os.pread(old, 7, 500_000)") == b"changed"

    def test_what_cannot_be_taken_along_is_stale(
        self, mount: Mounts, bucket: Witness, keeper: Keeper, counted: Proxy, program: Program
    ) -> None:
        """It must not go on in the version that it has replaced: that would be published."""
        bucket.put("f", b"o" * MIB)
        here = mount(bucket, "cache_size=64", "dbglevel=info", url=counted.url, start=False)
        here.keeper = keeper
        here.start()
        here.expected += ["no close and no fsync had finished it", "are not in the bucket"]
        with counted.fault("CompleteMultipartUpload", status=403, code="AccessDenied"):
            program("file = os.open(path, os.O_RDWR | os.O_TRUNC)", path=str(here.path / "f"))
            program("for _ in range(160): os.write(file, bytes(MIB))", MIB=MIB)
            here.signal(signal.SIGUSR1)
            here.signal(signal.SIGTERM)
            assert here.wait() == 1
        here.start()
        for call in ("os.pread(file, 9, 0)", "os.pwrite(file, b'n', 9)", "os.close(file)"):
            with refused(errno.ESTALE):
                program(call)
        assert program("open(path, 'rb').read(9)") == b"o" * 9
        assert bucket.get("f") == b"o" * MIB
        assert list(here.scratch.glob("cache/*/unsaved/*"))

    def test_what_is_gone_meanwhile_is_stale(
        self, here: Mount, bucket: Witness, program: Program
    ) -> None:
        """Somebody has tidied up before the next daemon came."""
        bucket.put("f", b"0123456789")
        program(
            "file = os.open(path, os.O_RDWR); os.pwrite(file, b'ab', 2)", path=str(here.path / "f")
        )
        here.expected.append("was being written and does not go on")
        here.signal(signal.SIGUSR1)
        here.signal(signal.SIGTERM)
        assert here.wait() == 0
        (kept,) = here.scratch.glob("cache/*/unsaved/*")
        kept.unlink()
        here.start()
        for call in ("os.pwrite(file, b'cd', 4)", "os.close(file)"):
            with refused(errno.ESTALE):
                program(call)
        assert program("open(path, 'rb').read()") == b"0123456789"
        assert bucket.get("f") == b"0123456789"

    def test_what_is_being_uploaded_goes_on(
        self, mount: Mounts, bucket: Witness, keeper: Keeper, counted: Proxy, program: Program
    ) -> None:
        """The upload ends while who has asked for it waits for the end of the daemon."""
        bucket.put("f", b"old" * 30_000)
        here = mount(bucket, "dbglevel=info", "writeback", url=counted.url, start=False)
        here.keeper = keeper
        here.start()
        with counted.fault("PutObject", delay=2) as slow:
            program("new = os.open(path, os.O_RDWR | os.O_TRUNC)", path=str(here.path / "f"))
            program("file = os.open(path, os.O_RDWR)")
            program("os.write(new, b'new' * 30_000); os.close(new)")
            until(lambda: slow.struck, "the upload")
            daemon, _ = client.daemon_at(str(here.path))
            with client.ask(daemon, "flush") as talk:
                assert "progress" in next(iter(talk.answers()))
                here.restart()
        assert program("os.pread(file, 6, 0)") == b"newnew"
        program("os.pwrite(file, b'abc', 3); os.fsync(file); os.close(file)")
        assert bucket.get("f") == b"newabc" + b"new" * 29_998
        assert bucket.keys() == ["f"]

    def test_an_unmount_is_no_restart(
        self, mount: Mounts, bucket: Witness, keeper: Keeper, counted: Proxy, program: Program
    ) -> None:
        """What was being written has been left behind when the first signal is that of an end."""
        here = mount(bucket, "dbglevel=info", "writeback", url=counted.url, start=False)
        here.keeper = keeper
        here.start()
        with counted.fault("PutObject", delay=3) as slow:
            program("open(path, 'w').write('x')", path=str(here.path / "f"))
            until(lambda: slow.struck, "the upload")
            here.signal(signal.SIGTERM)
            while "STATUS=unmounting:" not in keeper.said.get(timeout=30):
                pass
            here.signal(signal.SIGUSR1)
            assert here.wait() == 0
        assert keeper.held == {}
        assert not here.path.is_mount()
        assert bucket.get("f") == b"x"

    def test_a_restart_that_is_cut_short_publishes_no_half(
        self, mount: Mounts, bucket: Witness, keeper: Keeper, counted: Proxy, program: Program
    ) -> None:
        names = [f"half{number}" for number in range(8)]
        here = mount(bucket, "cache_size=64", "dbglevel=info", url=counted.url, start=False)
        here.keeper = keeper
        here.start()
        here.expected += ["is not saved", "does not go on", "are not in the bucket"]
        top = str(here.path)
        program("big = os.open(top + '/big', os.O_RDWR | os.O_CREAT)", top=top, MIB=MIB)
        program("for _ in range(160): os.write(big, bytes(MIB))")
        program("half = [open(f'{top}/{name}', 'wb', buffering=0) for name in names]", names=names)
        program("for each in half: each.write(b'half of ')")
        with counted.fault("CompleteMultipartUpload", stall=True) as stalled:
            here.signal(signal.SIGUSR1)
            here.signal(signal.SIGTERM)
            until(lambda: stalled.struck, "the end of the upload")
            here.signal(signal.SIGTERM)
            here.wait()
        keeper.release()
        here.start()
        (here.path / "later").write_text("x")
        until(lambda: here.status()["waiting"]["files"] == 0, "the end of all uploads")
        assert not set(names) & set(bucket.keys())
        kept = [path.read_bytes() for path in here.scratch.glob("cache/*/unsaved/*-half*")]
        assert kept == [b"half of "] * len(names)

    def test_what_waits_is_uploaded_by_the_next(
        self, mount: Mounts, bucket: Witness, keeper: Keeper, counted: Proxy, program: Program
    ) -> None:
        here = mount(bucket, "dbglevel=info", "writeback", url=counted.url, start=False)
        here.keeper = keeper
        here.start()
        with counted.fault("PutObject", status=403, code="AccessDenied"):
            program("open(top + '/closed', 'w').write('1' * 50000)", top=str(here.path))
            program("open(top + '/again', 'w').write('1' * 50000)")
            program("again = open(top + '/again', 'ab', buffering=0); again.write(b'2')")
            here.restart()
            assert program("os.stat(top + '/closed').st_size") == 50000
            program("again.write(b'3')")
        program("again.close()")
        until(lambda: bucket.exists("closed"), "the upload")
        until(lambda: bucket.exists("again"), "the upload")
        until(lambda: bucket.get("again") == b"1" * 50000 + b"23", "what was written last")

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
        killed(here, written=1)
        program.begin("open(path).read()", path=str(here.path / "d/f"))
        here.start()
        assert program.end() == "x" * 10
        assert os.listdir(here.path / "d") == ["f"]
        (here.path / "d/g").write_text("y")
        assert bucket.get("d/g") == b"y"
        assert program("file.read()") == b"x" * 9

    def test_a_reader_goes_on(self, here: Mount, bucket: Witness, program: Program) -> None:
        data = os.urandom(24 * MIB)
        bucket.put("d/e/big", data)
        path = str(here.path / "d/e/big")
        program("file = open(path, 'rb'); first = file.read(1 << 20)", path=path)
        number = program("os.fstat(file.fileno()).st_ino")
        killed(here, written=1)
        here.start()
        assert program("first + file.read()") == data
        status = program("os.fstat(file.fileno())")
        assert (status.st_ino, status.st_size) == (number, len(data))
        assert program("os.stat(path).st_ino") == number
        program("open(path, 'ab').write(b'new'); os.rename(path, path + '2')")
        assert program("os.pread(file.fileno(), 9, 24 << 20)") == b"new"
        assert bucket.get("d/e/big2") == data + b"new"
        killed(here, written=1)
        here.start()
        assert program("os.pread(file.fileno(), 1 << 20, 23 << 20)") == data[-MIB:]
        here.restart()
        assert program("os.pread(file.fileno(), 9, 24 << 20)") == b"new"
        killed(here, written=1)
        here.start()
        program("file.seek(0)")
        assert program("file.read()") == data + b"new"
        program("file.close()")

    def test_who_has_saved_writes_on(self, here: Mount, bucket: Witness, program: Program) -> None:
        bucket.put("log", b"0")
        program("log = open(path, 'ab', buffering=0)", path=str(here.path / "log"))
        killed(here, written=1)
        here.start()
        program("log.write(b'1'); os.fsync(log.fileno())")
        killed(here, written=1)
        here.start()
        program("log.write(b'2'); os.fsync(log.fileno())")
        assert bucket.get("log") == b"012"
        assert program("os.fstat(log.fileno()).st_size") == 3
        program("log.close()")

    def test_who_is_moved_goes_on(self, here: Mount, bucket: Witness, program: Program) -> None:
        bucket.put("a/b/f", b"0123456789")
        bucket.put("a/g", b"abc")
        program("f = os.open(top + '/a/b/f', os.O_RDWR)", top=str(here.path))
        program("g = os.open(top + '/a/g', os.O_RDONLY)")
        program("os.rename(top + '/a/g', top + '/a/b/h'); os.rename(top + '/a', top + '/c')")
        killed(here, written=2)
        here.start()
        assert program("os.pread(f, 20, 0), os.pread(g, 20, 0)") == (b"0123456789", b"abc")
        program("os.pwrite(f, b'x', 0); os.close(f); os.close(g)")
        assert bucket.get("c/b/f") == b"x123456789"
        assert bucket.keys() == ["c/b/f", "c/b/h"]

    def test_what_was_being_changed_is_stale(
        self, here: Mount, bucket: Witness, program: Program
    ) -> None:
        """A reader may have read what is lost with the writer."""
        for name in ("written", "cut", "emptied", "removed", "replaced"):
            bucket.put(name, b"x" * 10)
        bucket.put("other", b"other")
        top = str(here.path)
        program("names = ('written', 'cut', 'emptied', 'removed', 'replaced')", top=top)
        program("files = {name: os.open(f'{top}/{name}', os.O_RDONLY) for name in names}")
        program("writer = os.open(top + '/written', os.O_RDWR); os.pwrite(writer, b'y', 0)")
        program("cutter = os.open(top + '/cut', os.O_RDWR); os.ftruncate(cutter, 5)")
        program("emptier = os.open(top + '/emptied', os.O_RDWR | os.O_TRUNC)")
        program("os.unlink(top + '/removed'); os.rename(top + '/other', top + '/replaced')")
        killed(here, written=8)
        here.start()
        for name in ("written", "cut", "emptied", "removed", "replaced"):
            with refused(errno.ESTALE):
                program("os.pread(files[name], 10, 0)", name=name)
        for name in ("writer", "cutter", "emptier"):
            with refused(errno.ESTALE):
                program(f"os.pwrite({name}, b'z', 0)")
        assert (here.path / "written").read_bytes() == b"x" * 10
        assert (here.path / "replaced").read_bytes() == b"other"
        assert bucket.keys() == ["cut", "emptied", "replaced", "written"]

    def test_versions_do_not_mix(self, here: Mount, bucket: Witness, program: Program) -> None:
        """Others replace the object between the crash and the next daemon."""
        bucket.put("f", b"a" * (24 * MIB))
        program("file = open(path, 'rb', buffering=0)", path=str(here.path / "f"))
        assert program("os.pread(file.fileno(), 9, 0)") == b"a" * 9
        killed(here, written=1)
        bucket.put("f", b"b" * (24 * MIB))
        here.start()
        with refused(errno.ESTALE):
            program("os.pread(file.fileno(), 9, 20 << 20)")
        assert program("open(path, 'rb').read(9)") == b"b" * 9
        program("file.close()")

    def test_a_large_file_is_read_and_appended_to(
        self, here: Mount, bucket: Witness, program: Program
    ) -> None:
        """The cache may have less of it than the daemon that died knew."""
        data = os.urandom(24 * MIB)
        bucket.put("big", data)
        program("old = open(path, 'rb'); old.read(1 << 20)", path=str(here.path / "big"))
        here.die()
        here.start()
        assert program("open(path, 'rb').read()") == data
        program("file = open(path, 'ab'); file.write(b'new'); file.close()")
        assert bucket.get("big") == data + b"new"
        assert program("open(path, 'rb').read()") == data + b"new"

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

    def test_a_request_in_flight_is_asked_again(
        self, mount: Mounts, bucket: Witness, keeper: Keeper, counted: Proxy, program: Program
    ) -> None:
        bucket.put("d/f", b"x")
        here = mount(bucket, url=counted.url, start=False)
        here.keeper = keeper
        here.start()
        with counted.fault(key="d/f", stall=True) as stalled:
            program.begin("open(path).read()", path=str(here.path / "d/f"))
            until(lambda: stalled.struck, "the question")
            here.die()
        here.start()
        assert program.end() == "x"

    def test_a_writer_hears_of_it(self, here: Mount, bucket: Witness, program: Program) -> None:
        """What was not closed is lost, as ever; what was closed is not."""
        program("file = open(path, 'wb', buffering=0); file.write(b'x')", path=str(here.path / "f"))
        (here.path / "g").write_text("y")
        here.die()
        here.start()
        with refused(errno.ESTALE):
            program("file.write(b'y')")
        with refused(errno.ESTALE):
            program("file.close()")
        assert bucket.keys() == ["g"]
        assert os.listdir(here.path) == ["g"]

    def test_an_older_kernel(
        self, here: Mount, bucket: Witness, keeper: Keeper, program: Program
    ) -> None:
        """Before Linux 6.9 nobody could find out what the daemon had read."""
        bucket.put("f", b"x")
        program("file = open(path, 'rb')", path=str(here.path / "f"))
        here.die()
        record = Record.load(os.pread(keeper.held[RECORD][0], 1 << 20, 0))
        request = bytearray(record.request)
        request[REQUEST_FLAGS2] &= ~0x80
        changed = os.memfd_create("record")
        os.write(changed, replace(record, request=bytes(request)).dump())
        os.dup2(changed, keeper.held[RECORD][0])
        os.close(changed)
        here.start()
        assert (here.path / "f").read_text() == "x"
        with refused(errno.ENOTCONN):
            program("file.read()")
        assert "from 6.9 on" in here.log.read_text()


def test_other_options(here: Mount, bucket: Witness, program: Program) -> None:
    """The kernel would go on with the old ones."""
    bucket.put("f", b"x")
    program("file = open(path, 'rb')", path=str(here.path / "f"))
    here.options = (*here.options, "ro")
    here.restart()
    assert (here.path / "f").read_text() == "x"
    with refused(errno.EROFS):
        (here.path / "g").write_text("y")
    with refused(errno.ENOTCONN):
        program("file.read()")


def test_nobody_goes_on(here: Mount, bucket: Witness, keeper: Keeper, program: Program) -> None:
    """What was being written is kept, as at the end of a mount; a later mount is a new one."""
    program("file = open(path, 'wb', buffering=0); file.write(b'x')", path=str(here.path / "f"))
    here.signal(signal.SIGUSR1)
    here.signal(signal.SIGTERM)
    assert here.wait() == 0
    keeper.release()
    with refused(errno.ENOTCONN):
        program("file.write(b'y')")
    here.start()
    assert not bucket.exists("f")
    (kept,) = here.scratch.glob("cache/*/unsaved/*")
    assert kept.read_bytes() == b"x"


def test_what_nobody_can_go_on_with_ends(mount: Mounts, bucket: Witness) -> None:
    here = mount(bucket, "plain_fuse")
    here.signal(signal.SIGUSR1)
    here.signal(signal.SIGTERM)
    assert here.wait() == 0
    assert not here.path.is_mount()


@pytest.mark.parametrize("room", [0, 1])
def test_a_service_manager_that_keeps_too_little(
    mount: Mounts, bucket: Witness, tmp_path: Path, room: int
) -> None:
    """As systemd with FileDescriptorStoreMax=0: what is left to the next daemon would be dead."""
    here, keeper = mount(bucket, "dbglevel=info", start=False), Keeper(tmp_path / "small", room)
    here.keeper = keeper
    here.start()
    here.signal(signal.SIGUSR1)
    here.signal(signal.SIGTERM)
    assert here.wait() == 0
    assert not here.path.is_mount()
    assert "keeps no descriptors" in here.log.read_text()
    assert keeper.held == {}
    keeper.close()


@pytest.mark.parametrize("option", ["versions", "follow", ":/"])
def test_what_nobody_can_go_on_with_is_mounted_anew(
    mount: Mounts, bucket: Witness, keeper: Keeper, program: Program, option: str
) -> None:
    """No mount is left that nobody serves, neither by a restart nor by kill -9."""
    bucket.put("f", b"x")
    here = mount(bucket, *([] if option == ":/" else [option]), start=False)
    top = here.path
    if option == ":/":
        here.source, top = option, here.path / bucket.name
    here.keeper = keeper
    here.start()
    for end in (here.restart, lambda: (here.die(), here.start())):
        program("file = open(path, 'rb', buffering=0)", path=str(top / "f"))
        end()
        assert keeper.held == {}
        assert (top / "f").read_bytes() == b"x"
        with refused(errno.ENOTCONN):
            program("os.fsync(file.fileno())")
