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

    def __str__(self) -> str:
        parts = [f"{self.operation or 'request'} of {self.key!r}: {self.code}"]
        if self.status:
            parts.append(f"(HTTP {self.status})")
        if self.message:
            parts.append(f"{self.message!r}")
        if self.request_id:
            parts.append(f"[request {self.request_id}]")
        return " ".join(parts)


class NotFound(StoreError):
    """The object, upload or bucket does not exist (404)."""


class PreconditionFailed(StoreError):
    """A condition of ours was false: the object is not the version we know (412, 409)."""


class NoAnswer(StoreError):
    """Nothing usable came back: refused connection, time-out, reset, or a body cut short.

    The request may or may not have been carried out.
    """


class Unsupported(StoreError):
    """The endpoint does not implement the request (501, 405, NotImplemented)."""
