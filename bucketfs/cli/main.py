"""The entry point: which command was meant, and how its failure is shown.

``bucketfs BUCKET MOUNTPOINT …`` mounts, as does ``bucketfs mount …``. Under the names that
mount(8) calls (``mount.bucketfs``, ``mount.fuse.bucketfs``) the program is a mount helper.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from bucketfs.cli.commands import COMMANDS
from bucketfs.cli.failure import ExitCode, Failure

#: Commands of other programs, and what is called so here.
_MEANT: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("unmount", "fusermount", "fusermount3"), "umount"),
        **dict.fromkeys(("ls", "list", "ps", "mounts", "stats"), "status"),
        **dict.fromkeys(("sync", "fsync", "wait"), "flush"),
        **dict.fromkeys(("stat", "head"), "info"),
        **dict.fromkeys(("forget", "invalidate", "reload"), "refresh"),
        **dict.fromkeys(("sign", "url", "link"), "presign"),
        **dict.fromkeys(("undelete", "rollback"), "restore"),
        **dict.fromkeys(("watch", "monitor"), "top"),
        **dict.fromkeys(("preload", "prefetch"), "warm"),
        **dict.fromkeys(("du", "df", "ncdu"), "size"),
        **dict.fromkeys(("fsck", "lint"), "check"),
        **dict.fromkeys(("cleanup", "prune"), "gc"),
    }
)
#: Those of them that nobody calls a bucket.
_NO_BUCKETS = frozenset({"unmount", "fusermount", "fusermount3"})

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


def suggested(words: Sequence[str]) -> str:
    """The command that is meant by a first word that is none; "" if it may well be a bucket."""
    positions = [word for word in words if not word.startswith("-")]
    first = words[0]
    if first in _NO_BUCKETS:
        return _MEANT[first]
    if len(positions) > 1 or first not in positions:
        return ""
    close = difflib.get_close_matches(first, COMMANDS, n=1, cutoff=0.75)
    return _MEANT.get(first) or (close[0] if close else "")


def _dispatch(words: Sequence[str]) -> int:
    if words and words[0] in COMMANDS:
        return _run(COMMANDS[words[0]], words[1:])
    if words and (meant := suggested(words)):
        raise Failure(
            ExitCode.USAGE,
            f"{words[0]}: no such command; did you mean bucketfs {meant}?"
            f" A bucket of this name is mounted by: bucketfs mount {words[0]} MOUNTPOINT",
        )
    return _run(COMMANDS["mount"], words)


def _run(module: str, words: Sequence[str]) -> int:
    code: int = importlib.import_module(module).run(words)
    return code
