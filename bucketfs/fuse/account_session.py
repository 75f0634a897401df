"""A mount of all buckets from beginning to end; what it shares with one of a bucket: `session`."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Protocol

import trio

from bucketfs.cache.cache import Pool
from bucketfs.cache.journal import waiting
from bucketfs.cache.places import JOURNAL, cache_root, directories, whose
from bucketfs.fuse.account_root import AccountRoot, inside
from bucketfs.fuse.calls import Calls
from bucketfs.fuse.dispatch import Dispatch
from bucketfs.fuse.host import Host, Service
from bucketfs.fuse.kernel_cache import KernelCache
from bucketfs.fuse.operations import Operations
from bucketfs.fuse.session import (
    Stop,
    despite_cancellation,
    follow,
    handlers,
    open_cache,
    owner,
    plant,
    pool,
    resume,
    until_unmounted,
    view,
)
from bucketfs.options import Options
from bucketfs.store.base import Store
from bucketfs.tasks import Background
from bucketfs.tree.account.account import Account
from bucketfs.tree.account.member import Bucket, is_bucket_name
from bucketfs.tree.account.roster import Buckets, Roster
from bucketfs.tree.tree import Tree


class Access(Buckets, Protocol):
    """The endpoint: the account, and each of its buckets."""

    def open(self, bucket: str, on_gone: Callable[[], bool]) -> AbstractAsyncContextManager[Store]:
        """A bucket; nothing is asked of it yet. Raises FsError where there are no keys for it.

        `on_gone` is told when the endpoint has no such bucket; it answers whether that is so.
        """
        ...


async def serve(access: Access, options: Options, *, host: Host, patience: float) -> None:
    """As `session.serve`, for all buckets of an account.

    Args:
        access: The endpoint.
        options: What the mount was asked to do.
        host: Told how the mount gets on.
        patience: Seconds that the endpoint may take to answer the first question.

    Raises:
        StoreError: The endpoint does not say which buckets there are.
        MountRefused: The mount point cannot be used.
    """
    await despite_cancellation(functools.partial(_serve, access, options, host, patience))


async def _serve(access: Access, options: Options, host: Host, patience: float, stop: Stop) -> None:
    shared, kernel = pool(options), KernelCache(Calls())
    shown = inside(view(options))

    def serve_bucket(bucket: Bucket, tree: Tree) -> Operations:
        return handlers(tree, options, shown, kernel, first=bucket.first)

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as entered:
            roster = Roster(
                access,
                ttl=options.stat_cache_expire,
                open_ttl=options.open_ttl,
                on_change=kernel.bucket_changed,
            )
            with trio.fail_after(patience):
                await roster.look()
            planted = functools.partial(_planted, access, options, shared, roster, kernel)
            account = Account(roster, planted, entered)
            if not options.read_only:
                await account.enter_all(_left_for(options))
            operations = Dispatch(account, _root(account, options, kernel.calls), serve_bucket)
            await nursery.start(host.attend, Service(account, shared, operations, kernel))
            await until_unmounted(operations, options, host, stop, account.drain, kernel)
            account.close()
        nursery.cancel_scope.cancel()


def _root(account: Account, options: Options, calls: Calls) -> AccountRoot:
    return AccountRoot(
        account,
        view(options),
        owner(),
        timeout=options.op_timeout,
        size=options.bucket_size,
        xattrs=options.use_xattr,
        acls=options.enable_acl,
        calls=calls,
    )


@asynccontextmanager
async def _planted(
    access: Access,
    options: Options,
    shared: Pool,
    roster: Roster,
    kernel: KernelCache,
    bucket: Bucket,
) -> AsyncIterator[Tree]:
    """The tree of a bucket that is there, with what an earlier mount has left done."""
    own = replace(options, bucket=bucket.name)
    async with access.open(bucket.name, functools.partial(roster.gone, bucket)) as store:
        await store.check()
        cache = open_cache(own, shared=shared)
        try:
            async with _alone() as nursery:
                tree = plant(
                    store, own, cache, Background(nursery), kernel,
                    root=bucket.ino, place=f"{bucket.name}/",
                )  # fmt: skip
                tree.state.root.modified = bucket.made
                await tree.attributes.ensure(tree.state.root)
                await resume(tree, own)
                follow(tree, own, kernel)
                yield tree
        finally:
            cache.close()


@asynccontextmanager
async def _alone() -> AsyncIterator[trio.Nursery]:
    """A nursery that ends with its block; a failure of the block is raised alone, no group."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:  # noqa: BLE001 - raised again below, alone
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _left_for(options: Options) -> list[str]:
    """The buckets for which earlier mounts have left something in the cache."""
    found = set()
    for directory in directories(cache_root(options.use_cache)):
        address, name = whose(directory)
        if address == (options.url or "") and is_bucket_name(name) and waiting(directory / JOURNAL):
            found.add(name)
    return sorted(found)
