"""Bytes that change on the cache's disk between two mounts are never read, and never uploaded."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
import trio

from bucketfs.cache.extents import Seals
from bucketfs.cache.pages import PageFile
from bucketfs.errors import Damaged, FsError, StoreError
from bucketfs.file.content import Content
from bucketfs.file.readers import Reader
from bucketfs.file.target import Target
from bucketfs.file.upload import publish
from bucketfs.store.base import Headers, ObjectInfo
from tests.harness.memory import Fault
from tests.tree.builder import MIB, Bucket, Mount, noise, planted

pytestmark = pytest.mark.mock_clock
DATA = noise(5 * MIB + 4321)


def pages_of(directory: Path) -> Path:
    """The only page file there is."""
    (path,) = directory.rglob("*.pages")
    return path


def flip(path: Path, at: int) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def maim_seals(directory: Path) -> None:
    """Cut every page file's seals in the index within a record."""
    (path,) = directory.rglob("index.sqlite")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE pages SET seals = substr(seals, 1, 40)")
    db.close()


async def read_once(bucket: Bucket, directory: Path) -> None:
    bucket.poke("f", DATA)
    async with planted(bucket, directory) as mount:
        assert await mount.read("f") == DATA


async def test_what_was_read_is_not_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    await read_once(bucket, tmp_path)
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == DATA
        assert "GetObject" not in bucket.requested()


async def test_after_a_reboot_neither(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checksums tell what reached the disk; that it was before the last boot says nothing."""
    await read_once(bucket, tmp_path)
    real = Path.read_text

    def another_boot(path: Path, *args: object, **named: object) -> str:
        return "0" if path.name == "boot_id" else real(path, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", another_boot)
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == DATA
        assert "GetObject" not in bucket.requested()


async def test_a_flipped_bit_is_fetched_once(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await read_once(bucket, tmp_path)
    flip(pages_of(tmp_path), 2 * MIB + 5)
    bucket.received = 0
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == DATA
        assert bucket.requested().get("GetObject") == 1
        assert bucket.received == MIB
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "'f'" in caplog.text
        assert await mount.read("f") == DATA
        assert "GetObject" not in bucket.requested()
    caplog.clear()
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == DATA
        assert "GetObject" not in bucket.requested()


async def test_a_file_that_was_cut_or_exchanged(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await read_once(bucket, tmp_path)
    os.truncate(pages_of(tmp_path), MIB + 1)
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == DATA
    pages_of(tmp_path).write_bytes(noise(len(DATA), 2))
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == DATA
    caplog.clear()


async def test_what_is_patched_and_appended_to_is_whole(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What an upload takes from the cache is proven, too, around what was written as well."""
    await read_once(bucket, tmp_path)
    for at in (10, 2 * MIB + 5, 5 * MIB + 1):
        flip(pages_of(tmp_path), at)
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 100, b"patch")
        await mount.write(handle, len(DATA), b"tail")
        await mount.close(handle)
    assert bucket.peek("f") == DATA[:100] + b"patch" + DATA[105:] + b"tail"
    caplog.clear()


async def test_what_was_written_is_proven_like_what_was_read(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.save("f", DATA)
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, MIB, b"patch")
        await mount.close(handle)
    data = DATA[:MIB] + b"patch" + DATA[MIB + 5 :]
    bucket.requested()
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == data
        assert "GetObject" not in bucket.requested()
    flip(pages_of(tmp_path), MIB)
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == data
        assert bucket.requested().get("GetObject") == 1
    caplog.clear()


@pytest.mark.parametrize("turns", range(4))
async def test_what_is_written_while_publishing_begins_is_published_too(
    bucket: Bucket, tmp_path: Path, turns: int
) -> None:
    """Proving old pages takes a turn, in which the file may begin to be published without them."""
    old = noise(40 * MIB)
    bucket.poke("f", old)
    async with planted(bucket, tmp_path) as mount:
        await mount.read("f")
    async with planted(bucket, tmp_path) as mount:
        one, other = await mount.open("f", os.O_RDWR), await mount.open("f", os.O_RDWR)
        await mount.write(one, 40 * MIB, b"appended")
        bucket.latency = 0.1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.flush, one)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            await mount.write(other, 20 * MIB, b"patched")
        await mount.close(other)
        assert bucket.peek("f")[20 * MIB :][:7] == b"patched"
        assert bucket.peek("f")[40 * MIB :] == b"appended"


