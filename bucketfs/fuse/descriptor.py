"""A mount point /dev/fd/N: a descriptor of /dev/fuse that somebody else has mounted for us.

Whoever starts bucketfs opens /dev/fuse, mounts it (mount(2), option fd=N) and leaves it open. The
right to mount is then needed by nobody else, which is how container engines mount in pods.
"""

from __future__ import annotations

import os
import re
import select
import stat
from pathlib import Path

#: Character device of /dev/fuse (devices.txt in the kernel's documentation).
_FUSE_DEVICE = os.makedev(10, 229)


def handed_over(mountpoint: str) -> int | None:
    """The number N if a mount point is /dev/fd/N, as libfuse spells it."""
    found = re.fullmatch(r"/dev/fd/([0-9]{1,9})", mountpoint)
    return int(found[1]) if found else None


def unusable(descriptor: int) -> str:
    """Why a descriptor is no mount that waits for who serves it, in one line; "" if it is one."""
    path = f"/dev/fd/{descriptor}"
    try:
        status = os.fstat(descriptor)
    except OSError:
        return f"{path}: no such descriptor is open; whoever starts bucketfs has to leave it open"
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _FUSE_DEVICE:
        return (
            f"{path}: is not /dev/fuse; open that, mount it with fd={descriptor}, and leave it open"
        )
    if is_over(descriptor):
        return (
            f"{path}: nothing is mounted with it; mount it first, with the option fd={descriptor}"
        )
    return ""


def is_over(descriptor: int) -> bool:
    """Whether nothing is mounted with a descriptor of /dev/fuse, not yet or no more."""
    return bool(_events(descriptor) & select.POLLERR)


def is_asked(descriptor: int) -> bool:
    """Whether the kernel has a request that nobody has read."""
    return bool(_events(descriptor) & select.POLLIN)


def _events(descriptor: int) -> int:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return sum(events for _, events in poll.poll(0))


def device_of(descriptor: int) -> int:
    """st_dev of what is mounted with a descriptor, as far as the kernel tells (6.18 does)."""
    text = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
    found = re.search(r"^fuse_connection:\s*(\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def device_at(path: str) -> int:
    """st_dev of what is mounted at a path, without a question to who serves it (proc(5))."""
    mounted = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        text = Path(f"/proc/self/fdinfo/{mounted}").read_text(encoding="ascii")
    finally:
        os.close(mounted)
    number = text.partition("mnt_id:")[2].split()[0]
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        words = line.split(maxsplit=3)
        if words[0].decode() == number:
            return os.makedev(*map(int, words[2].split(b":")))
    return 0
