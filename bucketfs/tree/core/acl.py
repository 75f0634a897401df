"""POSIX access control lists: their form as extended attributes, and what they do to modes. Pure.

The form is that of linux/posix_acl_xattr.h, version 2, in which the kernel passes them and s3fs
stores them: a 32-bit version, then for each entry a 16-bit tag, 16 bits of permissions and a 32-bit
id, all little endian. The rules are those of POSIX.1e, draft 17, section 23.1, as fs/posix_acl.c of
Linux has them: the group bits of a mode show the mask of a list that has one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

#: Names of the extended attributes.
ACCESS: Final = "system.posix_acl_access"
DEFAULT: Final = "system.posix_acl_default"
NAMES: Final = frozenset({ACCESS, DEFAULT})

_VERSION: Final = 2
_HEAD: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
#: Id of entries that are of nobody in particular (ACL_UNDEFINED_ID).
NO_ID: Final = (1 << 32) - 1
_RWX: Final = 0o7


class Tag(IntEnum):
    """Whom an entry is for."""

    USER_OBJ = 0x01
    USER = 0x02
    GROUP_OBJ = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


_NAMED: Final = (Tag.USER, Tag.GROUP)


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """Permissions (``rwx`` in three bits) of one class, user or group."""

    tag: Tag
    permissions: int
    id: int = NO_ID


#: Entries in the order of the kernel: by tag, those of a tag by id.
Acl = Sequence[Entry]


def decode(value: bytes) -> Acl | None:
    """The list in an extended attribute, None when there is none that could be."""
    if len(value) < _HEAD.size or (len(value) - _HEAD.size) % _ENTRY.size:
        return None
    if _HEAD.unpack_from(value)[0] != _VERSION:
        return None
    try:
        acl = [Entry(Tag(tag), bits, id_) for tag, bits, id_ in _ENTRY.iter_unpack(value[4:])]
    except ValueError:
        return None
    return acl if _is_valid(acl) else None


def encode(acl: Acl) -> bytes:
    """The extended attribute of a list."""
    return _HEAD.pack(_VERSION) + b"".join(
        _ENTRY.pack(entry.tag, entry.permissions, entry.id) for entry in acl
    )


def _is_valid(acl: Acl) -> bool:
    """As posix_acl_valid: all classes once and in order, a mask if anybody is named."""
    tags = [entry.tag for entry in acl]
    if tags != sorted(tags) or any(entry.permissions & ~_RWX for entry in acl):
        return False
    once = all(tags.count(tag) == 1 for tag in (Tag.USER_OBJ, Tag.GROUP_OBJ, Tag.OTHER))
    masks = tags.count(Tag.MASK)
    return once and masks <= 1 and (masks == 1 or not any(tag in _NAMED for tag in tags))


def is_minimal(acl: Acl) -> bool:
    """Whether a mode says all that a list does."""
    return all(entry.tag in (Tag.USER_OBJ, Tag.GROUP_OBJ, Tag.OTHER) for entry in acl)


def mode_of(acl: Acl) -> int:
    """The nine bits of a mode that show a list."""
    shown = {entry.tag: entry.permissions for entry in acl}
    group = shown.get(Tag.MASK, shown[Tag.GROUP_OBJ])
    return shown[Tag.USER_OBJ] << 6 | group << 3 | shown[Tag.OTHER]


def with_mode(acl: Acl, mode: int) -> Acl:
    """A list after chmod: as `mode` says for owner, others, and the mask or, without one, group."""
    group = Tag.MASK if any(entry.tag is Tag.MASK for entry in acl) else Tag.GROUP_OBJ
    shift = {Tag.USER_OBJ: 6, group: 3, Tag.OTHER: 0}
    return [
        replace(entry, permissions=mode >> shift[entry.tag] & _RWX) if entry.tag in shift else entry
        for entry in acl
    ]


def unmasked(mode: int, umask: int) -> int:
    """The mode that a program asked for, as far as the kernel's ``mode & ~umask`` lets it be told.

    No umask applies where a default list is inherited; but the kernel takes it off unless it is
    told not to, which pyfuse3 cannot. What it took from group and others is taken to have been
    asked for where these were given anything at all, and the owner has it: so 0644 was 0666, with
    a umask of 022. Where nothing is left of a class, it stays at nothing: it may have been a
    private file.
    """
    owner = mode >> 6 & _RWX
    for shift in (3, 0):
        if mode >> shift & _RWX:
            mode |= (umask >> shift & owner) << shift
    return mode


def inherited(default: Acl, mode: int) -> tuple[int, Acl]:
    """Mode and access list of what is made with `mode` in a directory with a default list."""
    acl = with_mode(default, mode & mode_of(default))
    return mode & ~0o777 | mode_of(acl), acl


def after_chmod(xattrs: Mapping[str, bytes], mode: int) -> Mapping[str, bytes]:
    """Extended attributes of a file whose mode is changed."""
    acl = decode(xattrs.get(ACCESS, b""))
    return xattrs if acl is None else {**xattrs, ACCESS: encode(with_mode(acl, mode))}


def made_in(
    parent: Mapping[str, bytes], mode: int, *, directory: bool
) -> tuple[int, Mapping[str, bytes]]:
    """Mode and extended attributes of what is made in a directory that has these attributes."""
    default = decode(parent.get(DEFAULT, b""))
    if default is None:
        return mode, {}
    mode, acl = inherited(default, mode)
    xattrs = {} if is_minimal(acl) else {ACCESS: encode(acl)}
    return mode, {**xattrs, DEFAULT: encode(default)} if directory else xattrs
