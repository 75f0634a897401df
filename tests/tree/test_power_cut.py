"""A power cut at any moment: what a close has answered is in the journal, or in the bucket.

Or something newer is. The disk is the worst that POSIX allows: a write is on it once it has been
synced, a name once its directory has, and a removal at once. The `Machine` takes pictures of such
disks around each sync and each removal; all are mounted in the end.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from bucketfs.cache.pages import Tag
from bucketfs.errors import StoreError
from bucketfs.file import promise as promise_module
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.saving import held as held_module
from bucketfs.tree.saving import promises as promises_module
from bucketfs.tree.saving.change import Change
from tests.harness.memory import Fault, StoredObject
from tests.tree.builder import Bucket, Mount, killed, noise, planted

pytestmark = pytest.mark.mock_clock

KIB = 1 << 10
#: In the journal itself; in a page file with checksums; in one that is changed in place.
SIZES = [5, 40 * KIB, 200 * KIB]
#: What the file may be called.
NAMES = ["f", "g", "d/f", "e/f"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A disk at a moment.

    Attributes:
        files: Bytes and tag of each, by its name.
        stored: The file's object in the bucket, by its key.
        allowed: What the file may be, None for nothing.
    """

    files: frozenset[tuple[str, bytes, Tag | None]]
    stored: dict[str, StoredObject] = field(hash=False)
    allowed: tuple[bytes | None, ...]


@dataclass
class Machine:
    """What is synced in a cache, and what a power cut would leave of it.

    Attributes:
        bucket: What is mounted.
        cache: The directory, once it is known.
        allowed: What the file ``f`` may be now, None for nothing; empty: nobody has been told yet.
        pictures: Taken so far, each disk once.
    """

    bucket: Bucket
    cache: Path | None = None
    allowed: tuple[bytes | None, ...] = ()
    pictures: dict[Picture, None] = field(default_factory=dict)
    _synced: dict[int, bytes] = field(default_factory=dict)
    _names: dict[str, int] = field(default_factory=dict)

    def sync(self, fd: int) -> None:
        """Instead of fsync(2) and fdatasync(2)."""
        self.look()
        status, path = os.fstat(fd), Path(os.readlink(f"/proc/self/fd/{fd}"))
        if not stat.S_ISDIR(status.st_mode):
            self._synced[status.st_ino] = os.pread(fd, status.st_size, 0)
        elif path == self.cache:
            self._names = {entry.name: entry.inode() for entry in os.scandir(path)}
        self.look()

    def look(self) -> None:
        """Take pictures: of the log, and of the page files, all is there or what was synced."""
        if self.cache is None or not self.allowed:
            return
        for old in itertools.product([(), (".sqlite-wal",)], [(), (".pages",)]):
            endings = tuple(itertools.chain(*old))
            files = []
            for path in self.cache.iterdir():
                number, data = path.stat().st_ino, b"" if path.is_dir() else path.read_bytes()
                if path.is_dir() or path.name.endswith("-shm") or path.name.startswith("index."):
                    continue  # without the index each page file is looked at
                if path.name.endswith(endings):
                    if self._names.get(path.name) != number:
                        continue
                    data = self._synced.get(number, b"")
                files.append((path.name, data, Tag.read(path)))
            stored = {key: self.bucket.objects[key] for key in self.bucket.objects if key in NAMES}
            self.pictures[Picture(frozenset(files), stored, self.allowed)] = None

    async def check(self, left: Path) -> None:
        """Mount all pictures, and look at what becomes of the file in the bucket."""
        assert self.cache is not None
        name, self.cache = self.cache.name, None
        for number, picture in enumerate(self.pictures):
            directory = left / str(number) / name
            directory.mkdir(parents=True, mode=0o700)
            for file, data, tag in picture.files:
                path = directory / file
                path.touch(0o600)
                path.write_bytes(data)
                if tag is not None:
                    tag.put(path)
            bucket = Bucket()
            bucket.objects.update(picture.stored)
            # what is taken for others' object is replaced: it would show
            async with planted(bucket, directory.parent, writeback=True, overwrite=True):
                await trio.sleep(100)
            found = [bucket.peek(key) for key in NAMES if key in bucket.objects]
            assert found or None in picture.allowed, f"{number}: lost"
            assert not found or set(found).intersection(picture.allowed), f"{number}: other bytes"
            shutil.rmtree(left / str(number))
        assert len(self.pictures) > 1


