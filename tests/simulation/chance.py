"""Everything that is chance in a process, made a function of one seed.

Trio's order of tasks, random numbers, names of temporary files, the clocks, host names, and the
order of sets of objects that are hashed by their address. Strings are hashed by what
PYTHONHASHSEED says, which has to be set before Python starts (`__main__`).
"""

from __future__ import annotations

import contextvars
import random
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import trio
from trio._core import _run

from bucketfs import clock
from bucketfs.cache.pages import PageFile
from bucketfs.file.readers import Reader
from bucketfs.tree.core.inode import Inode

#: Unix time at which each run begins.
EPOCH = 1_800_000_000

#: The mount on whose behalf a task runs; its tasks inherit it.
mount_name: contextvars.ContextVar[str] = contextvars.ContextVar("mount_name", default="nobody")

#: Whether the mount has been killed on whose behalf a task runs.
is_dead: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar(
    "is_dead", default=lambda: False
)


class _Clock:
    """Wall time that follows trio's, and is another one at each look, as nanoseconds are."""

    def __init__(self) -> None:
        self.looks = 0

    def ns(self) -> int:
        self.looks += 1
        try:
            now = trio.current_time()
        except RuntimeError:  # outside of a run
            now = 0.0
        return EPOCH * 10**9 + round(now * 1e9) + self.looks

    def seconds(self) -> float:
        return self.ns() / 1e9


_clock = _Clock()
#: How often the machine of each mount has lost its power.
power_cuts: Counter[str] = Counter()
_dice = random.Random()


async def in_place(job: Callable[..., Any], *args: Any, **_options: Any) -> Any:
    """Instead of a thread, for which the virtual clock would not wait."""
    await trio.lowlevel.checkpoint()
    result = job(*args)
    await trio.lowlevel.checkpoint()
    return result


def _host() -> str:
    return f"host-{mount_name.get()}"


def _boot() -> str:
    return f"{mount_name.get()}.{power_cuts[mount_name.get()]}"


def _hash_by(cls: type, key: Callable[[Any], object]) -> None:
    """Have sets of these objects in the same order in each process."""
    cls.__hash__ = lambda self: hash(key(self))  # type: ignore[assignment, method-assign]


def install() -> None:
    """Take over this process for good: it is for simulations only from now on."""
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True
    time.time, time.time_ns = _clock.seconds, _clock.ns
    secrets.token_hex = lambda length=16: _dice.randbytes(length).hex()
    secrets.randbits = _dice.getrandbits
    socket.gethostname = _host
    clock.boot_id = _boot
    trio.to_thread.run_sync = in_place
    _hash_by(Inode, lambda inode: inode.ino)
    _hash_by(PageFile, lambda file: file.path.name)
    _hash_by(Reader, lambda reader: 0)
    shrink()


def seed(number: int) -> None:
    """Begin a run."""
    _clock.looks = 0
    power_cuts.clear()
    _dice.seed(number)
    random.seed(number)
    _run._r.seed(number)


#: Limits cut to a few kilobytes, so that each way of reading and saving a file is met.
SMALL = {
    "STREAM_FROM": 48 << 10,
    "FIRST_PART": 16 << 10,
    "SINGLE_PUT": 16 << 10,
    "COPY_LEAST": 16 << 10,
    "INLINE": 4 << 10,
    "COPIED": 40 << 10,
    "WHOLE": 8 << 10,
    "START_WINDOW": 8 << 10,
    "FILE_MAX": 8 << 10,
    "WHOLE_FILE": 8 << 10,
    "UNLINK_FETCH": 16 << 10,
    "PATIENCE": 2,
}


def shrink() -> None:
    """Set the limits in each module that has them under their names."""
    modules = [module for name, module in sys.modules.items() if name.startswith("bucketfs.")]
    for name, value in SMALL.items():
        for module in modules:
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, value)
