"""What a page file says of itself while the journal counts on it: key, length, and since when.

The journal is one file, and SQLite ends its write-ahead log at the first damaged frame without an
error: rows may be gone although their page files are there. The tag tells such a file from one that
nobody needs. It is an extended attribute of the page file, or, where the file system has none, a
small file beside it.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_NAME = "user.bucketfs.waits"
_SUFFIX = ".waits"
#: errnos of a file system that has no extended attributes, or no room for this one.
_NO_ROOM = frozenset({errno.ENOTSUP, errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE})


@dataclass(frozen=True, slots=True)
class Tag:
    """A page file that waits for its upload.

    Attributes:
        key: Where it is to be published.
        size: Bytes.
        whole: All of them are in the page file; otherwise the version in the bucket has the rest.
        written: When its row was written last, in nanoseconds of the Unix clock.
    """

    key: str
    size: int
    whole: bool
    written: int


def put(path: Path, tag: Tag) -> None:
    """Tag a page file, in place of an older tag. Raises OSError: the disk refuses."""
    text = json.dumps(asdict(tag)).encode()
    try:
        os.setxattr(path, _NAME, text)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        beside(path).write_bytes(text)


def drop(path: Path) -> None:
    """Take the tag away; a page file that has none, or is gone, is no error."""
    with suppress(OSError):
        os.removexattr(path, _NAME)
    with suppress(OSError):
        beside(path).unlink()


def read(path: Path) -> Tag | None:
    """The tag of a page file; None if it has none, or one that cannot be read."""
    try:
        text = os.getxattr(path, _NAME, follow_symlinks=False)
    except OSError:
        try:
            text = beside(path).read_bytes()
        except OSError:
            return None
    try:
        said = json.loads(text)
        return Tag(str(said["key"]), int(said["size"]), bool(said["whole"]), int(said["written"]))
    except (ValueError, KeyError, TypeError):
        return Tag("", 0, whole=False, written=0)  # damaged as well: yet there was one


def beside(path: Path) -> Path:
    """The file that stands for the extended attribute where there is none."""
    return path.with_name(path.name + _SUFFIX)
