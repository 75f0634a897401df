"""What outlives the daemon, so that the next one can go on with its mount.

Somebody else, the keeper (systemd's file descriptor store), holds a copy of the mount's descriptor
of /dev/fuse, and with that a record of what was agreed on with the kernel. As long as it does, the
kernel keeps the mount, and what nobody answers waits.

The record is a file without a name (memfd), which goes with its last descriptor.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from bucketfs.fuse import agreement, descriptor

#: Names under which the keeper has them.
DEVICE, RECORD = "bucketfs-device", "bucketfs-record"
#: What an orderly end leaves in the cache directory (`picture`).
PICTURE: Final = "handover"
#: Of the record; one of another version is of no use.
_VERSION: Final = 1
_LONGEST_RECORD: Final = 1 << 20
#: Numbers of inodes and handles that one daemon may give out.
_NUMBERS: Final = 1 << 32


class Keeper(Protocol):
    """Who holds descriptors for the next daemon.

    Attributes:
        kept: Those of an earlier daemon, by name; whoever uses one takes it out.
        restarts: A daemon that leaves the mount to the next one is followed by it.
    """

    kept: dict[str, int]
    restarts: bool

    def hears(self) -> bool:
        """Whether it is there, and has heard all that it was told; takes seconds at most."""
        ...

    def keep(self, name: str, descriptor: int) -> None:
        """Hold a copy of a descriptor, in place of others of that name."""
        ...

    def drop(self, name: str) -> None:
        """Close what is held under a name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the next daemon must know of a mount that stands.

    Attributes:
        source: What is mounted, in words that only the same bucket and prefix have.
        mountpoint: Where.
        settings: Options of the mount in the words of libfuse.
        request, answer: The kernel's first request, and what it was told.
        cache: Directory of the cache.
        mount: Tells this mount from any other.
        daemon: How many daemons have served it before.
    """

    source: str
    mountpoint: str
    settings: tuple[str, ...]
    request: bytes = b""
    answer: bytes = b""
    cache: str = ""
    mount: str = field(default_factory=lambda: secrets.token_hex(8))
    daemon: int = 0

    @property
    def first(self) -> int:
        """Numbers of inodes and handles above this one were given out by no daemon before."""
        return self.daemon * _NUMBERS

    @property
    def repeated(self) -> bytes:
        """The first request for a libfuse that has to agree on the same."""
        return agreement.repeated(self.request, self.answer)

    def dump(self) -> bytes:
        """As `load` takes it."""
        fields: dict[str, Any] = {"version": _VERSION, **asdict(self)}
        for name in ("request", "answer"):
            fields[name] = base64.b64encode(fields[name]).decode()
        return json.dumps(fields).encode()

    @classmethod
    def load(cls, data: bytes) -> Record:
        """The record of an earlier daemon. Raises ValueError for anything else."""
        try:
            fields = json.loads(data)
            if fields.pop("version") != _VERSION:
                raise ValueError("of another version")
            for name in ("request", "answer"):
                fields[name] = base64.b64decode(fields[name], validate=True)
            fields["settings"] = tuple(fields["settings"])
            return cls(**fields)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a record: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Taken:
    """A mount that an earlier daemon has left: its descriptor, and the record."""

    kernel: int
    record: Record


def has_ended(keeper: Keeper) -> bool:
    """Whether an earlier daemon has left a mount that was unmounted since."""
    return DEVICE in keeper.kept and bool(descriptor.unusable(keeper.kept[DEVICE]))


def take(keeper: Keeper, wanted: Record) -> tuple[Taken | None, str]:
    """Take what the keeper holds, if it is the mount that is `wanted`.

    Returns:
        The mount, or why there is none to go on with, "" if nothing was kept. What is of no use has
        been closed.
    """
    kernel, record = (keeper.kept.pop(name, -1) for name in (DEVICE, RECORD))
    try:
        found, reason = _checked(kernel, record, wanted)
    finally:
        if record >= 0:
            os.close(record)
    if found is not None:
        return Taken(kernel, replace(found, daemon=found.daemon + 1)), ""
    if kernel >= 0:
        os.close(kernel)
    release(keeper)
    return None, reason


def discard(keeper: Keeper) -> None:
    """Close what an earlier daemon has left: this one cannot go on with it."""
    for descriptor_kept in keeper.kept.values():
        os.close(descriptor_kept)
    keeper.kept.clear()
    release(keeper)


def release(keeper: Keeper) -> None:
    """Have nothing kept any more: the mount ends with its daemon."""
    keeper.drop(DEVICE)
    keeper.drop(RECORD)


def keep(keeper: Keeper, record: Record, kernel: int | None) -> None:
    """Have a mount kept when this daemon ends; `kernel` None: its descriptor is already."""
    file = os.memfd_create(RECORD)
    try:
        os.write(file, record.dump())
        keeper.keep(RECORD, file)
    finally:
        os.close(file)
    if kernel is not None:
        keeper.keep(DEVICE, kernel)


def _checked(kernel: int, record: int, wanted: Record) -> tuple[Record | None, str]:
    if kernel < 0 or descriptor.unusable(kernel):
        return None, ""  # it was unmounted meanwhile
    try:
        found = Record.load(os.pread(record, _LONGEST_RECORD, 0))
    except (OSError, ValueError) as error:
        return None, f"its record cannot be read: {error}"
    for name, words in _SAME.items():
        if getattr(found, name) != getattr(wanted, name):
            return None, words
    if not agreement.offers_resend(found.request) and not Path(found.cache, PICTURE).exists():
        # what the daemon had read when it died would wait for ever
        return None, "its daemon has died, and Linux asks a new one only from 6.9 on"
    return found, ""


#: What has to be as it was, and how it is said that it is not.
_SAME: Mapping[str, str] = {
    "source": "it is of another bucket or prefix",
    "mountpoint": "it is at another mount point",
    "settings": "its options are others",
}
