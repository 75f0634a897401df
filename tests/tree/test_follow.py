"""A tree that follows a feed shows what the bucket has, whatever happens at the same time."""

from __future__ import annotations

import errno
import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.errors import FsError, NoAnswer, StoreError, Unsupported
from bucketfs.store.base import Change, Headers, Hear, ListPage, ObjectInfo
from bucketfs.store.layers.own import OwnStore
from bucketfs.tree.core.freshness import FOLLOWED
from bucketfs.tree.core.inode import Directory, Inode
from bucketfs.tree.lookup.forget import Forgotten
from bucketfs.tree.lookup.news import MANY
from tests.tree.builder import Bucket, Mount, planted

#: Longer than an answer or an event takes.
REST = 10.0
#: Many keys that are in each other's way, and the root.
NAMES = ("", "a", "b", "a/a", "a/b", "a/b/a", "a/b/b", "b/", "b/a", "a/", "c_$folder$", "c")


class Telling(Bucket):
    """A bucket with a feed; `late` is how long its events are on their way."""

    late: float = 0.0
    feed: bool = True

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self._hear: Hear | None = None
        self._cut = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def follow(self, prefix: str, hear: Hear) -> None:
        if not self.feed:
            raise Unsupported("NotImplemented")
        self._hear, self._cut = hear, trio.Event()
        async with trio.open_nursery() as self._nursery:
            hear([])
            await self._cut.wait()
            self._hear = None
            self._nursery.cancel_scope.cancel()
        raise NoAnswer("ConnectionClosed")

    def cut(self) -> None:
        """The connection of the feed breaks; what is on its way is lost."""
        self._hear = None
        self._cut.set()

    def _tell(self, change: Change) -> None:
        async def later(late: float) -> None:
            await trio.sleep(late)
            if self._hear is not None:
                self._hear([change])

        if self._hear is not None and self._nursery is not None:
            self._nursery.start_soon(later, self.late)

    def _store(self, key: str, data: bytes, headers: Headers, etag: str) -> ObjectInfo:
        info = super()._store(key, data, headers, etag)
        self._tell(Change((key,), etag=info.etag))
        return info

    def _delete(self, key: str, if_match: str = "") -> None:
        was = key in self.objects
        super()._delete(key, if_match)
        if was:
            self._tell(Change((key,), removed=True))

    async def list(self, prefix: str, **asked: object) -> ListPage:  # type: ignore[override]
        page = await super().list(prefix, **asked)  # type: ignore[arg-type]
        await trio.sleep(self.answer)
        return page


async def nothing(_: Forgotten) -> None:
    """There is no kernel."""


async def follow(mount: Mount) -> None:
    """Have the mount follow the feed, from now on."""
    mount.tree.state.files.background.start(lambda: mount.tree.follower.run(nothing), "follow")
    await trio.sleep(0.01)
    following = mount.tree.follower.following
    assert following is not None


def entries(bucket: Bucket, prefix: str) -> set[str]:
    """What a directory has, by the keys alone."""
    below = [key.removeprefix(prefix) for key in bucket.objects if key.startswith(prefix)]
    names = {key.split("/")[0] for key in below if key}
    return {name.removesuffix("_$folder$") for name in names}


async def is_as_the_bucket(mount: Mount, path: str = "", *, listed: bool = True) -> None:
    """The names and versions below a directory, by listings (if so, first) and by their names."""
    prefix = f"{path}/" if path else ""
    expected = entries(mount.bucket, prefix)
    if listed:
        assert await mount.names(path) == expected, path
    directory = await mount.directory(path)
    for name in sorted(expected | {"a", "b", "c", "free"}):
        found = await mount.tree.finder.find_or_none(directory, name)
        assert (found is not None) == (name in expected), prefix + name
        if isinstance(found, Directory):
            await is_as_the_bucket(mount, prefix + name, listed=listed)
        elif found is not None:
            assert found.etag == mount.bucket.objects[prefix + name].etag, prefix + name
    assert await mount.names(path) == expected, path


async def at(mount: Mount, path: str) -> Inode:
    """What a path stands for, looked up as the kernel does."""
    inode: Inode = mount.root
    for name in filter(None, path.split("/")):
        if not isinstance(inode, Directory):
            raise FsError(errno.ENOTDIR)
        inode = await mount.tree.finder.find(inode, name)
    return inode


async def look(mount: Mount, path: str) -> None:
    with suppress(FsError, StoreError):
        inode = await at(mount, path)
        if isinstance(inode, Directory):
            await mount.tree.lister.ensure(inode)


async def find(mount: Mount, path: str) -> None:
    with suppress(FsError, StoreError):
        await at(mount, path)


