"""What commands share that ask a bucket without a mount."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from bucketfs import log as logs
from bucketfs.cli import show
from bucketfs.cli.commands import mount
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import arguments, bucket, complete, trust
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.process import daemon
from bucketfs.errors import FsError, StoreError
from bucketfs.options import Options
from bucketfs.store.base import ListPage, ObjectInfo, Store
from bucketfs.store.config import StoreConfig
from bucketfs.store.long_listing import read_pages
from bucketfs.units import count

T = TypeVar("T")

#: Seconds between two lines of progress.
_PACE: Final = 0.2


def options_of(words: Sequence[str], given: Sequence[str], usage: str) -> Options:
    """The options of a mount of ``SPEC -o …``; raises Failure.

    Args:
        words: What stands for SPEC: one word.
        given: What stands behind each -o.
        usage: Help of the command.
    """
    if len(words) != 1:
        raise Failure(ExitCode.USAGE, usage.splitlines()[0])
    line = [words[0], "/", "-f"]
    for each in given:
        line += ["-o", each]
    try:
        options = complete.build(arguments.tokenise(line), os.environ)
    except arguments.ParseError as error:
        raise Failure(ExitCode.USAGE, str(error)) from None
    if options.all_buckets:
        raise Failure(ExitCode.USAGE, f"name one bucket; {usage.splitlines()[0]}")
    return options


def prepare(options: Options, *, quiet: bool = False) -> tuple[Options, StoreConfig]:
    """Log as the options say, find keys and certificates; raises Failure.

    Args:
        options: Of a mount in the foreground, which logs more than others.
        quiet: Log as one in the background.
    """
    options = bucket.with_endpoint(mount.with_absolute_paths(options), os.environ)
    logs.setup(options)
    if quiet:
        logs.set_level(options.dbglevel)
    daemon.harden()
    credentials = mount.find_credentials(options)
    bucket.tell_keys(credentials)
    options = trust.with_ca_bundle(options, os.environ)
    return options, bucket.store_config(
        options, credentials, lambda: mount.find_credentials(options)
    )


def carry_out(options: Options, config: StoreConfig, job: Callable[[Store], Awaitable[T]]) -> T:
    """Run a job with the bucket, which was seen to exist. Raises Failure."""
    # half of what a command loads, and of no use to a wrong option
    from bucketfs.cli.process.serve import single  # noqa: PLC0415
    from bucketfs.store.opening import open_store  # noqa: PLC0415

    async def run() -> T:
        async with open_store(config) as store:
            with trio.fail_after(daemon.patience(options)):
                await store.check()
            return await job(store)

    try:
        return trio.run(run)
    except (StoreError, FsError, trio.TooSlowError, BaseExceptionGroup) as error:
        cause = single(error)
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        raise bucket.failure_of(cause, options) from cause


def ask(options: Options, job: Callable[[Store], Awaitable[T]]) -> T:
    """As `prepare` and `carry_out`; only what is wrong is logged. Raises Failure."""
    options, config = prepare(options, quiet=True)
    return carry_out(options, config, job)


def parser(usage: str) -> Parser:
    """The parser of a command that takes ``SPEC -o …`` and answers in JSON, too."""
    parser = Parser(usage)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", dest="options", action="append", default=[])
    return parser


async def scan(store: Store, prefix: str, add: Callable[[ObjectInfo], None]) -> None:
    """Have each object below a prefix looked at, in the order of the listing. Raises StoreError.

    A line on the terminal says how many objects of how many bytes there were so far.
    """
    progress = show.Progress()
    objects = size = 0
    told = 0.0

    def take(page: ListPage) -> None:
        nonlocal objects, size, told
        for info in page.objects:
            add(info)
            size += info.size
        objects += len(page.objects)
        now = time.monotonic()
        if now - told >= _PACE:
            told = now
            progress.show(f"{count(objects, 'object')}, {show.size(size)}")

    try:
        await read_pages(store, prefix, take, delimiter="")
    finally:
        progress.end()
