"""Writing: what an upload costs, who waits for it, and what happens when it fails."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, StoreError
from bucketfs.store.base import Capabilities
from tests.tree.builder import MIB, TTL, Bucket, Mount, noise, planted, said

pytestmark = pytest.mark.mock_clock


def conflicts(mount: Mount, name: str) -> list[bytes]:
    """What was kept beside a name."""
    return [mount.bucket.peek(k) for k in mount.stored() if k.startswith(f"{name}.conflict-")]


async def test_a_new_file_is_one_put(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        bucket.requested()
        await mount.save("f", b"bytes")
        assert bucket.requested() == {"PutObject": 1}
        assert bucket.peek("f") == b"bytes"
        assert not mount.tree.state.open_inodes
        assert await mount.read("f") == b"bytes"
        assert bucket.requested() == {}


async def test_nothing_appears_before_the_close(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
        await mount.write(handle, 0, b"ne")
        await trio.sleep(10)
        assert bucket.peek("f") == b"old"
        await mount.write(handle, 2, b"w")
        await mount.close(handle)
        assert bucket.peek("f") == b"new"


async def test_a_patch_uploads_what_changed(bucket: Bucket, tmp_path: Path) -> None:
    data = bytearray(noise(64 * MIB))
    bucket.poke("f", bytes(data))
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_RDWR)
        await mount.write(handle, 30 * MIB, b"patch")
        data[30 * MIB : 30 * MIB + 5] = b"patch"
        await mount.close(handle)
        assert bucket.peek("f") == data
        assert bucket.sent <= 10 * MIB
        assert bucket.received <= 10 * MIB
        assert await mount.read("f") == data


async def test_an_append_downloads_nothing(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(5 * MIB)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path) as mount:
        for _ in range(3):
            handle = await mount.open("f", os.O_WRONLY)
            await mount.write(handle, handle.content.size, b"tail")
            await mount.close(handle)
        assert bucket.peek("f") == data + b"tail" * 3
        assert (bucket.received, bucket.sent) == (0, 12)


@pytest.mark.parametrize("size", [10, 6 * MIB, 40 * MIB])
async def test_truncation_both_ways(bucket: Bucket, tmp_path: Path, size: int) -> None:
    data = noise(size)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path) as mount:
        for wanted in (size // 2, size // 2 + 100, 0, 7):
            await mount.tree.opener.truncate(await mount.find("f"), wanted, publish=True)
            data = data[:wanted] + bytes(max(0, wanted - len(data)))
            assert bucket.peek("f") == data
            assert await mount.read("f") == data


async def test_random_writes_and_reads_agree_with_a_bytearray(
    bucket: Bucket, tmp_path: Path
) -> None:
    rng = random.Random(7)
    model = bytearray(noise(20 * MIB))
    bucket.poke("f", bytes(model))
    async with planted(bucket, tmp_path) as mount:
        for _ in range(6):
            handle = await mount.open("f", os.O_RDWR)
            for _ in range(15):
                start = rng.randrange(len(model) + MIB)
                piece = rng.randbytes(rng.choice([1, 4096, 300_000]))
                if rng.random() < 0.15:
                    size = rng.randrange(12 * MIB, 22 * MIB)
                    await mount.tree.opener.truncate(handle.inode, size, publish=False)
                    model[size:] = b""
                    model.extend(bytes(size - len(model)))
                elif rng.random() < 0.6:
                    await mount.write(handle, start, piece)
                    model.extend(bytes(max(0, start + len(piece) - len(model))))
                    model[start : start + len(piece)] = piece
                assert await mount.pread(handle, start, MIB) == model[start : start + MIB]
            await mount.close(handle)
            assert bucket.peek("f") == model
            await trio.sleep(TTL + 1)
        assert not bucket.uploads


async def test_a_write_waits_while_the_file_is_published(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"first")
        bucket.latency = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.flush, handle)
            await trio.sleep(0.1)
            began = trio.current_time()
            await mount.write(handle, 0, b"other")
            assert trio.current_time() - began == pytest.approx(0.9)
            assert bucket.peek("f") == b"first"
        await mount.close(handle)
        assert bucket.peek("f") == b"other"


async def test_a_shared_page_file_is_copied_before_the_first_write(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Two inodes read one version from one page file; what one writes the other must not see."""
    bucket.poke("f", b"bytes")
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f", os.O_RDWR)
        base = reader.content.base
        assert base is not None
        assert await mount.pread(reader, 0, 5) == b"bytes"
        other = mount.cache.open(base.key, base.etag, base.size)
        await mount.write(reader, 0, b"B")
        assert other.read(0, 5) == b"bytes"
        assert await mount.pread(reader, 0, 5) == b"Bytes"
        mount.cache.release(other)
        await mount.close(reader)
        assert bucket.peek("f") == b"Bytes"


