"""Making and deleting volumes in buckets: a volume is a directory, and a mark beside it.

Only what has a mark is deleted: it says that the driver has made the volume, and how.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import trio
from grpc import StatusCode

from bucketfs.cli.commands import mount
from bucketfs.cli.failure import Failure
from bucketfs.cli.options import arguments, bucket, complete, trust
from bucketfs.cli.process import daemon
from bucketfs.cli.process.serve import single
from bucketfs.csi.refused import Refused, invalid, of_failure
from bucketfs.csi.volume import Made, joined
from bucketfs.errors import FsError, NotFound, StoreError
from bucketfs.options import Options
from bucketfs.store.base import BytesBody, Headers, ListPage, Store
from bucketfs.store.config import StoreConfig
from bucketfs.store.layers.trace import TraceStore
from bucketfs.store.long_listing import read_pages
from bucketfs.store.opening import open_account, open_store

T = TypeVar("T")

#: Keys of a volume that are held at once while it is deleted.
_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of a volume that the driver has made.

    Attributes:
        bytes: The size that was asked for, which nobody enforces.
        own_bucket: The bucket was made for it, and goes with it.
        attributes: What a mount of it is told.
    """

    bytes: int
    own_bucket: bool
    attributes: Mapping[str, str] = field(default_factory=dict)


class Provisioner:
    """Makes and deletes volumes with the keys of one request. Each method raises Refused.

    Args:
        words: Options of all volumes.
        keys: Text of a file of keys, "" for those of this process.
        where: What is used.
    """

    def __init__(self, words: tuple[str, ...], keys: str, where: Made) -> None:
        self._words = words
        self._keys = keys
        self._where = where

    def make(self, mark: Mark) -> Mark:
        """Make the volume unless it is there; how it was made."""
        with self._configured() as (options, config):
            if mark.own_bucket:
                _run(options, lambda: _make_bucket(config))
            return _run(options, lambda: self._marked(config, mark))

    def find(self) -> Mark | None:
        """How the volume was made, None if it is not there."""
        with self._configured() as (options, config):
            try:
                return _run(options, lambda: _in_bucket(config, self._read))
            except Refused as refused:
                if refused.code is StatusCode.NOT_FOUND:
                    return None
                raise

    def delete(self) -> None:
        """Delete the volume and all that is in it, if it is there."""
        mark = self.find()
        if mark is None:
            return
        with self._configured() as (options, config):
            _run(options, lambda: _in_bucket(config, self._empty))
            if not mark.own_bucket:
                return
            try:
                _run(options, lambda: _delete_bucket(config))
            except Refused:
                # without it, the next call would find no volume, and leave the bucket for ever
                with suppress(Refused):
                    _run(options, lambda: _in_bucket(config, lambda store: self._put(store, mark)))
                raise

    @contextmanager
    def _configured(self) -> Iterator[tuple[Options, StoreConfig]]:
        """How the bucket is reached. The keys are in a private file meanwhile."""
        with tempfile.TemporaryDirectory(prefix="bucketfs-csi-") as folder:
            words = [*self._words, f"use_cache={folder}"]
            if self._keys:
                path = Path(folder, "passwd")
                path.touch(0o600)
                path.write_text(self._keys, encoding="utf-8")
                words.append(f"passwd_file={path}")
            try:
                line = [f"{self._where.bucket}:/", "/", "-f", "-o", joined(words)]
                options = complete.build(arguments.tokenise(line), {})
                options = bucket.with_endpoint(options, os.environ)
                credentials = mount.find_credentials(options)
                options = trust.with_ca_bundle(options, os.environ)
                config = bucket.store_config(options, credentials, lambda: None)
            except arguments.ParseError as error:
                raise invalid(str(error)) from None
            except Failure as failure:
                raise of_failure(failure) from None
            yield options, replace(config, known=None)

    async def _marked(self, config: StoreConfig, mark: Mark) -> Mark:
        async def job(store: Store) -> Mark:
            found = await self._read(store)
            if found is None:
                await self._check_free(store, "" if mark.own_bucket else self._where.prefix)
                await self._put(store, mark)
            return found or mark

        return await _in_bucket(config, job)

    async def _check_free(self, store: Store, prefix: str) -> None:
        """Nothing of others becomes part of a volume, and is deleted with it. Raises Refused."""
        page = await store.list(prefix, delimiter="", limit=1)
        if page.objects:
            line = f"{self._where.bucket}:/{prefix}: has objects, and is no volume of the driver's"
            raise Refused(StatusCode.ALREADY_EXISTS, line)

    async def _put(self, store: Store, mark: Mark) -> None:
        text = json.dumps(asdict(mark)).encode()
        await store.put(self._where.mark, BytesBody(text), Headers(content_type=_JSON))

    async def _read(self, store: Store) -> Mark | None:
        text = bytearray()
        try:
            await store.get(self._where.mark, text.extend)
        except NotFound:
            return None
        return Mark(**json.loads(text))

    async def _empty(self, store: Store) -> None:
        """Delete the objects, unfinished uploads and at last the mark."""
        for upload in await store.list_uploads(self._where.prefix):
            await store.abort(upload.key, upload.upload_id)
        await _delete_all(store, self._where.prefix)
        await store.delete(self._where.mark)


_JSON = "application/json"


async def _delete_all(store: Store, prefix: str) -> None:
    """Delete all objects below a prefix, as many pages of its listing at a time as are held."""
    while True:
        keys: list[str] = []

        def take(page: ListPage, keys: list[str] = keys) -> None:
            keys.extend(info.key for info in page.objects)

        await read_pages(store, prefix, take, delimiter="", most=_BATCH // 1000)
        if not keys:
            return
        failed = await store.delete_many(keys)
        if failed:
            raise next(iter(failed.values()))


async def _in_bucket(config: StoreConfig, job: Callable[[Store], Awaitable[T]]) -> T:
    async with open_store(config) as store:
        await store.check()
        return await job(store)


async def _make_bucket(config: StoreConfig) -> None:
    async with open_account(config, trace=_untraced) as account:
        if not await account.exists(config.bucket):
            await account.create(config.bucket)


async def _delete_bucket(config: StoreConfig) -> None:
    async with open_account(config, trace=_untraced) as account:
        await account.delete(config.bucket)


def _untraced(_: TraceStore) -> None:
    """Nobody asks for figures."""


def _run(options: Options, body: Callable[[], Awaitable[T]]) -> T:
    """Run a job in an event loop of its own, in the thread of a request. Raises Refused."""

    async def limited() -> T:
        with trio.fail_after(daemon.patience(options)):
            return await body()

    try:
        return trio.run(limited)
    except (StoreError, FsError, trio.TooSlowError, BaseExceptionGroup) as error:
        cause = single(error)
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        if isinstance(cause, Refused):
            raise cause from None
        raise of_failure(bucket.failure_of(cause, options)) from None
