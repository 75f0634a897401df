"""`metadata=lazy` through the kernel: what was presumed is corrected where it was wrong."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable

import pytest

from tests.harness.mounts import Mount
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

FILES = 700


@pytest.mark.time_limit(120)
def test_ls_does_not_wait_for_what_it_presumes(
    mount: Callable[..., Mount], bucket: Witness, counted: Proxy
) -> None:
    bucket.put_many({f"f{number:03}": b"x" for number in range(FILES)})
    bucket.put("g1", b"bytes", mode=str(0o100640), mtime="1700000000")
    bucket.put("g2", b"f000", mode=str(stat.S_IFLNK | 0o777))
    path = mount(bucket, "metadata=lazy", url=counted.url).path
    with counted.fault("HeadObject", delay=0.2):  # a slow endpoint
        listed = subprocess.check_output(["ls", "-l", str(path)], text=True).splitlines()
        asked = counted.count("HeadObject") + counted.count("GetObject")
    assert len(listed) == 1 + FILES + 2
    assert asked < FILES, counted.story()
    until(lambda: (path / "g1").stat().st_mode == 0o100640, "the mode of g1")
    assert (path / "g1").stat().st_mtime == 1_700_000_000
    assert (path / "g1").read_bytes() == b"bytes"
    until((path / "g2").is_symlink, "g2 as a link")
    assert os.readlink(path / "g2") == "f000"
    assert (path / "g2").read_bytes() == b"x"
    until(lambda: counted.count("HeadObject") + counted.count("GetObject") >= FILES + 2, "the rest")
    listed = subprocess.check_output(["ls", "-l", str(path)], text=True).splitlines()
    assert any(line.startswith("-rw-r-----") and line.endswith(" g1") for line in listed)
    assert any(line.endswith(" g2 -> f000") for line in listed)
    again = counted.count("HeadObject") + counted.count("GetObject")
    assert again <= FILES + 10, "each was asked for once"


@pytest.mark.time_limit(120)
def test_a_directory_that_tells_is_shown_as_it_is(
    mount: Callable[..., Mount], bucket: Witness
) -> None:
    for number in range(60):
        bucket.put(f"f{number:03}", b"x", mode=str(0o100600))
    path = mount(bucket, "metadata=lazy").path
    assert {entry.stat().st_mode for entry in os.scandir(path)} == {0o100600}
