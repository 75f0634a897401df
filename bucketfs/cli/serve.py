"""The half after the fork: one trio run that asks the bucket, mounts, serves and drains.

It ends when the mount goes away or when SIGTERM or SIGINT asks for it; the session then drains
what is not in the bucket yet before this returns.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable

import trio

from bucketfs import log as logs
from bucketfs.cli import bucket, daemon
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.notify import notify
from bucketfs.credentials import Credentials
from bucketfs.fuse import session
from bucketfs.options import Options
from bucketfs.store import open_store
from bucketfs.store.config import StoreConfig

log = logging.getLogger("bucketfs.serve")


class _State:
    """Whether the mount stands, and whom to tell."""

    def __init__(self, options: Options, report: daemon.Report) -> None:
        self._options = options
        self._report = report
        self.ready = False

    def stands(self) -> None:
        """The kernel answers for the mount point."""
        self.ready = True
        where = f"{self._options.source} at {self._options.mountpoint}"
        log.info("mounted %s", where)
        self._report.ready()
        notify("READY=1", f"STATUS={where}")


def serve(
    options: Options,
    credentials: Credentials,
    reload: Callable[[], Credentials],
    report: daemon.Report,
) -> int:
    """Mount and serve until the end; returns the exit code.

    Args:
        options: With absolute paths.
        credentials: What signs the first request.
        reload: Asked again after the endpoint refused them.
        report: Told once when the mount stands.

    Raises:
        Failure: Before the mount stood, with what was in the way.
    """
    config = bucket.store_config(options, credentials, reload)
    state = _State(options, report)
    try:
        trio.run(_main, options, config, state)
    except (Exception, KeyboardInterrupt) as error:
        cause = _single(error)
        if not state.ready:
            raise bucket.failure_of(cause, options) from cause
        log.critical("the mount ended with an error", exc_info=cause)
        return ExitCode.FAILED
    finally:
        notify("STOPPING=1")
    if not state.ready:
        raise Failure(ExitCode.FAILED, "interrupted; nothing is mounted")
    log.info("unmounted %s from %s", options.source, options.mountpoint)
    return ExitCode.OK


async def _main(options: Options, config: StoreConfig, state: _State) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, nursery.cancel_scope)
            async with open_store(config) as store:
                with trio.fail_after(daemon.patience(options)):
                    await store.check()
                await session.serve(store, options, on_ready=state.stands)
            nursery.cancel_scope.cancel()


async def _obey(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """SIGTERM and SIGINT end the mount, SIGHUP opens the log file anew."""
    async for number in signals:
        if number == signal.SIGHUP:
            logs.reopen()
            continue
        log.info("%s: unmounting", signal.Signals(number).name)
        notify("STOPPING=1", "STATUS=unmounting")
        scope.cancel()


def _single(error: BaseException) -> BaseException:
    """The one error inside nested exception groups, or the group itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
