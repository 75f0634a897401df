"""Between the values of `bucketfs.store.base` and what aiobotocore takes, answers and raises."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    LoginError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as ConnectionFailure,
)
from botocore.parsers import ResponseParserError
from botocore.utils import parse_to_aware_datetime

from bucketfs.errors import (
    KeyTaken,
    NoAnswer,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsigned,
    Unsupported,
    is_of_names,
)
from bucketfs.store.aws.error_body import words
from bucketfs.store.base import Body, Headers, ObjectInfo, manifest_token, version_token
from bucketfs.store.config import StoreConfig

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}

#: Requests that carry what some servers leave out of signatures of version 2: headers of Amazon's
#: own, and ``?delete``.
_SIGNED_APART: Final = frozenset(
    {"PutObject", "CopyObject", "DeleteObjects", "CreateMultipartUpload", "UploadPart"}
)
#: System headers kept across a copy: our name (that of HTTP) to botocore's.
SYSTEM_HEADERS: Final = {
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "content-language": "ContentLanguage",
    "expires": "Expires",
}

#: The ETag of what was uploaded in one piece, mostly.
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_METADATA: Final = "x-amz-meta-"
_CHECKSUM: Final = "x-amz-checksum-"

#: Headers of Swift's large objects: of a DLO, of an SLO at Ceph, and of one at Swift's own gateway.
_LARGE: Final = ("x-object-manifest", "x-object-meta-static-large-object", "x-static-large-object")

#: Status by code for errors inside a 200, which botocore reports as a 500.
_REAL_STATUS: Final = {
    "PreconditionFailed": 412,
    "ConditionalRequestConflict": 409,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "SlowDown": 503,
    "AccessDenied": 403,
}


class Payload:
    """A body on its way into botocore, which asks for its length, and to the transport.

    Attributes:
        sha256: Hash for the signature, None where bodies are not signed.
    """

    def __init__(self, body: Body, *, sha256: str | None) -> None:
        self._body = body
        self.sha256 = sha256

    def __len__(self) -> int:
        return len(self._body)

    def __bool__(self) -> bool:
        return True

    def chunks(self) -> Iterator[bytes | memoryview]:
        return self._body.chunks()


# what was stored together says the same, and then shares one number in memory
@functools.lru_cache(maxsize=1024)
def unix_time(text: str) -> int:
    """Whole seconds of an HTTP date (``Sat, 21 Nov 2026 07:39:22 GMT``) or an ISO 8601 one.

    0 for no text at all. Raises ValueError for any other.
    """
    if not text:
        return 0
    if text[0].isdigit():
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    else:
        moment = _http_date(text)
    try:
        return int(moment.timestamp())
    except OverflowError:
        raise ValueError(text) from None


def _http_date(text: str) -> datetime:
    try:
        day, month, year, clock = text.split()[1:5]
        hour, minute, second = map(int, clock.split(":"))
        # the only one above 59 that may come is a leap second (RFC 9110, 5.6.7)
        second = 59 if second == 60 else second
        return datetime(int(year), _MONTHS[month], int(day), hour, minute, second, tzinfo=UTC)
    except (KeyError, OverflowError) as exc:
        raise ValueError(text) from exc


def time_told(text: str | None) -> int:
    """As `unix_time`, of one object's answer, which is good for more than its date: 0 for none."""
    try:
        return unix_time(text or "")
    except ValueError:
        return 0


def unquote(etag: str | None) -> str:
    """An ETag as a token: without quotes and without the mark of a weak one."""
    return (etag or "").removeprefix("W/").strip('"')


