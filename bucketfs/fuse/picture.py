"""The picture of a mount that an orderly restart leaves in the cache directory for the next daemon.

A file of one mount and one hand-over: it names the mount that it is of (`Record.mount`), and is
removed before a daemon serves, so that what it says is never older than what the kernel knows.
After a crash there is none: then the root is all that is known, and the kernel looks up the rest
anew.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from bucketfs import owned
from bucketfs.cache.pages import sync_directory
from bucketfs.errors import FsError
from bucketfs.fuse.keeper import PICTURE
from bucketfs.fuse.operations import Operations
from bucketfs.fuse.readdir import OpenDirectory
from bucketfs.owned import NotOwnError
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.saving.handover import Picture
from bucketfs.tree.tree import Tree

log = logging.getLogger(__name__)

#: Of the file; one of another version is of no use.
_VERSION: Final = 2


def leave(directory: Path, mount: str, tree: Tree, operations: Operations) -> bool:
    """Write down what the next daemon needs; nothing may change any more.

    Returns:
        False when the disk refuses, which the log says.
    """
    picture = {
        "version": _VERSION,
        "mount": mount,
        **tree.handover.picture(),
        "handles": _handles(operations),
    }
    path, fresh = directory / PICTURE, directory / f"{PICTURE}.new"
    try:
        fresh.unlink(missing_ok=True)
        fd = owned.open_file(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(picture, file, separators=(",", ":"))
        fresh.replace(path)
        sync_directory(directory)
    except (OSError, NotOwnError) as error:
        log.error("%s cannot be written, open files fail after the restart: %s", path, error)
        return False
    log.info("left for the next daemon: %d inodes", len(picture["nodes"]))
    return True


def find(directory: Path, mount: str) -> Picture | None:
    """What the daemon of a mount that has just ended has left."""
    path = directory / PICTURE
    try:
        with open(owned.open_file(path, os.O_RDONLY), encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    except (OSError, NotOwnError, UnicodeDecodeError) as error:
        log.error("%s cannot be read, what is open fails: %s", path, error)
        return None
    with suppress(ValueError, TypeError, KeyError):
        picture: Picture = json.loads(text)
        if (picture["version"], picture["mount"]) == (_VERSION, mount):
            return picture
    log.warning("%s is not of this mount, or of another version of bucketfs", path)
    return None


def forget(directory: Path) -> None:
    """It has been used, or is out of date."""
    (directory / PICTURE).unlink(missing_ok=True)


def restore_handles(picture: Picture, tree: Tree, operations: Operations) -> None:
    """Have what programs have open; the log says how many of these fail from now on."""
    lost = 0
    for number, ino, facts in picture["handles"]:
        operations.begin_above(number)
        try:
            operations.handles[number] = _restored(ino, facts, tree, operations)
        except FsError as error:
            lost += 1
            log.info("handle %d of inode %d: %s", number, ino, error.why)
    handles, nodes = len(picture["handles"]), len(picture["nodes"])
    log.log(
        logging.WARNING if lost else logging.INFO,
        "went on with %d inodes and %d of %d open files", nodes, handles - lost, handles,
    )  # fmt: skip


def _restored(
    ino: int, facts: dict[str, Any], tree: Tree, operations: Operations
) -> Handle | OpenDirectory:
    """Raises FsError ESTALE for one of an inode that is not known."""
    inode = tree.state.table.get(ino)
    if isinstance(inode, Directory):
        opened = operations.directory_opened(inode, facts["asker"])
        opened.restore(facts["names"])
        return opened
    return tree.opener.reopen(inode, **facts)


def _handles(operations: Operations) -> list[list[Any]]:
    return [[number, *_facts_of(handle)] for number, handle in operations.handles.items()]


def _facts_of(handle: Handle | OpenDirectory) -> tuple[int, dict[str, Any]]:
    if isinstance(handle, OpenDirectory):
        return handle.directory.ino, {"asker": handle.asker, "names": handle.names}
    return handle.inode.ino, {
        "writable": handle.writable,
        "pid": handle.pid,
        "untold": handle.untold,
    }
