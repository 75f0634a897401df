"""``bucketfs dataset``: names for buckets, so that one person configures and others mount."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bucketfs import key_json
from bucketfs.cli import show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import arguments, dataset_file, datasets
from bucketfs.cli.options.dataset_file import Dataset, DatasetError
from bucketfs.cli.options.datasets import Place
from bucketfs.cli.options.parser import Parser
from bucketfs.credentials import CredentialsError, read_passwd_file
from bucketfs.key_json import KeyFile
from bucketfs.owned import NotOwnError
from bucketfs.passwd import PasswdError, parse_passwd

USAGE = """usage: bucketfs dataset add|list|show|remove …
       bucketfs dataset add [--system] [--replace] [--keys FILE]
                            NAME [BUCKET[:/PREFIX]] [-o NAME[=VALUE],…]…
       bucketfs dataset list
       bucketfs dataset show NAME
       bucketfs dataset remove [--system] NAME

Gives a bucket with its prefix, address and options a name: bucketfs NAME MOUNTPOINT mounts it.
The names are files NAME.toml in ~/.config/bucketfs, or in /etc/bucketfs for all users.

  --system     write to /etc/bucketfs, as root
  --replace    a dataset of this name may be there already
  --keys FILE  copy a file of keys beside the dataset, mode 600 (-: standard input). If it is JSON
               that names them, BUCKET and url may be left out

