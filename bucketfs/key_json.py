"""JSON files with keys, as stores and their consoles hand them out: pure parsing.

Three shapes, told from the lines of s3fs by their first bracket: an object with ``accessKeyID``,
``secretAccessKey``, ``endpoint`` and ``bucket`` (also ``access_key_id`` and so on, and
``sessionToken``), the same inside ``{"s3": …}``, and the service credential of IBM Cloud, whose
keys stand in ``cos_hmac_keys``, bare or as ``ibmcloud`` wraps it (``credentials``, in a list of
one). What else is in them is not looked at. IBM's ``endpoints`` is the address of a list of
addresses, which is no endpoint.

Source of IBM's format: https://cloud.ibm.com/docs/cloud-object-storage?topic=cloud-object-storage-service-credentials

No message contains a value of the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bucketfs.option_row import url
from bucketfs.passwd import PasswdError

_BEGINNING = re.compile(r"\s*(\{|\[\s*\{)")

_ACCESS, _SECRET, _TOKEN = "accessKeyID", "secretAccessKey", "sessionToken"
_ENDPOINT, _BUCKET = "endpoint", "bucket"
#: Both spellings are the same without case and underscores.
_FIELDS = {name.lower(): name for name in (_ACCESS, _SECRET, _TOKEN, _ENDPOINT, _BUCKET)}

_IBM_KEYS = "cos_hmac_keys"
_SECTIONS = ("s3", "credentials", _IBM_KEYS)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a JSON file says.

    Attributes:
        access_key: "" if requests are not to be signed.
        endpoint: With its scheme; "" if the file names none.
        bucket: "" if the file names none.
        is_ibm: The keys are of IBM Cloud, so they are of no use at Amazon.
    """

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(default="", repr=False)
    endpoint: str = ""
    bucket: str = ""
    is_ibm: bool = False


class _Object(list[tuple[str, Any]]):
    """A JSON object with all its names, also those that stand there twice."""


def is_json(text: str) -> bool:
    """Whether a file of keys is JSON, by its beginning."""
    return _BEGINNING.match(text.removeprefix("\ufeff")) is not None


def parse(text: str) -> KeyFile:
    """What a JSON file of keys says. Raises PasswdError."""
    top = _loaded(text.removeprefix("\ufeff"))
    found: dict[str, tuple[str, str]] = {}
    is_ibm = False
    for name, where, value in _fields(top, ""):
        _check_text(where, value)
        if name in found and found[name][1] != value:
            raise PasswdError(f'"{found[name][0]}" and "{where}" contradict each other')
        found[name] = where, value
        is_ibm = is_ibm or _IBM_KEYS in where
    access, secret = _keys(found, top)
    token = found.get(_TOKEN, ("", ""))[1]
    if token and not access:
        raise PasswdError(f'"{found[_TOKEN][0]}" contradicts the empty "{found[_ACCESS][0]}"')
    endpoint = _endpoint(*found[_ENDPOINT]) if _ENDPOINT in found else ""
    return KeyFile(access, secret, token, endpoint, found.get(_BUCKET, ("", ""))[1], is_ibm)


def _loaded(text: str) -> _Object:
    try:
        found = json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        place = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "unreadable"
        raise PasswdError(f"the passwd file looks like JSON and is not valid ({place})") from None
    if isinstance(found, _Object):
        return found
    if len(found) != 1:
        raise PasswdError(f"the JSON is a list of {len(found)} credentials; leave one in it")
    top: _Object = found[0]  # it begins with a brace
    return top


def _fields(part: _Object, path: str) -> Iterator[tuple[str, str, Any]]:
    """Names of ours, where they stand, and their values; null is as good as nothing."""
    for name, value in part:
        if name in _SECTIONS:
            if not isinstance(value, _Object):
                raise PasswdError(f'"{path}{name}" must be an object')
            yield from _fields(value, f"{path}{name}.")
        elif (known := _FIELDS.get(name.replace("_", "").lower())) and value is not None:
            yield known, f"{path}{name}", value


def _check_text(where: str, value: Any) -> None:
    if not isinstance(value, str):
        raise PasswdError(f'"{where}" must be a text')
    if not value.isascii() or not value.isprintable() or " " in value:
        raise PasswdError(f'"{where}" has a blank or another character that cannot be in it')


def _keys(found: dict[str, tuple[str, str]], top: _Object) -> tuple[str, str]:
    for name in (_ACCESS, _SECRET):
        if name in found:
            continue
        names = {name for name, _ in top}
        if "apikey" in names and _IBM_KEYS not in names:
            raise PasswdError(
                f'the JSON has no "{_IBM_KEYS}"; create the service credential'
                " with HMAC keys (--parameters '{\"HMAC\": true}')"
            )
        raise PasswdError(f'the JSON has no "{name}"; both keys as "" mean: sign nothing')
    (access_at, access), (secret_at, secret) = found[_ACCESS], found[_SECRET]
    if bool(access) != bool(secret):
        empty, full = (secret_at, access_at) if access else (access_at, secret_at)
        raise PasswdError(f'"{empty}" is empty and "{full}" is not')
    return access, secret


def _endpoint(where: str, value: str) -> str:
    if not value:
        return ""
    address = value if "://" in value else f"https://{value}"
    if "@" in address:
        raise PasswdError(f'"{where}" must be an address without a user name')
    try:
        return url(address)
    except ValueError as error:
        raise PasswdError(f'"{where}" {error}') from None
