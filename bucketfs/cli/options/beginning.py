"""When a mount has begun: what its command line says of time is meant once, for all its daemons."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

#: In the environment of the daemons that a supervisor starts.
VARIABLE = "BUCKETFS_BEGAN"


@dataclass(frozen=True, slots=True)
class Beginning:
    """The beginning of a mount.

    Attributes:
        moment: In UTC.
        unique: A UUID of this mount.
    """

    moment: datetime
    unique: str

    @classmethod
    def now(cls) -> Beginning:
        """Of a mount that begins."""
        return cls(datetime.now(UTC), str(uuid.uuid4()))

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Beginning:
        """Of the mount of a daemon with this environment."""
        moment, _, unique = environ.get(VARIABLE, "").partition(" ")
        return cls(datetime.fromisoformat(moment), unique) if unique else cls.now()

    def __str__(self) -> str:
        """As `of` reads it."""
        return f"{self.moment.isoformat()} {self.unique}"
