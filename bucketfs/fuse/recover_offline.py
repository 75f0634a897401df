"""Carrying out what an earlier mount left in a cache directory, without a mount."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from bucketfs.file import multipart
from bucketfs.fuse.session import open_cache, plant
from bucketfs.options import Options
from bucketfs.store.base import Store
from bucketfs.tasks import Background
from bucketfs.tree.saving.outstanding import FailedFlush, Outstanding, Remaining

#: Seconds between two looks at what is left.
_PACE: Final = 0.5


async def carry_out(
    store: Store, options: Options, directory: Path, tell: Callable[[Remaining], None]
) -> list[FailedFlush]:
    """Do what the next mount with this cache would do, and wait until it is done.

    What cannot be done stays where it is, for the next time.

    Args:
        store: The bucket, checked.
        options: What a mount of it would be asked to do.
        directory: The cache directory.
        tell: Hears now and then how much waits.

    Returns:
        Files that could not be uploaded.

    Raises:
        FsError: The directory cannot be used, or a mount uses it.
        StoreError: The bucket could not be asked.
    """
    cache = open_cache(options, only=directory)
    try:
        async with trio.open_nursery() as nursery:
            tree = plant(store, options, cache, Background(nursery))
            nursery.start_soon(_watch, tree.outstanding, tell)
            await tree.attributes.ensure(tree.state.root)
            await tree.replay.run()
            failed = await tree.outstanding.flush()
            await multipart.clear(store, cache.journal, cache.journal.uploads())
            nursery.cancel_scope.cancel()
        return failed
    finally:
        cache.close()


async def _watch(outstanding: Outstanding, tell: Callable[[Remaining], None]) -> None:
    while True:
        await trio.sleep(_PACE)
        tell(outstanding.remaining())
