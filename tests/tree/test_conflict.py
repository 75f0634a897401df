"""Who wins when others wrote the same name: conflict=overwrite, O_EXCL, names that must be free."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from bucketfs import clock
from bucketfs.errors import FsError, KeyTaken, PreconditionFailed, StoreError, errno_of
from bucketfs.store.base import Capabilities, Change, ObjectInfo
from bucketfs.store.layers.copying import CARRIED_MOST
from bucketfs.store.layers.fallback import FallbackStore
from bucketfs.tree.core.posix import decode
from bucketfs.tree.lookup.news import News
from bucketfs.tree.saving.conflict import CONFLICT_NAMES
from tests.harness.providers import provider_with
from tests.tree.builder import CONFIG, MIB, Bucket, Mount, noise, planted, said

pytestmark = pytest.mark.mock_clock


async def changed(mount: Mount, name: str, tail: bytes, theirs: bytes | None) -> None:
    """Append to a file that is all here, and close it after others replaced or removed it."""
    handle = await mount.open(name, os.O_RDWR)
    size = handle.content.size
    await mount.pread(handle, 0, size)
    await mount.write(handle, size, tail)
    if theirs is None:
        del mount.bucket.objects[name]
    else:
        mount.bucket.poke(name, theirs)
    await mount.close(handle)


@pytest.mark.parametrize("size", [4, 6 * MIB, 20 * MIB])
@pytest.mark.parametrize("theirs", [b"theirs", None])
@pytest.mark.parametrize("able", [True, False])
async def test_the_last_writer_wins(
    tmp_path: Path, size: int, theirs: bytes | None, able: bool
) -> None:
    data = noise(size)
    bucket = Bucket(capabilities=Capabilities(copy_if_match=able))
    bucket.poke("f", data)
    async with planted(bucket, tmp_path, overwrite=True) as mount:
        await changed(mount, "f", b" mine", theirs)
        assert mount.stored() == ["f"]
        assert bucket.peek("f") == data + b" mine"
        assert await mount.read("f") == data + b" mine"
        assert not bucket.uploads


@pytest.mark.parametrize("what", ["chmod", "rename", "rename its directory"])
@pytest.mark.parametrize("able", [True, False])
async def test_a_copy_of_their_version_is_not_taken_for_ours(
    tmp_path: Path, what: str, able: bool
) -> None:
    """The cache has the old bytes, others store new ones, and then the object is copied."""
    bucket = Bucket(capabilities=Capabilities(copy_if_match=able))
    bucket.poke("d/f", b"as read here")

    def store_theirs(operation: str, _key: str, _count: int) -> None:
        if operation == "CopyObject":
            bucket.poke("d/f", b"by others   ")

    async with planted(bucket, tmp_path) as mount:
        assert await mount.read("d/f") == b"as read here"
        inode = await mount.find("d/f")
        bucket.fault = store_theirs
        with contextlib.suppress(FsError, PreconditionFailed):
            if what == "chmod":
                posix = mount.tree.posix(inode)
                mount.tree.changer.replace(inode, posix.changed(0, mode=0o100600))
                mount.tree.later.attributes(inode)
                await trio.sleep(1)
            elif what == "rename":
                await mount.rename("d/f", "d/g")
            else:
                await mount.rename("d", "e")
        bucket.fault = None
        await trio.sleep(2)
        (key,) = (key for key in bucket.objects if not key.endswith("/"))
        handle = await mount.open(key, os.O_RDWR)
        assert not handle.keep_cache
        assert await mount.pread(handle, 0, 100) == bucket.peek(key)
        await mount.close(handle)


@pytest.mark.parametrize("what", ["chmod", "rename"])
async def test_a_file_that_is_opened_while_their_version_is_copied(
    tmp_path: Path, what: str
) -> None:
    """The copy, which is not conditional, is not taken for one of what is open and in the cache."""
    bucket = Bucket(capabilities=Capabilities(copy_if_match=False))
    bucket.poke("f", noise(200_000, 1))
    async with planted(bucket, tmp_path) as mount:
        await mount.root_listed()
        ours = await mount.read("f")
        inode = await mount.find("f")
        await mount.tree.attributes.complete(inode)
        bucket.poke("f", noise(200_000, 2))
        bucket.latency = 0.5
        async with trio.open_nursery() as nursery:
            if what == "chmod":
                posix = mount.tree.posix(inode)
                mount.tree.changer.replace(inode, posix.changed(0, mode=0o100600))
                mount.tree.later.attributes(inode)
            else:
                nursery.start_soon(mount.rename, "f", "g")
            await trio.sleep(0.3)
            handle = await mount.open("f", os.O_RDWR)
            await trio.sleep(3)
        bucket.latency = 0.01
        key = "f" if what == "chmod" else "g"
        assert handle.content.local.missing(0, 200_000) == []
        assert await mount.pread(handle, 0, 200_000) == ours
        await mount.close(handle)
        assert await mount.read(key) == bucket.peek(key) == noise(200_000, 2)


@pytest.mark.parametrize("kind", ["in parts", "encrypted"])
async def test_an_object_is_changed_while_its_copy_is_made(tmp_path: Path, kind: str) -> None:
    """The copy has another ETag, and is known to be one all the same."""

    class Copying(Bucket):
        async def copy(self, source: str, target: str, **more: object) -> ObjectInfo:
            info = await super().copy(source, target, **more)  # type: ignore[arg-type]
            etag = hashlib.md5(info.etag.encode()).hexdigest()
            self.objects[target] = replace(self.objects[target], etag=etag)
            await trio.sleep(0.5)
            return replace(info, etag=etag)

    async def chmod(mount: Mount, name: str) -> None:
        inode = await mount.find(name)
        await mount.tree.attributes.complete(inode)
        posix = mount.tree.posix(inode)
        mount.tree.changer.replace(inode, posix.changed(0, mode=0o100600))
        mount.tree.later.attributes(inode)

    bucket = Copying(capabilities=Capabilities(copy_if_match=False), latency=0.01)
    store = FallbackStore(bucket, provider_with(bucket.capabilities))
    bucket.poke("f", noise(20 * MIB))
    bucket.poke("g", b"before it")
    if kind == "in parts":
        bucket.objects["f"] = replace(bucket.objects["f"], etag="1" * 32 + "-3")
    async with planted(bucket, tmp_path, store=store) as mount:
        if kind == "encrypted":
            await chmod(mount, "g")
            await trio.sleep(5)
        await chmod(mount, "f")
        await trio.sleep(0.2)
        handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
        await mount.write(handle, 0, b"ours")
        await mount.close(handle)
        await trio.sleep(2)
        assert mount.stored() == ["f", "g"]
        assert bucket.peek("f") == b"ours"


async def test_what_is_not_whole_overwrites_nothing(bucket: Bucket, tmp_path: Path) -> None:
    """The old bytes are gone with the old version: theirs must not be mixed in, nor zeros."""
    bucket.poke("f", noise(20 * MIB))
    async with planted(bucket, tmp_path, overwrite=True) as mount:
        handle = await mount.open("f", os.O_WRONLY)
        await mount.write(handle, 20 * MIB, b"mine")
        bucket.poke("f", b"theirs")
        with pytest.raises(FsError) as caught:
            await mount.close(handle)
        assert caught.value.errno == errno.ESTALE
        assert bucket.peek("f") == b"theirs"
        (beside,) = (key for key in mount.stored() if key != "f")
        assert bucket.peek(beside).endswith(b"mine")


@pytest.mark.parametrize("number", [2, CONFLICT_NAMES + 1])
async def test_conflicts_of_one_second(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Each has a copy, those that find no name free as soon as the clock has gone on."""
    monkeypatch.setattr(clock, "wall_ns", lambda: int((1e9 + trio.current_time()) * 1e9))
    bucket.poke("f", b"at first")
    async with planted(bucket, tmp_path) as mount:
        for each in range(number):
            mount.expire()
            handle = await mount.open("f", os.O_WRONLY | os.O_TRUNC)
            await mount.write(handle, 0, b"ours %d" % each)
            bucket.poke("f", b"theirs %d" % each)
            with pytest.raises(FsError) as failure:
                await mount.close(handle)
            assert failure.value.errno == (errno.ESTALE if each < CONFLICT_NAMES else errno.EIO)
        await trio.sleep(100)
        assert sorted(bucket.peek(key) for key in mount.stored()) == [
            *(b"ours %d" % each for each in range(number)),
            b"theirs %d" % (number - 1),
        ]
        assert not list(mount.cache.directory.glob("unsaved/*"))


