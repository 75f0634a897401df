"""AWS Signature Version 4 of a request to S3, by its definition and nothing else.

Source: Amazon S3 API Reference, "Signature Calculations for the Authorization Header". botocore's
signer, with which a test compares this one, works its way through mail headers and parsed URLs and
takes five times as long. Pure: no clock and no configuration is read here.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

#: Hash of no body.
EMPTY_SHA256: Final = hashlib.sha256().hexdigest()

_BLANKS: Final = re.compile("([ \t])[ \t]+")


class Keys(Protocol):
    """What signs; never shown anywhere."""

    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def token(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a signature holds.

    Attributes:
        region: As the endpoint's rules name it.
        service: ``s3``, mostly.
    """

    region: str
    service: str


def timestamp(moment: float) -> str:
    """Unix time as signatures write it: UTC as ``20261121T073922Z``."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))


@functools.lru_cache(maxsize=8)
def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The key of a day."""
    key = f"AWS4{secret}".encode()
    for step in (date, region, service, "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return key


def canonical_value(value: str) -> str:
    """A header's value as signatures see it: blanks are trimmed, rows of them are one.

    Only ASCII has blanks: servers see bytes, to which an ideographic space is three like any other.
    """
    return _BLANKS.sub(r"\1", value.strip(" \t"))


def sign(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    *,
    keys: Keys,
    scope: Scope,
    moment: str,
    payload: str,
) -> dict[str, str]:
    """The headers that sign a request, to be sent beside its others.

    Args:
        method: In capitals.
        path: As it is sent, encoded.
        query: As it is sent, encoded, without its question mark.
        headers: All that are to be signed, Host among them.
        keys: What signs.
        scope: Where the signature holds.
        moment: Now, as `timestamp` writes it.
        payload: Hex SHA-256 of the body, or ``UNSIGNED-PAYLOAD``.
    """
    added = {"x-amz-content-sha256": payload, "x-amz-date": moment}
    if keys.token:
        added["x-amz-security-token"] = keys.token
    signed = {name.lower(): canonical_value(value) for name, value in headers.items()} | added
    names = sorted(signed)
    listed = ";".join(names)
    lines = "".join([f"{name}:{signed[name]}\n" for name in names])
    pairs = query
    if "&" in query:  # by names, of which one may begin with another
        pairs = "&".join(sorted(query.split("&"), key=lambda pair: pair.split("=", 1)))
    canonical = f"{method}\n{path}\n{pairs}\n{lines}\n{listed}\n{payload}"
    where = f"{moment[:8]}/{scope.region}/{scope.service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = signing_key(keys.secret_key, moment[:8], scope.region, scope.service)
    text = f"AWS4-HMAC-SHA256\n{moment}\n{where}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    added["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{where}, "
        f"SignedHeaders={listed}, Signature={signature}"
    )
    return added
