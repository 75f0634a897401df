"""`Account`: which buckets there are, how old that may be, and entering them."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from bucketfs import clock
from bucketfs.errors import FsError, NoAnswer, NotFound, StoreError
from bucketfs.tree.account.account import Account
from bucketfs.tree.account.member import Bucket as Member
from bucketfs.tree.account.member import index_of
from bucketfs.tree.account.roster import Roster
from bucketfs.tree.tree import Tree
from tests.tree.builder import Bucket, Mount, planted

pytestmark = pytest.mark.mock_clock

TTL, OPEN_TTL = 60.0, 1.0


class Endpoint:
    """Buckets in memory; `shown` is what a list shows that lags behind, if it is not None."""

    def __init__(self, *names: str) -> None:
        self.there = set(names)
        self.named: Sequence[str] = ()
        self.hidden: set[str] = set()
        self.shown: set[str] | None = None
        self.asked: Counter[str] = Counter()
        self.refusals: dict[str, StoreError] = {}
        self.answer = 0.0

    async def _ask(self, what: str) -> None:
        self.asked[what] += 1
        await trio.sleep(self.answer)
        if what in self.refusals:
            raise self.refusals[what]

    async def names(self) -> dict[str, int]:
        await self._ask("names")
        found = self.there - self.hidden if self.shown is None else self.shown
        return dict.fromkeys(found, 1)

    async def exists(self, name: str) -> bool:
        await self._ask("exists")
        return name in self.there

    async def create(self, name: str) -> None:
        await self._ask("create")
        self.there.add(name)

    async def delete(self, name: str) -> None:
        await self._ask("delete")
        if name not in self.there:
            raise NotFound("NoSuchBucket", status=404)
        self.there.discard(name)


class Opened:
    """An account and what was done with it."""

    def __init__(self, endpoint: Endpoint, directory: Path, nursery: trio.Nursery) -> None:
        self.endpoint = endpoint
        self.mounts: dict[str, Mount] = {}
        self.changed: list[str] = []
        self.planted: Counter[str] = Counter()
        self.delay = 0.0
        self.failure: Exception | None = None
        self._directory = directory
        self.roster = Roster(endpoint, ttl=TTL, open_ttl=OPEN_TTL, on_change=self.changed.append)
        self.account = Account(self.roster, self.plant, nursery)

    @asynccontextmanager
    async def plant(self, bucket: Member) -> AsyncIterator[Tree]:
        self.planted[bucket.name] += 1
        await trio.sleep(self.delay)
        if self.failure is not None:
            raise self.failure
        place = f"{bucket.name}/"
        async with planted(Bucket(), self._directory / bucket.name, place=place) as mount:
            self.mounts[bucket.name] = mount
            yield mount.tree

    async def names(self) -> list[str]:
        return sorted(bucket.name for bucket in await self.roster.read())

    async def is_there(self, name: str) -> bool:
        try:
            await self.roster.find(name)
        except FsError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True


@asynccontextmanager
async def opened(directory: Path, *names: str) -> AsyncIterator[Opened]:
    async with trio.open_nursery() as nursery:
        found = Opened(Endpoint(*names), directory, nursery)
        yield found
        found.account.close()


def denied() -> StoreError:
    return StoreError("AccessDenied", status=403)


async def fails(code: int, action: Callable[[], object]) -> None:
    with pytest.raises(FsError) as caught:
        await action()  # type: ignore[misc]
    assert caught.value.errno == code


async def test_one_question_for_all_who_ask(tmp_path: Path) -> None:
    async with opened(tmp_path, "a", "b") as it:
        it.endpoint.answer = 0.5
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(it.names)
        assert it.endpoint.asked == {"names": 1}
        assert await it.names() == ["a", "b"]
        await trio.sleep(OPEN_TTL)
        assert await it.names() == ["a", "b"]
        assert it.endpoint.asked == {"names": 2}


async def test_how_long_an_answer_is_good_for(tmp_path: Path) -> None:
    async with opened(tmp_path, "a") as it:
        assert await it.is_there("a")
        await trio.sleep(TTL - 1)
        assert await it.is_there("a")
        assert it.endpoint.asked == {"names": 1}
        assert 0 < it.roster.timeout(await it.roster.find("a")) <= 1
        await trio.sleep(2)
        it.endpoint.there.clear()
        assert not await it.is_there("a")
        assert it.changed == ["a"]
        assert 0 < it.roster.negative_timeout("a") <= OPEN_TTL
        it.endpoint.there.add("a")
        assert not await it.is_there("a")
        await trio.sleep(OPEN_TTL + 0.1)
        assert await it.is_there("a")


async def test_gone_as_a_bucket_itself_says(tmp_path: Path) -> None:
    async with opened(tmp_path, "a", "b") as it:
        assert await it.names() == ["a", "b"]
        bucket = await it.roster.find("b")
        tree = await it.account.enter(bucket)
        tree.state.new_file(tree.state.root, "f").checked = clock.monotonic()
        it.endpoint.there.discard("b")
        assert it.roster.gone(bucket)
        assert it.changed == ["b"]
        assert await it.names() == ["a"]
        assert it.endpoint.asked == {"names": 1}
        await trio.testing.wait_all_tasks_blocked()
        assert not tree.state.freshness.is_fresh(tree.state.root.children["f"])
        made = await it.roster.create("c")
        assert not it.roster.gone(made)
        assert "c" in await it.names()


async def test_a_name_that_is_free_is_asked_for_once_in_a_while(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        for _ in range(3):
            assert not await it.is_there("free")
        assert it.endpoint.asked == {"names": 1, "exists": 1}
        assert not it.account.trees
        for impossible in (".git", "a b", "ü", "-x", ""):
            assert not await it.is_there(impossible)
        assert it.endpoint.asked == {"names": 1, "exists": 1}


async def test_anothers_bucket_has_its_name_only(tmp_path: Path) -> None:
    async with opened(tmp_path, "mine", "theirs") as it:
        it.endpoint.hidden = {"theirs"}
        assert await it.names() == ["mine"]
        assert await it.is_there("theirs")
        await trio.sleep(OPEN_TTL + 0.1)
        assert await it.names() == ["mine", "theirs"]
        it.endpoint.refusals["exists"] = denied()
        await trio.sleep(TTL)
        assert not await it.is_there("theirs")


async def test_a_named_one_is_shown_with_the_others(tmp_path: Path) -> None:
    async with opened(tmp_path, "mine", "theirs") as it:
        it.endpoint.hidden = {"theirs"}
        it.endpoint.named = ("mine", "theirs", "none", "no bucket")
        assert await it.names() == ["mine", "theirs"]
        assert it.endpoint.asked == {"names": 1, "exists": 2}
        await trio.sleep(TTL + 1)
        it.endpoint.there.discard("theirs")
        assert await it.names() == ["mine"]
        assert it.changed == ["theirs"]
        it.endpoint.refusals["exists"] = StoreError("InvalidAccessKeyId", status=403)
        await trio.sleep(TTL + 1)
        assert await it.names() == ["mine"]


async def test_keys_that_may_not_list(tmp_path: Path) -> None:
    async with opened(tmp_path, "a") as it:
        it.endpoint.refusals["names"] = denied()
        with pytest.raises(StoreError):
            await it.names()
        assert await it.is_there("a")
        assert await it.names() == ["a"]
        await trio.sleep(TTL + 1)
        it.endpoint.there.clear()
        assert not await it.is_there("a")
        it.endpoint.refusals["names"] = StoreError("InternalError", status=500)
        await trio.sleep(TTL + 1)
        with pytest.raises(StoreError):
            await it.names()


async def test_an_outage_takes_no_bucket_away(tmp_path: Path) -> None:
    async with opened(tmp_path, "a", "b") as it:
        await it.account.enter(await it.roster.find("a"))
        await trio.sleep(TTL + 1)
        it.endpoint.refusals["names"] = NoAnswer("ReadTimeout")
        assert await it.is_there("a")
        with pytest.raises(StoreError):
            await it.is_there("b")


async def test_a_list_that_lags_behind_undoes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, "old") as it:
        await it.names()
        it.endpoint.shown = {"old"}
        await it.roster.create("new")
        await it.roster.remove("old")
        for _ in range(3):
            await trio.sleep(OPEN_TTL + 0.1)
            assert await it.names() == ["new"]
            assert await it.is_there("new")
            assert not await it.is_there("old")
        it.endpoint.shown = None
        await trio.sleep(TTL + 1)
        assert await it.names() == ["new"]


async def test_what_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, "a") as it:
        for code, status, expected in (
            ("BucketNotEmpty", 409, errno.ENOTEMPTY),
            ("AccessDenied", 403, errno.EPERM),
            ("MethodNotAllowed", 405, errno.EPERM),
        ):
            it.endpoint.refusals["delete"] = StoreError(code, status=status)
            await fails(expected, lambda: it.roster.remove("a"))
        for code, status, expected in (
            ("BucketAlreadyExists", 409, errno.EEXIST),
            ("InvalidBucketName", 400, errno.EINVAL),
            ("TooManyBuckets", 400, errno.EDQUOT),
            ("AccessDenied", 403, errno.EPERM),
        ):
            it.endpoint.refusals["create"] = StoreError(code, status=status)
            await fails(expected, lambda: it.roster.create("b"))
        it.endpoint.refusals["create"] = StoreError("SlowDown", status=503)
        with pytest.raises(StoreError):
            await it.roster.create("b")
        await fails(errno.EINVAL, lambda: it.roster.create("no bucket"))
        await fails(errno.ENOENT, lambda: it.roster.remove("none"))
        assert await it.names() == ["a"]


async def test_is_entered_once(tmp_path: Path) -> None:
    async with opened(tmp_path, "a", "b") as it:
        it.delay = 1.0
        a, b = await it.roster.find("a"), await it.roster.find("b")
        async with trio.open_nursery() as nursery:
            for bucket in (a, a, b, a):
                nursery.start_soon(it.account.enter, bucket)
        assert it.planted == {"a": 1, "b": 1}
        assert await it.account.enter(a) is a.tree is not b.tree
        assert index_of(a.ino) == a.index != b.index == index_of(b.first + 12345)
        assert it.roster.bucket(a.ino + 5) is a
        with pytest.raises(FsError, match="no inode"):
            it.roster.bucket(99 << 40)


async def test_a_failure_is_told_to_all_and_not_kept(tmp_path: Path) -> None:
    async with opened(tmp_path, "a") as it:
        bucket = await it.roster.find("a")
        it.delay, it.failure = 1.0, denied()
        told = []

        async def enter() -> None:
            with pytest.raises(StoreError):
                await it.account.enter(bucket)
            told.append(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
            nursery.start_soon(enter)
        assert len(told) == 2
        assert it.planted == {"a": 1}
        it.failure = None
        await it.account.enter(bucket)


async def test_who_gives_up_does_not_end_the_entering(tmp_path: Path) -> None:
    async with opened(tmp_path, "a") as it:
        bucket = await it.roster.find("a")
        it.delay = 10.0
        with trio.move_on_after(1):
            await it.account.enter(bucket)
        assert bucket.tree is None
        await trio.sleep(10)
        assert bucket.tree is not None
        assert it.planted == {"a": 1}


async def test_the_end_comes_while_a_bucket_is_entered(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        it = Opened(Endpoint("a"), tmp_path, nursery)
        bucket = await it.roster.find("a")
        it.delay = 1e6
        with trio.move_on_after(1):
            await it.account.enter(bucket)
        it.account.close()
    assert trio.current_time() < 1e5


async def test_one_with_unsaved_files_is_not_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path, "a") as it:
        tree, below = await it.account.at("a/d/f")
        assert below == "d/f"
        mount = it.mounts["a"]
        handle = await mount.create("f")
        await mount.write(handle, 0, b"bytes")
        await fails(errno.ENOTEMPTY, lambda: it.roster.remove("a"))
        assert [item.path for item in tree.outstanding.waiting()] == ["a/f"]
        await mount.close(handle)
        await it.roster.remove("a")
        assert await it.names() == []


async def test_drains_all(tmp_path: Path) -> None:
    async with opened(tmp_path, "a", "b") as it:
        handles = []
        for name in ("a", "b"):
            await it.account.enter(await it.roster.find(name))
            handle = await it.mounts[name].create("f")
            await it.mounts[name].write(handle, 0, b"bytes")
            handles.append((it.mounts[name], handle))
        for mount, handle in handles:
            await mount.close(handle)
        assert not await it.account.drain(trio.Event(), lambda _: None)
        assert all(it.mounts[name].stored() == ["f"] for name in ("a", "b"))


async def test_forgets(tmp_path: Path) -> None:
    async with opened(tmp_path, "a") as it:
        await it.account.enter(await it.roster.find("a"))
        it.endpoint.there.add("b")
        assert not (await it.account.forget("")).missing
        assert await it.is_there("b")
        assert (await it.account.forget("a/none")).missing
        assert (await it.account.forget("none")).missing
        await fails(errno.EISDIR, lambda: it.account.at(""))


async def test_a_slow_answer_counts_although_nothing_is_trusted(tmp_path: Path) -> None:
    async with opened(tmp_path, "a") as found:
        found.account.trust(ttl=0.0, open_ttl=0.0)
        found.endpoint.answer = 0.5
        assert await found.is_there("a")
        assert not await found.is_there("b")
        found.endpoint.there = {"b"}
        assert not await found.is_there("a")
        assert await found.is_there("b")


async def test_other_times_hold_for_all_buckets(tmp_path: Path) -> None:
    async with opened(tmp_path, "a", "b") as found:
        await found.account.enter(await found.roster.find("a"))
        found.account.trust(ttl=7.0, open_ttl=5.0)
        await found.account.enter(await found.roster.find("b"))
        for name in "ab":
            config = found.mounts[name].tree.state.config
            assert (config.ttl, config.open_ttl) == (7.0, 5.0)
        assert found.roster.ttl == 7.0


class Slow(Endpoint):
    """Answers what was so when it was asked."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.pause = 0.0

    async def names(self) -> dict[str, int]:
        found = await super().names()
        await trio.sleep(self.pause)
        return found

    async def exists(self, name: str) -> bool:
        found = await super().exists(name)
        await trio.sleep(self.pause)
        return found


async def test_a_list_under_way_is_too_old_for_who_refreshes(tmp_path: Path) -> None:
    async with opened(tmp_path) as it:
        it.roster = Roster(slow := Slow("a"), ttl=TTL, open_ttl=OPEN_TTL, on_change=lambda _: None)
        slow.pause = 0.5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.names)
            await trio.sleep(0.1)
            slow.there.add("b")
            await it.roster.ask_anew()
            assert await it.names() == ["a", "b"]


async def test_an_answer_from_before_undoes_no_bucket(tmp_path: Path) -> None:
    """A command asks for a bucket, and a program makes it before the answer is here."""
    async with opened(tmp_path) as it:
        it.roster = Roster(slow := Slow("b"), ttl=TTL, open_ttl=OPEN_TTL, on_change=lambda _: None)
        await it.roster.remove("b")
        await trio.sleep(OPEN_TTL + 1)
        slow.pause = 0.5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.is_there, "b")
            await trio.sleep(0.7)  # the list was asked for first
            await it.roster.create("b")
            await trio.sleep(0.5)
            slow.pause = 0.0
            assert await it.is_there("b")
