"""Each request of each step meets each kind of fault, once: in memory, in virtual time.

What a mount of the kernel's does with the same steps and faults over a real socket is
`test_mount_matrix`.
"""

from __future__ import annotations

import errno
import functools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from bucketfs.errors import NoAnswer, StoreError
from bucketfs.file import early_upload as outgoing_module
from bucketfs.file import plan as plan_module
from bucketfs.store.base import Capabilities
from tests.faults.grown import TreeFiles, contents, fill, grown
from tests.faults.scenario import Scenario, Step, play, save, view
from tests.harness.memory import Fault
from tests.tree.builder import Bucket

KIB = 1 << 10
PART = 16 * KIB

RESET, SILENCE = NoAnswer("ConnectionClosed"), NoAnswer("ReadTimeout")
BROKEN = StoreError("InternalError", status=500)

#: What happens to one request; "after" means that the server has done it all the same.
KINDS: dict[str, Fault] = {
    "reset before": Fault(RESET),
    "reset after": Fault(RESET, after=True),
    "silence": Fault(SILENCE),
    "silence after": Fault(SILENCE, after=True),
    "no connection": Fault(NoAnswer("ConnectTimeout")),
    "500": Fault(BROKEN),
    "500 after": Fault(BROKEN, after=True),
    "503": Fault(StoreError("SlowDown", status=503, retry_after=3.0)),
    "timeout": Fault(StoreError("RequestTimeout", status=400)),
    "no S3": Fault(NoAnswer("BadAnswer"), after=True),
    "cut short": Fault(at_byte=300),
    "expired": Fault(StoreError("ExpiredToken", status=400)),
    "403": Fault(StoreError("AccessDenied", status=403)),
    # an error in our own code: it is in the log, costs one call an EIO, and nobody waits for ever
    "bug": Fault(RuntimeError("made up")),
}
#: Kinds that trying again does not mend, and what programs get of them.
LASTING = {
    # who may not list a directory is told no more than what a HEAD tells
    "403": {errno.EACCES, errno.EPERM, errno.ENOENT},
    "bug": {errno.EIO},
}
#: One of each way a request fails; all of it in one run is `make test-faults`.
ALL = bool(os.environ.get("BUCKETFS_TEST_FAULTS"))
CHOSEN = list(KINDS) if ALL else [
    "reset after", "silence", "500 after", "503", "cut short", "expired", "403", "bug",
]  # fmt: skip

#: Stores that can do everything, and the careful assumption about those nobody knows.
STORES = {
    "full": Capabilities(min_part=4 * KIB, max_object=1 << 30),
    "careful": Capabilities(
        min_part=4 * KIB,
        max_object=1 << 30,
        complete_if_match=False,
        complete_if_none_match=False,
        copy_if_match=False,
    ),
}

STEPS = {step.name: step for step in Scenario(PART).steps}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few kilobytes go up in parts, while they are written."""
    monkeypatch.setattr(outgoing_module, "STREAM_FROM", 3 * PART)
    monkeypatch.setattr(plan_module, "FIRST_PART", PART)
    monkeypatch.setattr(plan_module, "SINGLE_PUT", PART)
    monkeypatch.setattr(plan_module, "COPY_LEAST", PART)


@dataclass
class Strike:
    """Lets the fault strike the request of a number, counted over all operations."""

    kind: str
    number: int
    seen: int = 0
    struck: str = ""

    def hook(self, operation: str, key: str, _count: int) -> Fault | None:
        self.seen += 1
        if self.seen != self.number:
            return None
        self.struck = f"{operation} {key}"
        fault = KINDS[self.kind]
        if fault.at_byte is not None and operation != "GetObject":
            return Fault(NoAnswer("IncompleteBody"), after=True)
        return fault


async def run(step: Step, store: str, strike: Strike) -> None:
    """One step with one fault, and everything that must be true afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        await _run(step, store, strike, Path(directory))


