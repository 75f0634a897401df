"""What a command line leaves to files: taken apart words → `Options`, with what those files say.

The bucket and its address may stand in a file of keys. Whatever the command line says itself wins.
This is the step between `arguments.tokenise` and `arguments.build`, which read no files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import arguments
from bucketfs.cli.options.arguments import Arguments, ParseError
from bucketfs.credentials import CredentialsError, read_key_file
from bucketfs.key_json import KeyFile
from bucketfs.options import BY_NAME, Options

Words = Sequence[tuple[str, str | None]]


def build(found: Arguments) -> Options:
    """The checked options of a command line.

    Raises:
        ParseError: It makes no sense.
        Failure: A file that it names cannot be used.
    """
    return arguments.build(_with_key_file(found))


def _with_key_file(found: Arguments) -> Arguments:
    """With the address and the bucket of a `passwd_file` that is JSON."""
    path = os.path.expanduser(_last(found.options, "passwd_file") or "")
    file = _read(path) if path else None
    if file is None:
        return found
    options, positions = found.options, found.positions
    if file.endpoint:
        options = [("url", file.endpoint), *options]
    if len(positions) == 1 and _last(options, "bucket") is None:
        positions = [_bucket_of(file, path), *positions]
    return replace(found, options=options, positions=positions)


def _read(path: str) -> KeyFile | None:
    try:
        return read_key_file(path)
    except CredentialsError as error:
        raise Failure(ExitCode.CREDENTIALS, str(error)) from None


def _bucket_of(file: KeyFile, path: str) -> str:
    if not file.bucket:
        raise ParseError(
            f'{path} has no "bucket"; usage: bucketfs BUCKET[:/PREFIX] MOUNTPOINT [-o …]'
        )
    try:
        arguments.split_bucket(f"{file.bucket}:/")
    except ParseError:
        line = f'{path}: "bucket" is not a bucket name (letters, digits, ".", "-", "_")'
        raise Failure(ExitCode.CREDENTIALS, line) from None
    return file.bucket


def _last(words: Words, name: str) -> str | None:
    """The value of an option that a command line gives last, by any of its names."""
    row = BY_NAME.get(name)
    names = {row.name, *row.aliases} if row else {name}
    return next((value for word, value in reversed(words) if word in names), None)
