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
import logging
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from bucketfs import owned
from bucketfs.cache.journal import waiting
from bucketfs.errors import FsError
from bucketfs.owned import NotOwnError

log = logging.getLogger(__name__)

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


def endpoint_file(root: Path, name: str) -> Path:
    """Where it is kept what was learned of an address and bucket: all its mounts share it."""
    return root / f"{stem(name)}.endpoint.json"


def claim(root: Path, name: str, prefix: str = "") -> tuple[Path, int]:
    """A directory of this name locked for this process: the plain one, or the first numbered one.

    Two mounts of one bucket each get a cache of their own; nothing is shared that a second writer
    could change underneath. One in which a killed mount has left something goes before the others,
    so that no journal waits for as many mounts as there once were; one in which only mounts of
    other prefixes have is left to them. What is not this user's alone is passed over.

    Returns:
        The directory, and the descriptor that holds the lock until it is closed.

    Raises:
        FsError: The directory cannot be used.
    """
    _make(root)
    passed_over: set[Path] = set()
    for journal in sorted(root.glob(f"{stem(name)}*/{JOURNAL}")):
        if (fd := _lock_own(journal.parent, passed_over)) is not None:
            if any(key.startswith(prefix) for key in waiting(journal)):
                _say(journal.parent, name)
                return journal.parent, fd
            os.close(fd)
    for number in itertools.count():
        directory = root / (stem(name) if number == 0 else f"{stem(name)}.{number}")
        fd = _lock_own(directory, passed_over, make=True)
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


def lock(directory: Path) -> int | None:
    """Lock a directory against all others; None while another process has it.

    Nothing in it has been read before it and all its files are known to be this user's.

    Raises:
        FsError: It cannot be used.
    """
    try:
        owned.check_above(directory.parent)
        return _lock(directory, make=False)
    except OSError as error:
        raise _unusable(directory, error) from error
    except NotOwnError as error:
        raise FsError(error.errno, f"cannot use the cache directory: {error.why}") from error


def _lock_own(directory: Path, passed_over: set[Path], *, make: bool = False) -> int | None:
    """As `lock`; None, and one line in the log, if it is not this user's alone."""
    if directory in passed_over:
        return None
    try:
        return _lock(directory, make=make)
    except NotOwnError as error:
        passed_over.add(directory)
        log.error("the cache directory %s is not used: %s", directory, error.why)
        return None


def _lock(directory: Path, *, make: bool) -> int | None:
    try:
        if make:
            directory.mkdir(mode=0o700, exist_ok=True)
        owned.check_directory(directory)
        fd = owned.open_file(directory / _LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            owned.make_private(directory, below={UNSAVED}, many=".pages")
        except BaseException:
            os.close(fd)
            raise
    except BlockingIOError:
        return None
    except FileExistsError:  # a file or a link has the name
        raise NotOwnError(directory, "is no directory") from None
    except OSError as error:
        raise _unusable(directory, error) from error
    return fd


def _make(root: Path) -> None:
    """Make the directory of all caches, if it is missing. Raises FsError."""
    try:
        owned.check_above(root, make=True)
    except NotOwnError as error:
        hint = "with use_cache name one that only you can write to"
        raise FsError(
            error.errno, f"cannot use the cache directory: {error.why}; {hint}"
        ) from error
    except OSError as error:
        raise _unusable(root, error) from error


def _unusable(directory: Path, error: OSError) -> FsError:
    return FsError(
        error.errno or errno.EIO, f"cannot use the cache directory {directory}: {error.strerror}"
    )


def directories(root: Path) -> Iterator[Path]:
    """The caches of this user below a root."""
    try:
        found = sorted(root.iterdir())
    except OSError:
        return
    for directory in found:
        if not os.path.lexists(directory / _LOCK):
            continue
        try:
            owned.check_directory(directory)
        except NotOwnError as error:
            log.warning("a cache directory is left out: %s", error.why)
        except OSError:
            continue  # removed meanwhile
        else:
            yield directory


def whose(directory: Path) -> tuple[str, str]:
    """Address ("" for AWS) and bucket of a cache; both "" when it does not say."""
    try:
        fd = owned.open_file(directory / _NAME, os.O_RDONLY)
    except (OSError, NotOwnError):
        return "", ""
    with open(fd, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    url, _, bucket = text.rstrip("\n").rpartition("|")
    return ("" if url == "None" else url), bucket


def _say(directory: Path, name: str) -> None:
    try:
        fd = owned.open_file(directory / _NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(name + "\n")
    except FileExistsError:
        return
    except OSError:
        return  # a full disk; nothing but the words of a listing depend on it
