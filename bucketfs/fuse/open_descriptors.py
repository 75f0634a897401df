"""Which processes hold descriptors of a file, as far as /proc tells.

FUSE sends a flush for each close of a duplicated or inherited descriptor, and says neither who
closes nor whether it was the last. Two questions are answered here from the tables of descriptors
in /proc, from which the kernel has taken the one being closed already:

- does the process that opened the file still have it open for writing? Then a child's copy was
  closed (at exec), or a duplicate, and the file may be half written;
- does anyone still hold a file that nobody has written yet? A shell that redirects output opens the
  file, duplicates the descriptor and closes the first, before the command has written a byte.

Where /proc cannot tell (another user's process without the right to look, a process that is not
visible here, one with very many descriptors), nobody is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

#: Processes looked at: the opener, its children and theirs.
_MOST_PROCESSES = 64
#: Descriptors looked at of each for a file that is still empty, the lowest: with thousands of files
#: open, every close would pay.
_MOST_DESCRIPTORS = 256
#: Descriptors looked at of the opener of a file that was written: as many as a process may have
#: under the usual limit. Each costs about 1 µs.
_MOST_OF_OPENER = 1024


def process_of(thread: int) -> int:
    """The process that a thread belongs to; the thread itself where /proc does not tell."""
    try:
        with open(f"/proc/{thread}/status", "rb", buffering=0) as file:
            _, _, rest = file.read(512).partition(b"\nTgid:")
        return int(rest.partition(b"\n")[0])
    except (OSError, ValueError):
        return thread


def writable_descriptors(pid: int, ino: int, name: str) -> int:
    """How many descriptors, open for writing, process `pid` has of a file."""
    return sum(
        flags & os.O_ACCMODE != os.O_RDONLY for flags in _open(pid, ino, name, _MOST_OF_OPENER)
    )


def is_open_for_writing(pid: int, ino: int, name: str) -> bool:
    """Whether process `pid` or a descendant has a file of this inode number and name open.

    At worst (nobody is found who is there) an empty object is stored before the full one.
    """
    return any(True for each in _family(pid) for _ in _open(each, ino, name, _MOST_DESCRIPTORS))


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


def _open(pid: int, ino: int, name: str, most: int) -> Iterator[int]:
    """Flags of each descriptor that a process has of a file; its `most` lowest are looked at."""
    try:
        table = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # it ended meanwhile, or is not ours to look at
    try:
        for descriptor in islice(os.listdir(table), most):
            if _base_name(table, descriptor) in (name, f"{name} (deleted)"):
                flags = _flags(pid, descriptor, ino)
                if flags is not None:
                    yield flags
    finally:
        os.close(table)


def _base_name(table: int, descriptor: str) -> str:
    try:
        # the text of the link costs no lookup in the file system it names: it may be this one
        path = os.readlink(descriptor, dir_fd=table)
    except OSError:
        return ""  # it was closed meanwhile
    return path.rpartition("/")[2]


def _flags(pid: int, descriptor: str, ino: int) -> int | None:
    """With which flags a descriptor was opened; None if it is of another inode."""
    try:
        with open(f"/proc/{pid}/fdinfo/{descriptor}") as file:
            lines = file.read().splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        return int(fields["flags"], 8) if int(fields["ino"]) == ino else None
    except (OSError, KeyError, ValueError):  # it was closed meanwhile, or the kernel says less
        return None
