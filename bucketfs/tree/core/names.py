"""File names: what can be one. Pure.

The components of a key, which ``/`` separates, are names. Not every key is a path: keys with empty,
``.`` or ``..`` components, with components over 255 bytes or with NUL are hidden, never touched.
"""

from __future__ import annotations

import errno

from bucketfs.errors import FsError

#: NAME_MAX of Linux, in bytes of UTF-8.
NAME_MAX = 255
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
