"""Going to the background only after the mount stands, and telling the caller how it went.

The parent forks first and waits; the child does everything from the first import of an event loop
on, and reports through a pipe: exit code and one line. So the caller's exit code is the truth, and
no thread or event loop is ever carried across a fork.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import NoReturn, Protocol

from bucketfs import log as logs
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import beginning
from bucketfs.cli.process import supervisor
from bucketfs.options import Options

log = logging.getLogger("bucketfs.daemon")

#: A report is kept shorter than PIPE_BUF, so that it arrives whole.
_LONGEST_LINE = 2000


class Report(Protocol):
    """How the mounting process tells its caller that the mount stands."""

    def ready(self) -> None:
        """The kernel answers: the caller may go on. Called once."""
        ...


Body = Callable[[Report], int]


class ForegroundReport:
    """``-f``: there is nobody to tell."""

    def ready(self) -> None:
        return


class PipeReport:
    """The child's end of the pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def ready(self) -> None:
        """Leave the terminal, then let the parent return 0."""
        sys.stdout.flush()
        sys.stderr.flush()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        if null > 2:
            os.close(null)
        self._send(ExitCode.OK, "")

    def inheritable(self) -> int:
        """The descriptor, for a program that takes this one's place."""
        os.set_inheritable(self._fd, True)
        return self._fd

    def failed(self, failure: Failure) -> None:
        self._send(failure.code, failure.line)

    def _send(self, code: int, line: str) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            os.write(fd, json.dumps([int(code), line[:_LONGEST_LINE]]).encode())
        except BrokenPipeError:
            # The caller gave up waiting; the mount goes on without it.
            pass
        finally:
            os.close(fd)


def patience(options: Options) -> float:
    """Seconds the bucket may take to answer the first question."""
    attempts = options.retries + 1
    return min(options.op_timeout, attempts * (options.connect_timeout + options.readwrite_timeout))


def harden() -> None:
    """No core files (they would hold keys), private files by default, descriptors for many."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # every process may: the soft limit is low for the sake of select(2), which is not used here
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_in_background(body: Body, *, wait: float, inherited: Iterable[int] = ()) -> int:
    """Run `body` in a child that survives the caller; return when it is ready or has failed.

    Args:
        body: Mounts, serves, and returns an exit code; raises Failure before it is ready.
        wait: Seconds after which a child that reports nothing is ended.
        inherited: Descriptors the child gives back.

    Raises:
        Failure: What the child reported.
    """
    reader, writer = os.pipe()
    logs.flush()  # or both would tell of it
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _close((reader, *inherited))
        _child(body, writer)
    os.close(writer)
    try:
        return _await_report(child, reader, wait)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise Failure(ExitCode.FAILED, "interrupted; nothing is mounted") from None
    finally:
        os.close(reader)


def supervised(environment: MutableMapping[str, str]) -> int | None:
    """Where a process reports that the supervisor has started, -1 for nowhere; None for others."""
    text = environment.pop(supervisor.VARIABLE, None)
    return None if text is None else int(text)


def supervise(*, foreground: bool, wait: float, inherited: Iterable[int]) -> int:
    """Have this very command run by a supervisor; return when it is ready or has failed.

    In the foreground this process becomes the supervisor, and does not return. Arguments and
    failures as of `run_in_background`.
    """
    directory = os.getcwd()

    def become(report: int) -> NoReturn:
        os.environ[beginning.VARIABLE] = str(beginning.Beginning.now())
        words = [sys.executable, "-I", "-S", supervisor.__file__, directory, str(report)]
        os.execv(sys.executable, [*words, sys.executable, *sys.orig_argv[1:]])  # noqa: S606

    def body(report: Report) -> int:
        assert isinstance(report, PipeReport)
        become(report.inheritable())

    if foreground:
        become(-1)
    return run_in_background(body, wait=wait, inherited=inherited)


def run_supervised(body: Body, report: int) -> NoReturn:
    """Run `body` in this process, which the supervisor has started (`supervised`)."""
    _child(body, report)


def _child(body: Body, writer: int) -> NoReturn:
    """Never returns into the caller's frames: the process ends here."""
    code: int = ExitCode.FAILED
    report = PipeReport(writer)
    try:
        os.setsid()
        os.chdir("/")
        _take_name()
        code = body(report)
        report.failed(Failure(ExitCode.FAILED, "the mount ended before it was ready"))
    except Failure as failure:
        report.failed(failure)
        code = failure.code
    except BaseException as error:
        # The parent must hear of every end; the traceback goes to the log, not to the user.
        log.critical("internal error", exc_info=error)
        report.failed(Failure(ExitCode.FAILED, f"internal error: {error!r}"))
    finally:
        logs.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _take_name() -> None:
    """Be ``bucketfs`` in ps(1) and pkill(1), also if mount(8) has started the mount helper."""
    with suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write("bucketfs")


def inherited_descriptors() -> tuple[int, ...]:
    """What the shell left open beside the standard three (pipes, locks).

    They must not live as long as the mount. Asked before this program opens anything itself.
    """
    return tuple(fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and _is_open(fd))


def _is_open(fd: int) -> bool:
    """False for the handle of the listing itself, whose number is free again."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _close(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _await_report(child: int, reader: int, wait: float) -> int:
    readable, _, _ = select.select([reader], [], [], wait)
    if not readable:
        os.kill(child, signal.SIGTERM)
        raise Failure(ExitCode.NETWORK, f"the mount was not ready after {wait:.0f} s; given up")
    text = os.read(reader, 8 * _LONGEST_LINE)
    if not text:
        _, status = os.waitpid(child, 0)
        how = os.waitstatus_to_exitcode(status)
        ended = f"was killed by signal {-how}" if how < 0 else f"ended with code {how}"
        raise Failure(ExitCode.FAILED, f"the mounting process {ended} before it was ready")
    code, line = json.loads(text)
    if code != ExitCode.OK:
        os.waitpid(child, 0)
        raise Failure(ExitCode(code), line)
    return ExitCode.OK
