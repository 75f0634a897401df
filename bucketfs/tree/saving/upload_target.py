"""Where an inode's bytes go, and with which headers. Nothing is asked and nothing changes."""

from __future__ import annotations

import errno
import mimetypes

from bucketfs.errors import FsError
from bucketfs.file.target import Target
from bucketfs.store.base import Headers
from bucketfs.tree.core.inode import Directory, Inode, OpenState
from bucketfs.tree.core.posix import DIRECTORY_TYPE, encode, metadata_size
from bucketfs.tree.core.state import TreeState

#: S3's limit for user metadata of one object.
METADATA_MAX = 2048


def content_type(name: str) -> str:
    """MIME type by extension, as s3fs sets it."""
    return mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"


def object_headers(inode: Inode) -> Headers:
    """What the inode's object is to carry.

    Raises:
        FsError: ENOSPC when the attributes (xattrs, above all) exceed what an object can carry.
    """
    assert inode.posix is not None, "attributes are known before anything is saved"
    kind = DIRECTORY_TYPE if isinstance(inode, Directory) else content_type(inode.name)
    headers = encode(inode.posix, kind)
    if metadata_size(headers) > METADATA_MAX:
        raise FsError(errno.ENOSPC, f"more than {METADATA_MAX} bytes of metadata")
    return headers


def upload_target(state: TreeState, inode: Inode, open_state: OpenState) -> Target:
    """Where the inode's bytes go now.

    Raises:
        FsError: ENOSPC, ENAMETOOLONG; ESTALE for an inode without a name.
    """
    key = state.key(inode)
    replaced = state.deferred.get(key)
    etag = inode.etag or (replaced.etag if replaced else "")
    return Target(
        key,
        object_headers(inode),
        changes=open_state.progress.attribute_changes,
        if_match=etag,
        if_none_match=not etag,
    )
