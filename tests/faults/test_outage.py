"""A dead network: each call ends within its bound, however many the kernel holds back behind it."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.test_resources import is_written
from tests.harness.mounts import Mounts
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

#: Seconds; the smallest with which requests that fail by time-out leave something to measure.
BOUND = 6
CALLS = 3


def calls_in_one_directory(path: Path) -> dict[str, Callable[[], object]]:
    calls: dict[str, Callable[[], object]] = {}
    for n in range(CALLS):
        calls[f"mkdir {n}"] = (path / f"made{n}").mkdir
        calls[f"symlink {n}"] = lambda n=n: (path / f"link{n}").symlink_to("x")
        calls[f"unlink {n}"] = (path / f"old{n}").unlink
        calls[f"create {n}"] = lambda n=n: (path / f"new{n}").write_bytes(b"new")
        calls[f"rename {n}"] = lambda n=n: (path / f"name{n}").rename(path / f"other{n}")
    return calls


def all_at_once(calls: dict[str, Callable[[], object]]) -> dict[str, tuple[int, float]]:
    """The errno and the seconds of each."""
    ends: dict[str, tuple[int, float]] = {}

    def run(name: str, call: Callable[[], object]) -> None:
        code, began = 0, time.monotonic()
        try:
            call()
        except OSError as error:
            code = error.errno or -1
        ends[name] = code, time.monotonic() - began

    threads = [threading.Thread(target=run, args=pair) for pair in calls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(150)
    return ends


@pytest.mark.parametrize("options", [(), ("writeback",)], ids=["plain", "writeback"])
def test_a_dead_network(
    options: tuple[str, ...], mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    mounted = mount(bucket, f"op_timeout={BOUND}", "open_ttl=600", *options, url=counted.url)
    mounted.expected.append("ReadTimeout|has not answered|took longer than op_timeout")
    bucket.put_many({f"{name}{n}": b"1" for n in range(CALLS) for name in ("old", "name")})
    os.listdir(mounted.path)
    with counted.fault(stall=True):
        ends = all_at_once(calls_in_one_directory(mounted.path))
        later = all_at_once({"symlink": lambda: (mounted.path / "late").symlink_to("x")})
    assert len(ends) == 5 * CALLS, ends
    # one after the other they would take fifteen times the bound; the rest is a slow machine's
    assert all(took <= 2.5 * BOUND for _, took in ends.values()), ends
    assert {code for code, _ in ends.values()} <= {0, errno.ETIMEDOUT}, ends
    assert later["symlink"][0] == errno.ETIMEDOUT
    assert later["symlink"][1] <= BOUND / 2
    assert "has not answered anything" in mounted.log.read_text()
    until(lambda: is_written(mounted.path / "after", b"after"), "the endpoint is back")
    until(lambda: "answers again" in mounted.log.read_text(), "the log says so")


def failure(path: Path) -> int | None:
    """The errno of a stat."""
    with pytest.raises(OSError, match=path.name) as caught:
        path.stat()
    return caught.value.errno


def test_one_line_for_each_kind_of_call(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    """And at the end of the outage a line with the number of requests that failed in it."""
    mounted = mount(bucket, f"op_timeout={BOUND},retries=1,open_ttl=0", url=counted.url)
    mounted.expected.append("lookup failed|has not answered")
    with counted.fault(reset="before"):
        for n in range(30):
            assert failure(mounted.path / f"missing{n}") in (errno.EIO, errno.ETIMEDOUT)
        until(lambda: "has not answered" in mounted.log.read_text(), "the end of patience")
        assert failure(mounted.path / "more") in (errno.EIO, errno.ETIMEDOUT)
    until(lambda: "answers again" in mounted.log.read_text(), "the log says so")
    text = mounted.log.read_text()
    assert text.count("ERROR: lookup failed with") == 1, text
    (end,) = (line for line in text.splitlines() if "answers again" in line)
    assert "; requests that failed meanwhile: " in end
    assert sum(map(int, re.findall(r"[A-Za-z0-9]+ (\d+)(?=,|$)", end))) >= 31
