"""What the store knows of an object, as the extended attributes ``user.s3.*``.

They are read and set by name and never listed: programs that copy all attributes (``cp -a``,
``rsync -X``, ``tar --xattrs``) would carry an ETag to another object.

======================================  ============================================================
``etag``, ``version_id``                the version in the bucket
``storage_class``, ``restore``,         as HeadObject tells them
``encryption``, ``checksum_*``
``content_type``, ``cache_control``,    stored with the object; can be set and removed
``content_disposition``,
``content_encoding``,
``content_language``, ``expires``,
``metadata.NAME``
``tags``                                ``a=1&b=2``, percent-encoded; can be set and removed
``presigned_url``                       an address at which anybody can read the object for an hour
======================================  ============================================================
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl, urlencode

from bucketfs.errors import FsError, StoreError
from bucketfs.store.base import Headers
from bucketfs.tree.core.inode import Inode
from bucketfs.tree.core.posix import content_type_of, is_ours, tagged_as
from bucketfs.tree.core.state import TreeState
from bucketfs.tree.lookup.attributes import Attributes
from bucketfs.tree.saving.change import Changer
from bucketfs.tree.saving.later import Later
from bucketfs.tree.saving.save import Saver

PREFIX: Final = "user.s3."
#: Seconds for which the address in ``presigned_url`` is good.
PRESIGNED: Final = 3600

_METADATA: Final = "metadata."
_HEADERS: Final = {
    "cache_control": "cache-control",
    "content_disposition": "content-disposition",
    "content_encoding": "content-encoding",
    "content_language": "content-language",
    "expires": "expires",
}
_TOLD: Final = ("version_id", "storage_class", "restore", "encryption")
_CHECKSUM: Final = "checksum_"
#: What the endpoint says of too many tags, and of what cannot be one.
_NO_TAGS: Final = frozenset({"BadRequest", "InvalidTag"})
#: Names of user metadata that every endpoint takes (RFC 9110, 5.6.2, in lower case).
_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
#: Printable ASCII: others are lost or changed by some endpoints.
_VALUE: Final = re.compile(r"[ -~]*")


class ObjectXattrs:
    """Reads and sets ``user.s3.*``."""

    def __init__(
        self,
        state: TreeState,
        attributes: Attributes,
        changer: Changer,
        saver: Saver,
        later: Later,
    ) -> None:
        self._store = state.files.store
        self._attributes = attributes
        self._changer = changer
        self._saver = saver
        self._later = later

    async def get(self, inode: Inode, name: str) -> bytes:
        """The value of an attribute.

        Args:
            inode: Its attributes are known.
            name: Behind `PREFIX`.

        Raises:
            FsError: ENODATA: the object has nothing of this name, or there is no object.
            StoreError: The endpoint could not be asked, or knows no tags.
        """
        await self._attributes.complete(inode)
        value = await self._value(inode, name)
        if not value:
            raise FsError(errno.ENODATA)
        return value.encode()

    async def _value(self, inode: Inode, name: str) -> str:
        foreign = _foreign(inode)
        if name == "etag":
            return inode.etag
        if name == "content_type":
            return foreign.content_type or ("" if not inode.etag else content_type_of(inode.name))
        if name in _HEADERS:
            return foreign.other.get(_HEADERS[name], "")
        if name.startswith(_METADATA):
            return foreign.metadata.get(name.removeprefix(_METADATA), "")
        if name == "tags":
            tags = await self._store.tags(self._key(inode))
            _note_tags(inode, tags)
            return urlencode(tags)
        if name == "presigned_url":
            return await self._store.presigned_url(self._key(inode), PRESIGNED)
        if name in _TOLD or name.startswith(_CHECKSUM):
            return (await self._store.details(self._key(inode))).get(name, "")
        return ""

    async def set(self, inode: Inode, name: str, value: bytes) -> None:
        """Set an attribute; with the value b"" it is removed.

        Raises:
            FsError: EPERM: it is the store's to say; EINVAL: no header can have this value;
                ENOSPC: too much metadata.
            StoreError: Tags could not be stored.
        """
        text = _text(value)
        if name == "tags":
            await self._set_tags(inode, text)
        elif name == "content_type":
            self._change(inode, lambda headers: replace(headers, content_type=text))
        elif name in _HEADERS:
            self._change(inode, lambda headers: _with_header(headers, _HEADERS[name], text))
        elif name.startswith(_METADATA):
            key = _metadata_name(name.removeprefix(_METADATA))
            self._change(inode, lambda headers: _with_metadata(headers, key, text))
        else:
            raise FsError(errno.EPERM, f"{PREFIX}{name} cannot be set")

    async def remove(self, inode: Inode, name: str) -> None:
        """Remove an attribute; raises as `get` and `set` do."""
        await self.get(inode, name)
        await self.set(inode, name, b"")

    def _change(self, inode: Inode, change: Callable[[Headers], Headers]) -> None:
        self._changer.set_foreign(inode, change(_foreign(inode)))
        self._later.attributes(inode)

    async def _set_tags(self, inode: Inode, text: str) -> None:
        try:
            tags = dict(parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)))
        except ValueError:
            raise FsError(errno.EINVAL, "tags are written a=1&b=2") from None
        if "" in tags:
            raise FsError(errno.EINVAL, "a tag has a name")
        await self._saver.save(inode)
        try:
            await self._store.set_tags(self._key(inode), tags)
        except StoreError as error:
            if error.code not in _NO_TAGS:
                raise
            raise FsError(errno.EINVAL, str(error)) from error
        _note_tags(inode, tags)

    def _key(self, inode: Inode) -> str:
        """Key of the inode's object; raises FsError, ENODATA, when there is none."""
        if not inode.etag:
            raise FsError(errno.ENODATA)
        return self._attributes.object_key(inode)


def _note_tags(inode: Inode, tags: Mapping[str, str]) -> None:
    if inode.posix is not None:
        inode.posix = tagged_as(inode.posix, Headers(tag_count=len(tags)))


def _foreign(inode: Inode) -> Headers:
    assert inode.posix is not None, "attributes are looked up before"
    return inode.posix.foreign or Headers()


def _text(value: bytes) -> str:
    text = value.decode("ascii", "replace")
    if not _VALUE.fullmatch(text):
        raise FsError(errno.EINVAL, "headers of an object are printable ASCII")
    return text


def _metadata_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise FsError(errno.EINVAL, f"{name!r} is no name of user metadata (lower case, ASCII)")
    if is_ours(name):
        raise FsError(errno.EPERM, f"metadata {name!r} is set with chmod, chown and the like")
    return name


def _with_header(headers: Headers, name: str, text: str) -> Headers:
    return replace(headers, other=_with(headers.other, name, text))


def _with_metadata(headers: Headers, name: str, text: str) -> Headers:
    return replace(headers, metadata=_with(headers.metadata, name, text))


def _with(mapping: Mapping[str, str], name: str, text: str) -> dict[str, str]:
    left = {key: value for key, value in mapping.items() if key != name}
    return {**left, name: text} if text else left
