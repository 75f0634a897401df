"""Values as people write them in fstab: sizes, durations, moments, octal modes, switches.

Pure functions from text to a value; each raises `ValueError` with words that fit behind
``NAME=VALUE: ``. The forms are those of s3fs (a bare number in the option's own unit) and of
rclone (``128M``, ``5Gi``, ``1h30m``). `format_size` and `count` go the other way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_EXPONENT = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGTPE]?)(I?B?)", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw]?)", re.IGNORECASE | re.ASCII)
_SECONDS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_COMMIT = re.compile(r"[0-9a-f]{32}")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def parse_size(text: str, *, bare: int) -> int:
    """Bytes of ``10``, ``128M``, ``5Gi``, ``5GiB`` or ``30GB``.

    A letter alone and the ``i`` forms count in powers of 1024, as in rclone; ``KB``, ``MB``, ``GB``
    in powers of 1000, as in s3fs's ``bucket_size``.

    Args:
        text: What stands behind the equals sign.
        bare: Bytes in one unit of a number without a suffix.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("not a size; write it as 10, 128M or 5Gi")
    number, letter, tail = match.groups()
    if letter:
        unit = (1000 if tail.upper() == "B" else 1024) ** _EXPONENT[letter.upper()]
    elif tail.upper() == "B":
        unit = 1
    elif tail:
        raise ValueError("not a size; write it as 10, 128M or 5Gi")
    else:
        unit = bare
    return int(number) * unit if "." not in number else int(float(number) * unit)


def format_size(size: int) -> str:
    """The shortest exact form `parse_size` reads back: ``10Gi``, ``1536Ki``, ``17B``."""
    for letter in "EPTGMK":
        unit = 1024 ** _EXPONENT[letter]
        if size and size % unit == 0:
            return f"{size // unit}{letter}i"
    return f"{size}B"


def parse_duration(text: str) -> float:
    """Seconds of ``60``, ``1.5``, ``500ms``, ``5m`` or ``1h30m``."""
    total, at = 0.0, 0
    while at < len(text):
        match = _DURATION.match(text, at)
        if match is None or match.end() == at:
            break
        number, unit = match.groups()
        if not unit and (at or match.end() < len(text)):
            break
        total += float(number) * _SECONDS[unit.lower()]
        at = match.end()
    if not text or at < len(text):
        raise ValueError("not a time; write seconds (60) or 500ms, 5m, 1h30m")
    return total


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time: Unix `seconds`, or so many seconds `ago`."""

    seconds: float
    ago: bool

    def since_1970(self, now: float) -> float:
        """Unix time of the moment when it is `now`."""
        return now - self.seconds if self.ago else self.seconds


@dataclass(frozen=True, slots=True)
class VersionOf:
    """The time at which a version of an object was stored: its `path` in the mount, and its id."""

    path: str
    version_id: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit of Pachyderm had; its id."""

    commit_id: str


def parse_moment(text: str) -> Moment | VersionOf | Commit:
    """When to look at a bucket.

    ``2026-01-31``, ``2026-01-31T12:00Z`` (without a zone: local time), ``2h ago`` or ``2h``,
    ``PATH@VERSION``, or the id of a commit: 32 hexadecimal digits.
    """
    path, _, version_id = text.strip().rpartition("@")
    if path.strip("/") and version_id:
        return VersionOf(path.strip("/"), version_id)
    if _COMMIT.fullmatch(text.strip()):
        return Commit(text.strip())
    words = text.strip().removesuffix("ago").strip()
    if words[-1:].isalpha() and not words.endswith("Z"):
        try:
            return Moment(parse_duration(words), ago=True)
        except ValueError:
            pass
    try:
        return Moment(datetime.fromisoformat(text.strip()).timestamp(), ago=False)
    except (ValueError, OverflowError):
        raise ValueError(
            "not a moment; write 2026-01-31, 2026-01-31T12:00Z, 2h ago, or PATH@VERSION for the"
            " moment of a version"
        ) from None


def parse_octal(text: str) -> int:
    """Permission bits of an octal number such as ``022`` or ``0077``."""
    if not re.fullmatch(r"(0o)?[0-7]{1,5}", text) or int(text, 8) > 0o777:
        raise ValueError("not an octal number from 000 to 777")
    return int(text, 8)


def parse_switch(text: str) -> bool:
    """``1``, ``true``, ``yes``, ``on`` or their contraries, in any case."""
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("neither 1 nor 0")
    return word in _TRUE


def parse_count(text: str) -> int:
    """A whole number without sign."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise ValueError("not a whole number")
    return int(text)


def count(number: int, one: str, many: str = "") -> str:
    """``1 file``, ``3 files``."""
    return f"{number} {one if number == 1 else many or one + 's'}"
