"""What is mounted where: /proc/self/mountinfo, read without touching the mounts themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MOUNTINFO = "/proc/self/mountinfo"
TYPE = "fuse.bucketfs"


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc(5))."""

    target: str
    type: str
    source: str


def parse_mountinfo(lines: Iterable[str]) -> list[Mount]:
    """The mounts in the order in which they were made."""
    found = []
    for line in lines:
        left, dash, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if dash and len(before) >= 5 and len(after) >= 2:
            found.append(Mount(_unescape(before[4]), after[0], _unescape(after[1])))
    return found


def mounted_at(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The uppermost mount on exactly `path` (absolute, no symlinks)."""
    top = None
    for mount in mounts:
        if mount.target == path:
            top = mount
    return top


def current() -> list[Mount]:
    """All mounts this process sees."""
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
