"""The guard around every FUSE handler: a deadline, and an errno for whatever goes wrong.

An exception other than FUSEError that leaves a handler ends the mount (pyfuse3), and a request that
is never answered leaves a process that cannot be killed. So every handler ends here, in a result or
in an errno, and a failure that the errno alone does not explain leaves one line in the log.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio

from bucketfs.errors import FsError, KeyTaken, NotFound, StoreError, advice, errno_of
from bucketfs.fuse.calls import Calls
from bucketfs.repeats import OncePerOutage

log = logging.getLogger(__name__)

#: Failures of our own that whoever runs the mount has to hear of, too: lost bytes, a full disk.
_SERIOUS = frozenset({errno.EIO, errno.EFBIG, errno.ENOSPC})

P = ParamSpec("P")
R = TypeVar("R")


class Guarded(Protocol):
    """What the guard needs of the object whose methods it wraps."""

    calls: Calls
    timeout: float


S = TypeVar("S", bound=Guarded)
Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, R]]


def guarded(*, bounded: bool = True) -> Callable[[Handler[S, P, R]], Handler[S, P, R]]:
    """Wrap a handler method.

    Args:
        bounded: Apply the mount's operation timeout. docs/semantics.md says which are exempt, and
            why; each of their requests is bounded by itself.
    """

    def wrap(handler: Handler[S, P, R]) -> Handler[S, P, R]:
        name = handler.__name__

        async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            call = self.calls.begin(name, _number(args))
            try:
                if not bounded:
                    return await handler(self, *args, **kwargs)
                with trio.fail_after(self.timeout):
                    return await handler(self, *args, **kwargs)
            except pyfuse3.FUSEError:
                raise
            except Exception as error:
                code = _code(name, error, args, self.calls.outages)
                self.calls.failures[f"{name} {errno.errorcode.get(code, str(code))}"] += 1
                raise pyfuse3.FUSEError(code) from error
            finally:
                self.calls.end(call)

        functools.update_wrapper(run, handler)
        return run

    return wrap


def _code(name: str, error: Exception, args: tuple[Any, ...], outages: OncePerOutage) -> int:
    """The errno for an error, logged if that says less than the error does."""
    if isinstance(error, FsError):
        log.log(_level(error), "%s%s: %s", name, _shown(args), error)
        return error.errno
    if isinstance(error, NotFound) and errno_of(error) == errno.ENOENT:
        log.debug("%s: %s", name, error)
        return errno.ENOENT
    if isinstance(error, KeyTaken):
        log.info("%s%s: %s", name, _shown(args), error)  # who wants a name alone asks for this
        return errno.EEXIST
    if isinstance(error, StoreError):
        code = errno_of(error)
        hint = advice(error)
        log.log(
            outages.level(name, error, logging.ERROR),
            "%s failed with %s: %s%s",
            name,
            errno.errorcode.get(code, code),
            error,
            f"; {hint}" if hint else "",
        )
        return code
    if isinstance(error, trio.TooSlowError):
        log.error("%s%s took longer than op_timeout and was given up", name, _shown(args))
        return errno.ETIMEDOUT
    if isinstance(error, OSError) and error.errno:
        log.error("%s%s: %s", name, _shown(args), error)
        return error.errno
    log.error("%s%s failed unexpectedly; the mount goes on", name, _shown(args), exc_info=error)
    return errno.EIO


def _number(args: tuple[Any, ...]) -> int:
    first = args[0] if args else 0
    return first if isinstance(first, int) else 0


def _level(error: FsError) -> int:
    if error.errno in _SERIOUS:
        return logging.WARNING
    return logging.INFO if error.why else logging.DEBUG


def _shown(args: tuple[Any, ...]) -> tuple[object, ...]:
    """Numbers and names among the arguments; never file contents."""
    return tuple(a for a in args if isinstance(a, int) or (isinstance(a, bytes) and len(a) < 256))
