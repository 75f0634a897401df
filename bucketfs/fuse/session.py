"""One mount from beginning to end: assemble, mount, tune the kernel, serve, drain, unmount."""

from __future__ import annotations

import functools
import gc
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from bucketfs.cache.cache import DiskCache, Pool
from bucketfs.cache.places import cache_root, name_of
from bucketfs.errors import FsError
from bucketfs.file.context import FileContext
from bucketfs.fuse import agreement, device, read_only, settings
from bucketfs.fuse.calls import Calls
from bucketfs.fuse.encode import Encoder, View
from bucketfs.fuse.host import Host, OneTree, Service
from bucketfs.fuse.kernel_cache import KernelCache
from bucketfs.fuse.locking import Locking, check_store
from bucketfs.fuse.operations import Operations
from bucketfs.fuse.passage import Drain, Passage
from bucketfs.fuse.versioned import Versioned, old_versions
from bucketfs.options import Options
from bucketfs.store.base import VERSIONS, Store
from bucketfs.tasks import Background
from bucketfs.tree.core.inode import ROOT_INO
from bucketfs.tree.core.posix import Defaults
from bucketfs.tree.core.state import TreeConfig, Watcher
from bucketfs.tree.lookup.forget import Forgotten
from bucketfs.tree.tree import Tree

log = logging.getLogger(__name__)

#: Requests of the kernel worked on at once. At the limit no further request is even read, so it
#: must be far above the number of processes that may wait for a slow endpoint; each costs a 1 MiB
#: buffer of virtual memory.
MAX_TASKS = 256
#: Read-ahead of the kernel in KiB: requests of 1 MiB instead of 128 KiB, five times as fast over
#: a network of 20 ms.
READ_AHEAD_KB = 1024

#: Objects made before a garbage collection. Python's 700 is reached a dozen times by each page of a
#: listing, whose objects all stay: with this, listing 100,000 entries takes a fifth less CPU.
GC_THRESHOLDS = (50_000, 20, 50)


async def serve(store: Store, options: Options, *, host: Host) -> None:
    """Mount the bucket and serve it until it is unmounted or the caller cancels.

    Returns (or lets the cancellation through) after everything unsaved has been brought to the
    bucket and the mount point is free.

    Args:
        store: The bucket, checked.
        options: What the mount was asked to do.
        host: Told how the mount gets on.

    Raises:
        FsError: The cache directory cannot be used.
        MountRefused: The mount point cannot be.
    """
    shared = pool(options)
    cache = _open_same_cache(options, shared, host)
    try:
        await despite_cancellation(functools.partial(_serve, store, options, cache, shared, host))
    finally:
        cache.close()


async def despite_cancellation(body: Callable[[Stop], Awaitable[None]]) -> None:
    """Run a mount: a cancellation ends the serving, not the saving that follows it."""
    stop = Stop()
    async with trio.open_nursery() as outer:
        outer.start_soon(stop.when_cancelled)
        with trio.CancelScope(shield=True):
            await body(stop)
        outer.cancel_scope.cancel()


class Stop:
    """Ends pyfuse3's loop when the mount is cancelled.

    libfuse may be told so only while the loop runs.
    """

    def __init__(self) -> None:
        self._serving = False
        self._wanted = False

    async def when_cancelled(self) -> None:
        """Wait for a cancellation and pass it on."""
        try:
            await trio.sleep_forever()
        finally:
            self._wanted = True
            if self._serving:
                pyfuse3.terminate()

    def ready(self) -> None:
        """The loop is about to begin."""
        self._serving = True
        if self._wanted:
            pyfuse3.terminate()

    def over(self) -> None:
        """The loop has ended."""
        self._serving = False


async def _serve(
    store: Store, options: Options, cache: DiskCache, shared: Pool, host: Host, stop: Stop
) -> None:
    kernel = KernelCache(Calls())
    passage: Passage | None = None
    try:
        async with trio.open_nursery() as nursery:
            tree = plant(store, options, cache, Background(nursery), kernel)
            operations = handlers(tree, options, view(options), kernel)
            if isinstance(operations, Locking):
                await check_store(tree)
                tree.state.files.background.start(operations.locks.keep, "leases")
            passage = Passage.of(host, options, tree, operations)
            if passage is not None:
                passage.restore_nodes()
            await tree.attributes.ensure(tree.state.root)
            await resume(tree, options)
            if passage is not None:
                passage.restore_files()
            follow(tree, options, kernel)
            await nursery.start(host.attend, Service(OneTree(tree), shared, operations, kernel))
            await until_unmounted(operations, options, host, stop, tree.drain.run, kernel, passage)
            nursery.cancel_scope.cancel()
    finally:
        if passage is not None:
            passage.leave()


async def resume(tree: Tree, options: Options) -> None:
    """Do what an earlier mount has left; a mount that never writes leaves it to the next."""
    if options.read_only:
        tree.replay.postpone()
    else:
        await tree.replay.run()


def follow(tree: Tree, options: Options, kernel: KernelCache) -> None:
    """Have the endpoint tell what others change, if that is wanted."""

    async def tell(forgotten: Forgotten) -> None:
        await kernel.forget(forgotten.names, forgotten.inodes)

    if options.follow:
        tree.state.files.background.start(lambda: tree.follower.run(tell), "follow")


def handlers(
    tree: Tree,
    options: Options,
    shown: View,
    kernel: KernelCache,
    *,
    first: int = 0,
) -> Operations:
    """The handlers of a bucket; `kernel` and `first` as `Operations` takes them."""
    settings: dict[str, Any] = {
        "timeout": options.op_timeout,
        "size": options.bucket_size,
        "xattrs": options.use_xattr,
        "acls": options.enable_acl,
        "kernel": kernel,
        "first": first,
    }
    encoder = Encoder(tree, shown)
    if options.locks == "bucket":
        return Locking(tree, encoder, lease=options.lock_lease, **settings)
    if not options.versions:
        return Operations(tree, encoder, **settings)
    old = old_versions(tree, kernel)
    inside = Encoder(old, replace(shown, root_umask=None))
    return Versioned(tree, encoder, old=old, shown=inside, **settings)


