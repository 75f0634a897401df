"""Whether a process still holds another descriptor of a file it just closed one of.

FUSE sends a flush for each close of a duplicated descriptor and does not say whether it is the
last. A shell that redirects output opens the file, duplicates the descriptor and closes the first,
before the command has written a byte. This looks into /proc, and only for files nobody has written
yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

#: Processes looked at: the opener, its children and theirs.
_MOST_PROCESSES = 64
#: Descriptors looked at of each, the lowest: with thousands of files open, every close would pay.
_MOST_DESCRIPTORS = 256


def still_held(pid: int, ino: int, name: str) -> bool:
    """Whether process `pid` or a descendant has a file of this inode number and name open.

    False when /proc cannot tell (another user's process without the right to look, or one with very
    many files open): then the file counts as closed, at worst an empty object is stored before the
    full one.
    """
    return any(_holds(each, ino, name) for each in _family(pid))


def _family(pid: int) -> Iterator[int]:
    waiting = [pid]
    for _ in range(_MOST_PROCESSES):
        if not waiting:
            return
        pid = waiting.pop()
        yield pid
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    waiting.extend(int(child) for child in file.read().split())
        except OSError:
            continue  # it ended meanwhile, or is not ours to look at


def _holds(pid: int, ino: int, name: str) -> bool:
    for descriptor in _descriptors(pid):
        try:
            # the text of the link costs no lookup in the file system it names: it may be this one
            path = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            if path.removesuffix(" (deleted)").rpartition("/")[2] != name:
                continue
            with open(f"/proc/{pid}/fdinfo/{descriptor}") as file:
                if f"ino:\t{ino}\n" in file.read():
                    return True
        except OSError:
            continue
    return False


def _descriptors(pid: int) -> list[str]:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return [entry.name for entry in islice(entries, _MOST_DESCRIPTORS)]
    except OSError:
        return []
