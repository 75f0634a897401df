"""The half after the fork: one trio run that asks the bucket, mounts, serves and drains.

It ends when the mount goes away or when SIGTERM or SIGINT asks for it; the session then drains
what is not in the bucket yet before this returns.
"""

from __future__ import annotations

import functools
import logging
import math
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import trio

from bucketfs import clock
from bucketfs import log as logs
from bucketfs.cli import show
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import bucket
from bucketfs.cli.process import daemon
from bucketfs.cli.process.access import AccountAccess
from bucketfs.cli.process.mount_host import MountHost
from bucketfs.cli.process.notify import keep_alive, notify
from bucketfs.cli.socket import scrape
from bucketfs.credentials import Anonymous, Credentials, CredentialsError, buckets_with_keys
from bucketfs.errors import NotFound
from bucketfs.fuse import account_session, session
from bucketfs.fuse.keeper import Keeper, Taken
from bucketfs.options import Options
from bucketfs.store.config import StoreConfig
from bucketfs.store.opening import open_account, open_store
from bucketfs.units import Commit

log = logging.getLogger("bucketfs.serve")

#: Seconds by which the log may be late to tell that a line was repeated.
_REPEATS_PACE = 10.0
#: Seconds in which a signal to a whole group of processes comes from the supervisor as well.
_ECHO = 2.0
#: Seconds within which two signals may be seen in another order than that in which they were sent.
_TOGETHER = 0.05


def serve(
    options: Options,
    credentials: Credentials,
    find: Callable[[Options], Credentials],
    report: daemon.Report,
    keeper: Keeper | None = None,
    taken: Taken | None = None,
) -> int:
    """Mount and serve until the end; returns the exit code.

    Args:
        options: With absolute paths.
        credentials: What signs the first request.
        find: Finds the keys of a bucket, also after the endpoint refused some; raises Failure.
        report: Told once when the mount stands.
        keeper: Who keeps the mount for the next daemon, if anybody does.
        taken: What an earlier one has left.

    Raises:
        Failure: Before the mount stood, with what was in the way.
    """
    config = _config(options, credentials, find)
    listener = scrape.listen(options.metrics) if options.metrics is not None else None
    at = bucket.told_at(options, config)
    host = MountHost(options, report, listener=listener, at=at, keeper=keeper, taken=taken)
    body = functools.partial(_one_bucket, options, config, host)
    if options.all_buckets:
        body = functools.partial(_all_buckets, options, config, host, find)
    try:
        trio.run(_main, body, host)
    except (Exception, KeyboardInterrupt) as error:
        cause = single(error)
        if not host.ready:
            raise bucket.failure_of(cause, options) from cause
        log.critical("the mount ended with an error", exc_info=cause)
        return ExitCode.FAILED
    finally:
        if listener is not None:
            listener.close()
        notify("STOPPING=1")
    if not host.ready:
        raise Failure(ExitCode.FAILED, "interrupted; nothing is mounted")
    if host.goes_on:
        log.info("left %s at %s to the next daemon", options.source, options.mountpoint)
    else:
        log.info("unmounted %s from %s", options.source, options.mountpoint)
    if host.left.files:
        log.error(
            "%d files are not in the bucket; their bytes are here: bucketfs recover",
            len(host.left.files),
        )
    if host.left.removals:
        log.error("%d removals have not reached the bucket", host.left.removals)
    return ExitCode.FAILED if host.left else ExitCode.OK


def _config(
    options: Options, credentials: Credentials, find: Callable[[Options], Credentials]
) -> StoreConfig:
    return bucket.store_config(options, credentials, lambda: _find_again(options, find))


def _find_again(options: Options, find: Callable[[Options], Credentials]) -> Credentials | None:
    """The keys while the mount stands: a file that is just being edited may be of no use yet."""
    try:
        found = find(options)
    except Failure as failure:
        log.warning("the endpoint refused the keys, and there are no others: %s", failure)
        return None
    bucket.tell_keys(found)
    return found


async def _main(body: Callable[[], Awaitable[None]], host: MountHost) -> None:
    numbers = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1
    with trio.open_signal_receiver(*numbers) as signals:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as mounted:
                # outside of what it cancels: it has to hear the second signal, too
                nursery.start_soon(_obey, signals, mounted, host)
                nursery.start_soon(keep_alive)
                nursery.start_soon(_tell_repeats)
                await body()
            nursery.cancel_scope.cancel()