async def read(mount: Mount, path: str) -> None:
    with suppress(FsError, StoreError):
        inode = await at(mount, path)
        handle = await mount.tree.opener.open(inode, os.O_RDONLY, uid=0, pid=0)
        await mount.pread(handle, 0, handle.content.size)
        await mount.close(handle)


async def save(mount: Mount, path: str) -> None:
    with suppress(FsError, StoreError):
        await mount.save(path, b"ours")


async def unlink(mount: Mount, path: str) -> None:
    with suppress(FsError, StoreError):
        await mount.unlink(path)


LOOKS = (look, find, read)
OURS = (save, unlink)
Step = tuple[str, str, float, float, float]

steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", *(f.__name__ for f in LOOKS)]),
        st.sampled_from(NAMES),
        *[st.sampled_from([0.0, 0.25, 1.0])] * 3,
    ),
    max_size=25,
)


async def run(
    actions: Sequence[Step], doings: Sequence[Callable[..., object]], *, listed: bool
) -> None:
    bucket = Telling()
    bucket.poke("a/a", b"first")
    bucket.poke("b/", b"")
    by_name = {doing.__name__: doing for doing in doings}
    with tempfile.TemporaryDirectory() as directory:
        store = OwnStore(bucket)
        times = {"ttl": 0, "open_ttl": 0, "hadoop_directories": True}
        async with planted(bucket, Path(directory), store=store, **times) as mount:
            await follow(mount)
            async with trio.open_nursery() as programs:
                for at, (what, key, pause, answer, late) in enumerate(actions):
                    bucket.answer, bucket.late = answer, late
                    if what == "put" and key:
                        bucket.poke(key, b"" if key.endswith(("/", "$")) else b"%d" % at)
                    elif what == "delete":
                        bucket._delete(key)
                    elif what in by_name and (key or what in ("look", "find")):
                        name = key.strip("/")
                        programs.start_soon(by_name[what], mount, name)  # type: ignore[arg-type]
                    await trio.sleep(pause)
            bucket.answer = bucket.late = 0.0
            await trio.sleep(REST)
            await is_as_the_bucket(mount, listed=listed)
            bucket.requested()
            await is_as_the_bucket(mount, listed=listed)
            asked = bucket.requested()
            assert not asked, f"what is known was asked for again: {asked}"


@given(steps, st.booleans())
def test_what_others_do_shows(actions: list[Step], listed: bool) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(functools.partial(run, actions, LOOKS, listed=listed), clock=clock)


@given(st.lists(st.tuples(
    st.sampled_from(["put", "delete", *(f.__name__ for f in (*LOOKS, *OURS))]),
    st.sampled_from(["", "x", "y", "d/a", "d/b"]),
    *[st.sampled_from([0.0, 0.25, 1.0])] * 3,
), max_size=25), st.booleans())  # fmt: skip
def test_what_others_do_shows_beside_our_own(actions: list[Step], listed: bool) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(functools.partial(run, actions, (*LOOKS, *OURS), listed=listed), clock=clock)


@pytest.mark.mock_clock
async def test_what_is_trusted_has_a_limit(tmp_path: Path) -> None:
    bucket = Telling()
    bucket.poke("f", b"1")
    async with planted(bucket, tmp_path, ttl=0, open_ttl=0) as mount:
        await follow(mount)
        await mount.names()
        bucket.requested()
        await trio.sleep(FOLLOWED - 1)
        await mount.names()
        assert not bucket.requested()
        await trio.sleep(2)
        await mount.names()
        assert bucket.requested() == {"ListObjectsV2": 1}


@pytest.mark.mock_clock
async def test_a_busy_directory_is_listed_once_for_each_who_asks(tmp_path: Path) -> None:
    bucket = Telling()
    async with planted(bucket, tmp_path, ttl=0, open_ttl=0) as mount:
        await follow(mount)
        bucket.answer = 1.0

        async def busy() -> None:
            for number in range(1000):
                bucket.poke(f"d/{number}", b"1")
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy)
            await trio.sleep(2)
            directory = await mount.directory("d")
            bucket.requested()
            await mount.tree.lister.ensure(directory)
            assert bucket.requested() == {"ListObjectsV2": 1}
            nursery.cancel_scope.cancel()


@pytest.mark.mock_clock
async def test_what_is_noted_of_events_is_bounded(tmp_path: Path) -> None:
    bucket = Telling()
    bucket.poke("d/f", b"1")
    async with planted(bucket, tmp_path) as mount:
        await follow(mount)
        await mount.names("d")
        for number in range(3 * MANY):
            bucket.poke(f"d/{number}", b"1")
        await trio.sleep(1)
        directory = await mount.directory("d")
        assert len(directory.heard) <= MANY + 2
        assert not mount.tree.state.freshness.is_current(directory)
        await is_as_the_bucket(mount, "d")
        assert not directory.heard


