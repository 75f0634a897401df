"""The words behind a tool's name: switches, options with a value, and the rest. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bucketfs.cli.failure import ExitCode, Failure

HELP = ("--help", "-h")


@dataclass(slots=True)
class Words:
    """A command line taken apart.

    Attributes:
        rest: What is no option.
        switches: Switches given, by the first of their spellings.
        values: Values of options, by the first spelling of the option, in their order.
    """

    rest: list[str] = field(default_factory=list)
    switches: set[str] = field(default_factory=set)
    values: dict[str, list[str]] = field(default_factory=dict)

    def value(self, name: str) -> str | None:
        """The last value given for an option."""
        given = self.values.get(name)
        return given[-1] if given else None


def take_apart(
    argv: Sequence[str],
    usage: str,
    *,
    switches: Iterable[Sequence[str]] = (),
    valued: Iterable[Sequence[str]] = (),
) -> Words:
    """Sort the words of a command line.

    Args:
        argv: Without the names of program and tool.
        usage: Shown (its first line) when they make no sense.
        switches: Spellings of each switch.
        valued: Spellings of each option that takes a value: ``-x VALUE``, ``--long=VALUE``.

    Raises:
        Failure: An option that is not known or lacks its value.
    """
    flags: Mapping[str, str] = {word: names[0] for names in switches for word in names}
    takes: Mapping[str, str] = {word: names[0] for names in valued for word in names}
    first_line = usage.splitlines()[0]
    found = Words()
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            found.rest.extend(words)
        elif word in flags:
            found.switches.add(flags[word])
        elif name in takes:
            given = value if equals else next(words, None)
            if given is None:
                raise Failure(ExitCode.USAGE, f"{word}: a value must follow; {first_line}")
            found.values.setdefault(takes[name], []).append(given)
        elif word.startswith("-") and len(word) > 1:
            raise Failure(ExitCode.USAGE, f"{word}: unknown option; {first_line}")
        else:
            found.rest.append(word)
    return found
