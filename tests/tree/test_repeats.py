"""What fails, or brings nothing, is asked for once by all who want it: requests are counted."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, NoAnswer, StoreError, Unsupported, errno_of
from bucketfs.file.local_pages import ALONE
from bucketfs.file.upload import WAYS
from bucketfs.store.base import ObjectInfo, Sink
from bucketfs.tree.saving.conflict import CONFLICT_NAMES, Conflicts
from tests.tree.builder import MIB, Bucket, Mount, noise, planted

pytestmark = pytest.mark.mock_clock


class Stingy(Bucket):
    """A store that answers a GET with less than was asked for, and says that this was all.

    Attributes:
        share: How much of it, 0 to 1.
    """

    share = 0.0

    async def get(
        self, key: str, sink: Sink, *, start: int = 0, stop: int | None = None, **rest: object
    ) -> ObjectInfo:
        info = await super().head(key)
        self.requests["GetObject"] += 1
        end = info.size if stop is None else min(stop, info.size)
        count = int((end - start) * self.share)
        if count:
            sink(self.peek(key)[start : start + count])
        return info


@pytest.mark.parametrize("share", [0.0, 0.5])
async def test_a_fetch_that_brings_nothing_is_not_repeated(tmp_path: Path, share: float) -> None:
    bucket = Stingy()
    bucket.share = share
    bucket.poke("f", noise(3 * MIB))
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        bucket.requested()
        with trio.move_on_after(20), pytest.raises(NoAnswer) as raised:
            await mount.pread(reader, 3 * MIB - 100, 100)
        assert errno_of(raised.value) == errno.EIO
        await trio.sleep(20)
        assert bucket.requested()["GetObject"] == 1
        await mount.close(reader)


class Trickle(Bucket):
    """A store that sends a byte every 20 seconds, for ever."""

    ended = 0

    async def get(
        self, key: str, sink: Sink, *, start: int = 0, stop: int | None = None, **rest: object
    ) -> ObjectInfo:
        self.requests["GetObject"] += 1
        try:
            while True:
                await trio.sleep(20)
                sink(b"x")
        finally:
            self.ended += 1


async def test_a_fetch_that_trickles_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    bucket = Trickle()
    bucket.poke("f", noise(20 * MIB))
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        bucket.requested()
        with trio.move_on_after(3 * ALONE):  # the program was killed, say
            await mount.pread(reader, 0, 100)
        begun = bucket.requested()["GetObject"]
        await trio.sleep(ALONE + 1)
        assert bucket.ended == begun, "nothing is under way any more"
        assert bucket.requested() == {}
        await mount.close(reader)


async def test_who_waits_longer_than_that_gets_the_bytes(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", noise(2 * MIB))
    async with planted(bucket, tmp_path) as mount:
        reader = await mount.open("f")
        bucket.requested()
        bucket.latency = 2 * ALONE
        assert await mount.pread(reader, MIB, 100) == noise(2 * MIB)[MIB : MIB + 100]
        assert bucket.requested() == {"GetObject": 1}
        bucket.latency = 0.0
        await mount.close(reader)


QUESTIONS: dict[str, tuple[str, Callable[[Mount], Awaitable[object]]]] = {
    "name": ("HeadObject", lambda mount: mount.tree.finder.find(mount.root, "f")),
    "attributes": (
        "GetObject",
        lambda mount: mount.tree.attributes.ensure(mount.root.children["f"]),
    ),
    "listing": ("ListObjectsV2", lambda mount: mount.tree.lister.ensure(mount.root)),
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_who_waited_for_an_answer_hears_of_its_failure(
    bucket: Bucket, tmp_path: Path, question: str
) -> None:
    operation, ask = QUESTIONS[question]
    bucket.poke("f", noise(2 * MIB))
    async with planted(bucket, tmp_path) as mount:
        if question == "attributes":
            await mount.root_listed()
        bucket.requested()
        bucket.latency = 1.0
        bucket.refuse(operation, "SlowDown")
        failures: list[StoreError] = []

        async def one() -> None:
            try:
                await ask(mount)
            except StoreError as error:
                failures.append(error)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        assert len(failures) == 20
        assert trio.current_time() - began < 2
        assert bucket.requested()[operation] == 1
        bucket.fault = None
        await ask(mount)  # who comes later asks again


@pytest.mark.parametrize("question", QUESTIONS)
async def test_who_is_cancelled_has_others_ask(
    bucket: Bucket, tmp_path: Path, question: str
) -> None:
    _, ask = QUESTIONS[question]
    bucket.poke("f", noise(2 * MIB))
    async with planted(bucket, tmp_path) as mount:
        if question == "attributes":
            await mount.root_listed()
        bucket.latency = 5.0

        async def hasty() -> None:
            with trio.move_on_after(2):
                await ask(mount)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hasty)
            await trio.sleep(1)
            nursery.start_soon(ask, mount)


class Fickle(Bucket):
    """A store that is able to do something else each time, and takes nothing."""

    async def put(self, key: str, *args: object, **conditions: object) -> ObjectInfo:
        self.requests["PutObject"] += 1
        can = self._capabilities
        self._capabilities = replace(can, equal_parts=not can.equal_parts)
        await trio.sleep(0.01)
        raise Unsupported("NotImplemented", status=501, operation="PutObject", key=key)


async def test_no_more_ways_to_publish_are_tried_than_there_are(tmp_path: Path) -> None:
    bucket = Fickle()
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"data")
        with trio.move_on_after(10) as scope, pytest.raises(Unsupported):
            await mount.tree.saver.save(handle.inode)
        assert not scope.cancelled_caught
        assert bucket.requested()["PutObject"] == WAYS


class Agreeable(Bucket):
    """A store that has an object of every name."""

    async def head(self, key: str) -> ObjectInfo:
        info = await super().head("f")
        return ObjectInfo(key, info.size, info.etag, info.last_modified, info.headers)


async def test_a_bucket_that_has_every_name(tmp_path: Path) -> None:
    bucket = Agreeable()
    bucket.poke("f", b"theirs")
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        bucket.requested()
        with trio.move_on_after(100) as scope, pytest.raises(FsError) as raised:
            await Conflicts(mount.tree.state).copy_theirs_aside(inode, "f")
        assert not scope.cancelled_caught
        assert raised.value.errno == errno.EIO
        assert bucket.requested() == {"HeadObject": 1 + CONFLICT_NAMES}
