"""Lists that programs on two mounts append to under locks, while daemons are killed and cut off.

``make test-histories`` runs long. What the programs wrote down goes to the checker: no update is
lost, none is there twice, and all saw one order.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.harness.mounts import Mount, Mounts
from tests.harness.proxy import Proxy, proxy
from tests.harness.witness import Witness
from tests.histories import client
from tests.histories.checker import List, Outcome, Transaction, check

#: Disturbances of one run.
ROUNDS = int(os.environ.get("BUCKETFS_TEST_ROUNDS", "3"))
#: Names say by which call they are locked, see `client`.
LISTS = ("flock-1", "flock-2", "fcntl-1", "fcntl-2")
CLIENTS = 3
LEASE = 2.0
#: Seconds between two disturbances, and how long they take: longer than a lease, or shorter.
QUIET, CUT = 1.0, (1.0, 3 * LEASE)
#: Seconds that a client may take to end its last transaction.
PATIENCE = 60.0
#: Nothing shows by itself within a test, and partitions are noticed soon.
OPTIONS = (
    "locks=bucket", f"lock_lease={LEASE:g}", "open_ttl=1h", "stat_cache_expire=1h",
    "retries=1", "connect_timeout=1", "readwrite_timeout=2", "op_timeout=6",
)  # fmt: skip

pytestmark = pytest.mark.time_limit(120 + 20 * ROUNDS)


@dataclass
class Run:
    """Two mounts of a bucket, each behind a proxy of its own, and who appends.

    Attributes:
        done: Disturbances, by kind.
    """

    mounts: Sequence[Mount]
    proxies: Sequence[Proxy]
    scratch: Path
    done: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def clients(self, seed: int) -> Iterator[None]:
        stop = self.scratch / "stop"
        running = [
            subprocess.Popen(
                [
                    sys.executable,
                    client.__file__,
                    str(mount.path),
                    str(self.scratch / f"{number}{at}.history"),
                    f"{'ab'[at]}{number}",
                    str(seed * 100 + 10 * number + at),
                    str(stop),
                    *LISTS,
                ]
            )
            for at, mount in enumerate(self.mounts)
            for number in range(CLIENTS)
        ]
        try:
            yield
            stop.touch()
            for each in running:
                assert each.wait(PATIENCE) == 0
        finally:
            for each in running:
                each.kill()
                each.wait()

    def disturb(self, kind: str, at: int, seconds: float) -> None:
        """Let something happen to a mount, and end it."""
        mount = self.mounts[at]
        self.done[kind] += 1
        if kind == "kills":
            mount.kill9()
            mount.start()
        elif kind == "partitions":
            with self.proxies[at].fault(stall=True):
                time.sleep(seconds)
        else:
            mount.signal(signal.SIGSTOP)
            time.sleep(seconds)
            mount.signal(signal.SIGCONT)

    def history(self) -> list[Transaction]:
        """What the programs have written down."""
        told: dict[str, dict[str, Any]] = {}
        for path in self.scratch.glob("*.history"):
            for line in path.read_text().splitlines():
                what = json.loads(line)
                told.setdefault(what["name"], {}).update(what)
        return [
            Transaction(
                name,
                Outcome(what.get("outcome", "maybe")),
                {key: elements(text) for key, text in what.get("reads", {}).items()},
                what["appends"],
                what["began"],
                what.get("ended"),
            )
            for name, what in told.items()
        ]


def elements(text: str) -> List:
    """The elements of a list; a line without an end is one that nobody has appended."""
    return tuple(line.removesuffix("\n") if line.endswith("\n") else f"{line}(no end)"
                 for line in text.splitlines(keepends=True))  # fmt: skip


@pytest.fixture
def run(bucket: Witness, mount: Mounts, outlives: ExitStack, tmp_path: Path) -> Run:
    bucket.put_many(dict.fromkeys(LISTS, b""))
    proxies = [outlives.enter_context(proxy(bucket.endpoint.url)) for _ in range(2)]
    mounts = [mount(bucket, *OPTIONS, url=each.url) for each in proxies]
    for each in mounts:
        each.expected.append(".")  # what is disturbed says so
    return Run(mounts, proxies, tmp_path)


def test_no_update_is_lost(run: Run, bucket: Witness, capfd: pytest.CaptureFixture[str]) -> None:
    seed = random.randrange(1_000_000) if ROUNDS > 3 else 1
    chance = random.Random(seed)
    kinds = ["kills", "partitions", "stops"]
    with run.clients(seed):
        for number in range(ROUNDS):
            time.sleep(QUIET)
            kind = kinds[number % 3] if ROUNDS <= 3 else chance.choice(kinds)
            # one is longer than a lease in any case
            seconds = CUT[1] if ROUNDS <= 3 else chance.uniform(*CUT)
            run.disturb(kind, chance.randrange(2), seconds)
        time.sleep(QUIET)
    for each in run.mounts:
        each.stop()
    history = run.history()
    found = check(history, {key: elements(bucket.get(key).decode()) for key in LISTS})
    ended = Counter(one.outcome for one in history)
    with capfd.disabled():
        print(
            f"\nlist-append, seed {seed}: {len(history)} operations ({ended[Outcome.OK]} ok,"
            f" {ended[Outcome.FAILED]} failed, {ended[Outcome.MAYBE]} maybe),"
            f" {run.done['kills']} kills, {run.done['partitions']} partitions,"
            f" {run.done['stops']} stops, {len(found)} anomalies"
        )
    assert not found, "\n".join(f"{one.kind}: {one.what}" for one in found)
    assert ended[Outcome.OK] > 10
