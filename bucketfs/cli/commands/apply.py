"""``bucketfs recover --apply``: uploads and finishes what is left, without a mount."""

from __future__ import annotations

import sys
from pathlib import Path

from bucketfs.cache import places
from bucketfs.cli import show
from bucketfs.cli.commands import leftovers as left
from bucketfs.cli.commands import offline
from bucketfs.cli.commands.leftovers import Kind
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.socket import report
from bucketfs.errors import FsError
from bucketfs.fuse.recover_offline import carry_out
from bucketfs.options import Options
from bucketfs.store.base import Store
from bucketfs.tree.saving.outstanding import FailedFlush, Remaining
from bucketfs.units import count


def apply(options: Options, only: Path | None) -> int:
    """Carry out what is left in all caches of the bucket; the exit code. Raises Failure.

    Args:
        options: What a mount of it would be asked to do.
        only: Exactly this cache directory, whatever address it was filled from.
    """
    if options.all_buckets:
        raise Failure(ExitCode.USAGE, "name one bucket: bucketfs recover --apply BUCKET")
    options, config = offline.prepare(options)
    directories = [only] if only else _directories(options)
    if not directories:
        print(f"nothing is left of {options.bucket} at {options.url or 'AWS'}")
        return ExitCode.OK
    return max(
        offline.carry_out(options, config, lambda store: _apply(store, options, directories))
    )


def _directories(options: Options) -> list[Path]:
    """The caches of mounts of this bucket at this address."""
    stem = places.stem(places.name_of(options.url, options.bucket))
    found = list(places.directories(places.cache_root(options.use_cache)))
    for directory in found:
        url, name = places.whose(directory)
        if name == options.bucket and url != (options.url or ""):
            print(f"{directory}: filled from {url or 'AWS'}; name it with --cache to upload it too")
    return [directory for directory in found if directory.name.partition(".")[0] == stem]


async def _apply(store: Store, options: Options, directories: list[Path]) -> list[int]:
    codes: list[int] = []
    progress = show.Progress()

    def tell(waits: Remaining) -> None:
        progress.tell({"progress": report.remaining(waits)})

    for directory in directories:
        try:
            failed = await carry_out(store, options, directory, tell)
        except FsError as error:
            progress.end()
            print(f"bucketfs: {error.why}", file=sys.stderr)
            codes.append(ExitCode.FAILED)
        else:
            progress.end()
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
