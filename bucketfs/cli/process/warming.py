"""The daemon's half of ``bucketfs warm`` and ``bucketfs evict``."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import trio

from bucketfs import clock
from bucketfs.cli.socket import control, protocol
from bucketfs.cli.socket.protocol import ProtocolError, Request
from bucketfs.errors import FsError, StoreError
from bucketfs.fuse.host import Trees
from bucketfs.tree.namespace.caching import Warming


async def warm(buckets: Trees, request: Request, tell: control.Tell) -> dict[str, Any]:
    """Fetch what is below a path, and tell how far that is. Raises FsError, StoreError.

    ``with``: ``ago``, seconds since the client began; what was used since then is not pushed out.
    """
    since = clock.monotonic() - _seconds(request.words.get("ago", "0"))
    tree, path = await buckets.at(request.path)
    told = Warming()
    error = ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_keep_telling, told, tell)
        try:
            await tree.caching.warm(path, since, told)
        except StoreError as failure:
            error = str(failure)
        except FsError as failure:
            error = failure.why or os.strerror(failure.errno)
        nursery.cancel_scope.cancel()
    place = tree.state.config.place
    return {
        **_sums(told),
        "failures": len(told.failed),
        "failed": [
            {"path": place + name, "error": why} for name, why in told.failed[: protocol.MOST_NAMED]
        ],
        "full": place + told.full if told.full else "",
        "limit": tree.state.files.cache.capacity,
        "error": error,
    }


def evict(buckets: Trees, request: Request) -> dict[str, Any]:
    """Drop what the cache has below a path, in all buckets of the mount."""
    files = freed = 0
    for tree in buckets.trees:
        place = tree.state.config.place
        if request.path and not f"{request.path}/".startswith(place):
            continue
        more, size = tree.caching.evict(f"{request.path}/".removeprefix(place).strip("/"))
        files, freed = files + more, freed + size
    return {"files": files, "bytes": freed}


async def _keep_telling(told: Warming, tell: control.Tell) -> None:
    while True:
        await tell(_sums(told))
        await trio.sleep(protocol.PACE)


def _sums(told: Warming) -> dict[str, Any]:
    sums = asdict(told)
    del sums["failed"], sums["full"]
    return sums


def _seconds(text: str) -> float:
    """A time that a request names. Raises ProtocolError."""
    try:
        return max(0.0, min(float(text), 1e9))
    except ValueError:
        raise ProtocolError(f"{text[:20]!r} is no time") from None
