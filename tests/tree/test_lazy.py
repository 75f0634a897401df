"""`metadata=lazy`: attributes shown as listed where the first objects have none, checked behind."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import trio

from bucketfs.store.base import Headers
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.core.posix import Posix
from bucketfs.tree.lookup.behind import PAUSE
from bucketfs.tree.lookup.presume import ENOUGH
from bucketfs.tree.saving.change import Change
from tests.tree.builder import Bucket, Mount, planted, said

mock_clock = pytest.mark.mock_clock

FILES = 200


class Kernel:
    """Remembers what it was told to ask again for."""

    def __init__(self) -> None:
        self.inodes: list[Inode] = []
        self.names: list[str] = []

    def replaced(self, inode: Inode) -> None:
        self.inodes.append(inode)

    def moved(self, parent: Directory, name: str) -> None:
        self.names.append(name)


def fill(bucket: Bucket, **other: Headers) -> list[str]:
    names = [f"f{number:03}" for number in range(FILES)]
    for name in names:
        bucket.poke(name, b"x" * 100, other.get(name))
    return names


async def look(mount: Mount, names: list[str]) -> None:
    """Have the first objects looked at."""
    await mount.names()
    for name in names[:ENOUGH]:
        await mount.find(name)
    await trio.sleep(0.1)


async def shown(mount: Mount, name: str) -> Posix:
    """What is said of a name now, which the kernel remembers."""
    inode = mount.root.children[name]
    (posix,) = mount.tree.glances([inode])
    assert posix is not None
    mount.tree.state.table.count(inode)
    return posix


@mock_clock
async def test_the_others_are_shown_at_once_and_asked_for_behind(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = fill(bucket)
    kernel = Kernel()
    async with planted(bucket, tmp_path, watcher=kernel, lazy_attributes=True) as mount:
        directory = mount.root
        await mount.names()
        before = mount.tree.glances([directory.children[name] for name in names])
        assert before == [None] * FILES, "nothing is presumed before objects were seen"
        for name in names[:2]:  # the second look has 256 asked for: the bucket is small
            await mount.find(name)
        await trio.sleep(0.1)
        bucket.requested()
        bucket.poke("g", b"x")
        mount.expire()
        await mount.names()
        began = trio.current_time()
        assert (await shown(mount, "g")).mode == stat.S_IFREG | 0o644
        inode = await mount.find("g")
        assert inode.posix is not None
        assert trio.current_time() == began
        assert bucket.requested() == {"ListObjectsV2": 1}
        await trio.sleep(PAUSE + 0.2)
        assert bucket.requested() == {"HeadObject": 1}
        assert not inode.posix.partial
        assert (kernel.inodes, kernel.names) == ([], []), "it was as presumed"


@mock_clock
async def test_what_differs_is_corrected(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    kernel = Kernel()
    async with planted(bucket, tmp_path, watcher=kernel, lazy_attributes=True) as mount:
        await look(mount, names)
        bucket.poke("g1", b"x", said(0o100600, uid="7"))
        bucket.poke("g2", b"target", said(stat.S_IFLNK | 0o777))
        bucket.poke("g3", b"", Headers(content_type="application/x-directory"))
        mount.expire()
        await mount.names()
        for name in ("g1", "g2", "g3"):
            assert (await shown(mount, name)).mode == stat.S_IFREG | 0o644
        file, link = mount.root.children["g1"], mount.root.children["g2"]
        await trio.sleep(PAUSE + 0.5)
        assert kernel.inodes == [file]
        assert (mount.tree.posix(file).mode, mount.tree.posix(file).uid) == (0o100600, 7)
        assert sorted(kernel.names) == ["g2", "g3"]
        assert mount.root.children["g2"] is not link, "the kernel takes no other type for it"
        assert await mount.tree.read_link(await mount.find("g2")) == b"target"
        assert isinstance(await mount.find("g3"), Directory)
        assert mount.tree.glances([mount.root.children["g2"]]) != [None]


@mock_clock
async def test_nothing_is_presumed_where_objects_tell_of_themselves(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = fill(bucket, f003=said(0o100640))
    async with planted(bucket, tmp_path, lazy_attributes=True) as mount:
        await look(mount, names)
        bucket.poke("g", b"x")
        mount.expire()
        await mount.names()
        assert mount.tree.glances([mount.root.children["g"]]) == [None]


@mock_clock
async def test_without_the_option_nothing_is_presumed(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path) as mount:
        await look(mount, names)
        bucket.poke("g", b"x")
        mount.expire()
        await mount.names()
        assert mount.tree.glances([mount.root.children["g"]]) == [None]


@mock_clock
async def test_nothing_is_stored_in_the_place_of_what_was_not_seen(
    bucket: Bucket, tmp_path: Path
) -> None:
    """A chmod writes all metadata anew: what the object carries must be known by then."""
    names = fill(bucket)
    async with planted(bucket, tmp_path, lazy_attributes=True) as mount:
        await look(mount, names)
        bucket.poke("g", b"x", Headers({"color": "red"}, "text/x-thing"))
        mount.expire()
        await mount.names()
        await shown(mount, "g")
        inode = await mount.find("g")
        await mount.tree.attributes.complete(inode)
        mount.tree.changer.change(inode, Change(mode=0o600))
        mount.tree.later.attributes(inode)
        await trio.sleep(5)
        headers = bucket.objects["g"].headers
        assert (headers.metadata["color"], headers.content_type) == ("red", "text/x-thing")
        assert headers.metadata["mode"] == str(0o100600)


@mock_clock
async def test_a_file_that_is_open_is_checked_when_it_is_closed(
    bucket: Bucket, tmp_path: Path
) -> None:
    names = fill(bucket)
    async with planted(bucket, tmp_path, lazy_attributes=True) as mount:
        await look(mount, names)
        bucket.poke("g", b"x" * 100, said(0o100600))
        mount.expire()
        await mount.names()
        await shown(mount, "g")
        handle = await mount.open("g")
        await trio.sleep(3 * PAUSE)
        await mount.close(handle)
        await trio.sleep(2 * PAUSE)
        assert mount.tree.posix(await mount.find("g")).mode == 0o100600


@mock_clock
async def test_what_may_not_be_read_is_shown_so_after_all(bucket: Bucket, tmp_path: Path) -> None:
    names = fill(bucket)
    kernel = Kernel()
    async with planted(bucket, tmp_path, watcher=kernel, lazy_attributes=True) as mount:
        await look(mount, names)
        bucket.poke("g", b"x")
        mount.expire()
        await mount.names()
        bucket.refuse("HeadObject", key="g")
        await shown(mount, "g")
        await trio.sleep(PAUSE + 0.5)
        assert [inode.name for inode in kernel.inodes] == ["g"]
        assert mount.tree.posix(mount.root.children["g"]).mode == stat.S_IFREG
