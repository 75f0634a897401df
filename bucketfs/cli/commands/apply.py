"""``bucketfs recover --apply``: uploads and finishes what is left, without a mount."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from bucketfs import log as logs
from bucketfs.cache import places
from bucketfs.cli import show
from bucketfs.cli.commands import leftovers as left
from bucketfs.cli.commands import mount
from bucketfs.cli.commands.leftovers import Kind
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import bucket, trust
from bucketfs.cli.process import daemon
from bucketfs.cli.process.serve import single
from bucketfs.errors import FsError, StoreError
from bucketfs.fuse.recover_offline import carry_out
from bucketfs.options import Options
from bucketfs.store.config import StoreConfig
from bucketfs.store.opening import open_store
from bucketfs.tree.saving.outstanding import FailedFlush
from bucketfs.units import count


def apply(options: Options, only: Path | None) -> int:
    """Carry out what is left in all caches of the bucket; the exit code. Raises Failure.

    Args:
        options: What a mount of it would be asked to do.
        only: Exactly this cache directory, whatever address it was filled from.
    """
    if options.all_buckets:
        raise Failure(ExitCode.USAGE, "name one bucket: bucketfs recover --apply BUCKET")
    options = bucket.with_endpoint(mount.with_absolute_paths(options), os.environ)
    logs.setup(options)
    daemon.harden()
    credentials = mount.find_credentials(options)
    bucket.tell_keys(credentials)
    options = trust.with_ca_bundle(options, os.environ)
    config = bucket.store_config(options, credentials, lambda: mount.find_credentials(options))
    directories = [only] if only else _directories(options)
    if not directories:
        print(f"nothing is left of {options.bucket} at {options.url or 'AWS'}")
        return ExitCode.OK
    try:
        codes = trio.run(_apply, options, config, directories)
    except (StoreError, FsError, trio.TooSlowError, ExceptionGroup) as error:
        cause = single(error)
        raise bucket.failure_of(cause, options) from cause
    return max(codes)


def _directories(options: Options) -> list[Path]:
    """The caches of mounts of this bucket at this address."""
    stem = places.stem(places.name_of(options.url, options.bucket))
    found = list(places.directories(places.cache_root(options.use_cache)))
    for directory in found:
        url, name = places.whose(directory)
        if name == options.bucket and url != (options.url or ""):
            print(f"{directory}: filled from {url or 'AWS'}; name it with --cache to upload it too")
    return [directory for directory in found if directory.name.partition(".")[0] == stem]


async def _apply(options: Options, config: StoreConfig, directories: list[Path]) -> list[int]:
    async with open_store(config) as store:
        with trio.fail_after(daemon.patience(options)):
            await store.check()
        codes: list[int] = []
        for directory in directories:
            try:
                failed = await carry_out(store, options, directory)
            except FsError as error:
                print(f"bucketfs: {error.why}", file=sys.stderr)
                codes.append(ExitCode.FAILED)
            else:
                codes.append(_tell(directory, failed))
        return codes


def _tell(directory: Path, failed: list[FailedFlush]) -> int:
    """Say what is still left."""
    for one in failed:
        print(f"bucketfs: {show.name(one.path)}: {show.name(one.error)}", file=sys.stderr)
    with left.opened(directory) as (found, _):
        entries = [entry for entry in found.entries if entry.kind is not Kind.RESCUED]
        rescued = len(found.entries) - len(entries)
    if entries:
        print(f"{directory}: {count(len(entries), 'thing')} still left", file=sys.stderr)
    if rescued:
        print(
            f"{directory}: {count(rescued, 'file')} could not be uploaded before; copy out"
            " with --save DIR",
            file=sys.stderr,
        )
    if not entries and not rescued:
        print(f"{directory}: all is in the bucket")
    return ExitCode.FAILED if entries or rescued else ExitCode.OK
