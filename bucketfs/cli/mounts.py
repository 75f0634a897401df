"""What is mounted where: /proc/self/mountinfo, read without touching the mounts themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MOUNTINFO = "/proc/self/mountinfo"
TYPE = "fuse.bucketfs"


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc(5)).

    Attributes:
        target: Where it is mounted.
        device: st_dev of the files in it as ``MAJOR:MINOR``.
        root: Directory of the file system that is shown there: "/", but for bind mounts.
        user: Who mounted it, as FUSE tells; otherwise 0.
        flags: ``ro``, ``nosuid`` and the like, of this place (not of the file system).
    """

    target: str
    type: str
    source: str
    device: str = ""
    root: str = "/"
    user: int = 0
    flags: tuple[str, ...] = ()


def parse_mountinfo(lines: Iterable[str]) -> list[Mount]:
    """The mounts in the order in which they were made."""
    found = []
    for line in lines:
        left, dash, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if dash and len(before) >= 6 and len(after) >= 2:
            user = re.search(r"(?:^|,)user_id=(\d+)", after[-1])
            found.append(
                Mount(
                    target=_unescape(before[4]),
                    type=after[0],
                    source=_unescape(after[1]),
                    device=before[2],
                    root=_unescape(before[3]),
                    user=int(user[1]) if user else 0,
                    flags=tuple(before[5].split(",")),
                )
            )
    return found


def mounted_at(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The uppermost mount on exactly `path` (absolute, no symlinks)."""
    top = None
    for mount in mounts:
        if mount.target == path:
            top = mount
    return top


def covering(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The mount that `path` (absolute, no symlinks) is in."""
    found = None
    for mount in mounts:
        inside = path == mount.target or path.startswith(mount.target.rstrip("/") + "/")
        if inside and (found is None or len(mount.target) >= len(found.target)):
            found = mount
    return found


def current() -> list[Mount]:
    """All mounts this process sees."""
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
