"""s3fs's password file: pure parsing, and the rules for its permissions.

The format is that of s3fs 1.97 (``src/s3fs_cred.cpp``): ``AK:SK`` for every bucket,
``BUCKET:AK:SK`` for one, split at the first and the last colon; ``AWSAccessKeyId=`` with
``AWSSecretKey=`` beat both. Blanks at the ends (CR included), empty lines and ``#`` comments are
ignored, and so is a line with neither ``:`` nor ``=``. Unlike there, both keys may be empty
(``:``): nothing is signed then. Files of JSON: `bucketfs.key_json`.

No message contains any part of a key.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

ETC_PASSWD = "/etc/passwd-s3fs"  # noqa: S105 - a path

_ACCESS = "AWSAccessKeyId"
_SECRET = "AWSSecretKey"  # noqa: S105 - a name


class PasswdError(ValueError):
    """The file cannot be used; the text says why and names no secret."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An access key and its secret; both are empty where nothing is to be signed."""

    access_key: str
    secret_key: str = field(repr=False)


def permission_fault(path: str, mode: int) -> str | None:
    """What is wrong with the mode of a password file, or None.

    600 or 400 everywhere, 640 only for ``/etc/passwd-s3fs``; the owner is not looked at. Same
    order of tests and same words as in s3fs.
    """
    if mode & stat.S_IRWXO:
        return f"credentials file {path} should not have others permissions"
    if path == ETC_PASSWD:
        if mode & stat.S_IWGRP:
            return f"credentials file {path} should not have group writable permissions"
    elif mode & stat.S_IRWXG:
        return f"credentials file {path} should not have group permissions"
    if mode & (stat.S_IXUSR | stat.S_IXGRP):
        return f"credentials file {path} should not have executable permissions"
    return None


def parse_passwd(text: str, bucket: str) -> KeyPair:
    """The keys for `bucket`, "" for those that list all buckets. Raises PasswdError."""
    lines = _lines(text.removeprefix("\ufeff"))
    pair = _named_keys(lines)
    if pair is None:
        entries = _entries(lines)
        pair = entries.get(bucket) or entries.get("")
    if pair is None:
        raise PasswdError(
            "Not found access key/secret key in passwd file:"
            f"{f' no line for bucket {bucket} and' if bucket else ''}"
            " no default line ACCESS_KEY:SECRET_KEY"
        )
    if bool(pair.access_key) != bool(pair.secret_key):
        half = "access" if not pair.access_key else "secret"
        raise PasswdError(
            "failed to set internal data for access key/secret key from passwd file:"
            f" the {half} key is empty"
        )
    return pair


def buckets_named(text: str) -> list[str]:
    """The buckets that have keys of their own. Raises PasswdError."""
    lines = _lines(text.removeprefix("\ufeff"))
    return [name for name in _entries(lines) if name] if _named_keys(lines) is None else []


def has_default(text: str) -> bool:
    """Whether there are keys for every bucket. Raises PasswdError."""
    lines = _lines(text.removeprefix("\ufeff"))
    return _named_keys(lines) is not None or "" in _entries(lines)


def _lines(text: str) -> list[str]:
    """The lines that say something, trimmed."""
    kept = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(" \t\r\v\f")
        if not line or line.startswith("#"):
            continue
        if " " in line or "\t" in line:
            raise PasswdError(
                f"invalid line in passwd file, found whitespace character (line {number})"
            )
        if line.startswith("["):
            raise PasswdError(
                f'invalid line in passwd file, found a bracket "[" character (line {number});'
                " an AWS credentials file is named with profile=, not passwd_file="
            )
        kept.append(line)
    return kept


def _named_keys(lines: list[str]) -> KeyPair | None:
    """``AWSAccessKeyId=`` and ``AWSSecretKey=``; the first of two equal names counts."""
    named: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if equals:
            named.setdefault(name, value)
    if _ACCESS not in named and _SECRET not in named:
        return None
    if _ACCESS not in named or _SECRET not in named:
        missing = _ACCESS if _ACCESS not in named else _SECRET
        raise PasswdError(f"AWSAccesskey or AWSSecretkey is not specified: no line {missing}=")
    return KeyPair(named[_ACCESS], named[_SECRET])


def _entries(lines: list[str]) -> dict[str, KeyPair]:
    """Keys by bucket name; "" is the default entry."""
    entries: dict[str, KeyPair] = {}
    for line in lines:
        first, last = line.find(":"), line.rfind(":")
        if first < 0:
            continue
        bucket = line[:first] if first != last else ""
        access = line[first + 1 : last] if first != last else line[:first]
        if bucket in entries:
            raise PasswdError(
                "there are multiple entries for the same bucket"
                f"({bucket or 'default'}) in the passwd file"
            )
        entries[bucket] = KeyPair(access, line[last + 1 :])
    return entries
