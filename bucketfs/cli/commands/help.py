"""``bucketfs help [WORD]``: of the program, a command, an option, all options, or rclone's."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence

from bucketfs.cli.commands import COMMANDS
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import compat, manual
from bucketfs.options import BY_NAME

USAGE = """usage: bucketfs help [WORD]

Says more of WORD: a command, an option, "options" for all of them, or "rclone" for rclone's."""


def run(argv: Sequence[str]) -> int:
    """Print it. Raises Failure."""
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE)
        return ExitCode.OK
    if len(argv) > 1:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    print(about(argv[0] if argv else ""))
    return ExitCode.OK


def about(word: str) -> str:
    """The text on a word, "" for the program itself. Raises Failure."""
    name = word.removeprefix("-o").strip().partition("=")[0].replace("-", "_")
    match word:
        case "" | "mount":
            return manual.usage()
        case "options":
            return manual.options_usage()
        case "rclone":
            return manual.rclone_usage()
        case _ if word in COMMANDS:
            usage: str = importlib.import_module(COMMANDS[word]).USAGE
            return f"{usage}\n\n{manual.option_usage(BY_NAME[word])}" if word in BY_NAME else usage
        case _ if name in BY_NAME:
            return manual.option_usage(BY_NAME[name])
        case _ if name in compat.IGNORED:
            return f"-o {name} is accepted without effect: {compat.IGNORED[name]}"
        case _ if name in compat.REFUSED:
            return f"-o {name} is refused: {compat.REFUSED[name]}"
    close = difflib.get_close_matches(word, [*COMMANDS, *BY_NAME, "options", "rclone"], n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise Failure(ExitCode.USAGE, f"{word}: no command or option has this name{hint}")
