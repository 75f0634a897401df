"""How many modules the everyday journeys of a file cross: ``python -m tests.journeys``.

A change that sends one of them through more rooms than before shows here. Counted are the modules
of the tree, the files' bytes and the cache in which code runs, by a profiling hook; not the store,
which is the tests' own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import trio
import trio.testing

import bucketfs
from tests.harness.memory import Fault
from tests.tree.builder import Bucket, killed, planted

ROOT = Path(bucketfs.__file__).parent
#: Virtual seconds after which what was promised has been uploaded.
UPLOADED = 60.0
ROOMS = ("tree", "file", "cache")


@contextmanager
def crossed(modules: set[str]) -> Iterator[None]:
    """Add each module to the set in which code runs during the block."""

    def look(frame: FrameType, event: str, _arg: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[0] in ROOMS:
                modules.add(".".join(parts))

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


async def flush_of_a_new_file(directory: Path) -> set[str]:
    """What close(2) of a small new file waits for."""
    modules: set[str] = set()
    async with planted(Bucket(), directory) as mount:
        handle = await mount.create("f")
        await mount.write(handle, 0, b"data")
        with crossed(modules):
            await mount.tree.saver.flush(handle)
        await mount.tree.opener.release(handle)
    return modules


async def rename_of_a_directory(directory: Path) -> set[str]:
    """rename(2) of a directory of three files."""
    modules: set[str] = set()
    bucket = Bucket()
    for name in "abc":
        bucket.poke(f"d/{name}", b"data")
    async with planted(bucket, directory) as mount:
        await mount.names("d")
        with crossed(modules):
            await mount.tree.renamer.rename(mount.root, "d", mount.root, "e", replace=False)
    return modules


async def replay_and_upload(directory: Path) -> set[str]:
    """A promised file of a killed mount, until it is in the bucket."""
    modules: set[str] = set()
    bucket = Bucket()
    async with planted(bucket, directory / "cache", writeback=True) as mount:
        await mount.root_listed()
        bucket.fault = lambda *_: Fault(hang=True)
        await mount.save("f", b"data")
        left = killed(bucket, directory / "cache", directory / "left")
        mount.tree.state.files.background._nursery.cancel_scope.cancel()
    async with planted(left, directory / "left", replay=False, writeback=True) as mount:
        with crossed(modules):
            await mount.tree.replay.run()
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(UPLOADED)
    assert left.peek("f") == b"data"
    return modules


#: Journey and how many modules it may cross. The last one contains the first, between the journal
#: that is read (journal, rows, names, replay) and the row that goes (later, promises).
JOURNEYS: dict[str, tuple[Callable[[Path], Awaitable[set[str]]], int]] = {
    "flush of a new small file": (flush_of_a_new_file, 15),
    "rename of a directory of three": (rename_of_a_directory, 15),
    "replay and its upload": (replay_and_upload, 21),
}


def count(name: str) -> set[str]:
    """The modules that a journey crosses."""
    journey, _ = JOURNEYS[name]
    with tempfile.TemporaryDirectory() as directory:
        clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(journey, Path(directory), clock=clock)


if __name__ == "__main__":
    os.umask(0o077)
    for name in JOURNEYS:
        modules = count(name)
        print(f"{len(modules):3} {name}: {', '.join(sorted(modules))}")
