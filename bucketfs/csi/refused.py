"""How a call of the orchestrator fails: a code of gRPC, and one line for a person."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from grpc import StatusCode

from bucketfs.cli.failure import ExitCode, Failure

#: What a failure of bucketfs is to an orchestrator.
_CODES: Mapping[int, StatusCode] = MappingProxyType(
    {
        ExitCode.USAGE: StatusCode.INVALID_ARGUMENT,
        ExitCode.CREDENTIALS: StatusCode.UNAUTHENTICATED,
        ExitCode.BUCKET: StatusCode.NOT_FOUND,
        ExitCode.DENIED: StatusCode.PERMISSION_DENIED,
        ExitCode.NETWORK: StatusCode.UNAVAILABLE,
    }
)


class Refused(Exception):
    """A call cannot be carried out.

    Args:
        code: What the caller is to make of it: whether to try again, and who can mend it.
        line: One line: what is wrong and what to do about it, without secrets.
    """

    def __init__(self, code: StatusCode, line: str) -> None:
        super().__init__(line)
        self.code = code
        self.line = line


def invalid(line: str) -> Refused:
    """The request makes no sense, now and later."""
    return Refused(StatusCode.INVALID_ARGUMENT, line)


def of_exit(code: int, line: str) -> Refused:
    """The refusal for a bucketfs that has ended with an exit code."""
    return Refused(_CODES.get(code, StatusCode.INTERNAL), line)


def of_failure(failure: Failure) -> Refused:
    """The refusal for a failure inside this process."""
    return of_exit(failure.code, failure.line)
