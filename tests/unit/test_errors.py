"""The one table: what a program sees, and what whoever reads the log is told."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.errors import (
    NO_ANSWER,
    BrokenBody,
    FsError,
    KeyTaken,
    NoAnswer,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsupported,
    advice,
    errno_of,
)


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("NoSuchKey", 404, errno.ENOENT),
        ("404", 404, errno.ENOENT),
        ("NoSuchBucket", 404, errno.EIO),
        ("NoSuchUpload", 404, errno.EIO),
        ("AccessDenied", 403, errno.EACCES),
        ("403", 403, errno.EACCES),
        ("SignatureDoesNotMatch", 403, errno.EACCES),
        ("InvalidAccessKeyId", 403, errno.EACCES),
        ("ExpiredToken", 400, errno.EACCES),
        ("RequestTimeTooSkewed", 403, errno.EACCES),
        ("InvalidObjectState", 403, errno.EACCES),
        ("KeyTooLongError", 400, errno.ENAMETOOLONG),
        ("InvalidUtf8", 0, errno.EILSEQ),
        ("EntityTooLarge", 400, errno.EFBIG),
        ("413", 413, errno.EFBIG),
        ("TooManyParts", 400, errno.EFBIG),
        ("QuotaExceeded", 403, errno.EDQUOT),
        ("507", 507, errno.ENOSPC),
        ("MetadataTooLarge", 400, errno.ENOSPC),
        ("InvalidRange", 416, errno.ESTALE),
        ("LocalDiskFull", 0, errno.ENOSPC),
        ("SlowDown", 503, errno.EIO),
        ("503", 503, errno.EIO),
        ("429", 429, errno.EIO),
        ("InternalError", 500, errno.EIO),
        ("NeverHeardOf", 418, errno.EIO),
    ],
)
def test_answers(code: str, status: int, expected: int) -> None:
    assert errno_of(StoreError(code, status=status)) == expected


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (FsError(errno.ENOTEMPTY), errno.ENOTEMPTY),
        (NotFound("404", status=404), errno.ENOENT),
        (PreconditionFailed("PreconditionFailed", status=412), errno.ESTALE),
        (PreconditionFailed("ConditionalRequestConflict", status=409), errno.ESTALE),
        (KeyTaken("PreconditionFailed", status=412), errno.EEXIST),
        (Unsupported("NotImplemented", status=501), errno.ENOTSUP),
        (Unsupported("405", status=405), errno.ENOTSUP),
        (NoAnswer("ReadTimeout"), errno.ETIMEDOUT),
        (NoAnswer("ConnectTimeout"), errno.ETIMEDOUT),
        (NoAnswer("ConnectFailed"), errno.EHOSTUNREACH),
        (NoAnswer("UnknownHost"), errno.EHOSTUNREACH),
        (BrokenBody("ConnectionClosed", etag="e"), errno.EIO),
        (OSError(errno.ENOSPC, "cache"), errno.ENOSPC),
        (OSError("nothing known"), errno.EIO),
        (RuntimeError("a bug"), errno.EIO),
    ],
)
def test_kinds(exc: BaseException, expected: int) -> None:
    assert errno_of(exc) == expected


@given(st.text(), st.integers(0, 999))
def test_anything_has_an_errno(code: str, status: int) -> None:
    exc = StoreError(code, status=status)
    assert errno_of(exc) in errno.errorcode
    # ENOSYS would make the kernel never ask again, EAGAIN programs ask for ever.
    assert errno_of(exc) not in (errno.ENOSYS, errno.EAGAIN)
    assert "\n" not in advice(exc)


@pytest.mark.parametrize("code", sorted(NO_ANSWER))
def test_no_answer_is_explained(code: str) -> None:
    assert advice(NoAnswer(code))


def test_a_bug_has_no_advice() -> None:
    assert advice(RuntimeError("a bug")) == ""


@pytest.mark.parametrize("code", ["BadConfiguration", "BadDigest", "BadRequest"])
def test_what_did_not_come_from_the_store_is_not_its_operators_business(code: str) -> None:
    assert "operator" not in advice(StoreError(code))


def test_a_line_for_the_log_names_all_it_knows() -> None:
    exc = StoreError(
        "AccessDenied",
        status=403,
        operation="PutObject",
        key="a\nb",
        request_id="tx1",
        message="no",
    )
    assert str(exc) == "PutObject of 'a\\nb': AccessDenied (HTTP 403) 'no' [request tx1]"
