"""The file of a dataset, ``NAME.toml``, which says what is mounted under a name. Pure.

    bucket = "results"
    prefix = "runs"
    url = "https://s3.example.org"
    passwd_file = "results.keys"
    options = ["ro", "stat_cache_expire=10m"]

All but the bucket may be left out. The options may be a table, too: ``[options]``, ``ro = true``.
A name that means nothing here is refused, since its meaning was meant to count.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bucketfs.cli.options import arguments, placeholders
from bucketfs.cli.options.arguments import Arguments, ParseError
from bucketfs.cli.options.placeholders import PlaceholderError
from bucketfs.option_row import url as parse_url
from bucketfs.options import BY_NAME

Word = tuple[str, str | None]

_TEXTS = ("bucket", "prefix", "url", "passwd_file")
_NAMES = (*_TEXTS, "options")
#: Options whose place is not among the options.
_ELSEWHERE = {"bucket": "bucket", "url": "url", "passwd_file": "passwd_file"}


class DatasetError(ValueError):
    """The file makes no sense; the text says in one line which part and why."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is mounted under a name.

    Attributes:
        prefix: As written, without slashes at its ends.
        url: "" if the AWS configuration or a file of keys may name the address.
        passwd_file: As written: absolute, beginning with ``~``, or beside the dataset's file.
        options: Name and value of each; the value is None for a bare name.
    """

    bucket: str
    prefix: str = ""
    url: str = ""
    passwd_file: str = ""
    options: tuple[Word, ...] = ()

    def source(self, below: str = "") -> str:
        """As the command line names it, ``BUCKET[:/PREFIX]``; `below` is a path in the dataset."""
        path = "/".join(part.strip("/") for part in (self.prefix, below) if part.strip("/"))
        return f"{self.bucket}:/{path}" if path else f"{self.bucket}:"


def parse(text: str) -> Dataset:
    """Read a file. Raises DatasetError."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DatasetError(f"is no TOML: {error}") from None
    for name in found:
        if name not in _NAMES:
            raise DatasetError(f"{_unknown(name)}")
    texts = {name: _text(name, found[name]) for name in _TEXTS if name in found}
    if not texts.get("bucket"):
        raise DatasetError('names no bucket; write bucket = "NAME"')
    texts["prefix"] = texts.get("prefix", "").strip("/")
    if texts.get("url"):
        texts["url"] = _address(texts["url"])
    dataset = Dataset(**texts, options=tuple(_options(found.get("options", []))))
    check(dataset)
    return dataset


def check(dataset: Dataset) -> None:
    """See that a mount of it would take its options. Raises DatasetError."""
    # without one, the command line or a file of keys may still name it
    words = [("url", dataset.url or "https://localhost"), ("passwd_file", dataset.passwd_file)]
    try:
        arguments.split_bucket(f"{dataset.bucket}:/")
        arguments.build(Arguments([dataset.source(), "/"], [*words, *dataset.options]))
        placeholders.check(dataset.prefix)
    except (ParseError, PlaceholderError) as error:
        raise DatasetError(str(error)) from None


def text_of(dataset: Dataset) -> str:
    """The file of a dataset; `parse` reads it back."""
    lines = [
        f"{name} = {_quoted(value)}" for name in _TEXTS if (value := getattr(dataset, name)) != ""
    ]
    if dataset.options:
        words = (name if value is None else f"{name}={value}" for name, value in dataset.options)
        lines.append(f"options = [{', '.join(map(_quoted, words))}]")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.7)
    if close:
        return f"{name}: unknown name; did you mean {close[0]}?"
    if name in BY_NAME:
        return f"{name}: unknown name; it is an option: options = [{_quoted(name)}]"
    return f"{name!r}: unknown name; known are {', '.join(_NAMES)}"


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DatasetError(f"{name}: must be a text in quotes")
    if any(letter < " " or letter == "\x7f" for letter in value):
        raise DatasetError(f"{name}: has a control character in it")
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # a byte of a command line
        raise DatasetError(f"{name}: is not UTF-8")
    return value


def _address(text: str) -> str:
    if "@" in text:
        raise DatasetError("url: must be an address without a user name")
    try:
        return parse_url(text)
    except ValueError as error:
        raise DatasetError(f"url: {error}") from None


def _options(found: Any) -> Iterator[Word]:
    match found:
        case list():
            words = [_word(value) for value in found]
        case dict():
            words = list(_pairs(found))
        case _:
            raise DatasetError("options: must be a list of texts, or a table")
    for name, value in words:
        row = BY_NAME.get(name)
        place = _ELSEWHERE.get(row.name if row else name)
        if place:
            raise DatasetError(f"options: {name} stands outside of the options, as {place}")
        yield name, value


def _word(value: Any) -> Word:
    name, equals, rest = _text("options", value).partition("=")
    if not name.strip():
        raise DatasetError("options: one of them is empty")
    return name.strip(), rest if equals else None


def _pairs(found: Mapping[str, Any]) -> Iterator[Word]:
    """A table's options. A switch that is off by its nature is left out when it is false."""
    for name, value in found.items():
        match value:
            case True:
                yield name, None
            case False if name in BY_NAME:
                yield name, "0"
            case False:
                continue
            case int() | float() | str():
                yield name, _text(f"options: {name}", str(value))
            case _:
                raise DatasetError(f"options: {name} must be a text, a number, true or false")
