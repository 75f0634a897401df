"""What a command line leaves to files: taken apart words → `Options`, with what those files say.

The first word may name a dataset, and the bucket and its address may stand in a file of keys. What
the command line says itself beats the dataset, which beats the file of keys. At last placeholders
are expanded, in the prefix only: which bucket is written to must not depend on the environment.
This is the step between `arguments.tokenise` and `arguments.build`, which read no files.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import arguments, datasets, placeholders
from bucketfs.cli.options.arguments import Arguments, ParseError
from bucketfs.cli.options.beginning import Beginning
from bucketfs.cli.options.dataset_file import Dataset, DatasetError
from bucketfs.cli.options.datasets import Place
from bucketfs.cli.options.placeholders import Facts, PlaceholderError
from bucketfs.credentials import CredentialsError, read_key_file
from bucketfs.key_json import KeyFile
from bucketfs.options import BY_NAME, Options

Words = Sequence[tuple[str, str | None]]


#: Options that stand for each other: one of them on the command line replaces a dataset's.
_KEYS = frozenset({"passwd_file", "profile", "public_bucket", "iam_role"})
_DISK = frozenset({"free_space_ratio", "ensure_diskfree"})


def build(found: Arguments, environ: Mapping[str, str], *, expand: bool = True) -> Options:
    """The checked options of a command line.

    Args:
        found: The command line taken apart.
        environ: The environment: homes, and variables that placeholders name.
        expand: Expand the placeholders of the prefix; otherwise the prefix ends before them.

    Raises:
        ParseError: It makes no sense, or a dataset does not.
        Failure: A file of keys cannot be used.
    """
    spec = found.positions[0] if len(found.positions) == 2 else ""
    completed, remarks = _with_dataset(found, environ)
    options = arguments.build(_with_key_file(completed))
    prefix = _prefix(options, environ, expand=expand)
    return replace(options, prefix=prefix, spec=spec, remarks=tuple(remarks))


def _prefix(options: Options, environ: Mapping[str, str], *, expand: bool) -> str:
    if options.all_buckets:
        return ""
    try:
        if not expand:
            return placeholders.fixed(options.prefix)
        prefix = placeholders.expand(options.prefix, _facts(environ))
    except PlaceholderError as error:
        raise ParseError(f"{options.source}: {error}") from None
    return arguments.split_bucket(f"{options.bucket}:/{prefix}")[1]


def _facts(environ: Mapping[str, str]) -> Facts:
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    began = Beginning.of(environ)
    return Facts(environ, began.moment, socket.gethostname(), user, began.unique)


def bucket_of(text: str, environ: Mapping[str, str]) -> str:
    """The bucket that the first word of a command line means. Raises ParseError."""
    named = datasets.named(text, environ)
    return _read_dataset(named[0]).bucket if named else arguments.split_bucket(text)[0]


def _with_dataset(found: Arguments, environ: Mapping[str, str]) -> tuple[Arguments, list[str]]:
    """With what a dataset says in place of its name, and remarks for the log."""
    named = datasets.named(found.positions[0], environ) if len(found.positions) == 2 else None
    if named is None:
        return found, []
    place, below = named
    dataset = _read_dataset(place)
    words = list(_not_replaced(dataset.options, found.options))
    if dataset.url:
        words.append(("url", dataset.url))
    remarks = [_meaning(found.positions[0], place)]
    if not _KEYS & (_attributes(words) | _attributes(found.options)):
        path, remark = datasets.keys_of(place, dataset, environ)
        words += [("passwd_file", path)] if path else []
        remarks += [remark] if remark else []
    positions = [dataset.source(below), *found.positions[1:]]
    return replace(found, positions=positions, options=[*words, *found.options]), remarks


def _read_dataset(place: Place) -> Dataset:
    try:
        return datasets.read(place)
    except DatasetError as error:
        raise ParseError(str(error)) from None


def _meaning(text: str, place: Place) -> str:
    if text != place.name:
        return f"{text} is the dataset in {place.file}"
    return f"{text} is the dataset in {place.file}; a bucket of this name is written {text}:"


def _not_replaced(words: Words, by: Words) -> Words:
    """A dataset's options without those for which the command line has another."""
    given = _attributes(by)
    replaced = {name for group in (_KEYS, _DISK) if group & given for name in group}
    return [word for word in words if not _attributes([word]) & replaced]


def _attributes(words: Words) -> set[str]:
    """What options set, whatever their spelling."""
    return {BY_NAME[name].attribute for name, _ in words if name in BY_NAME}


def _with_key_file(found: Arguments) -> Arguments:
    """With the address and the bucket of a `passwd_file` that is JSON."""
    path = os.path.expanduser(_last(found.options, "passwd_file") or "")
    file = _read(path) if path else None
    if file is None:
        return found
    options, positions = found.options, found.positions
    if file.endpoint:
        options = [("url", file.endpoint), *options]
    one = not arguments.is_all_buckets(found)
    if one and len(positions) == 1 and _last(options, "bucket") is None:
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