class TestConflicts:
    async def test_replaced_since_it_was_opened(self, bucket: Bucket, tmp_path: Path) -> None:
        bucket.poke("f", b"base")
        async with planted(bucket, tmp_path) as mount:
            handle = await mount.open("f", os.O_RDWR)
            await mount.pread(handle, 0, 4)
            await mount.write(handle, 4, b" mine")
            bucket.poke("f", b"theirs")
            with pytest.raises(FsError) as caught:
                await mount.close(handle)
            assert caught.value.errno == errno.ESTALE
            assert bucket.peek("f") == b"theirs"
            assert conflicts(mount, "f") == [b"base mine"]
            assert await mount.read("f") == b"theirs"
            await trio.sleep(200)
            assert len(mount.stored()) == 2
            assert not mount.tree.state.open_inodes

    async def test_created_by_two(self, bucket: Bucket, tmp_path: Path) -> None:
        async with planted(bucket, tmp_path) as mount:
            handle = await mount.create("f")
            await mount.write(handle, 0, b"mine")
            bucket.poke("f", b"theirs")
            with pytest.raises(FsError):
                await mount.close(handle)
            assert bucket.peek("f") == b"theirs"
            assert conflicts(mount, "f") == [b"mine"]

    async def test_a_large_file_that_is_all_here(self, bucket: Bucket, tmp_path: Path) -> None:
        data = noise(20 * MIB)
        bucket.poke("f", data)
        async with planted(bucket, tmp_path) as mount:
            handle = await mount.open("f", os.O_RDWR)
            assert await mount.pread(handle, 0, len(data)) == data
            await mount.write(handle, 0, b"mine")
            bucket.poke("f", b"theirs")
            with pytest.raises(FsError):
                await mount.close(handle)
            assert conflicts(mount, "f") == [b"mine" + data[4:]]
            assert not bucket.uploads

    @pytest.mark.parametrize("gone", [True, False])
    async def test_what_was_written_is_never_dropped(
        self, bucket: Bucket, tmp_path: Path, gone: bool
    ) -> None:
        """Most of the old bytes were never here and are gone: what was written must survive."""
        bucket.poke("f", noise(20 * MIB))
        async with planted(bucket, tmp_path) as mount:
            handle = await mount.open("f", os.O_WRONLY)
            await mount.write(handle, 20 * MIB, b"mine")
            if gone:
                del bucket.objects["f"]
            else:
                bucket.poke("f", b"theirs")
            with pytest.raises((FsError, StoreError)):
                await mount.close(handle)
            await trio.sleep(600)
            kept = [bucket.peek(key) for key in mount.stored()]
            assert any(data.endswith(b"mine") for data in kept)

    async def test_removed_by_others(self, bucket: Bucket, tmp_path: Path) -> None:
        bucket.poke("f", b"base")
        async with planted(bucket, tmp_path) as mount:
            handle = await mount.open("f", os.O_RDWR)
            await mount.pread(handle, 0, 4)
            await mount.write(handle, 4, b" mine")
            del bucket.objects["f"]
            await mount.close(handle)
            assert mount.stored() == ["f"]
            assert bucket.peek("f") == b"base mine"

    async def test_emptying_open_is_of_the_version_there_now(
        self, bucket: Bucket, tmp_path: Path
    ) -> None:
        """Someone replaced the file before our open(O_TRUNC): we replace theirs, no conflict."""
        bucket.poke("f", b"base")
        async with planted(bucket, tmp_path) as mount:
            await mount.read("f")
            await trio.sleep(5)  # less than the TTL, more than open_ttl
            bucket.poke("f", b"theirs")
            handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
            await mount.write(handle, 0, b"mine")
            await mount.close(handle)
            assert mount.stored() == ["f"]
            assert bucket.peek("f") == b"mine"

    async def test_the_same_bytes_with_other_metadata_while_open(
        self, bucket: Bucket, tmp_path: Path
    ) -> None:
        bucket.poke("f", b"base", said(0o100600))
        async with planted(bucket, tmp_path) as mount:
            handle = await mount.open("f", os.O_RDWR)
            bucket.poke("f", b"base", said(0o100644))
            await mount.names()
            stored = bucket.objects["f"]
            bucket.objects["f"] = type(stored)(
                stored.data, stored.etag, stored.last_modified + 100, stored.headers
            )
            await trio.sleep(TTL + 1)
            await mount.names()
            await mount.write(handle, 4, b" mine")
            await mount.close(handle)
            assert bucket.peek("f") == b"base mine"


async def test_a_file_beyond_the_fixed_part_size_names_the_option(tmp_path: Path) -> None:
    bucket = Bucket(capabilities=Capabilities(max_parts=3))
    async with planted(bucket, tmp_path, part_size=5 * MIB) as mount:
        handle = await mount.create("f")
        with pytest.raises(FsError, match="multipart_size") as caught:
            await mount.write(handle, 21 * MIB, b"x")
        assert caught.value.errno == errno.EFBIG


async def test_precondition_of_an_overwrite_is_the_version_opened(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Endpoints without conditions are the store's business: the tree always states them."""
    asked = []
    real = bucket.put

    async def put(*args: object, **conditions: object) -> object:
        asked.append(conditions)
        return await real(*args, **conditions)  # type: ignore[arg-type]

    bucket.put = put  # type: ignore[assignment, method-assign]
    etag = bucket.poke("f", b"x").etag
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
        await mount.close(handle)
        await mount.save("g", b"")
    assert asked == [
        {"if_match": etag, "if_none_match": False},
        {"if_match": "", "if_none_match": True},
    ]
