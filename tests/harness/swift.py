"""A client of Swift's API to the test bucket, by plain HTTP: what Swift's users do to it.

``BUCKETFS_TEST_SWIFT`` says where: ``AUTH_URL USER KEY``, of the user to whom the buckets belong.
"""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pytest

from tests.harness.witness import Witness

#: Prefix of the headers that carry user metadata.
META: Final = "x-object-meta-"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def _send(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
    request = urllib.request.Request(url, data=body, method=method, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            named = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, named, answer.read())
    except urllib.error.HTTPError as exc:
        with exc:
            return Answer(exc.code, {}, exc.read())


class Swift:
    """One container: the bucket."""

    def __init__(self, bucket: Witness) -> None:
        named = os.environ.get("BUCKETFS_TEST_SWIFT")
        if not named:
            pytest.skip("needs Swift's API to the endpoint (BUCKETFS_TEST_SWIFT)")
        url, user, key = named.split()
        answer = _send("GET", url, {"X-Auth-User": user, "X-Auth-Key": key})
        self._token = answer.headers["x-auth-token"]
        self._container = f"{answer.headers['x-storage-url']}/{bucket.name}"
        self._name = bucket.name

    def _call(self, method: str, key: str, body: bytes | None = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["X-Auth-Token"] = self._token
        named.setdefault("Content-Type", "application/octet-stream")
        url = f"{self._container}/{urllib.parse.quote(key, safe='/?=')}"
        answer = _send(method, url, named, body)
        assert answer.status < 300, f"{method} {key}: {answer.status} {answer.body!r}"
        return answer

    def put(self, key: str, body: bytes = b"", **headers: str) -> None:
        self._call("PUT", key, body, **headers)

    def get(self, key: str) -> bytes:
        return self._call("GET", key).body

    def head(self, key: str) -> Mapping[str, str]:
        return self._call("HEAD", key).headers

    def etag(self, key: str) -> str:
        return self.head(key)["etag"].strip('"')

    def is_large(self, key: str) -> bool:
        return not {"x-object-manifest", "x-static-large-object"}.isdisjoint(self.head(key))

    def large(self, kind: str, key: str, prefix: str, segments: Sequence[bytes]) -> bytes:
        """Store a large object, ``slo`` or ``dlo``, over segments with a prefix; its bytes."""
        for number, segment in enumerate(segments):
            self.put(f"{prefix}{number:04}", segment)
        if kind == "dlo":
            self.put(key, X_Object_Manifest=f"{self._name}/{prefix}", X_Object_Meta_Color="blue")
        else:
            manifest = [
                {
                    "path": f"{self._name}/{prefix}{number:04}",
                    "etag": hashlib.md5(segment, usedforsecurity=False).hexdigest(),
                    "size_bytes": len(segment),
                }
                for number, segment in enumerate(segments)
            ]
            self.put(
                f"{key}?multipart-manifest=put",
                json.dumps(manifest).encode(),
                X_Object_Meta_Color="blue",
            )
        return b"".join(segments)
