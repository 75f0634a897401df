"""Signature Version 4, beside botocore's."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest import mock
from urllib.parse import quote

from botocore.auth import AUTH_TYPE_MAPS
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import example, given
from hypothesis import strategies as st

import bucketfs.store.aws.connection  # noqa: F401 - registers the signer of aiobotocore's way
from bucketfs.store.aws.signing import EMPTY_SHA256, Scope, canonical_value, sign

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=10)


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]),
    key=WORDS,
    query=st.dictionaries(NAMES, WORDS, max_size=3),
    metadata=st.dictionaries(NAMES, WORDS, max_size=4),
    token=st.sampled_from([None, "TOKEN"]),
    body=st.binary(max_size=10),
)
@example(method="GET", key="0", query={"a": "0", "a-": "0"}, metadata={}, token=None, body=b"")
def test_beside_botocore(
    method: str,
    key: str,
    query: dict[str, str],
    metadata: dict[str, str],
    token: str | None,
    body: bytes,
) -> None:
    keys = ReadOnlyCredentials("AK", "SK", token)
    path = "/bucket/" + quote(key, safe="/~")
    pairs = "&".join(f"{name}={quote(value, safe='-._~')}" for name, value in query.items())
    headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
    request = AWSRequest(
        method,
        f"http://host:7480{path}" + (f"?{pairs}" if pairs else ""),
        {**headers, "Range": "bytes=0-4"},
        body,
    )
    now = datetime(2026, 11, 21, 7, 39, 22, tzinfo=UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=now):
        AUTH_TYPE_MAPS["bucketfs-s3v4"](keys, "s3", "eu-1").add_auth(request)
    ours = sign(
        method,
        path,
        pairs,
        {**headers, "Range": "bytes=0-4", "host": "host:7480"},
        keys=keys,
        scope=Scope("eu-1", "s3"),
        moment="20261121T073922Z",
        payload=request.headers["X-Amz-Content-SHA256"],
    )
    assert ours["authorization"] == request.headers["Authorization"]
    assert ours["x-amz-date"] == request.headers["X-Amz-Date"]
    assert ours.get("x-amz-security-token") == request.headers.get("X-Amz-Security-Token")
    assert (body == b"") == (ours["x-amz-content-sha256"] == EMPTY_SHA256)


@given(st.text("a\u3000\u00a0\u2028\u0085\u00fc"))
def test_only_ascii_has_blanks(value: str) -> None:
    """An ideographic space in somebody's metadata is no blank to a server."""
    assert canonical_value(value) == value
    assert canonical_value(f"  {value}  {value} ".strip()) == f"{value} {value}".strip()


@given(WORDS)
def test_rows_of_blanks_are_one(value: str) -> None:
    words = value.split(" ")
    assert canonical_value(value) == " ".join(word for word in words if word)
