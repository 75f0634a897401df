"""What `bucketfs status`, `info` and `versions` tell, as plain data for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bucketfs.cli.socket.protocol import MOST_NAMED
from bucketfs.fuse.host import Service
from bucketfs.store.base import ObjectVersion
from bucketfs.store.layers.trace import Tally
from bucketfs.tree.core.stages import Stage
from bucketfs.tree.core.state import GivenUp
from bucketfs.tree.namespace.objects import ObjectReport
from bucketfs.tree.saving.outstanding import LeftBehind, Remaining


def service(parts: Service) -> dict[str, Any]:
    """What the mount holds and does: cache, open files, what waits for the bucket, what failed."""
    outstanding = parts.tree.outstanding
    waiting = outstanding.waiting()
    cache = parts.cache
    return {
        "operations": dict(parts.operations.metrics.operations),
        "failures": dict(parts.operations.metrics.failures),
        "open_files": parts.operations.open_files,
        "cache": {
            "directory": str(cache.directory),
            "held": cache.held,
            "limit": cache.capacity,
        },
        "waiting": {
            **remaining(outstanding.remaining()),
            "being_written": sum(item.state is Stage.DIRTY for item in waiting),
            "failing": sum(bool(item.error) for item in waiting),
            "items": [asdict(item) for item in waiting[:MOST_NAMED]],
        },
        "uploaded": asdict(parts.tree.saver.uploaded),
        "failed": given_up(parts.tree.state.given_up),
    }


def remaining(sums: Remaining) -> dict[str, int]:
    """How much waits: files, bytes, removals."""
    return {"files": sums.files, "bytes": sums.size, "removals": sums.removals}


def left(sums: LeftBehind) -> dict[str, Any]:
    """What the bucket lacks of a mount that has ended."""
    return {"left": given_up(sums.files), "files": len(sums.files), "removals": sums.removals}


def given_up(files: Sequence[GivenUp]) -> list[dict[str, Any]]:
    """The latest files that could not be saved."""
    return [asdict(file) for file in list(files)[-MOST_NAMED:]]


def requests(tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """What was sent to the endpoint, by operation."""
    return {name: asdict(tally) for name, tally in sorted(tallies.items())}


def info(bucket: str, found: ObjectReport) -> dict[str, Any]:
    """What is known of an object."""
    headers = found.headers
    return {
        "bucket": bucket,
        "key": found.key,
        "exists": found.exists,
        "size": found.size,
        "etag": found.etag,
        "modified": found.modified,
        "stage": found.stage,
        "cached": found.cached,
        "content_type": headers.content_type,
        "headers": dict(headers.other),
        "metadata": dict(headers.metadata),
        **found.details,
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
