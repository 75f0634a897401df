"""How the S3 gateway of Pachyderm looks at signatures: github.com/pachyderm/s2, s2.go.

A token is the access key and the secret key at once. Version 2 is checked as that library does it,
which is not as Amazon does: no ``x-amz-`` header is signed, the path is the decoded one, and
``?delete`` is no subresource.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import quote

#: How the library orders and names what it takes for subresources.
_SUBRESOURCES = (
    "acl", "lifecycle", "location", "logging", "notification", "partNumber", "policy",
    "requestPayment", "torrent", "uploadId", "uploads", "versionId", "versioning", "versions",
)  # fmt: skip
_V4 = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]*)/([^/]*)/([^/]*)/s3/aws4_request, ?"
    r"SignedHeaders=([^,]+), ?Signature=(.+)"
)
_V2 = re.compile(r"AWS ([^:]*):(.*)")


def refusal(
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    token: str | None,
) -> tuple[int, str] | None:
    """Status and code that a request is refused with; None for one that is let in.

    Args:
        method: As it came.
        path: Decoded.
        query: Decoded.
        headers: By their names in small letters.
        token: Who may come in; None: anybody who signs with one text as both keys, or not at all.
    """
    sent = headers.get("authorization", "")
    if not sent:
        return None if token is None else (403, "AccessDenied")
    pattern = _V4 if sent.startswith("AWS4-") else _V2
    found = pattern.fullmatch(sent)
    if found is None:
        return 400, "AuthorizationHeaderMalformed" if pattern is _V4 else "InvalidArgument"
    if token is not None and found[1] != token:
        return 403, "InvalidAccessKeyId"
    if pattern is _V4:
        right = _version_4(found, method, path, query, headers)
        return None if found[5] == right else (403, "SignatureDoesNotMatch")
    right = _version_2(found[1], method, path, query, headers)
    return None if found[2] == right else (403, "AccessDenied")


def _version_4(
    found: re.Match[str],
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
) -> str:
    names = sorted(found[4].split(";"))
    request = "\n".join(
        [
            method,
            quote(path, safe="/-_.~"),
            "&".join(
                f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(query.items())
            ),
            *(f"{name}:{headers.get(name, '').strip()}" for name in names),
            "",
            ";".join(names),
            headers.get("x-amz-content-sha256", ""),
        ]
    )
    scope = f"{found[2]}/{found[3]}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{headers.get('x-amz-date', '')}\n{scope}\n{digest}"
    key = b"AWS4" + found[1].encode()
    for part in (found[2], found[3], "s3", "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def _version_2(
    key: str, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
) -> str:
    named = [f"{k}={query[k]}" if query[k] else k for k in _SUBRESOURCES if k in query]
    date = headers.get("x-amz-date") or headers.get("date", "")
    described = [headers.get("content-md5", ""), headers.get("content-type", ""), date]
    resource = path + ("?" + "&".join(named) if named else "")
    text = "\n".join([method, *described, resource])
    return base64.b64encode(hmac.new(key.encode(), text.encode(), hashlib.sha1).digest()).decode()