Exit code 0: done; 1: a dataset cannot be used, or written; 2: the command or a dataset makes no
sense; 4: the keys cannot be used."""


def run(argv: Sequence[str]) -> int:
    """Add, list, show or remove. Raises Failure."""
    parser = Parser(USAGE)
    for switch in ("--system", "--replace"):
        parser.add_argument(switch, action="store_true")
    parser.add_argument("--keys")
    parser.add_argument("-o", dest="options", action="append", default=[])
    found = parser.parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    match found.rest:
        case ["list"] | []:
            return _list()
        case ["show", name]:
            return _show(_known(name))
        case ["remove", name]:
            return _remove(_chosen(name, system=found.system))
        case ["add", name, *source] if len(source) < 2:
            place = _chosen(name, system=found.system)
            return _add(place, "".join(source), found.options, found.keys, replace=found.replace)
    raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])


def _chosen(name: str, *, system: bool) -> Place:
    """Where a dataset is written. Raises Failure."""
    _check_name(name)
    if system and os.geteuid() != 0:
        raise Failure(ExitCode.FAILED, f"--system changes {datasets.ETC}; run it as root")
    directory = datasets.ETC if system else datasets.user_directory(os.environ)
    if directory is None:
        raise Failure(ExitCode.FAILED, "you have no home directory; set XDG_CONFIG_HOME")
    return Place(name, directory)


def _known(name: str) -> Place:
    _check_name(name)
    place = datasets.find(name, os.environ)
    if place is None:
        raise Failure(ExitCode.FAILED, f"there is no dataset {name}; see: bucketfs dataset list")
    return place


def _check_name(name: str) -> None:
    if not datasets.is_name(name):
        line = f"{name}: not a name of a dataset (letters, digits, '.', '-', '_')"
        raise Failure(ExitCode.USAGE, show.name(line))


def _add(
    place: Place, source: str, given: Sequence[str], keys: str | None, *, replace: bool
) -> int:
    text = _text_of(keys) if keys else ""
    try:
        file = key_json.parse(text) if key_json.is_json(text) else None
        dataset = _asked_for(source, given, file)
        if file is None and keys:
            parse_passwd(text, dataset.bucket)
    except PasswdError as error:
        raise Failure(ExitCode.CREDENTIALS, f"{keys}: {error}") from None
    except (arguments.ParseError, DatasetError) as error:
        raise Failure(ExitCode.USAGE, str(error)) from None
    if keys and dataset.passwd_file:
        raise Failure(ExitCode.USAGE, "--keys and -o passwd_file exclude each other; give one")
    try:
        datasets.write(place, dataset, text, replace=replace)
    except FileExistsError as error:
        line = f"{error.filename2 or error.filename}: is there already; --replace replaces it"
        raise Failure(ExitCode.FAILED, line) from None
    except NotOwnError as error:
        raise Failure(ExitCode.FAILED, str(error.why)) from None
    except OSError as error:
        raise Failure(ExitCode.FAILED, f"{place.file}: {error.strerror}") from None
    for line in _facts(place, dataset):
        print(line)
    return ExitCode.OK


def _text_of(keys: str) -> str:
    try:
        if keys == "-":
            return sys.stdin.buffer.read().decode()
        return Path(keys).read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(ExitCode.CREDENTIALS, f"{keys}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Failure(ExitCode.CREDENTIALS, f"{keys}: is not UTF-8") from None


def _asked_for(source: str, given: Sequence[str], file: KeyFile | None) -> Dataset:
    """The dataset of a command line. Raises ParseError and DatasetError."""
    words = arguments.tokenise([word for text in given for word in ("-o", text)]).options
    named = dict(words)
    url = named.get("url") or named.get("host") or (file.endpoint if file else "")
    passwd_file = named.get("passwd_file") or ""
    if passwd_file and not passwd_file.startswith("~"):
        passwd_file = os.path.abspath(passwd_file)
    source = source or (file.bucket if file else "")
    bucket, prefix = arguments.split_bucket(source)
    options = tuple(word for word in words if word[0] not in ("url", "host", "passwd_file"))
    dataset = Dataset(bucket, prefix.strip("/"), url, passwd_file, options)
    return dataset_file.parse(dataset_file.text_of(dataset))  # what is refused there is refused now


def _list() -> int:
    rows, well = [("name", "bucket", "endpoint", "file")], True
    for place in datasets.every(os.environ):
        try:
            dataset = datasets.read(place)
        except DatasetError as error:
            print(f"bucketfs: {show.name(str(error))}", file=sys.stderr)
            well = False
        else:
            rows.append((place.name, _source(dataset), dataset.url, str(place.file)))
    if len(rows) > 1:
        for line in show.table(rows):
            print(show.name(line))
    elif well:
        print("there is no dataset; bucketfs dataset add makes one")
    return ExitCode.OK if well else ExitCode.FAILED


def _source(dataset: Dataset) -> str:
    return dataset.source().removesuffix(":")


def _show(place: Place) -> int:
    try:
        dataset = datasets.read(place)
    except DatasetError as error:
        raise Failure(ExitCode.USAGE, show.name(str(error))) from None
    for line in _facts(place, dataset):
        print(line)
    return ExitCode.OK


def _facts(place: Place, dataset: Dataset) -> Iterator[str]:
    """What a dataset says, and where its keys come from; never a key."""
    options = ", ".join(
        name if value is None else f"{name}={value}" for name, value in dataset.options
    )
    rows = [
        ("dataset", place.name),
        ("file", str(place.file)),
        ("bucket", _source(dataset)),
        ("endpoint", dataset.url or "not named here"),
        ("options", options or "none"),
        ("keys", _keys(place, dataset)),
    ]
    hidden = Place(place.name, datasets.ETC)
    if not place.is_system and os.path.lexists(hidden.file):
        rows.append(("hides", str(hidden.file)))
    return map(show.name, show.table(rows))


def _keys(place: Place, dataset: Dataset) -> str:
    path, remark = datasets.keys_of(place, dataset, os.environ)
    if not path:
        return remark or "from the usual places"
    try:
        read_passwd_file(path, dataset.bucket)
    except CredentialsError as error:
        return f"of no use: {error}"
    return path


def _remove(place: Place) -> int:
    try:
        removed = datasets.remove(place)
    except FileNotFoundError:
        other = Place(place.name, datasets.ETC)
        hint = "; with --system, root removes that of all users" if other.file.exists() else ""
        line = f"{place.file}: there is no such dataset{'' if place.is_system else hint}"
        raise Failure(ExitCode.FAILED, line) from None
    except OSError as error:
        raise Failure(ExitCode.FAILED, f"{place.file}: {error.strerror}") from None
    for path in removed:
        print(f"removed {path}")
    return ExitCode.OK