async def test_a_removed_file_that_is_open_is_whole(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the object goes, its reader's bytes are here: all that is damaged is fetched."""
    await read_once(bucket, tmp_path)
    flip(pages_of(tmp_path), 3 * MIB)
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        await mount.unlink("f")
        assert mount.stored() == []
        assert await mount.pread(reader, 0, len(DATA)) == DATA
        await mount.close(reader)
    caplog.clear()


async def test_a_damaged_index_costs_requests_only(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await read_once(bucket, tmp_path)
    maim_seals(tmp_path)
    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("f") == DATA
    assert "checksums cannot be read" in caplog.text
    caplog.clear()


async def test_damage_while_the_bucket_fails_is_an_error_not_wrong_bytes(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await read_once(bucket, tmp_path)
    flip(pages_of(tmp_path), 1)
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f")
        bucket.fault = lambda operation, *_: (
            Fault(StoreError("AccessDenied", status=403)) if operation == "GetObject" else None
        )
        with pytest.raises(StoreError, match="AccessDenied"):
            await mount.pread(handle, 0, 4096)
        assert await mount.pread(handle, MIB, 4096) == DATA[MIB : MIB + 4096]
        bucket.fault = None
        await mount.close(handle)
    caplog.clear()


class Mangler(Bucket):
    """A bucket that makes something else of the next uploads, and is caught at it.

    Attributes:
        mangles: How many more.
        hidden: It does not show whose the thing is.
    """

    mangles = 0
    hidden = False

    async def put(self, key: str, *args: object, **conditions: object) -> ObjectInfo:
        return self._mangled("PutObject", await super().put(key, *args, **conditions))

    async def complete(self, key: str, *args: object, **conditions: object) -> ObjectInfo:
        info = await super().complete(key, *args, **conditions)  # type: ignore[arg-type]
        return self._mangled("CompleteMultipartUpload", info)

    def _mangled(self, operation: str, info: ObjectInfo) -> ObjectInfo:
        if not self.mangles:
            return info
        self.mangles -= 1
        made = self.poke(info.key, b"something else", self.objects[info.key].headers)
        etag = "" if self.hidden else made.etag
        raise Damaged("BadDigest", operation=operation, key=info.key, message="", etag=etag)


@pytest.mark.parametrize("size", [4321, 40 * MIB, 70 * MIB], ids=["put", "parts", "streamed"])
async def test_what_arrives_damaged_is_sent_again_in_its_place(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    bucket, data = Mangler(), noise(size)
    bucket.mangles = 2
    async with planted(bucket, tmp_path) as mount:
        await mount.save("f", data)
        assert mount.stored() == ["f"]
        assert bucket.peek("f") == data
        assert await mount.read("f") == data
        await mount.save("g", b"and on")
    assert caplog.text.count("sent again") == 2
    assert not bucket.uploads
    caplog.clear()


async def test_what_never_arrives_whole_is_kept_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = Mangler()
    bucket.mangles = 3
    async with planted(bucket, tmp_path) as mount:
        with pytest.raises(Damaged):
            await mount.save("f", DATA)
        assert await mount.read("f") == DATA
        await mount.tree.drain.save_all()
        # the damaged version is one nobody here has seen: ours goes beside it, as any conflict
        (kept,) = [key for key in mount.stored() if key.startswith("f.conflict")]
        assert bucket.peek(kept) == DATA
    caplog.clear()


async def test_what_others_may_have_made_is_not_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = Mangler()
    bucket.mangles, bucket.hidden = 1, True
    async with planted(bucket, tmp_path) as mount:
        with pytest.raises(Damaged):
            await mount.save("f", DATA)
        assert bucket.peek("f") == b"something else"
        await mount.tree.drain.save_all()
        assert DATA in [bucket.peek(key) for key in mount.stored()]
        assert bucket.peek("f") == b"something else"
    caplog.clear()


def restored(mount: Mount, path: Path, data: bytes) -> Content:
    """A content over pages that an earlier process left, all of which no bucket has."""
    first = PageFile(path, size=len(data), identity=None)
    first.write(0, data)
    first.seal(0, data)
    content = Content(mount.tree.state.files, None)
    content.local.pages = PageFile(
        path, size=len(data), identity=None, left=Seals.load(first.dump())
    )
    first.close()
    content.overlay.written(0, len(data))
    return content


async def test_writing_into_what_is_damaged_does_not_hide_it(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with planted(bucket, tmp_path) as mount:
        content = restored(mount, tmp_path / "x.pages", DATA)
        flip(tmp_path / "x.pages", 2 * MIB)
        await content.write(2 * MIB + 5, b"some")
        assert list(content.overlay.lost) == [(2 * MIB, 2 * MIB + 5), (2 * MIB + 9, 3 * MIB)]
        await content.truncate(2 * MIB + 8)
        assert list(content.overlay.lost) == [(2 * MIB, 2 * MIB + 5)]
        content.close()
    async with planted(bucket, tmp_path / "2") as mount:
        content = restored(mount, tmp_path / "y.pages", DATA)
        flip(tmp_path / "y.pages", 2 * MIB)
        await content.truncate(2 * MIB + 8)
        assert list(content.overlay.lost) == [(2 * MIB, 2 * MIB + 8)]
        content.close()
    caplog.clear()


async def test_damage_to_what_no_bucket_has_is_an_error_and_never_uploaded(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with planted(bucket, tmp_path) as mount:
        content = restored(mount, tmp_path / "x.pages", DATA)
        flip(tmp_path / "x.pages", 2 * MIB)
        reader = Reader()
        assert await content.read(reader, 0, 4096) == DATA[:4096]
        target = Target("f", Headers(), if_none_match=True)
        with pytest.raises(FsError, match="EIO"):
            await publish(mount.tree.state.files, content, target)
        with pytest.raises(FsError, match="EIO"):
            await publish(mount.tree.state.files, content, target)
        with pytest.raises(FsError, match="EIO"):
            await content.read(reader, 2 * MIB + 9, 5)
        assert mount.stored() == []
        assert "are lost" in caplog.text
        await content.write(2 * MIB, bytes(77))
        with pytest.raises(FsError, match="EIO"):
            await publish(mount.tree.state.files, content, target)
        await content.write(2 * MIB, bytes(MIB))  # whoever writes it anew has mended it
        await publish(mount.tree.state.files, content, target)
        assert bucket.peek("f") == DATA[: 2 * MIB] + bytes(MIB) + DATA[3 * MIB :]
    caplog.clear()
