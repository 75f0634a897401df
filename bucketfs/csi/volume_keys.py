"""Secrets of a request → what a file of keys says.

A Secret of Kubernetes is a map. The keys may stand in it in any form that bucketfs reads from a
file: the lines of s3fs or JSON as one value (named ``passwd``, or the only one), or the fields of
that JSON as values of their own, as Datashim has them: ``accessKeyID``, ``secretAccessKey``,
``endpoint``, ``bucket``, ``region``, ``folder`` and ``readonly``; also in capitals with ``AWS_``
before them.

No message contains a value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from bucketfs import key_json
from bucketfs.csi.refused import Refused, invalid
from bucketfs.passwd import PasswdError, parse_passwd

_WHOLE = "passwd"
#: Fields of Datashim's that are not part of a file of keys.
_REGION, _FOLDER, _READ_ONLY = "region", "folder", "readonly"
_OTHERS = frozenset({_REGION, _FOLDER, _READ_ONLY})
_FIELDS = ("accesskeyid", "secretaccesskey", "sessiontoken", "endpoint", "bucket")
_NAMES = ("accessKeyID", "secretAccessKey", "sessionToken", "endpoint", "bucket")


@dataclass(frozen=True, slots=True)
class VolumeKeys:
    """What the secrets of a request say.

    Attributes:
        text: Of a file for ``passwd_file=``; "" if there are no keys.
        bucket: "" if they name none.
        prefix: Of the bucket that they name.
        words: Options of mounts that they come to.
    """

    text: str = field(default="", repr=False)
    bucket: str = ""
    prefix: str = ""
    words: tuple[str, ...] = ()


def of_secrets(secrets: Mapping[str, str], bucket: str) -> VolumeKeys:
    """What the secrets of a request say; those for `bucket`, which the request may name elsewhere.

    Raises:
        Refused: They cannot be keys, with the reason.
    """
    if not secrets:
        return VolumeKeys()
    words = []
    if region := secrets.get(_REGION, ""):
        words.append(f"region={region}")
    if secrets.get(_READ_ONLY, "").lower() == "true":
        words.append("ro")
    text = _text({name: secrets[name] for name in secrets if name not in _OTHERS})
    found = ""
    try:
        if key_json.is_json(text):
            found = key_json.parse(text).bucket
        else:
            parse_passwd(text, bucket)
    except PasswdError as error:
        raise invalid(f"the volume's secret: {error}") from None
    return VolumeKeys(text, found, secrets.get(_FOLDER, "") if found else "", tuple(words))


def _text(secrets: Mapping[str, str]) -> str:
    if _WHOLE in secrets:
        return secrets[_WHOLE]
    fields = {}
    for name, value in secrets.items():
        plain = name.lower().removeprefix("aws_").replace("_", "")
        if plain in _FIELDS:
            fields[_NAMES[_FIELDS.index(plain)]] = value.strip()
    if fields:
        return json.dumps(fields)
    if len(secrets) == 1:
        return next(iter(secrets.values()))
    raise _unknown(secrets)


def _unknown(secrets: Mapping[str, str]) -> Refused:
    names = ", ".join(sorted(secrets))
    return invalid(
        f"the volume's secret has {names}; it needs accessKeyID and secretAccessKey, or passwd with"
        " what a passwd_file has"
    )
