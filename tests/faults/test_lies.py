"""A server that answers a GET with something else: programs read the right bytes, or EIO."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL

import pytest

from tests.harness.endpoint import Endpoint
from tests.harness.lies import LIES
from tests.harness.mounts import Mount, Mounts
from tests.harness.proxy import Proxy, proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

MIB = 1 << 20
#: Fits one request, beyond what comes with the lookup; takes several.
SIZES = {"small": 200_000, "large": 9 * MIB + 5}


@pytest.fixture(scope="module")
def lied_to(
    module_mounts: Mounts, endpoint: Endpoint, module_bucket: Witness
) -> Iterator[tuple[Mount, Proxy, Witness]]:
    with proxy(endpoint.url) as between:
        mount = module_mounts(module_bucket, "retries=1", "stat_cache_expire=0", url=between.url)
        yield mount, between, module_bucket
        mount.stop()


def plant(mount: Mount, bucket: Witness, size: int) -> tuple[Path, bytes]:
    """A new object in a directory of its own, whose name the mount has asked for."""
    name, data = f"d{os.urandom(4).hex()}/f", os.urandom(size)
    bucket.put(name, data)
    path = mount.path / name
    assert path.stat().st_size == size
    return path, data


def fresh(mount: Mount, before: int = 0) -> list[str]:
    """The lines of the log after so many."""
    return mount.log.read_text().splitlines()[before:]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lie", LIES)
def test_one_lie_is_not_seen(lie: str, size: str, lied_to: tuple[Mount, Proxy, Witness]) -> None:
    mount, between, bucket = lied_to
    path, data = plant(mount, bucket, SIZES[size])
    with between.fault("GetObject", times=1, lie=LIES[lie]) as fault:
        assert path.read_bytes() == data
    assert fault.struck == 1


@pytest.mark.parametrize("lie", LIES)
def test_one_lie_that_comes_with_the_attributes_is_not_seen(
    lie: str, lied_to: tuple[Mount, Proxy, Witness]
) -> None:
    """A small file is asked for whole by the first who looks at it."""
    mount, between, bucket = lied_to
    name, data = f"e{os.urandom(4).hex()}", os.urandom(40_000)
    bucket.put(f"{name}/f", data)
    assert os.listdir(mount.path / name) == ["f"]
    with between.fault("GetObject", times=1, lie=LIES[lie]) as fault:
        assert (mount.path / name / "f").read_bytes() == data
    assert fault.struck == 1


@pytest.mark.parametrize("lie", ["nothing", "an empty whole", "a short body"])
def test_nobody_asks_on_when_the_reader_is_gone(
    lie: str, lied_to: tuple[Mount, Proxy, Witness]
) -> None:
    mount, between, bucket = lied_to
    path, _ = plant(mount, bucket, 9 * MIB)
    mount.expected.append(f"read failed with EIO.*{path.parent.name}/f.*")
    with between.fault("GetObject", lie=LIES[lie]):
        between.clear()
        reader = subprocess.Popen(["cat", str(path)], stdout=DEVNULL, stderr=DEVNULL)
        until(lambda: between.count("GetObject"), "it reads")
        reader.kill()
        reader.wait(20)
        time.sleep(3)  # that nothing comes any more has no event
        # each of the few ranges of a window, and the kernel's second look, twice
        assert between.count("GetObject") <= 12, between.story()


@pytest.mark.parametrize("lie", LIES)
def test_who_always_lies_is_an_error(lie: str, lied_to: tuple[Mount, Proxy, Witness]) -> None:
    mount, between, bucket = lied_to
    path, data = plant(mount, bucket, SIZES["small"])
    before = len(fresh(mount))
    between.clear()
    with between.fault("GetObject", lie=LIES[lie]), path.open("rb", buffering=0) as file:
        mount.expected.append(f"read failed with EIO.*{path.parent.name}/f.*BadAnswer")
        file.seek(100_000)  # its beginning has come with the lookup
        with pytest.raises(OSError, match=rf"^\[Errno {errno.EIO}\]"):
            file.read(4096)
    asked = between.count("GetObject")
    assert path.read_bytes() == data
    lines = [line for line in fresh(mount, before) if " ERROR: " in line]
    # the kernel asks twice: for the page alone, after it has failed with its read-ahead
    assert 1 <= len(lines) <= 2, lines
    assert all("read failed with EIO" in line and "asked for bytes" in line for line in lines)
    assert asked <= 2 * len(lines), between.story()