async def test_a_name_that_others_took_is_taken_back(bucket: Bucket, tmp_path: Path) -> None:
    """Here the other version was noticed, and got an inode, before the first write."""
    bucket.poke("f", b"base")
    async with planted(bucket, tmp_path, overwrite=True) as mount:
        handle = await mount.open("f", os.O_RDWR)
        await mount.pread(handle, 0, 4)
        bucket.poke("f", b"theirs")
        await trio.sleep(CONFIG.ttl + 1)
        assert await mount.read("f") == b"theirs"
        await mount.write(handle, 4, b" mine")
        await mount.close(handle)
        assert mount.stored() == ["f"]
        assert bucket.peek("f") == b"base mine"
        assert await mount.read("f") == b"base mine"


async def test_created_by_two(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path, overwrite=True) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"mine")
        bucket.poke("f", b"theirs")
        await mount.close(handle)
        assert [bucket.peek(key) for key in mount.stored()] == [b"mine"]


async def symlink(mount: Mount, name: str) -> None:
    await mount.tree.entries.make(mount.root, name, 0o120777, 0, 0, body=b"to")


async def created(mount: Mount, name: str) -> object:
    inode = await mount.tree.entries.create(mount.root, name, 0o644, 0, 0, exclusive=True)
    return mount.tree.opener.open_new(inode, pid=0)


