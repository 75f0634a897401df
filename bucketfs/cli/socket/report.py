"""What `bucketfs status`, `info` and `versions` tell, as plain data for JSON."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bucketfs.cli.socket.protocol import MOST_NAMED
from bucketfs.fuse.host import Service
from bucketfs.fuse.locking import Locking
from bucketfs.store.base import ObjectVersion
from bucketfs.store.layers.trace import Tally
from bucketfs.tree.core.stages import Stage
from bucketfs.tree.core.state import GivenUp
from bucketfs.tree.namespace.objects import ObjectReport
from bucketfs.tree.saving.outstanding import Held, LeftBehind, Remaining
from bucketfs.tree.tree import Tree

#: Stages of what the bucket lacks.
_UNSAVED = (Stage.DIRTY, Stage.PROMISED, Stage.PUBLISHING, Stage.RETRYING, Stage.CONFLICT)
#: Calls under way that are named in one answer.
MOST_SLOW = 10


def service(parts: Service, *, named: bool = True) -> dict[str, Any]:
    """What the mount holds and does: cache, open files, feeds, what waits, what failed.

    Args:
        parts: Of the mount.
        named: Whether the files that wait are to be named, which takes 10 ms for a thousand.
    """
    trees, calls = parts.buckets.trees, parts.operations.calls
    held = Held()
    for tree in trees:
        held.add(tree.outstanding.held())
    return {
        "in_progress": len(calls.under_way),
        "operations": {name: tally.count for name, tally in calls.tallies.items()},
        "failures": dict(calls.failures),
        "calls": {name: asdict(tally) for name, tally in calls.tallies.items()},
        "open_files": parts.operations.open_files,
        "cache": {
            "directory": _directory(trees),
            "held": parts.pool.held,
            "limit": parts.pool.capacity,
            "read_here": sum(tree.state.files.served.here for tree in trees),
            "read_fetched": sum(tree.state.files.served.fetched for tree in trees),
        },
        "follow": [
            {"place": tree.state.config.place, **asdict(tree.follower.following)}
            for tree in trees
            if tree.follower.following is not None
        ],
        "locks": _locks(parts),
        "waiting": {
            **remaining(Remaining.total(tree.outstanding.remaining() for tree in trees)),
            "being_written": held.stages[Stage.DIRTY],
            "failing": held.failing,
            "oldest": held.oldest,
            "stages": {stage: held.stages[stage] for stage in _UNSAVED},
            "items": _waiting(trees) if named else [],
        },
        "uploaded": {
            "files": sum(tree.saver.uploaded.files for tree in trees),
            "bytes": sum(tree.saver.uploaded.bytes for tree in trees),
            "failed": sum(tree.saver.uploaded.failed for tree in trees),
        },
        "conflicts": sum(tree.saver.conflicts for tree in trees),
        "failed": given_up(
            sorted(
                (lost for tree in trees for lost in tree.state.given_up), key=lambda lost: lost.when
            )
        ),
    }


def slowest(parts: Service, now: float) -> list[dict[str, Any]]:
    """The calls of the kernel that have waited longest for their answers.

    Args:
        parts: Of the mount.
        now: Of `clock.monotonic`.
    """
    calls = sorted(parts.operations.calls.under_way, key=lambda call: call.began)
    return [
        {
            "call": call.name,
            "path": parts.operations.subject(call.name, call.number),
            "seconds": now - call.began,
        }
        for call in calls[:MOST_SLOW]
    ]


def _locks(parts: Service) -> dict[str, int] | None:
    """Those that this mount has in the bucket; None where each machine keeps its own."""
    if not isinstance(parts.operations, Locking):
        return None
    locks = parts.operations.locks
    return {"files": locks.files, "lost": locks.lost}


def _waiting(trees: Sequence[Tree]) -> list[dict[str, Any]]:
    """Those that have waited longest, and those that are being written last."""
    waiting = sorted(
        (item for tree in trees for item in tree.outstanding.waiting()),
        key=lambda item: (item.state is Stage.DIRTY, item.since, item.path),
    )
    return [asdict(item) for item in waiting[:MOST_NAMED]]


def process() -> dict[str, Any]:
    """What the daemon takes of the machine: bytes of memory, seconds of CPU, open descriptors."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return {
        "memory": pages * resource.getpagesize(),
        "cpu": time.process_time(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def _directory(trees: Sequence[Tree]) -> str:
    """The cache of a mount, or, of several, where they are."""
    caches = [tree.state.files.cache.directory for tree in trees]
    return "" if not caches else str(caches[0] if len(caches) == 1 else caches[0].parent)


def remaining(sums: Remaining) -> dict[str, int]:
    """How much waits: files, bytes, removals."""
    return {"files": sums.files, "bytes": sums.size, "removals": sums.removals}


def left(sums: LeftBehind) -> dict[str, Any]:
    """What the bucket lacks of a mount that has ended."""
    return {"left": given_up(sums.files), "files": len(sums.files), "removals": sums.removals}


def given_up(files: Sequence[GivenUp]) -> list[dict[str, Any]]:
    """The latest files that could not be saved."""
    return [asdict(file) for file in list(files)[-MOST_NAMED:]]


def requests(stores: Iterable[Mapping[str, Tally]]) -> dict[str, Any]:
    """What was sent to the endpoint, by operation."""
    sums: dict[str, Tally] = {}
    for tallies in stores:
        for name, tally in tallies.items():
            sums.setdefault(name, Tally()).add(tally)
    return {name: asdict(tally) for name, tally in sorted(sums.items())}


def info(bucket: str, found: ObjectReport) -> dict[str, Any]:
    """What is known of an object."""
    headers = found.headers
    # of what was made here only the store has heard all
    told = dict(found.details)
    content_type = told.pop("content_type", headers.content_type)
    cached_how = {"cache-control": told.pop("cache_control", "")}
    other = {name: value for name, value in cached_how.items() if value} | dict(headers.other)
    return {
        "bucket": bucket,
        "key": found.key,
        "exists": found.exists,
        "size": found.size,
        "etag": found.etag,
        "modified": found.modified,
        "stage": found.stage,
        "cached": found.cached,
        "content_type": content_type,
        "headers": other,
        "metadata": dict(headers.metadata),
        **told,
    }


def versions(found: Sequence[ObjectVersion]) -> dict[str, Any]:
    """Versions of an object, the newest first."""
    return {
        "versions": [
            {
                "id": version.version_id,
                "modified": version.info.last_modified,
                "size": version.info.size,
                "etag": version.info.etag,
                "storage_class": version.info.storage_class,
                "deleted": version.deleted,
                "latest": version.latest,
            }
            for version in found
        ]
    }
