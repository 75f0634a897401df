"""The words behind a tool's name, taken apart by argparse. What makes no sense is a `Failure`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from bucketfs.cli import show
from bucketfs.cli.failure import ExitCode, Failure


class Parser(argparse.ArgumentParser):
    """Finds ``help`` and, wherever they stand, the words that are no options: ``rest``.

    Args:
        usage: The tool's help; its first line ends the line about an error.
    """

    def __init__(self, usage: str) -> None:
        super().__init__(usage=usage, add_help=False, allow_abbrev=False)
        self._first_line = usage.splitlines()[0]
        self.add_argument("-h", "--help", action="store_true")
        self.add_argument("rest", nargs="*")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Take apart a command line without the names of program and tool. Raises Failure."""
        words = list(argv)
        # Not left to argparse: the versions of Python differ in which "--" they drop.
        end = words.index("--") if "--" in words else len(words)
        for word in words[:end]:
            # argparse before Python 3.13 makes an empty list of this value
            if word.startswith("-") and word.endswith("=--"):
                self.error(f"{word}: write ./-- for a thing of this name")
        found = self.parse_intermixed_args(words[:end])
        found.rest += words[end + 1 :]
        return found

    def error(self, message: str) -> NoReturn:
        raise Failure(ExitCode.USAGE, f"{show.name(message)}; {self._first_line}")
