"""The steps of the matrix through the kernel and a real socket: a sample, or all of it.

Each step runs in a directory of its own with one fault at one of its requests. The default run
takes each step once and each kind of fault twice; ``make test-faults`` takes all with all.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Iterator

import pytest

from tests.faults.kernel import KernelFiles, done
from tests.faults.scenario import Scenario, Step, World, of_objects, parents, play, view
from tests.harness.endpoint import Endpoint
from tests.harness.mounts import Mount, Mounts
from tests.harness.proxy import Proxy, proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

MIB = 1 << 20
PART = 5 * MIB
ALL = bool(os.environ.get("BUCKETFS_TEST_FAULTS"))

#: What `Proxy.fault` is told. Statuses of 200 say their error in the body.
KINDS: dict[str, dict[str, object]] = {
    "reset before": {"reset": "before"},
    "reset after": {"reset": "after"},
    "silence": {"stall": True},
    "silence after": {"stall": True, "acts": True},
    "500": {"status": 500},
    "500 after": {"status": 500, "acts": True},
    "503": {"status": 503, "code": "SlowDown"},
    "timeout": {"status": 400, "code": "RequestTimeout"},
    "error in a 200": {"status": 200, "code": "InternalError"},
    "cut short": {"truncate": 300},
    "403": {"status": 403, "code": "AccessDenied"},
}
#: Steps that move 20 MB each are for the long run.
HEAVY = {"stream", "append large", "patch large", "truncate large"}
STEPS = {step.name: step for step in Scenario(PART).steps if ALL or step.name not in HEAVY}
#: Each step with each kind of fault, or with one of them.
CASES = [
    (name, kind)
    for turn, name in enumerate(STEPS)
    for kind in (KINDS if ALL else [[*KINDS][turn % len(KINDS)]])
]


@pytest.fixture(scope="module")
def faulty(
    module_mounts: Mounts, endpoint: Endpoint, module_bucket: Witness
) -> Iterator[tuple[Mount, Proxy, Witness]]:
    with proxy(endpoint.url) as between:
        mount = module_mounts(
            module_bucket,
            "multipart_size=5",
            "readwrite_timeout=1",
            "stat_cache_expire=0",
            "open_ttl=0",
            url=between.url,
        )
        mount.expected.append(".")
        yield mount, between, module_bucket
        mount.stop()


def contents(bucket: Witness, prefix: str) -> World:
    """What is in the bucket; what goes while this looks is not in it any more."""
    read = {key: bucket.read(key) for key in bucket.keys(prefix) if key != prefix}
    return of_objects(
        (key.removeprefix(prefix), *found) for key, found in read.items() if found is not None
    )


def fill(bucket: Witness, prefix: str, world: World) -> None:
    bucket.put(prefix)
    for path, entry in world.items():
        bucket.put(prefix + path + ("/" if entry.kind == "d" else ""), entry.data)


def numbers(requests: int, dice: random.Random) -> list[int]:
    if ALL:
        return list(range(requests))
    return [dice.randrange(requests)]


def attempt(step: Step, kind: str, number: int, faulty: tuple[Mount, Proxy, Witness]) -> int:
    """A step with a fault at a request (none if negative); how many requests there were."""
    mount, between, bucket = faulty
    prefix = f"t{os.urandom(4).hex()}/"
    fill(bucket, prefix, step.before)
    files = KernelFiles(mount.path / prefix.rstrip("/"))
    files.root.stat()
    between.clear()
    fault = {} if number < 0 else KINDS[kind]
    with between.fault(skip=max(number, 0), times=0 if number < 0 else 1, **fault):
        worlds, failures = done(play(step, files, time.monotonic, bound=120))
        seen = len(between.requests)
    assert not failures or kind == "403", failures
    # what may not be listed, and whose name is no object, is not there (docs/permissions.md)
    assert {failure.errno for failure in failures[:1]} <= {errno.EACCES, errno.EPERM, errno.ENOENT}
    until(lambda: contents(bucket, prefix) in worlds, f"{step.name}: {kind} at {number}")
    if not failures and kind != "403":
        there = contents(bucket, prefix)
        assert done(view(files)) == parents(there), between.story()
    return seen


@pytest.mark.time_limit(1800 if ALL else 240)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_request_with_a_fault(name: str, kind: str, faulty: tuple[Mount, Proxy, Witness]) -> None:
    step, dice = STEPS[name], random.Random(name)
    requests = attempt(step, "none", -1, faulty)
    for number in numbers(requests, dice):
        try:
            attempt(step, kind, number, faulty)
        except AssertionError as wrong:
            wrong.add_note(f"{kind} at {number}\n{faulty[1].story()}\n{faulty[0].tail(20)}")
            raise


@pytest.mark.time_limit(900 if ALL else 240)
def test_afterwards(faulty: tuple[Mount, Proxy, Witness]) -> None:
    """All of that in one mount: another one sees the same, and nothing is left behind."""
    mount, _, bucket = faulty
    mount.remount("multipart_size=5")
    assert done(view(KernelFiles(mount.path))) == contents(bucket, "")
    assert not bucket.uploads()
    assert not list((mount.scratch / "cache").rglob("unsaved/*"))
