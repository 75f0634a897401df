"""The directory of one cache: where it is, whose, and who uses it now.

Below the root of all caches each bucket at each address has a directory, named by a hash of both;
further mounts of the same bucket at the same time have numbered ones beside it. The file ``name``
in it says in words what the hash stands for, for who looks at it without the bucket.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from bucketfs.cache.journal_file import waiting
from bucketfs.errors import FsError

#: What stands in the directory of a cache beside its page files.
INDEX, JOURNAL, UNSAVED = "index.sqlite", "journal.sqlite", "unsaved"
_LOCK, _NAME = "lock", "name"


def cache_root(use_cache: str | None) -> Path:
    """Where caches live: as told, else as the XDG base directory specification says.

    /var/cache for root.
    """
    if use_cache:
        return Path(use_cache)
    if os.getuid() == 0:
        return Path("/var/cache/bucketfs")
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if base.startswith("/") else f"{_home()}/.cache", "bucketfs")


def _home() -> str:
    """Not $HOME at first: mount(8) starts helpers without it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # containers have users without a name
        return os.environ.get("HOME", "")


def name_of(url: str | None, bucket: str) -> str:
    """What a cache is called: the address (None: AWS) and the bucket."""
    return f"{url}|{bucket}"


def stem(name: str) -> str:
    """The name of the directory, without a number."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def claim(root: Path, name: str, prefix: str = "") -> tuple[Path, int]:
    """A directory of this name locked for this process: the plain one, or the first numbered one.

    Two mounts of one bucket each get a cache of their own; nothing is shared that a second writer
    could change underneath. One in which a killed mount has left something goes before the others,
    so that no journal waits for as many mounts as there once were; one in which only mounts of
    other prefixes have is left to them.

    Returns:
        The directory, and the descriptor that holds the lock until it is closed.

    Raises:
        FsError: The directory cannot be used.
    """
    for journal in sorted(root.glob(f"{stem(name)}*/{JOURNAL}")):
        if (fd := lock(journal.parent)) is not None:
            if any(key.startswith(prefix) for key in waiting(journal)):
                _say(journal.parent, name)
                return journal.parent, fd
            os.close(fd)
    for number in itertools.count():
        directory = root / (stem(name) if number == 0 else f"{stem(name)}.{number}")
        fd = lock(directory, make=True)
        if fd is not None:
            if not waiting(directory / JOURNAL):
                _say(directory, name)
                return directory, fd
            os.close(fd)
    raise AssertionError("unreachable")


def claim_this(directory: Path) -> tuple[Path, int]:
    """As `claim`, for exactly this directory; FsError EBUSY while a mount uses it."""
    fd = lock(directory)
    if fd is None:
        raise FsError(errno.EBUSY, f"{directory}: a mount uses it")
    return directory, fd


def lock(directory: Path, *, make: bool = False) -> int | None:
    """Lock a directory against all others; None while another process has it.

    Args:
        directory: A cache's.
        make: Make it if it is missing.

    Raises:
        FsError: It cannot be used.
    """
    try:
        if make:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FsError(
            error.errno or errno.EIO,
            f"cannot use the cache directory {directory}: {error.strerror}",
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def directories(root: Path) -> Iterator[Path]:
    """The caches below a root."""
    try:
        found = sorted(root.iterdir())
    except OSError:
        return
    for directory in found:
        if (directory / _LOCK).exists():
            yield directory


def whose(directory: Path) -> tuple[str, str]:
    """Address ("" for AWS) and bucket of a cache; both "" when it does not say."""
    try:
        text = (directory / _NAME).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return "", ""
    url, _, bucket = text.rstrip("\n").rpartition("|")
    return ("" if url == "None" else url), bucket


def _say(directory: Path, name: str) -> None:
    path = directory / _NAME
    try:
        if not path.exists():
            path.write_text(name + "\n", encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # a full disk; nothing but the words of a listing depend on it


def sync_directory(path: Path) -> None:
    """Have the names in a directory survive a power cut; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
