"""The daemon of a mount that is kept is killed at random moments: open files go on, or are ESTALE.

BUCKETFS_TEST_ROUNDS and BUCKETFS_TEST_SEED as in `test_crash`.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.crash.holder import pattern
from tests.crash.test_crash import PATIENCE, ROUNDS, SEED
from tests.harness.endpoint import REPOSITORY
from tests.harness.keeper import Keeper
from tests.harness.mounts import Mounts
from tests.harness.waiting import until
from tests.harness.witness import Witness

MIB = 1 << 20
FILES, SIZE = 3, 40 * MIB
#: The cache has no room for all of it, so that pages leave and come again.
OPTIONS = ("cache_size=80M",)


@pytest.mark.time_limit(60 + 30 * ROUNDS)
def test_holding(mount: Mounts, bucket: Witness, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    print(f"BUCKETFS_TEST_SEED={SEED}")
    for number in range(FILES):
        bucket.put(f"big{number}", pattern(number, SIZE))
    here, keeper = mount(bucket, *OPTIONS, start=False), Keeper(tmp_path / "notify")
    here.keeper = keeper
    here.start()
    end = tmp_path / "end"
    command = [sys.executable, "-m", "tests.crash.holder", str(here.path), str(end)]
    words = [str(SEED), str(FILES), str(SIZE)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, *words], cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        for _ in range(ROUNDS):
            time.sleep(rng.uniform(0.1, 3))  # the moment is the matter
            here.die()
            here.start()
            if holder.poll() is not None:
                break
        end.touch()
        said, wrong = holder.communicate(timeout=PATIENCE)
    assert holder.returncode == 0, f"{said}{wrong}\n{here.tail()}"
    print(f"{ROUNDS} times killed: {said.strip()}")
    for number in range(FILES):
        until(lambda n=number: bucket.get(f"big{n}") == pattern(n, SIZE), "the same bytes")
    here.stop()
    keeper.close()
