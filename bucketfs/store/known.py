"""What was learned of an endpoint and a bucket, kept on the disk from one mount to the next.

One small JSON file, beside the caches: what the endpoint was found able to do, and when. It is
written whole and renamed into place. What cannot be read, is another user's, or is older than
`LIFE` counts as nothing: it is learned again. Losing it costs requests, and never more than that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bucketfs import clock, owned
from bucketfs.errors import FsError

_log = logging.getLogger("bucketfs.store.known")

#: Seconds after which an ability is asked for again: gateways are upgraded.
LIFE: Final = 30 * 86400
#: More is no file of ours.
_MOST: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Known:
    """The file of one endpoint and bucket.

    Attributes:
        path: Where it is; None: nothing is remembered.
        about: What it is about, in words, for who looks at the file.
    """

    path: Path | None
    about: str = ""

    def load(self) -> dict[str, bool]:
        """Abilities by name that were learned not too long ago."""
        now = clock.wall_ns() // 10**9
        return {name: able for name, (able, at) in self._read().items() if 0 <= now - at < LIFE}

    def note(self, learned: Mapping[str, bool]) -> None:
        """Remember abilities; others that another mount has learned meanwhile stay."""
        if self.path is None:
            return
        now = clock.wall_ns() // 10**9
        found = self._read() | {name: (able, now) for name, able in learned.items()}
        said = {
            "about": self.about,
            "learned": {
                name: {"able": able, "at": at} for name, (able, at) in sorted(found.items())
            },
        }
        try:
            _replace(self.path, json.dumps(said, indent=1).encode() + b"\n")
        except (OSError, FsError) as error:
            _log.info("what the endpoint can do is not remembered: %s", error)

    def _read(self) -> dict[str, tuple[bool, int]]:
        if self.path is None:
            return {}
        try:
            owned.check_above(self.path.parent)
            with open(owned.open_file(self.path, os.O_RDONLY), "rb") as file:
                return _parse(file.read(_MOST))
        except FileNotFoundError:
            return {}
        except (OSError, FsError, ValueError) as error:
            _log.info("what was known of the endpoint is not believed: %s", error)
            return {}


def _parse(data: bytes) -> dict[str, tuple[bool, int]]:
    """Raises ValueError for anything but what `Known.note` writes."""
    try:
        learned = json.loads(data)["learned"].items()
        return {name: (entry["able"] is True, int(entry["at"])) for name, entry in learned}
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError("it is not a file of bucketfs") from error


def _replace(path: Path, data: bytes) -> None:
    """Write a file that nobody sees half. Raises OSError, FsError."""
    owned.check_above(path.parent, make=True)
    half = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    fd = owned.open_file(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        if os.path.lexists(path):
            os.close(owned.open_file(path, os.O_RDONLY))  # another user's stays
        half.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            half.unlink()
        raise
