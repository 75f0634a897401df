"""Every failure bucketfs can name, and the one table that turns it into an errno.

Two families exist. `FsError` is a rule of the file system (a name that is taken, a directory
that is not empty): it carries its errno from birth. `StoreError` is an answer of the object store
or the lack of one: it carries the S3 code, and `errno_of` alone decides what a program sees.
Nothing else in the code base knows which errno belongs to which S3 code.
"""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar


class FsError(Exception):
    """A POSIX rule said no.

    Args:
        errno: What the program that asked gets.
        why: Words for the log, for the cases in which the errno alone would puzzle someone.
    """

    def __init__(self, errno: int, why: str = "") -> None:
        super().__init__(errno, why)
        self.errno = errno
        self.why = why

    def __str__(self) -> str:
        name = _errno.errorcode.get(self.errno, str(self.errno))
        return f"{name}: {self.why or os.strerror(self.errno)}"


class MountRefused(FsError):
    """The kernel, or fusermount3, does not mount."""


class StoreError(Exception):
    """The object store refused, failed, or did not answer.

    Attributes:
        code: The S3 error code (``NoSuchKey``), for an answer without one the HTTP status as text
            (``"404"``), for no answer at all one of the codes in `NO_ANSWER`.
        status: HTTP status, 0 when there was no answer.
        operation: S3 operation name (``PutObject``).
        key: Object key, "" for bucket operations.
        request_id: The server's request id, "" when it sent none.
        message: The server's words.
        retry_after: Seconds the server asked us to wait, if it did.
        bucket: Which bucket it is about, "" where a mount has only one.
    """

    def __init__(
        self,
        code: str,
        *,
        status: int = 0,
        operation: str = "",
        key: str = "",
        request_id: str = "",
        message: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.status = status
        self.operation = operation
        self.key = key
        self.request_id = request_id
        self.message = message
        self.retry_after = retry_after
        self.bucket = ""

    def __str__(self) -> str:
        where = f" in {self.bucket}" if self.bucket else ""
        parts = [f"{self.operation or 'request'} of {self.key!r}{where}: {self.code}"]
        if self.status:
            parts.append(f"(HTTP {self.status})")
        if self.message:
            parts.append(f"{self.message!r}")
        if self.request_id:
            parts.append(f"[request {self.request_id}]")
        return " ".join(parts)

    def recast(self, kind: type[Kind]) -> Kind:
        """The same failure as one of a `kind` that says more."""
        return kind(
            self.code,
            status=self.status,
            operation=self.operation,
            key=self.key,
            request_id=self.request_id,
            message=self.message,
        )


Kind = TypeVar("Kind", bound=StoreError)


class NotFound(StoreError):
    """The object, upload or bucket does not exist (404)."""


class Unseen(NotFound):
    """A name that may not be looked at, where that is what the store says of absent ones, too.

    Attributes:
        refusal: What the store said.
        certain: It is absent: others can be looked at.
    """

    def __init__(self, refusal: StoreError, *, certain: bool) -> None:
        super().__init__("NoSuchKey", status=404, operation="HeadObject", key=refusal.key)
        self.refusal = refusal
        self.certain = certain


class PreconditionFailed(StoreError):
    """A condition of ours was false: the object is not the version we know (412, 409)."""


class KeyTaken(PreconditionFailed):
    """The object that was to be new exists already."""


class NoAnswer(StoreError):
    """Nothing usable came back: refused connection, time-out, reset, or a body cut short.

    The request may or may not have been carried out.

    Attributes:
        silent_since: Time of the trio clock since which the endpoint has answered nothing at all;
            None if it answers others, as far as is known.
    """

    silent_since: float | None = None


class Unsupported(StoreError):
    """The endpoint does not implement the request (501, 405, NotImplemented)."""


class Unsigned(StoreError):
    """A signature of version 2 was found wrong, or a request not allowed: which, nobody says.

    Old servers leave headers and queries out that are to be signed.
    """


class Damaged(StoreError):
    """The store took an upload, and what stands there now is not what was sent.

    Attributes:
        etag: Of what stands there; "" if somebody else may have made that.
    """

    def __init__(self, code: str, *, operation: str, key: str, message: str, etag: str) -> None:
        super().__init__(code, operation=operation, key=key, message=message)
        self.etag = etag


class BrokenBody(NoAnswer):
    """A GET's body ended before its length was reached.

    Attributes:
        etag: Version whose bytes were delivered so far, "" where the server named none.
        size: Bytes that this version has.
    """

    def __init__(
        self,
        code: str,
        *,
        operation: str = "",
        key: str = "",
        message: str = "",
        etag: str = "",
        size: int | None = None,
    ) -> None:
        super().__init__(code, operation=operation, key=key, message=message)
        self.etag = etag
        self.size = size


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a failure means to a program (errno) and to whoever reads the log (advice)."""

    errno: int
    advice: str = ""


_KEYS = _Meaning(_errno.EACCES, "check the access key and the secret key")
_EXPIRED = _Meaning(_errno.EACCES, "the credentials have expired: renew them")
_DENIED = _Meaning(
    _errno.EACCES,
    "the credentials are not allowed to do this: check the policies of user and bucket",
)
#: S3's names for what an operation takes, which policies speak of.
_ACTIONS: Mapping[str, str] = {
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "CopyObject": "s3:GetObject, s3:PutObject",
    "UploadPartCopy": "s3:GetObject, s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListBuckets": "s3:ListAllMyBuckets",
    "HeadBucket": "s3:ListBucket",
    "CreateBucket": "s3:CreateBucket",
    "DeleteBucket": "s3:DeleteBucket",
}
_CLOCK = _Meaning(_errno.EACCES, "this machine's clock is off: set it (NTP)")
_REGION = _Meaning(_errno.EIO, "the bucket is in another region: name it with -o region=")
_ELSEWHERE = _Meaning(
    _errno.EIO, "the endpoint sends its clients elsewhere: check -o url= and -o region="
)
_PIPELINE = _Meaning(
    _errno.EROFS, "the branch is a pipeline's output, which nobody else writes: write to its input"
)
_ARCHIVED = _Meaning(
    _errno.EACCES,
    'the object is archived; "bucketfs restore --from-archive PATH" makes it readable',
)
_LARGE = _Meaning(_errno.EFBIG, "the object is larger than the store accepts")
_PARTS = _Meaning(_errno.EFBIG, "the file needs too many parts: raise -o multipart_size=")
_FULL = _Meaning(_errno.ENOSPC, "the store is full")
_QUOTA = _Meaning(_errno.EDQUOT, "the quota of the bucket or user is used up")
_BUSY = _Meaning(_errno.EIO, "the store is overloaded; lower -o max_thread_count= if it stays so")
_SERVER = _Meaning(_errno.EIO, "the store failed; its operator can look up the request id")
_CHANGED = _Meaning(_errno.ESTALE, "another client changed the object")
_UNSUPPORTED = _Meaning(_errno.ENOTSUP, "the store does not implement this request")
_TAKEN = _Meaning(_errno.EEXIST, "another client created the object first")
_LONG = _Meaning(_errno.ENAMETOOLONG, "the object key would be longer than 1,024 bytes")
_SLOW = _Meaning(_errno.ETIMEDOUT, "no answer in time: check the network, or raise the time-outs")
_CHANGED_ON_THE_WAY = _Meaning(_errno.EIO, "bytes changed on their way: check proxies and gateways")
_UNREACHABLE = _Meaning(_errno.EHOSTUNREACH, "check -o url= and the network")

#: What endpoints on a file system answer (versitygw, MinIO) that cannot have `f` beside `f/x`.
_BESIDE = "the endpoint cannot have an object and others below its name"
_BELOW_FILE = _Meaning(_errno.ENOTDIR, _BESIDE)
_IS_DIRECTORY = _Meaning(_errno.EISDIR, _BESIDE)
_OF_NAMES: Mapping[str, _Meaning] = {
    "ObjectParentIsFile": _BELOW_FILE,
    "XMinioParentIsObject": _BELOW_FILE,
    "ExistingObjectIsDirectory": _IS_DIRECTORY,
    "XMinioObjectExistsAsDirectory": _IS_DIRECTORY,
}

#: S3 error codes, and the codes of `NO_ANSWER`, to what they mean. A store that is busy or broken
#: after all retries gives EIO rather than EAGAIN: programs take EAGAIN from a file for a reason to
#: ask again at once, for ever.
_BY_CODE: Mapping[str, _Meaning] = {
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "NoRights": _Meaning(
        _errno.EACCES,
        "name what may be listed (BUCKET:/PREFIX), or mount with -o ro to read objects by their"
        " names, and check the bucket's name and the policies (s3:ListBucket, s3:PutObject)",
    ),
    "AccountProblem": _DENIED,
    "InvalidPayer": _DENIED,
    "MethodNotAllowed": _UNSUPPORTED,
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "InvalidSecurity": _KEYS,
    "InvalidToken": _EXPIRED,
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "NoCredentials": _Meaning(_errno.EACCES, "no credentials were found"),
    "CredentialsFailed": _Meaning(
        _errno.EACCES,
        "renew the credentials, or check what they come from (profile, process, role)",
    ),
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "InvalidObjectState": _ARCHIVED,
    "ObjectNotInActiveTierError": _ARCHIVED,
    "NoSuchKey": _Meaning(_errno.ENOENT),
    "NoSuchVersion": _Meaning(_errno.ENOENT),
    "NoSuchBucket": _Meaning(_errno.EIO, "the bucket does not exist: check its name"),
    "NoSuchUpload": _Meaning(_errno.EIO, "someone aborted the multipart upload"),
    "PreconditionFailed": _CHANGED,
    "ConditionalRequestConflict": _CHANGED,
    "OperationAborted": _CHANGED,
    "InvalidRange": _CHANGED,
    "KeyTooLongError": _LONG,
    "KeyTooLong": _LONG,
    "InvalidUtf8": _Meaning(_errno.EILSEQ, "object keys are UTF-8"),
    "InvalidObjectName": _Meaning(_errno.EINVAL, "the store does not accept this object key"),
    "InvalidURI": _Meaning(_errno.EINVAL, "the store does not accept this object key"),
    "InvalidFilePath": _Meaning(_errno.EINVAL, "the store does not accept this name"),  # Pachyderm
    "WriteToOutputBranch": _PIPELINE,  # Pachyderm
    "MetadataTooLarge": _Meaning(_errno.ENOSPC, "the object's metadata is larger than 2 KiB"),
    "EntityTooLarge": _LARGE,
    "MaxMessageLengthExceeded": _LARGE,
    "TooManyParts": _PARTS,
    "QuotaExceeded": _QUOTA,
    "InsufficientCapacity": _FULL,
    "XMinioStorageFull": _FULL,
    "NotImplemented": _UNSUPPORTED,
    "SlowDown": _BUSY,
    "ServiceUnavailable": _BUSY,
    "TooManyRequests": _BUSY,
    "RequestTimeout": _SLOW,
    "InternalError": _SERVER,
    "ConnectTimeout": _SLOW,
    "ReadTimeout": _SLOW,
    "ConnectFailed": _UNREACHABLE,
    "UnknownHost": _Meaning(_errno.EHOSTUNREACH, "the endpoint's name is unknown: check -o url="),
    "TlsFailed": _Meaning(
        _errno.EIO,
        "the endpoint's certificate is not trusted, or it is not https: name its authority's "
        "certificate with -o ca_bundle=, or check -o url=",
    ),
    "ConnectionClosed": _Meaning(_errno.EIO, "the connection broke"),
    "IncompleteBody": _Meaning(_errno.EIO, "the data was cut short on its way"),
    "BadAnswer": _Meaning(
        _errno.EIO,
        "the endpoint does not speak S3, or its answers are changed on their way: check -o url=, "
        "proxies and gateways",
    ),
    "InvalidStorageClass": _Meaning(
        _errno.EIO, "the store has no such class: name another with -o storage_class="
    ),
    "BadConfiguration": _Meaning(_errno.EIO, "check the options and the AWS configuration"),
    "BadDigest": _CHANGED_ON_THE_WAY,
    "XAmzContentChecksumMismatch": _CHANGED_ON_THE_WAY,
    "XAmzContentSHA256Mismatch": _CHANGED_ON_THE_WAY,
    "LocalDiskFull": _Meaning(_errno.ENOSPC, "make room, or name another directory: TMPDIR"),
    "LocalDiskFailed": _Meaning(_errno.EIO, "name another directory for temporary files: TMPDIR"),
    "BadRequest": _Meaning(_errno.EIO),  # never sent; the message says why
    **_OF_NAMES,
}

#: Codes of `NoAnswer`: nothing, or nothing whole, came back.
NO_ANSWER = frozenset(
    {
        "ConnectTimeout",
        "ReadTimeout",
        "ConnectFailed",
        "UnknownHost",
        "TlsFailed",
        "ConnectionClosed",
        "IncompleteBody",
        "BadAnswer",
    }
)

#: For answers whose code is unknown, or that have none, as those to HEAD.
_BY_STATUS: Mapping[int, _Meaning] = {
    301: _ELSEWHERE,
    302: _ELSEWHERE,
    307: _ELSEWHERE,
    308: _ELSEWHERE,
    400: _Meaning(_errno.EIO, "the store does not accept the request"),
    401: _KEYS,
    403: _DENIED,
    404: _Meaning(_errno.ENOENT),
    405: _UNSUPPORTED,
    408: _SLOW,
    409: _CHANGED,
    412: _CHANGED,
    413: _LARGE,
    414: _LONG,
    416: _CHANGED,
    429: _BUSY,
    501: _UNSUPPORTED,
    503: _BUSY,
    507: _FULL,
}


def _meaning(exc: StoreError) -> _Meaning:
    if isinstance(exc, KeyTaken):
        return _TAKEN
    return _BY_CODE.get(exc.code) or _BY_STATUS.get(exc.status) or _SERVER


def is_denied(exc: BaseException) -> bool:
    """Whether the credentials are good, and do not cover the request.

    An answer to HEAD has no code; that keys are refused it says in the same way.
    """
    return isinstance(exc, StoreError) and exc.code in ("AccessDenied", "AllAccessDisabled", "403")


def is_of_names(code: str) -> bool:
    """Whether a name is refused for what is beside it: no condition was false."""
    return code in _OF_NAMES


def says_why(code: str) -> bool:
    """Whether an S3 error code tells what is wrong, as ``InvalidArgument`` does not."""
    return code in _BY_CODE


def errno_of(exc: BaseException) -> int:
    """The errno a program gets for a failure; EIO for what nobody foresaw."""
    if isinstance(exc, FsError):
        return exc.errno
    if isinstance(exc, StoreError):
        return _meaning(exc).errno
    if isinstance(exc, OSError) and exc.errno:
        return exc.errno
    return _errno.EIO


def advice(exc: BaseException) -> str:
    """What whoever reads the log can do about a failure, "" where the errno says it all."""
    if not isinstance(exc, StoreError):
        return ""
    hint = _meaning(exc).advice
    if is_denied(exc) and (action := _ACTIONS.get(exc.operation)):
        return f"{hint} (needed: {action})"
    return hint
