"""How a command ends: its exit codes, and the exception that carries one line to the user."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What ``bucketfs`` answers to the shell. The mount helper answers mount(8)'s 0, 1 and 32."""

    OK = 0
    FAILED = 1
    USAGE = 2
    MOUNTPOINT = 3
    CREDENTIALS = 4
    BUCKET = 5
    DENIED = 6
    NETWORK = 7
    FUSE = 8


class Failure(Exception):
    """The command cannot go on.

    Args:
        code: Exit code.
        line: One line: what is wrong and what to do about it.
    """

    def __init__(self, code: ExitCode, line: str) -> None:
        super().__init__(line)
        self.code = code
        self.line = line