@pytest.fixture
def machine(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with nothing on its disk yet."""
    machine, unlink = Machine(bucket), os.unlink

    def remove(path: str | Path, **more: int) -> None:
        unlink(path, **more)
        machine.look()

    monkeypatch.setattr(os, "fsync", machine.sync)
    monkeypatch.setattr(os, "fdatasync", machine.sync)
    monkeypatch.setattr(os, "unlink", remove)
    for module in (promise_module, promises_module, held_module):
        monkeypatch.setattr(module, "COPIED", 100 * KIB)
    return machine


@dataclass
class Program:
    """What a program does with a file ``f``, and what it knows of it."""

    mount: Mount
    machine: Machine

    def __post_init__(self) -> None:
        self.machine.cache = self.mount.cache.directory
        self.mount.bucket.fault = _no_bytes

    async def open(self, data: bytes, name: str = "f") -> Handle:
        """Have it open, with these bytes."""
        if name in self.mount.root.children:
            handle = await self.mount.open(name, os.O_WRONLY | os.O_TRUNC)
        else:
            handle = await self.mount.create(name)
        await self.mount.write(handle, 0, data)
        return handle

    async def save(self, data: bytes, name: str = "f") -> None:
        """Have these bytes closed."""
        if name == "f" and self.machine.allowed:
            self.machine.allowed += (data,)
        await self.mount.close(await self.open(data, name))
        if name == "f":
            self.machine.allowed = (data,)
            self.machine.look()

    async def fail(self, data: bytes) -> None:
        """Have these bytes closed, with an error: too much waits, and the bucket takes nothing."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(promises_module, "MOST", 0)
            with pytest.raises(StoreError):
                await self.save(data)

    async def rest(self) -> None:
        """The bucket takes bytes again."""
        await trio.sleep(5)
        self.machine.look()
        self.mount.bucket.fault = None
        await trio.sleep(100)
        self.machine.look()


def _no_bytes(operation: str, key: str, _count: int) -> Fault | None:
    if operation not in ("PutObject", "UploadPart"):
        return None
    return Fault(StoreError("SlowDown", status=503, operation=operation, key=key))


sizes = pytest.mark.parametrize(
    ("old", "new"), [(5, 5), (5, 40 * KIB), (40 * KIB, 5), (40 * KIB, 40 * KIB), (200 * KIB,) * 2]
)


@sizes
async def test_closed_twice(machine: Machine, tmp_path: Path, old: int, new: int) -> None:
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        await program.save(noise(old))
        await program.save(noise(new, 2))
        await program.rest()
    await machine.check(tmp_path / "left")


@sizes
async def test_a_close_that_fails_after_one_that_has_not(
    machine: Machine, tmp_path: Path, old: int, new: int
) -> None:
    """What it leaves in the journal does not take the place of what had been answered."""
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        await program.save(noise(old))
        await program.fail(noise(new, 2))
        await program.save(b"takes the journal to the disk", "other")
        await program.rest()
        assert machine.bucket.peek("f") == noise(new, 2)
    await machine.check(tmp_path / "left")


@sizes
async def test_written_after_the_close(
    machine: Machine, tmp_path: Path, old: int, new: int
) -> None:
    """As through a mapping: the bytes come between the last close and the release."""
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        await program.save(noise(old))
        handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
        machine.allowed += (b"", noise(new, 2))
        await mount.flush(handle)
        await mount.write(handle, 0, noise(new, 2))
        await mount.tree.opener.release(handle)
        await program.save(b"takes the journal to the disk", "other")
        await program.rest()
    await machine.check(tmp_path / "left")


@pytest.mark.parametrize("size", SIZES)
async def test_a_close_that_fails_and_one_that_does_not(
    machine: Machine, tmp_path: Path, size: int
) -> None:
    """The second one has nothing new to save, and yet answers for it."""
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        await program.fail(noise(size))
        await mount.close(await mount.open("f", os.O_WRONLY))
        machine.allowed = (noise(size),)
        machine.look()
        await program.rest()
    await machine.check(tmp_path / "left")


@pytest.mark.parametrize("size", SIZES)
async def test_closed_after_a_crash(machine: Machine, tmp_path: Path, size: int) -> None:
    """The next mount answers for bytes that the one before may not have taken to the disk."""
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        await Program(mount, machine).save(noise(size))
        after = killed(machine.bucket, tmp_path / "top", tmp_path / "again")
    machine.allowed, machine.bucket = (), after
    async with planted(after, tmp_path / "again", writeback=True) as mount:
        program = Program(mount, machine)
        await mount.close(await mount.open("f", os.O_WRONLY))
        machine.allowed = (noise(size),)
        machine.look()
        await program.rest()
    await machine.check(tmp_path / "left")


@sizes
async def test_renamed_over(machine: Machine, tmp_path: Path, old: int, new: int) -> None:
    """A file has its name until the one that takes its place has it."""
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        await program.save(noise(old))
        await program.save(noise(new, 2), "new")
        machine.allowed += (noise(new, 2),)
        await mount.rename("new", "f")
        await program.rest()
    await machine.check(tmp_path / "left")


@sizes
async def test_the_end_of_the_mount(machine: Machine, tmp_path: Path, old: int, new: int) -> None:
    """What is left to the next mount takes the place of what was closed when it is safe."""
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        await program.save(noise(old))
        await program.fail(noise(new, 2))
        await mount.tree.drain.save_all()
        machine.look()
    await machine.check(tmp_path / "left")


async def test_an_index_that_says_that_nothing_waits(machine: Machine, tmp_path: Path) -> None:
    """It is not synced: a power cut may leave that of the mount before, with its page files."""
    machine.bucket.poke("f", noise(40 * KIB))
    async with planted(machine.bucket, tmp_path, writeback=True) as mount:
        assert await mount.read("f") == noise(40 * KIB)
        index = mount.cache.directory / "index.sqlite"
    before = index.read_bytes()
    async with planted(machine.bucket, tmp_path, writeback=True) as mount:
        machine.bucket.fault = _no_bytes
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 0, b"ours")
        await mount.close(handle)
    index.write_bytes(before)
    async with planted(machine.bucket, tmp_path, writeback=True) as mount:
        (row,) = mount.cache.journal.pending()
        mount.cache.evict(lambda _key: True)
        assert (mount.cache.directory / row.file).exists()
        machine.bucket.fault = None
        await trio.sleep(100)
        assert machine.bucket.peek("f") == b"ours" + noise(40 * KIB)[4:]


