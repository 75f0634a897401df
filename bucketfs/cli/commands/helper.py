"""The mount helper: what mount(8) calls as ``mount.bucketfs`` and ``mount.fuse.bucketfs``.

mount(8) calls ``HELPER SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`` with neither HOME
nor PATH in the environment. ``-f`` means "pretend" here, not "foreground".
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from bucketfs.cli.commands import mount
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import arguments, complete
from bucketfs.cli.process import remounting

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SWITCHES = frozenset("sfnvw")
_WITH_VALUE = frozenset({"-t", "-N"})


def translate(argv: Sequence[str]) -> tuple[list[str], bool]:
    """mount(8)'s words as a bucketfs command line, and whether mounting is only pretended."""
    words: list[str] = []
    pretend = False
    rest = iter(argv)
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif word == "-o":
            words += [word, next(rest, "")]
        elif word.startswith("-") and len(word) > 1 and set(word[1:]) <= _SWITCHES:
            pretend = pretend or "f" in word
        else:
            words.append(word)
    return words, pretend


def run(argv: Sequence[str]) -> int:
    """Mount in the background as mount(8) asks. Raises Failure."""
    os.environ.setdefault("PATH", _DEFAULT_PATH)
    words, pretend = translate(argv)
    try:
        found = arguments.tokenise(words)
        # mount(8) adds it unasked, and a dataset may say ro
        if ("remount", None) in found.options:
            return ExitCode.OK if pretend else remounting.remount(found)
        found.options = [option for option in found.options if option != ("rw", None)]
        options = complete.build(found, os.environ)
    except arguments.ParseError as error:
        raise Failure(ExitCode.USAGE, str(error)) from None
    return ExitCode.OK if pretend else mount.mount(options)
