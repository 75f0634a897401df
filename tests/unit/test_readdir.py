"""Reading a directory: how the entries are looked up that the kernel takes."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.fuse.readdir import PIECE, OpenDirectory
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.lookup.reading import Reading, not_among


class Kernel:
    """Takes entries up to a room of bytes a request."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.room = 0

    def reply(self, _token: object, name: bytes, _entry: object, _next: int) -> bool:
        if len(name) > self.room:
            return False
        self.room -= len(name)
        self.names.append(name.decode())
        return True


async def read(directory: Directory) -> Reading:
    reading = Reading()
    reading.finish(directory.children)
    return reading


def tree_of(looks: list[int], *, only_looks: bool) -> Any:
    async def reads(*_: object) -> bool:
        return only_looks

    def glances(inodes: list[Inode]) -> list[str]:
        looks.append(len(inodes))
        return ["known"] * len(inodes)

    return SimpleNamespace(
        glances=glances,
        subtree=SimpleNamespace(read=read),
        prefetcher=SimpleNamespace(reads=reads),
        state=SimpleNamespace(table=SimpleNamespace(count=lambda _: None)),
    )


@given(
    count=st.integers(0, 600),
    room=st.integers(100, 4000),
    seed=st.integers(0, 99),
    only_looks=st.booleans(),
)
def test_few_looks_and_each_name_once(
    count: int, room: int, seed: int, *, only_looks: bool
) -> None:
    """Names are of about one length here, and so as many are taken by each request, about."""
    directory = Directory(1, None, "")
    lengths = random.Random(seed)
    for at in range(count):
        name = f"{at:03}".ljust(lengths.randint(20, 24), "x")
        directory.children[name] = Inode(at + 2, directory, name)
    looks: list[int] = []
    kernel = Kernel()
    shown: list[str | None] = []
    encoder: Any = SimpleNamespace(
        glanced=lambda _, posix: shown.append(posix), listed=lambda _: None
    )
    opened = OpenDirectory(tree_of(looks, only_looks=only_looks), encoder, directory, 0)

    async def read_all() -> int:
        requests, taken = 0, -1
        while len(kernel.names) > taken:
            taken = len(kernel.names)
            kernel.room = room
            await opened.read(taken, cast(pyfuse3.ReaddirToken, None))
            requests += 1
        return requests

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyfuse3, "readdir_reply", kernel.reply)
        requests = trio.run(read_all)
    assert kernel.names == [".", "..", *sorted(directory.children)]
    assert max(looks, default=0) <= PIECE
    assert len(looks) <= 3 * requests
    assert shown.count(None) == (len(looks) if only_looks else 0), "the first of each piece"


NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(NAMES, NAMES)
def test_names_that_a_sorted_list_lacks(told: list[str], names: list[str]) -> None:
    assert list(not_among(sorted(told), names)) == [name for name in names if name not in told]


@given(NAMES, NAMES)
def test_a_reading_that_goes_on_after_a_restart_tells_each_name_once(
    told: list[str], names: list[str]
) -> None:
    reading = Reading.resumed(told, names)
    assert reading.names[: len(told)] == told
    assert sorted(reading.names) == sorted({*told, *names})
    assert reading.ended