async def _run(step: Step, store: str, strike: Strike, directory: Path) -> None:
    bucket = Bucket(latency=0.01, capabilities=STORES[store])
    fill(bucket, step.before)

    async def renew(since: float) -> bool:
        return True

    async with grown(bucket, directory, part_size=PART, renew=renew) as mount:
        files = TreeFiles(mount)
        bucket.fault = strike.hook
        worlds, failures = await play(step, files, trio.current_time, bound=60)
        bucket.fault = None
        # where attributes may not be read, none are shown
        here = await view(files) if strike.kind not in LASTING else None
        bucket.fault = strike.hook
        await trio.sleep(200)  # what goes on in the background; what is known grows old
        bucket.fault = None
        assert not failures or strike.kind in LASTING, failures
        # what follows the first failure may fail for lack of what that was to do
        assert {failure.errno for failure in failures[:1]} <= LASTING.get(strike.kind, set())
        there = contents(bucket)
        assert there in worlds, (there, worlds)
        assert here in (None, there), "the mount shows what is not in the bucket"
        assert await view(files) == there
        await mount.tree.drain.save_all()
        assert contents(bucket) == there, "nothing was left to do"
    # what was begun in the background and given up at the end may still be under way above
    begun = strike.struck.startswith(("AbortMultipartUpload", "CreateMultipartUpload"))
    assert not bucket.uploads or begun
    assert not unsaved(directory)
    async with grown(bucket, directory, part_size=PART) as mount:
        await mount.tree.replay.run()
        assert await view(TreeFiles(mount)) == there
        await trio.sleep(10)
    assert not bucket.uploads, "the journal has forgotten one"


def unsaved(directory: Path) -> list[Path]:
    """What was given up and left on the local disk."""
    return list(directory.rglob("unsaved/*"))


def go(step: Step, store: str, strike: Strike) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(functools.partial(run, step, store, strike), clock=clock)


def requests(step: Step, store: str) -> int:
    """How many requests a step makes when nothing goes wrong."""
    strike = Strike("500", 0)
    go(step, store, strike)
    return strike.seen


@pytest.mark.time_limit(600 if ALL else 240)
@pytest.mark.parametrize("store", STORES if ALL else ["full"])
@pytest.mark.parametrize("name", STEPS)
def test_every_request_with_every_fault(name: str, store: str) -> None:
    step = STEPS[name]
    for number in range(1, requests(step, store) + 1):
        for kind in CHOSEN:
            strike = Strike(kind, number)
            try:
                go(step, store, strike)
            except Exception as wrong:
                wrong.add_note(f"{name} ({store}): {kind} at {number}, {strike.struck}")
                raise


@pytest.mark.parametrize("name", STEPS)
def test_a_store_that_is_down_for_a_while(name: str) -> None:
    """Half a minute of 503 and of silence: programs wait, or get an errno and lose nothing."""
    for fault in (KINDS["503"], KINDS["silence"]):
        trio.run(
            functools.partial(outage, STEPS[name], fault, 30.0),
            clock=trio.testing.MockClock(autojump_threshold=0),
        )


@pytest.mark.parametrize("name", [name for name in STEPS if name != "rm -r"])  # 4,096 worlds
def test_rights_that_are_taken_away_for_a_while(name: str) -> None:
    """What fails fails with EACCES, and works again without a remount."""
    trio.run(
        functools.partial(outage, STEPS[name], KINDS["403"], 500.0),
        clock=trio.testing.MockClock(autojump_threshold=0),
    )


async def outage(step: Step, fault: Fault, seconds: float) -> None:
    bucket = Bucket(latency=0.01, capabilities=STORES["full"])
    fill(bucket, step.before)
    with tempfile.TemporaryDirectory() as directory:
        async with grown(bucket, Path(directory), part_size=PART) as mount:
            files = TreeFiles(mount)
            ends = trio.current_time() + seconds
            bucket.fault = lambda *_: fault if trio.current_time() < ends else None
            worlds, failures = await play(step, files, trio.current_time, bound=300)
            if fault is KINDS["403"]:
                assert {failure.errno for failure in failures[:1]} <= {errno.EACCES, errno.EPERM}
            await trio.sleep_until(ends + 200)
            there = contents(bucket)
            assert there in worlds
            assert await view(files) == there
            again, failures = await play(Step("", there, [NEW]), files, trio.current_time, bound=9)
            assert not failures
            await mount.tree.drain.save_all()
            assert [contents(bucket)] == again
        assert not bucket.uploads
        assert not unsaved(Path(directory))


NEW = save("new", b"works again")