async def _one_bucket(options: Options, config: StoreConfig, host: MountHost) -> None:
    for name in (names := bucket.names_at(options)):
        async with open_store(replace(config, bucket=name), trace=host.trace) as store:
            try:
                with trio.fail_after(daemon.patience(options)):
                    has_any = await store.check()
            except NotFound as error:
                if name != names[-1]:
                    continue
                if isinstance(options.at, Commit):
                    raise bucket.no_commit(names) from error
                raise
            if options.prefix and not has_any:
                _tell_empty(options)
            await session.serve(store, options, host=host)
            return


def _tell_empty(options: Options) -> None:
    """Say that the prefix has nothing yet: it is new, or mistyped, and only a person can tell.

    Who only reads has no use for a new one. A terminal is told, too; scripts and cron are not, as
    their prefixes may be new each time.
    """
    hint = "check the prefix" if options.read_only else "the first file begins it"
    line = f"there is nothing under {options.prefix} in {options.bucket} yet: {hint}"
    log.log(logging.WARNING if options.read_only else logging.INFO, "%s", line)
    if not options.foreground and sys.stderr.isatty():
        print(f"bucketfs: {show.name(line)}", file=sys.stderr)


async def _all_buckets(
    options: Options,
    config: StoreConfig,
    host: MountHost,
    find: Callable[[Options], Credentials],
) -> None:
    def config_of(name: str) -> StoreConfig:
        own = replace(options, bucket=name)
        # "2h ago" is before the mount, not before a bucket is entered
        return replace(_config(own, find(own), find), at=config.at)

    try:
        named = buckets_with_keys(config.credentials)
    except CredentialsError as error:
        raise Failure(ExitCode.CREDENTIALS, str(error)) from None
    if not named and isinstance(config.credentials, Anonymous):
        raise Failure(ExitCode.CREDENTIALS, "there are no keys that could list the buckets")
    async with open_account(replace(config, known=None), trace=host.trace) as account:
        access = AccountAccess(account, config, config_of, host.trace, named)
        patience = daemon.patience(options)
        await account_session.serve(access, options, host=host, patience=patience)


async def _tell_repeats() -> None:
    """Have the log tell of lines that are repeated and followed by no other."""
    while True:
        await trio.sleep(_REPEATS_PACE)
        logs.tell_waiting()


async def _obey(signals: AsyncIterator[int], scope: trio.CancelScope, host: MountHost) -> None:
    """SIGTERM and SIGINT end the mount, and again the draining; SIGHUP opens the log file anew.

    After SIGUSR1 the mount goes on when this daemon ends, where somebody keeps it.
    """
    told = -math.inf
    async for number in in_order(signals):
        if number == signal.SIGHUP:
            logs.reopen()
            continue
        if number == signal.SIGUSR1:
            keeper = host.keeper
            host.goes_on = keeper is not None and await trio.to_thread.run_sync(keeper.hears)
            if not host.goes_on:
                log.warning("SIGUSR1: nobody keeps the mount for another daemon, so it will end")
            continue
        name = signal.Signals(number).name
        if scope.cancel_called and _is_echo(host, told):
            continue
        told = clock.monotonic()
        if scope.cancel_called:
            log.warning("%s again: what is not in the bucket yet stays on this machine", name)
            host.hurry.set()
            continue
        words = "leaving the mount to the next daemon" if host.goes_on else "unmounting"
        log.info("%s: %s", name, words)
        notify("STOPPING=1", f"STATUS={words}")
        scope.cancel()


async def in_order(signals: AsyncIterator[int]) -> AsyncIterator[int]:
    """Signals one by one, SIGUSR1 before a SIGTERM that was sent right behind it.

    The kernel may have two threads take them, of which either may be first.
    """
    async for number in signals:
        together = [number]
        if number == signal.SIGTERM:
            with trio.move_on_after(_TOGETHER):
                async for other in signals:
                    together.append(other)  # noqa: PERF401 - stays when the time is over
        for each in sorted(together, key=lambda one: one != signal.SIGUSR1):
            yield each


def _is_echo(host: MountHost, told: float) -> bool:
    """Whether a signal is that of the supervisor, which was told to end along with us."""
    return host.keeper is not None and host.keeper.restarts and clock.monotonic() - told < _ECHO


def single(error: BaseException) -> BaseException:
    """The one error inside nested exception groups, or the group itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
