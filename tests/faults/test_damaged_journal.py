"""A journal whose file was damaged under a killed mount: no acknowledged file is lost silently.

Six files were closed with ``writeback`` when the mount was killed. Then a bit of the journal's
database or of its write-ahead log flips, a page of it is cut off, or it is that of an earlier time.
After the next mount each file is in the bucket, or its bytes are under ``unsaved/`` (or still wait
in the cache) and the log names it.

``BUCKETFS_TEST_FLIPS=1`` flips a bit in every 64th byte instead of every 2,048th.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError
from tests.harness.memory import Fault
from tests.tree.builder import Bucket, killed, noise, planted

pytestmark = [pytest.mark.mock_clock, pytest.mark.time_limit(3600)]

STRIDE = 64 if os.environ.get("BUCKETFS_TEST_FLIPS") else 2048
FILES = {"a": 100, "b": 5_000, "d/c": 40_000, "d/e": 200_000, "empty": 0, "g": 31_000}
DATABASE, LOG = "journal.sqlite", "journal.sqlite-wal"


class Scene:
    """What the killed mount left, and copies of it to be damaged.

    Attributes:
        early: The journal's files when only half of the files were closed.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._numbers = itertools.count()
        self.early: dict[str, bytes] = {}

    async def play(self) -> None:
        bucket = Bucket()
        bucket.fault = lambda operation, *_: Fault(hang=True) if operation == "PutObject" else None
        async with planted(bucket, self._base / "cache", writeback=True) as mount:
            bucket.fault = lambda operation, key, _: (
                Fault(hang=True) if operation == "PutObject" and key != "d/" else None
            )
            await mount.mkdir("d")
            for number, (name, size) in enumerate(FILES.items()):
                if number == len(FILES) // 2:
                    directory = mount.cache.directory
                    self.early = {f: (directory / f).read_bytes() for f in (DATABASE, LOG)}
                await mount.save(name, b"an older state")
                handle = await mount.open(name, os.O_WRONLY | os.O_TRUNC)
                await mount.write(handle, 0, noise(size, seed=size))
                await mount.close(handle)
            self.bucket = killed(bucket, self._base / "cache", self._base / "left")

    def journal(self, name: str) -> bytes:
        (path,) = (self._base / "left").glob(f"*/{name}")
        return path.read_bytes()

    async def after(
        self, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
    ) -> Counter[str]:
        """Damage a copy, mount it, and see what has become of each file."""
        copy = self._base / f"copy{next(self._numbers)}"
        shutil.copytree(self._base / "left", copy)
        (directory,) = (path.parent for path in copy.glob(f"*/{DATABASE}"))
        damage(directory)
        bucket = Bucket()
        bucket.objects.update(self.bucket.objects)
        caplog.clear()
        try:
            async with planted(bucket, copy, writeback=True) as mount:
                await mount.tree.outstanding.flush()
                await trio.sleep(5)
        except FsError:
            outcomes = Counter({"the mount is refused": 1})
            assert len(list(directory.glob("*.pages"))) >= len(FILES) - 1
        else:
            outcomes = Counter(self._outcome(name, bucket, directory, caplog) for name in FILES)
        shutil.rmtree(copy)
        caplog.clear()
        return outcomes

    def _outcome(
        self, name: str, bucket: Bucket, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> str:
        wanted = noise(FILES[name], seed=FILES[name])
        if name in bucket.objects and bucket.peek(name) == wanted:
            return "restored"
        assert name not in bucket.objects, f"{name}: another state was uploaded"
        named = f"'{name}'" in caplog.text or "a file of unknown name" in caplog.text
        for path in directory.glob("unsaved/*"):
            if path.read_bytes() == wanted and (named or str(path) in caplog.text):
                return "under unsaved/"
        raise AssertionError(f"{name} is lost:\n{caplog.text}")


async def staged(base: Path, *, checkpointed: bool = False) -> Scene:
    scene = Scene(base)
    await scene.play()
    if checkpointed:
        (path,) = (base / "left").glob(f"*/{DATABASE}")
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            shutil.copytree(base / "left", base / "checkpointed")
        shutil.rmtree(base / "left")
        (base / "checkpointed").rename(base / "left")
    return scene


#: The file that is damaged, and whether the log had been copied into the database before.
PLACES = [(DATABASE, False), (LOG, False), (DATABASE, True)]


def flip(name: str, at: int, bit: int) -> Callable[[Path], object]:
    def damage(directory: Path) -> None:
        with (directory / name).open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ (1 << bit)]))

    return damage


async def test_nothing_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = await staged(tmp_path)
    assert await scene.after(lambda _: None, caplog) == {"restored": len(FILES)}


@pytest.mark.parametrize(("name", "checkpointed"), PLACES)
async def test_a_bit_flips(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, checkpointed: bool
) -> None:
    scene = await staged(tmp_path, checkpointed=checkpointed)
    outcomes: Counter[str] = Counter()
    for number, at in enumerate(range(10, len(scene.journal(name)), STRIDE)):
        outcomes += await scene.after(flip(name, at, number % 8), caplog)
    print(f"flips in {name} ({checkpointed=}): {dict(outcomes)}")
    assert outcomes["restored"] + outcomes["under unsaved/"]


@pytest.mark.parametrize(("name", "checkpointed"), PLACES)
async def test_it_is_cut_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, checkpointed: bool
) -> None:
    scene = await staged(tmp_path, checkpointed=checkpointed)
    outcomes: Counter[str] = Counter()
    for length in range(0, len(scene.journal(name)), 4096):
        outcomes += await scene.after(lambda d, n=length: os.truncate(d / name, n), caplog)
    print(f"cuts in {name} ({checkpointed=}): {dict(outcomes)}")
    assert outcomes["restored"] + outcomes["under unsaved/"]


@pytest.mark.parametrize("names", [(DATABASE,), (LOG,), (DATABASE, LOG)])
async def test_it_is_of_an_earlier_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    scene = await staged(tmp_path)

    def damage(directory: Path) -> None:
        for name in names:
            (directory / name).write_bytes(scene.early[name])

    await scene.after(damage, caplog)


@pytest.mark.parametrize("names", [(DATABASE,), (LOG,), (DATABASE, LOG)])
async def test_it_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    scene = await staged(tmp_path)
    await scene.after(lambda d: [(d / name).unlink() for name in names], caplog)
