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
    value = value.strip(" \t")
    return _BLANKS.sub(r"\1", value) if "  " in value or "\t" in value else value


class Signer:
    """Signs requests that differ in their paths alone.

    Args:
        method: In capitals.
        query: As it is sent, encoded, without its question mark.
        headers: All that are to be signed, Host among them.
        keys: What signs.
        scope: Where the signature holds.
        moment: Now, as `timestamp` writes it.
        payload: Hex SHA-256 of the body, or ``UNSIGNED-PAYLOAD``.

    Attributes:
        added: Headers that are signed, to be sent beside the others.
    """

    __slots__ = ("_after", "_key", "_method", "_text", "_words", "added")

    def __init__(
        self,
        method: str,
        query: str,
        headers: Mapping[str, str],
        *,
        keys: Keys,
        scope: Scope,
        moment: str,
        payload: str,
    ) -> None:
        self.added = {"x-amz-content-sha256": payload, "x-amz-date": moment}
        if keys.token:
            self.added["x-amz-security-token"] = keys.token
        signed = {name.lower(): canonical_value(value) for name, value in headers.items()}
        signed |= self.added
        names = sorted(signed)
        listed = ";".join(names)
        lines = "".join([f"{name}:{signed[name]}\n" for name in names])
        pairs = query
        if "&" in query:  # by names, of which one may begin with another
            pairs = "&".join(sorted(query.split("&"), key=lambda pair: pair.split("=", 1)))
        where = f"{moment[:8]}/{scope.region}/{scope.service}/aws4_request"
        self._method = method
        self._after = f"{pairs}\n{lines}\n{listed}\n{payload}"
        self._text = f"AWS4-HMAC-SHA256\n{moment}\n{where}\n"
        self._key = signing_key(keys.secret_key, moment[:8], scope.region, scope.service)
        self._words = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{where}, SignedHeaders={listed}, "
            "Signature="
        )

    def authorization(self, path: str) -> str:
        """The header that signs a request for a path, encoded as it is sent."""
        canonical = f"{self._method}\n{path}\n{self._after}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(self._key, (self._text + digest).encode(), "sha256").hex()
        return self._words + signature


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
    """The headers that sign one request, whose path is encoded as it is sent; see `Signer`."""
    signer = Signer(method, query, headers, keys=keys, scope=scope, moment=moment, payload=payload)
    return {**signer.added, "authorization": signer.authorization(path)}