def headers_of(answer: Mapping[str, Any]) -> Mapping[str, str]:
    """The headers that came with an answer, by lower-case name."""
    headers: Mapping[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    return headers


def status_of(answer: Mapping[str, Any]) -> int:
    """The HTTP status of an answer."""
    status: int = answer["ResponseMetadata"]["HTTPStatusCode"]
    return status


def headers_of_object(came: Mapping[str, str], operation: str, key: str) -> Mapping[str, str]:
    """The headers of an answer that shows an object, and so says which version it is.

    Raises:
        NoAnswer: It does not: a portal that wants a login, or a broken balancer, answers 200 to
            anything.
    """
    if not came.get("etag") and not came.get("last-modified"):
        raise NoAnswer("BadAnswer", operation=operation, key=key, message="no object in the answer")
    return came


def stored_headers(came: Mapping[str, str]) -> Headers:
    """Those of an answer's headers, by lower-case name, that were stored with the object."""
    return Headers(
        {
            name.removeprefix(_METADATA): value
            for name, value in came.items()
            if name.startswith(_METADATA)
        },
        came.get("content-type", ""),
        {name: came[name] for name in SYSTEM_HEADERS if came.get(name)},
    )


def object_info(key: str, came: Mapping[str, str], size: int) -> ObjectInfo:
    """What the headers of HeadObject and GetObject say about an object."""
    etag = unquote(came.get("etag"))
    return ObjectInfo(
        key,
        size,
        manifest_token(etag) if any(came.get(name) for name in _LARGE) else etag,
        time_told(came.get("last-modified")),
        replace(stored_headers(came), tag_count=_tag_count(came)),
        storage_class(came.get("x-amz-storage-class")),
    )


def _tag_count(came: Mapping[str, str]) -> int:
    said = came.get("x-amz-tagging-count", "")
    return int(said) if said.isdecimal() else 0


def details(came: Mapping[str, str]) -> dict[str, str]:
    """What the headers of HeadObject say beside what `object_info` needs; see `Store.details`."""
    named = {
        "content_type": came.get("content-type", ""),
        "cache_control": came.get("cache-control", ""),
        "version_id": came.get("x-amz-version-id", ""),
        "storage_class": came.get("x-amz-storage-class", "STANDARD"),
        "restore": came.get("x-amz-restore", ""),
        "encryption": came.get("x-amz-server-side-encryption", ""),
        **{
            "checksum_" + name.removeprefix(_CHECKSUM): value
            for name, value in came.items()
            if name.startswith(_CHECKSUM)
        },
    }
    return {name: value for name, value in named.items() if value}


def storage_class(name: str | None) -> str:
    """A storage class as answers name it, "" for the standard one."""
    return "" if name in (None, "STANDARD") else str(name)


def header_params(headers: Headers) -> dict[str, Any]:
    """The request parameters that give an object its headers (no ``Expires`` that is no date)."""
    params: dict[str, Any] = {SYSTEM_HEADERS[name]: value for name, value in headers.other.items()}
    if "Expires" in params and not _is_writable_time(params["Expires"]):
        del params["Expires"]
    if headers.metadata:
        params["Metadata"] = dict(headers.metadata)
    if headers.content_type:
        params["ContentType"] = headers.content_type
    return params


def _is_writable_time(text: str) -> bool:
    """Whether botocore, which writes all dates anew, can read it."""
    try:
        parse_to_aware_datetime(text)
    except (ValueError, RuntimeError, OverflowError):
        return False
    return True


#: What botocore raises when a source of credentials is there and gives none: an SSO session has
#: expired, a process fails, a metadata service refuses.
NO_KEYS: Final = (
    CredentialRetrievalError,
    LoginError,
    MetadataRetrievalError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)


def translate(
    exc: BotoCoreError | ClientError | ResponseParserError, operation: str, key: str
) -> StoreError:
    """Our name for a failure of botocore's or the server's."""
    if isinstance(exc, ClientError):
        return _from_answer(exc.response, operation, key)
    if isinstance(exc, NoCredentialsError):
        return StoreError("NoCredentials", operation=operation, key=key)
    if isinstance(exc, NO_KEYS):
        return StoreError("CredentialsFailed", operation=operation, key=key, message=str(exc))
    if isinstance(exc, (HTTPClientError, ConnectionFailure)):
        code = _no_answer_code(exc)
        return NoAnswer(code, operation=operation, key=key, message=words(str(exc)))
    if isinstance(exc, ResponseParserError):
        return NoAnswer("BadAnswer", operation=operation, key=key, message=words(str(exc)))
    return StoreError("BadRequest", operation=operation, key=key, message=words(str(exc)))


def taken(exc: PreconditionFailed) -> KeyTaken:
    """What the refusal of an `if_none_match` means."""
    return exc.recast(KeyTaken)


def unsigned(exc: StoreError) -> StoreError:
    """What a failure means where requests are signed with version 2."""
    apart = exc.status == HTTPStatus.FORBIDDEN and exc.operation in _SIGNED_APART
    return exc.recast(Unsigned) if apart else exc


def _no_answer_code(exc: BotoCoreError) -> str:
    cause = exc.kwargs.get("error")
    if isinstance(exc, ConnectTimeoutError):
        return "ConnectTimeout"
    if isinstance(exc, ReadTimeoutError) or isinstance(cause, TimeoutError):
        return "ReadTimeout"
    if isinstance(exc, SSLError):
        return "TlsFailed"
    if isinstance(exc, (EndpointConnectionError, ProxyConnectionError)):
        return "UnknownHost" if isinstance(cause, socket.gaierror) else "ConnectFailed"
    if isinstance(exc, ConnectionClosedError) or isinstance(cause, OSError):
        return "ConnectionClosed"
    return "BadAnswer"


def _from_answer(response: Mapping[str, Any], operation: str, key: str) -> StoreError:
    error = response.get("Error", {})
    metadata = response.get("ResponseMetadata", {})
    headers = metadata.get("HTTPHeaders", {})
    status = metadata.get("HTTPStatusCode", 0)
    code = error.get("Code") or str(status)
    status = _REAL_STATUS.get(code, status)
    after = headers.get("retry-after", "")
    return _error_class(code, status)(
        code,
        status=status,
        operation=operation,
        key=key,
        request_id=_printable(headers.get("x-amz-request-id", "")),
        message=error.get("Message") or "",
        retry_after=float(after) if after.isdecimal() else None,
    )


def _printable(text: str) -> str:
    return words(text) if text.isprintable() else ""


def _error_class(code: str, status: int) -> type[StoreError]:
    if code == "NotImplemented" or status in (405, 501):
        return Unsupported
    if (status in (409, 412) and not is_of_names(code)) or code == "PreconditionFailed":
        return PreconditionFailed
    return NotFound if status == 404 else StoreError


def customer_key_params(config: StoreConfig, prefix: str) -> dict[str, Any]:
    """The three headers of SSE-C, which every request for such an object carries."""
    key = config.encryption.customer_key
    if not key:
        return {}
    return {
        f"{prefix}Algorithm": "AES256",
        f"{prefix}Key": base64.b64encode(key).decode(),
        f"{prefix}KeyMD5": base64.b64encode(
            hashlib.md5(key, usedforsecurity=False).digest()
        ).decode(),
    }


def new_object_params(config: StoreConfig) -> dict[str, Any]:
    """What every new object of a mount is given."""
    params = {
        "StorageClass": config.storage_class,
        "ACL": config.acl,
        "ServerSideEncryption": config.encryption.algorithm,
        "SSEKMSKeyId": config.encryption.kms_key_id,
    }
    return {name: value for name, value in params.items() if value}


def with_version(info: ObjectInfo, *, etags: bool) -> ObjectInfo:
    """What an answer says of an object, with something to tell its version by.

    Args:
        info: As the answer has it.
        etags: The endpoint's ETags can be relied on.
    """
    if info.etag and etags:
        return info
    return replace(info, etag=version_token(info.size, info.last_modified))


def is_copy(
    found: ObjectInfo, *, size: int, source: str, replaced: str, metadata: Mapping[str, str]
) -> bool:
    """Whether an object may be the copy that an empty answer was to tell of.

    Args:
        found: What stands under the key now.
        size: Of the copy.
        source: ETag of what was to be copied, "" if that was not said.
        replaced: ETag of what the copy was to replace, "" if that was not said.
        metadata: What it was to get in place of that of its source; empty where it keeps that, or
            nobody knows whether the endpoint stores any.
    """
    if found.size != size or (replaced != source and found.etag == replaced):
        return False
    if metadata and found.headers is not None:
        return dict(found.headers.metadata) == dict(metadata)
    # the copy of an object in one piece has its ETag
    return found.etag == source or not (_MD5.fullmatch(found.etag) and _MD5.fullmatch(source))


def unusable(operation: str, key: str, why: str) -> NoAnswer:
    """The failure of a request whose answer says nothing that can be used."""
    return NoAnswer("BadAnswer", operation=operation, key=key, message=why)