async def test_written_over_in_place(machine: Machine, tmp_path: Path) -> None:
    """Its row has no checksums then, and changes with the file's attributes."""
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        old = noise(200 * KIB)
        await program.save(old)
        new = b"new" + old[3:]
        machine.allowed += (new,)
        handle = await mount.open("f", os.O_WRONLY)
        await mount.write(handle, 0, b"new")
        mount.tree.changer.change(handle.inode, Change(mode=0o600))
        machine.look()
        await mount.close(handle)
        machine.allowed = (new,)
        machine.look()
        await program.rest()
    await machine.check(tmp_path / "left")


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_removed_a_while_ago_does_not_come_back(
    machine: Machine, tmp_path: Path, size: int
) -> None:
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        await Program(mount, machine).save(noise(size))
        machine.allowed += (None,)
        await mount.unlink("f")
        await trio.sleep(2)
        machine.allowed = (None,)
        machine.look()
    await machine.check(tmp_path / "left")


@sizes
async def test_synced_after_the_close(machine: Machine, tmp_path: Path, old: int, new: int) -> None:
    """What fsync has brought to the bucket is not replaced by what was closed before it."""
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        await program.save(noise(old))
        machine.allowed += (noise(new, 2),)
        handle = await program.open(noise(new, 2))
        mount.bucket.fault = None
        await mount.tree.saver.sync(handle)
        machine.allowed = (noise(new, 2),)
        machine.look()
        await mount.close(handle)
        await program.rest()
    await machine.check(tmp_path / "left")


@pytest.mark.parametrize("size", SIZES)
async def test_made_longer_and_synced_after_the_close(
    machine: Machine, tmp_path: Path, size: int
) -> None:
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        await program.save(noise(size))
        longer = noise(size) + b"more"
        machine.allowed += (longer,)
        handle = await mount.open("f", os.O_WRONLY)
        await mount.write(handle, size, b"more")
        mount.bucket.fault = None
        await mount.tree.saver.sync(handle)
        machine.allowed = (longer,)
        machine.look()
        await mount.close(handle)
        await program.rest()
    await machine.check(tmp_path / "left")


async def test_made_anew_and_synced(machine: Machine, tmp_path: Path) -> None:
    """What was removed before its upload does not come back in the place of the new file."""
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        await program.save(noise(5))
        machine.allowed += (None, noise(5, 2))
        await mount.unlink("f")
        handle = await program.open(noise(5, 2))
        mount.bucket.fault = None
        await mount.tree.saver.sync(handle)
        machine.allowed = (noise(5, 2),)
        machine.look()
        await mount.close(handle)
        await program.rest()
    await machine.check(tmp_path / "left")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("path", "name", "other"), [("f", "f", "g"), ("d/f", "d", "e")])
async def test_renamed_after_the_close(
    machine: Machine, tmp_path: Path, size: int, path: str, name: str, other: str
) -> None:
    """The bytes that were not written are those of an object that has another name now."""
    old = noise(size + 5)
    machine.bucket.poke(path, old)
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        handle = await mount.open(path, os.O_WRONLY)
        await mount.write(handle, 0, b"ours")
        await mount.close(handle)
        machine.allowed = (b"ours" + old[4:],)
        machine.look()
        await mount.rename(name, other)
        machine.look()
        await program.rest()
    await machine.check(tmp_path / "left")


async def test_synced_and_renamed_over(machine: Machine, tmp_path: Path) -> None:
    """Where the file that it replaces had not been uploaded, nothing of that replaces it."""
    async with planted(machine.bucket, tmp_path / "top", writeback=True) as mount:
        program = Program(mount, machine)
        handle = await program.open(noise(5, 2), "g")
        mount.bucket.fault = None
        await mount.tree.saver.sync(handle)
        await mount.close(handle)
        mount.bucket.fault = _no_bytes
        await program.save(noise(5))
        machine.allowed = (noise(5, 2),)
        machine.look()
        await mount.rename("g", "f")
        machine.look()
        await program.rest()
    await machine.check(tmp_path / "left")