async def until_unmounted(
    operations: pyfuse3.Operations,
    options: Options,
    host: Host,
    stop: Stop,
    drain: Drain,
    kernel: KernelCache,
    passage: Passage | None = None,
) -> None:
    """Mount, serve until the mount is to end, drain, and free the mount point.

    With a `passage` an earlier daemon may have mounted, and a later one may go on with the mount.
    """
    served = read_only.refusing(operations) if settings.refuses_writes(options) else operations
    begin = functools.partial(
        device.begin,
        *(served, options.mountpoint, settings.settings(options)),
        plain=options.plain_fuse,
        locks=options.locks == "bucket",
    )
    session = await (begin() if passage is None else passage.begin(begin, drain, host))
    gc.freeze()  # what the imports made is never garbage
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        try:
            async with trio.open_nursery() as serving:
                serving.start_soon(_announce, session, host)
                serving.start_soon(kernel.run)
                if session.relay is not None and isinstance(operations, Locking):
                    serving.start_soon(operations.serve_locks, session.relay)
                stop.ready()
                await pyfuse3.main(max_tasks=MAX_TASKS)
                serving.cancel_scope.cancel()
        finally:
            stop.over()
            if passage is not None:
                drain = passage.end(session, host, drain)
            left = await drain(host.hurry, host.drains)
            if isinstance(operations, Locking):
                await operations.locks.close()
    finally:
        if passage is None or not passage.goes_on(host):
            session.close()
    await host.drained(left)


def _open_same_cache(options: Options, shared: Pool, host: Host) -> DiskCache:
    """The cache of the mount that an earlier daemon has left, or any. Raises FsError."""
    if host.taken is not None:
        try:
            return open_cache(options, only=Path(host.taken.record.cache), shared=shared)
        except FsError as error:
            log.warning("what is open fails from now on: %s", error.why)
    return open_cache(options, shared=shared)


def plant(
    store: Store,
    options: Options,
    cache: DiskCache,
    background: Background,
    watcher: Watcher | None = None,
    *,
    root: int = ROOT_INO,
    place: str = "",
) -> Tree:
    """The tree of a bucket, with the cache it uses; nothing is asked of the bucket yet.

    `root` as `TreeState` takes it, `place` as `TreeConfig`.
    """
    files = FileContext(
        store=store,
        cache=cache,
        background=background,
        part_size=options.multipart_size,
        parallel=options.max_thread_count,
        held_back=options.publish == "unmount",
    )
    config = TreeConfig(
        prefix=options.prefix,
        place=place,
        ttl=options.stat_cache_expire,
        open_ttl=options.open_ttl,
        defaults=owner(),
        hadoop_directories=options.compat_dir,
        overwrite=options.conflict == "overwrite",
        shared_locks=options.locks == "bucket",
        exclusive_at_open=options.exclusive_create == "open",
        writeback=options.writeback or options.publish == "unmount",
        read_only=options.read_only,
        acls=options.enable_acl,
        lazy_attributes=options.metadata == "lazy",
        own_name=VERSIONS if options.versions else "",
        listed_attributes=options.metadata == "list" or not store.capabilities.user_metadata,
    )
    return Tree(files, config, watcher, root=root)


def owner() -> Defaults:
    """Whose everything is that says nothing of its owner."""
    return Defaults(uid=os.getuid(), gid=os.getgid())


def view(options: Options) -> View:
    """How owners and modes are shown."""
    return View(
        uid=options.uid,
        gid=options.gid,
        umask=options.umask,
        root_umask=options.mp_umask,
        shared=options.allow_other,
    )


def pool(options: Options) -> Pool:
    """The budget that these options give to the caches of a mount."""

    def keep_free(disk: int) -> int:
        if options.ensure_diskfree is not None:
            return options.ensure_diskfree
        return disk * options.free_space_ratio // 100

    return Pool(options.cache_size, keep_free)


def open_cache(
    options: Options, *, only: Path | None = None, shared: Pool | None = None
) -> DiskCache:
    """The cache that these options ask for, or, of all its caches, exactly the directory `only`.

    Args:
        options: Of the mount.
        only: See above.
        shared: The budget that it shares with the mount's other caches.

    Raises:
        FsError: It cannot be used.
    """
    return DiskCache(
        cache_root(options.use_cache),
        name=name_of(options.url, options.bucket),
        pool=shared or pool(options),
        only=only,
        prefix=options.prefix,
    )


async def _announce(session: device.Session, host: Host) -> None:
    """Tell that the mount stands as soon as the kernel gets an answer through it."""
    number = await session.device()
    if number:
        _tune(number, agreed=session.agreed is not None)
    host.stands(number)


def _tune(device: int, *, agreed: bool) -> None:
    """Raise the kernel's limits for this mount, as far as we may (the first needs root)."""
    number = os.minor(device)
    limits = [(f"/sys/class/bdi/{os.major(device)}:{number}/read_ahead_kb", READ_AHEAD_KB)]
    if not agreed:
        connection = f"/sys/fs/fuse/connections/{number}"
        limits += [
            (f"{connection}/max_background", agreement.MAX_BACKGROUND),
            (f"{connection}/congestion_threshold", agreement.CONGESTION),
        ]
    for path, value in limits:
        try:
            Path(path).write_text(str(value))
        except OSError as error:
            log.info("%s stays as it is: %s", path, error.strerror)
