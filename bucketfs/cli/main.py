"""The entry point: which command was meant, and how its failure is shown.

``bucketfs BUCKET MOUNTPOINT …`` mounts, as does ``bucketfs mount …``. Under the names that
mount(8) calls (``mount.bucketfs``, ``mount.fuse.bucketfs``) the program is a mount helper.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from bucketfs.cli.commands import COMMANDS
from bucketfs.cli.failure import ExitCode, Failure

#: mount(8)'s codes (the section EXIT STATUS of its manual).
_HELPER_USAGE = 1
_HELPER_FAILED = 32


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; prints one line on failure, never a traceback."""
    words = list(sys.argv if argv is None else argv)
    name, rest = os.path.basename(words[0]), words[1:]
    is_helper = name.startswith("mount.")
    try:
        code = _run("bucketfs.cli.commands.helper", rest) if is_helper else _dispatch(rest)
        sys.stdout.flush()
    except Failure as failure:
        print(f"{name if is_helper else 'bucketfs'}: {failure.line}", file=sys.stderr)
        if not is_helper:
            return failure.code
        return _HELPER_USAGE if failure.code is ExitCode.USAGE else _HELPER_FAILED
    except KeyboardInterrupt:
        print("bucketfs: interrupted", file=sys.stderr)
        return ExitCode.FAILED
    except BrokenPipeError:
        # who reads (head, a pager) has had enough, and the end of the program must not write more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.FAILED
    return code


def _dispatch(words: Sequence[str]) -> int:
    if words and words[0] in COMMANDS:
        return _run(COMMANDS[words[0]], words[1:])
    return _run(COMMANDS["mount"], words)


def _run(module: str, words: Sequence[str]) -> int:
    code: int = importlib.import_module(module).run(words)
    return code