@pytest.mark.mock_clock
async def test_an_event_costs_no_request_and_what_is_not_concerned_none_either(
    tmp_path: Path,
) -> None:
    bucket = Telling()
    for key in ("d/f", "d/g", "e/f"):
        bucket.poke(key, b"1")
    async with planted(bucket, tmp_path) as mount:
        await follow(mount)
        for path in ("", "d", "e"):
            await mount.names(path)
        await mount.find("d/g")
        bucket.requested()
        bucket.poke("d/f", b"12")
        await trio.sleep(1)
        assert not bucket.requested()
        assert (await mount.find("d/g")).size == 1
        await mount.names("e")
        assert not bucket.requested()
        assert (await mount.find("d/f")).size == 2
        assert bucket.requested() == {"HeadObject": 1, "ListObjectsV2": 1}


class Kernel:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def replaced(self, inode: Inode) -> None:
        self.told.append(inode)

    def moved(self, parent: Directory, name: str) -> None:
        self.told.append((parent, name))


@pytest.mark.mock_clock
async def test_the_kernel_is_told_what_it_may_remember(tmp_path: Path) -> None:
    bucket, kernel = Telling(), Kernel()
    for key in ("d/known", "d/unknown"):
        bucket.poke(key, b"1")
    async with planted(bucket, tmp_path, watcher=kernel) as mount:
        await follow(mount)
        await mount.names("d")
        directory, known = await mount.directory("d"), await mount.find("d/known")
        mount.tree.state.table.count(known)
        assert await mount.tree.finder.find_or_none(directory, "free") is None
        assert mount.tree.finder.negative_timeout(directory, "free") > 0
        kernel.told.clear()
        for name in ("known", "unknown", "free", "never heard of"):
            bucket.poke(f"d/{name}", b"2")
        await trio.sleep(1)
        assert len(kernel.told) == 2
        assert known in kernel.told
        assert (directory, "free") in kernel.told


@pytest.mark.mock_clock
async def test_what_is_unsaved_stays(tmp_path: Path) -> None:
    bucket = Telling()
    bucket.poke("f", b"theirs")
    async with planted(bucket, tmp_path, store=OwnStore(bucket)) as mount:
        await follow(mount)
        handle = await mount.open("f", 1)
        await mount.write(handle, 0, b"ours!!")
        bucket.poke("f", b"theirs, newer")
        await trio.sleep(1)
        assert await mount.read("f") == b"ours!!"
        with pytest.raises(FsError, match="changed"):
            await mount.close(handle)
        assert bucket.peek("f") == b"theirs, newer"
        conflict = next(key for key in bucket.objects if ".conflict-" in key)
        assert bucket.peek(conflict) == b"ours!!"
        assert await mount.read("f") == b"theirs, newer"


@pytest.mark.mock_clock
async def test_a_gap_makes_all_before_it_unknown(tmp_path: Path) -> None:
    bucket = Telling()
    bucket.poke("d/f", b"1")
    day = 86400.0
    async with planted(bucket, tmp_path, ttl=day, open_ttl=day) as mount:
        await follow(mount)
        await mount.names("d")
        bucket.cut()
        bucket.poke("d/f", b"12")
        bucket.poke("d/g", b"1")
        await trio.sleep(0.1)
        assert await mount.names("d") == {"f"}
        following = mount.tree.follower.following
        assert following is not None
        assert not following.connected
        assert following.next_try
        await trio.sleep(REST)
        await is_as_the_bucket(mount)


@pytest.mark.mock_clock
async def test_a_mount_without_a_feed_gives_up_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = Telling()
    bucket.feed = False
    async with planted(bucket, tmp_path, place="bucket/") as mount:
        await follow(mount)
        await trio.sleep(1000)
        (record,) = caplog.records
        assert "bucket: the endpoint has no feed" in record.getMessage()
        following = mount.tree.follower.following
        assert following is not None
        assert not following.connected
        assert not following.next_try


@pytest.mark.mock_clock
@pytest.mark.parametrize("when", [0.5, 1.5, 2.5, 3.5])
async def test_a_listing_ahead_does_not_hide_what_was_made_meanwhile(
    tmp_path: Path, when: float
) -> None:
    """Of directories that the tree did not know yet when it was told."""
    bucket = Telling()
    for number in range(20):
        bucket.poke(f"d{number:02}/x/f", b"1")
    async with planted(bucket, tmp_path) as mount:
        await follow(mount)
        bucket.answer = 1.0

        async def walk() -> None:
            for path in ("", "d00", "d01", "d02"):
                await mount.tree.subtree.ensure(await mount.directory(path))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(walk)
            await trio.sleep(when)
            bucket.poke("d05/x/new", b"1")
        bucket.answer = 0.0
        await trio.sleep(REST)
        inside = await mount.directory("d05/x")
        await mount.tree.subtree.ensure(inside)
        assert set(inside.children) == {"f", "new"}
