"""File names and object keys: which belongs to which. Pure.

A key is the path below the mounted prefix, its components joined by ``/``. Not every key is a path:
keys with empty, ``.`` or ``..`` components, with components over 255 bytes or with NUL are hidden,
never touched.
"""

from __future__ import annotations

import errno

from bucketfs.errors import FsError

#: NAME_MAX of Linux and the key limit of S3, both in bytes of UTF-8.
NAME_MAX = 255
KEY_MAX = 1024
#: How Hadoop marks a directory: a zero-byte object ``dir_$folder$``.
FOLDER_SUFFIX = "_$folder$"


def decode_name(raw: bytes) -> str:
    """A name as the kernel gives it, as text.

    Raises:
        FsError: EILSEQ when it is not UTF-8 (keys are), ENAMETOOLONG over `NAME_MAX`.
    """
    if len(raw) > NAME_MAX:
        raise FsError(errno.ENAMETOOLONG)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise FsError(errno.EILSEQ, f"the name {raw!r} is not UTF-8, object keys are") from None


def is_visible(name: str) -> bool:
    """Whether a key's component can be a file name."""
    if name in ("", ".", "..") or "\0" in name or "/" in name:
        return False
    return len(name) * 4 <= NAME_MAX or len(name.encode()) <= NAME_MAX


def check_key(key: str) -> str:
    """The key itself.

    Raises:
        FsError: ENAMETOOLONG when S3 would not take it.
    """
    if len(key) * 4 > KEY_MAX and len(key.encode()) > KEY_MAX:
        raise FsError(errno.ENAMETOOLONG, f"the key would have more than {KEY_MAX} bytes")
    return key
