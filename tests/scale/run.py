"""N mounts of one bucket, each with the handlers, the tree and the cache of a real one."""

from __future__ import annotations

import os
import random
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
import trio.testing

from bucketfs.cli.options.arguments import parse
from bucketfs.fuse.calls import Calls
from bucketfs.fuse.encode import Encoder, View
from bucketfs.fuse.kernel_cache import KernelCache
from bucketfs.fuse.operations import Operations
from bucketfs.fuse.session import open_cache, plant
from bucketfs.store.layers.limit import LimitStore
from bucketfs.store.layers.retry import RetryPolicy, RetryStore
from bucketfs.tasks import Background
from tests.scale.bucket import CountingBucket
from tests.scale.budget import HOUR, Requests
from tests.scale.workloads import Node, Workload, fill, read_all
from tests.simulation import chance, kernel

#: Programs are under way for so many virtual seconds before anything is counted.
WARM_UP = 70.0


@dataclass(frozen=True)
class Result:
    """What a run counted.

    Attributes:
        mounts: How many mounts there were.
        total: Requests by kind.
        seconds: Virtual seconds of the count.
        warm_up: Those before it.
        busiest: Reads (LIST, HEAD, GET) and writes (PUT, DELETE) of the busiest second.
        refused: Requests that were answered 503.
        cpu: Seconds of CPU, from the first mount to the end of the count.
        memory: Bytes of this process, per mount.
        files: Open descriptors of this process, per mount.
    """

    mounts: int
    total: Counter[str]
    seconds: float
    warm_up: float
    busiest: tuple[int, int]
    refused: int
    cpu: float
    memory: int
    files: float

    def of_each(self) -> Requests:
        """Requests of one mount an hour."""
        return {k: n / self.mounts * HOUR / self.seconds for k, n in self.total.items()}

    def told(self) -> str:
        """What the simulating process took, for who runs it."""
        return (
            f"{self.mounts:,} mounts: {self.cpu:.0f} s of CPU; each of them"
            f" {self.files:.1f} open files, {self.memory / 1e6:.1f} MB"
        )


def prepare() -> None:
    """Make this process one for simulations: no kernel, and no thread that a clock waits for."""
    kernel.install()
    trio.to_thread.run_sync = chance.in_place


async def _live(
    bucket: CountingBucket,
    number: int,
    words: str,
    base: Path,
    task_status: trio.TaskStatus[Node],
) -> None:
    """A mount with a cache of its own, until it is cancelled; `words` are what follows ``-o``."""
    options = parse(["bucket", "/mnt", "-o", f"use_cache={base / str(number)},{words}".rstrip(",")])
    chance.mount_name.set(str(number))
    parallel = options.max_thread_count
    store = RetryStore(
        LimitStore(bucket, bulk=parallel, small=2 * parallel),
        RetryPolicy(attempts=options.retries + 1),
    )
    cache = open_cache(options)
    try:
        async with trio.open_nursery() as nursery:
            remembered = KernelCache(Calls())
            nursery.start_soon(remembered.run)
            tree = plant(store, options, cache, Background(nursery), remembered)
            operations = Operations(
                tree,
                Encoder(tree, View()),
                timeout=options.op_timeout,
                size=None,
                xattrs=True,
                kernel=remembered,
            )
            await tree.attributes.ensure(tree.state.root)
            await tree.replay.run()
            node = Node(number, kernel.Kernel(operations, nursery, random.Random(number)))
            task_status.started(node)
            await trio.sleep_forever()
    finally:
        cache.close()


def again_and_again(
    workload: Workload, words: str, mounts: int, seconds: float, base: Path
) -> Result:
    """Count what so many mounts ask in so many virtual seconds; each began at another moment."""

    async def count(bucket: CountingBucket, nodes: Sequence[Node]) -> float:
        start, dice = trio.current_time(), random.Random(len(nodes))
        async with trio.open_nursery() as programs:
            for node in nodes:
                programs.start_soon(workload.run, node, start + dice.random() * workload.period)
            await trio.sleep(WARM_UP)
            bucket.counted()
            await trio.sleep(seconds)
            programs.cancel_scope.cancel()
        return seconds

    return _simulate(count, words, mounts, base, limit=0)


def all_at_once(words: str, mounts: int, limit: int, base: Path) -> Result:
    """Count what it takes that so many mounts read all files of the data set from one moment on.

    The bucket refuses what is more than `limit` requests in one second.
    """

    async def count(bucket: CountingBucket, nodes: Sequence[Node]) -> float:
        bucket.counted()
        start = trio.current_time()
        async with trio.open_nursery() as programs:
            for node in nodes:
                programs.start_soon(read_all, node, 0)
        return trio.current_time() - start

    return _simulate(count, words, mounts, base, limit=limit)


def _simulate(
    count: Callable[[CountingBucket, Sequence[Node]], Awaitable[float]],
    words: str,
    mounts: int,
    base: Path,
    *,
    limit: int,
) -> Result:
    async def whole() -> Result:
        bucket = CountingBucket()
        fill(bucket)
        began, before = time.process_time(), _memory()
        async with trio.open_nursery() as lives:
            nodes = [
                await lives.start(_live, bucket, number, words, base) for number in range(mounts)
            ]
            bucket.limit = limit
            start = trio.current_time()
            seconds = await count(bucket, nodes)
            result = Result(
                mounts=mounts,
                total=Counter(bucket.total),
                seconds=seconds,
                warm_up=trio.current_time() - start - seconds,
                busiest=(bucket.busiest("LIST", "HEAD", "GET"), bucket.busiest("PUT", "DELETE")),
                refused=bucket.refused,
                cpu=time.process_time() - began,
                memory=(_memory() - before) // mounts,
                files=len(os.listdir("/proc/self/fd")) / mounts,
            )
            lives.cancel_scope.cancel()
        return result

    return trio.run(whole, clock=trio.testing.MockClock(autojump_threshold=0))


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