@pytest.mark.parametrize("overwrite", [True, False])
async def test_exclusively_created_by_two(bucket: Bucket, tmp_path: Path, overwrite: bool) -> None:
    """Whoever asked for O_EXCL is not to overwrite, whatever the mount was asked to do."""
    async with planted(bucket, tmp_path, overwrite=overwrite) as mount:
        handle = await created(mount, "f")
        await mount.write(handle, 0, b"mine")
        bucket.poke("f", b"theirs")
        with pytest.raises(FsError) as caught:
            await mount.close(handle)
        assert caught.value.errno == errno.EEXIST
        assert bucket.peek("f") == b"theirs"
        assert b"mine" in [bucket.peek(key) for key in mount.stored()]


async def test_exclusive_is_the_creation_alone(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        handle = await created(mount, "f")
        await mount.flush(handle)
        await mount.write(handle, 0, b"mine")
        bucket.poke("f", b"theirs")
        with pytest.raises(FsError) as caught:
            await mount.close(handle)
        assert caught.value.errno == errno.ESTALE


async def test_the_store_decides_at_open(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path, exclusive_at_open=True) as mount:
        await mount.names()
        bucket.poke("theirs", b"1")
        with pytest.raises(KeyTaken):
            await created(mount, "theirs")
        assert await mount.read("theirs") == b"1"
        await mount.names()
        bucket.requested()
        handle = await created(mount, "mine")
        assert bucket.peek("mine") == b""
        await mount.write(handle, 0, b"42")
        await mount.close(handle)
        assert bucket.peek("mine") == b"42"
        assert bucket.requested() == {"PutObject": 2}


@pytest.mark.parametrize("make", ["mkdir", "symlink"])
async def test_what_others_made_meanwhile_is_there(
    bucket: Bucket, tmp_path: Path, make: str
) -> None:
    """The listing is fresh and does not know it: the store refuses, and the name is seen."""
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        bucket.poke("l/" if make == "mkdir" else "l", b"")
        with pytest.raises(KeyTaken) as caught:
            await (mount.mkdir("l") if make == "mkdir" else symlink(mount, "l"))
        assert errno_of(caught.value) == errno.EEXIST
        assert await mount.names() == {"l"}


@pytest.mark.parametrize("able", [True, False], ids=["able", "blind"])
@pytest.mark.parametrize("size", [0, 100, CARRIED_MOST, CARRIED_MOST + 1])
async def test_a_rename_that_replaces_nothing(tmp_path: Path, size: int, able: bool) -> None:
    data = noise(size)
    bucket = Bucket(
        latency=0.01,
        capabilities=Capabilities(target_if_match=able, target_if_none_match=able),
    )
    store = FallbackStore(bucket, provider_with(bucket.capabilities))
    async with planted(bucket, tmp_path, store=store, exclusive_at_open=True) as mount:
        await mount.save("a", data)
        await mount.names()
        before = dict(bucket.objects["a"].headers.metadata)
        bucket.poke("b", b"theirs")
        with pytest.raises(KeyTaken):
            await mount.rename("a", "b", over=False)
        assert (bucket.peek("a"), bucket.peek("b")) == (data, b"theirs")
        assert await mount.read("b") == b"theirs"
        await mount.rename("a", "c", over=False)
        assert sorted(mount.stored()) == ["b", "c"]
        assert bucket.peek("c") == data
        moved = bucket.objects["c"].headers
        assert moved.metadata["mtime"] == before["mtime"]
        assert decode(moved, size=size, modified=0, directory=False, defaults=CONFIG.defaults)
        assert await mount.read("c") == data


@pytest.mark.parametrize("directory", [True, False])
async def test_a_name_that_was_free_a_while_ago_is_looked_up(
    bucket: Bucket, tmp_path: Path, directory: bool
) -> None:
    bucket.poke("a/f" if directory else "a", b"mine")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        await trio.sleep(CONFIG.open_ttl + 1)
        bucket.poke("b", b"theirs")
        with pytest.raises(FsError) as caught:
            await mount.rename("a", "b", over=False)
        assert caught.value.errno == errno.EEXIST
        await mount.rename("a", "c", over=False)
        await trio.sleep(CONFIG.open_ttl + 1)
        bucket.requested()
        await mount.rename("c", "d", over=False)
        looked = {"ListObjectsV2": 1 + directory}
        deleted = "DeleteObjects" if directory else "DeleteObject"
        assert bucket.requested() == {"CopyObject": 1, deleted: 1, **looked}


async def test_a_directory_renamed_to_a_name_that_others_took(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path, exclusive_at_open=True) as mount:
        bucket.poke("d/f", b"mine")
        await mount.names()
        bucket.poke("e/", b"")
        bucket.poke("e/f", b"theirs")
        with pytest.raises(KeyTaken):
            await mount.rename("d", "e", over=False)
        assert sorted(mount.stored()) == ["d/f", "e/", "e/f"]
        assert bucket.peek("e/f") == b"theirs"
        await mount.rename("d", "g", over=False)
        assert sorted(mount.stored()) == ["e/", "e/f", "g/", "g/f"]
        await mount.unlink("g/f")
        assert await mount.names() == {"e", "g"}


async def test_a_name_claimed_for_a_directory_whose_attributes_are_in_doubt(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Others have changed its marker, and a feed tells so while the new name is looked up."""
    bucket.poke("d/", b"", said(stat.S_IFDIR | 0o700))
    async with planted(bucket, tmp_path, exclusive_at_open=True) as mount:
        directory = await mount.directory("d")

        def hear(operation: str, key: str, _count: int) -> None:
            if operation == "HeadObject" and key == "e":
                News(mount.tree.state).take([Change(("d/",), removed=False)])

        bucket.fault = hear  # type: ignore[assignment]
        await mount.rename("d", "e", over=False)
        assert directory.posix is not None
        assert bucket.objects["e/"].headers.metadata["mode"] == str(stat.S_IFDIR | 0o700)


@pytest.mark.parametrize("too_deep", [True, False])
async def test_a_name_claimed_for_a_rename_that_fails_is_free_again(
    bucket: Bucket, tmp_path: Path, too_deep: bool
) -> None:
    above = "/".join(["p" * 200] * (4 if too_deep else 1))
    bucket.poke("d/" + "n" * 250, b"mine")
    bucket.poke(f"{above}/", b"")
    async with planted(bucket, tmp_path, exclusive_at_open=True) as mount:
        before = mount.stored()
        await mount.find(above)
        await mount.names("d")
        if not too_deep:
            bucket.refuse("ListObjectsV2", key="d/")
        with pytest.raises((FsError, StoreError)):
            await mount.rename("d", f"{above}/d", over=False)
        assert mount.stored() == before


async def test_what_is_written_after_a_conflict_is_stored_when_close_tells_of_it(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Two have a file open; the conflict is the first one's error, the second one writes on."""
    bucket.poke("f", b"old")
    async with planted(bucket, tmp_path) as mount:
        first, second = [await mount.open("f", os.O_RDWR) for _ in range(2)]
        await mount.write(first, 0, b"first")
        bucket.poke("f", b"theirs")
        with pytest.raises(FsError):
            await mount.flush(first)
        await mount.write(second, 5, b" second")
        with pytest.raises(FsError) as caught:
            await mount.flush(second)
        assert caught.value.errno == errno.ESTALE
        (copy,) = (key for key in mount.stored() if key.startswith("f.conflict-"))
        assert bucket.peek(copy) == b"first second"
        await mount.close(first)
        await mount.close(second)
