"""Placeholders in a prefix, expanded once when a mount begins: ``runs/{jobID}/{date}``.

Pure: what the world looks like is handed in as `Facts`. A value that is missing, or that cannot be
part of a key, is refused by the placeholder's name, since a job would write to the wrong place.

Bacalhau's names and variables: its documentation of the S3 publisher, and pkg/executor/env.go.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_ENV = "env:"


class PlaceholderError(ValueError):
    """A prefix cannot be expanded; the text names the placeholder."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What placeholders stand for.

    Attributes:
        now: When the mount began, in UTC.
        unique: A UUID of this mount.
    """

    environ: Mapping[str, str]
    now: datetime
    hostname: str
    user: str
    unique: str


def _variable(name: str) -> Callable[[Facts], str]:
    def value(facts: Facts) -> str:
        if name not in facts.environ:
            raise PlaceholderError(f"{name} is not set in the environment")
        return facts.environ[name]

    return value


#: No colon stands in a time: many programs take one in a path for something else.
_VALUES: Mapping[str, Callable[[Facts], str]] = MappingProxyType(
    {
        "date": lambda facts: facts.now.strftime("%Y-%m-%d"),
        "time": lambda facts: facts.now.strftime("%H%M%S"),
        "hostname": lambda facts: facts.hostname,
        "uuid": lambda facts: facts.unique,
        "user": lambda facts: facts.user,
        "executionID": _variable("BACALHAU_EXECUTION_ID"),
        "jobID": _variable("BACALHAU_JOB_ID"),
        "nodeID": _variable("BACALHAU_NODE_ID"),
    }
)


def expand(prefix: str, facts: Facts) -> str:
    """`prefix` with values in place of placeholders; ``{{`` and ``}}`` are braces.

    Raises PlaceholderError.
    """
    return _TOKEN.sub(lambda match: _replaced(match, facts), prefix)


def check(prefix: str) -> None:
    """See that a prefix can be expanded where all variables are set. Raises PlaceholderError."""
    for match in _TOKEN.finditer(prefix):
        _source(match)


def fixed(prefix: str) -> str:
    """The folders of a prefix (``a/b/``) before the first that depends on a placeholder's value.

    Raises PlaceholderError.
    """
    check(prefix)
    kept: list[str] = []
    for part in prefix.split("/"):
        if any(match[1] is not None for match in _TOKEN.finditer(part)):
            return "".join(f"{one}/" for one in kept)
        kept.append(_TOKEN.sub(lambda match: match[0][0], part))
    return "/".join(kept)


def literal(text: str) -> str:
    """A text that expands to `text`."""
    return text.replace("{", "{{").replace("}", "}}")


def _replaced(match: re.Match[str], facts: Facts) -> str:
    source = _source(match)
    if isinstance(source, str):
        return source
    try:
        value = source(facts)
        _check_value(value)
    except PlaceholderError as error:
        raise PlaceholderError(f"{match[0]}: {error}") from None
    return value


def _source(match: re.Match[str]) -> str | Callable[[Facts], str]:
    """What to ask for a placeholder's value, or the brace that is meant."""
    name = match[1]
    if name is None:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        raise PlaceholderError(f"{match[0]} stands alone; a brace is written {match[0] * 2}")
    if name.startswith(_ENV) and len(name) > len(_ENV):
        return _variable(name.removeprefix(_ENV))
    if name not in _VALUES:
        known = [*_VALUES, f"{_ENV}NAME"]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {{{close[0]}}}?" if close else f"known are {', '.join(known)}"
        raise PlaceholderError(f"{match[0]}: unknown placeholder; {hint}")
    return _VALUES[name]


def _check_value(value: str) -> None:
    if not value:
        raise PlaceholderError("its value is empty")
    parts = value.split("/")
    if "" in parts or "." in parts or ".." in parts:
        raise PlaceholderError(
            "its value must not begin or end with '/', or have '.' or '..' in it"
        )
    if not value.isprintable():  # control characters, and bytes that are no UTF-8
        raise PlaceholderError("its value has a character that cannot stand in a key")
