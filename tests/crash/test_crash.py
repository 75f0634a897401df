"""The daemon is killed at random moments: what it had acknowledged is in the bucket.

`make test-crash` runs many rounds and says what it counted; BUCKETFS_TEST_ROUNDS sets how many,
BUCKETFS_TEST_SEED repeats a run as far as chance allows.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.ledger import EMPTY, Ledger
from tests.crash.writer import THREADS
from tests.harness.endpoint import REPOSITORY
from tests.harness.mounts import Mount, Mounts
from tests.harness.waiting import until
from tests.harness.witness import Witness

ROUNDS = int(os.environ.get("BUCKETFS_TEST_ROUNDS", "3"))
SEED = int(os.environ.get("BUCKETFS_TEST_SEED", "0")) or random.randrange(1 << 32)

MODES: dict[str, tuple[str, ...]] = {"default": (), "writeback": ("writeback",)}

#: Seconds within which a writer makes its operations, and notices that the mount is gone.
PATIENCE = 120.0


@dataclass
class Round:
    """One life of the daemon, with a writer of its own."""

    mount: Mount
    number: int
    rng: random.Random

    @property
    def prefix(self) -> str:
        return f"r{self.number}t"

    @property
    def notes(self) -> Path:
        return self.mount.scratch / f"notes-{self.number}-"

    def _acknowledged(self) -> int:
        files = self.notes.parent.glob(f"{self.notes.name}*")
        return sum(file.read_text().count('"done"') for file in files)

    def live_and_die(self) -> None:
        """Let the writer work until it has been told so many times that it is done, and kill."""
        enough = self.rng.choice([1, 5, 10, 20, 40, 80])
        command = [sys.executable, "-m", "tests.crash.writer"]
        words = [str(self.mount.path), self.prefix, str(self.notes), str(self.rng.random())]
        with subprocess.Popen(
            [*command, *words], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
        ) as writer:
            until(
                lambda: self._acknowledged() >= enough or writer.poll() is not None,
                f"{enough} operations",
                timeout=PATIENCE,
            )
            self.mount.die()
            _, said = writer.communicate(timeout=PATIENCE)
        assert writer.returncode == 0, said

    def ledgers(self) -> list[Ledger]:
        return [Ledger.read(Path(f"{self.notes}{number}")) for number in range(THREADS)]


def contents(bucket: Witness, prefix: str) -> dict[str, str]:
    """SHA-256 of each object."""
    return {key: hashlib.sha256(bucket.get(key)).hexdigest() for key in bucket.keys(prefix)}


def shown(top: Path, prefix: str) -> dict[str, str]:
    """The same of what the mount shows."""
    found = {}
    for folder, directories, files in os.walk(top):
        if folder == str(top):
            # a probe of the store is there for a moment, too
            directories[:] = [name for name in directories if name.startswith(prefix)]
            files[:] = [name for name in files if name.startswith(prefix)]
        for name in directories:
            found[f"{Path(folder, name).relative_to(top)}/"] = EMPTY
        for name in files:
            path = Path(folder, name)
            found[str(path.relative_to(top))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _below(stored: dict[str, str], prefix: str) -> dict[str, str]:
    return {key: sha for key, sha in stored.items() if key.startswith(prefix)}


@pytest.mark.time_limit(60 + 30 * ROUNDS)
@pytest.mark.parametrize("mode", MODES)
def test_what_was_acknowledged_survives(bucket: Witness, mount: Mounts, mode: str) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    mounted = mount(bucket, *MODES[mode])
    mounted.expected += ["had died; unmounted", "was not unmounted"]
    counts: Counter[str] = Counter()
    for number in range(ROUNDS):
        life = Round(mounted, number, rng)
        life.live_and_die()
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
            os.listdir(mounted.path)
        assert caught.value.errno == errno.ENOTCONN
        mounted.start()
        seen = shown(mounted.path, life.prefix)
        mounted.remount()  # which drains
        stored = contents(bucket, life.prefix)
        ledgers = life.ledgers()
        losses = [
            line
            for thread, ledger in enumerate(ledgers)
            for line in ledger.losses(_below(stored, f"{life.prefix}{thread}/"))
        ]
        assert not losses, f"round {number}, seed {SEED}:\n" + "\n".join(losses)
        # beside the serving: an unmount may have come before the last of them
        until(lambda: not bucket.uploads(), f"the kill of round {number} leaves no upload")
        assert seen == stored, f"round {number}, seed {SEED}: the mount shows something else"
        counts["kills"] += 1
        counts["acknowledged operations"] += sum(ledger.acknowledged for ledger in ledgers)
        counts["verified objects"] += len(stored)
        counts["operations under way"] += sum(bool(ledger.allowed) for ledger in ledgers)
        bucket.delete(*stored)
    print(f"crashes, {mode}: {dict(counts)}, losses 0")
