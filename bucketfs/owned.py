"""What only this user can change: what another one may have put there is never believed.

In a directory like /tmp anyone can make a directory, a file or a symbolic link under a name that a
program is going to use. So owner, type and mode are looked at before anything is read, on an open
descriptor where that is possible, and of all directories above: who can write to one of them can
put another directory in place of ours.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bucketfs.errors import FsError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: As the kernel's (path_resolution(7)).
_MAX_LINKS = 40
_PRIVATE = 0o700


class NotOwnError(FsError):
    """Another user made it, or could change it."""

    def __init__(self, path: str | Path, fault: str) -> None:
        super().__init__(errno.EPERM, f"{path} {fault}")


def directory_fault(status: os.stat_result, uid: int) -> str:
    """Why a directory cannot be made private to a user; "" if it can."""
    if not stat.S_ISDIR(status.st_mode):
        return f"is {_kind(status.st_mode)} instead of a directory"
    return _owner_fault(status, {uid})


def file_fault(status: os.stat_result, uid: int, *, was_open: bool = False) -> str:
    """Why what is in a file is not to be believed; "" if it is. Links are not counted.

    Args:
        status: Of the file itself, not of what a link leads to.
        uid: Whose it is to be.
        was_open: Others could reach it, since its directory was not private until now.
    """
    if not stat.S_ISREG(status.st_mode):
        return f"is {_kind(status.st_mode)} instead of a file"
    if was_open and status.st_mode & _OTHERS_WRITE:
        return "could be written by other users"
    return _owner_fault(status, {uid})


def above_fault(
    status: os.stat_result, owners: Collection[int], groups: Collection[int] = ()
) -> str:
    """Why others could replace what is in a directory, or where a link leads; "" if they cannot.

    Args:
        status: Of a directory or a symbolic link on the way to ours.
        owners: Users who are trusted.
        groups: Groups with no other members.
    """
    if stat.S_ISLNK(status.st_mode):  # its mode means nothing
        return _owner_fault(status, owners)
    if not stat.S_ISDIR(status.st_mode):
        return f"is {_kind(status.st_mode)} instead of a directory"
    writers = status.st_mode & _OTHERS_WRITE
    if status.st_gid in groups:
        writers &= ~stat.S_IWGRP
    if writers and not status.st_mode & stat.S_ISVTX:
        return "can be written by other users (chmod go-w, or chmod +t, makes it safe)"
    return _owner_fault(status, owners)


def _owner_fault(status: os.stat_result, owners: Collection[int]) -> str:
    return "" if status.st_uid in owners else f"belongs to user {_user(status.st_uid)}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a file" if stat.S_ISREG(mode) else "a special file"


def check_above(path: Path, *, make: bool = False) -> None:
    """See that nobody but root and this user can put something else in place of what is in `path`.

    Args:
        path: An absolute path. It and all that leads to it is looked at.
        make: Make directories that are missing, mode 700.

    Raises:
        NotOwnError: Somebody can.
        OSError: It cannot be looked at, or made.
    """
    owners = {0, os.getuid()}
    groups = {gid for uid in owners if (gid := _private_group(uid)) is not None}
    for part, status in _way(os.path.abspath(path), make=make):
        if fault := above_fault(status, owners, groups):
            raise NotOwnError(part, fault)


def _private_group(uid: int) -> int | None:
    """The group that many systems give each user; its directories are writable for the group."""
    try:
        user = pwd.getpwuid(uid)
        group = grp.getgrgid(user.pw_gid)
    except KeyError:
        return None
    is_private = group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    return user.pw_gid if is_private else None


def _way(path: str, *, make: bool) -> Iterator[tuple[str, os.stat_result]]:
    """All that the kernel looks at on the way to a path, links included."""
    at, rest, links = "/", path.split("/")[::-1], 0
    yield at, os.lstat(at)
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = os.path.dirname(at)
            continue
        here = os.path.join(at, part)
        status = _found(here, make=make)
        yield here, status
        if not stat.S_ISLNK(status.st_mode):
            at = here
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), here)
        target = os.readlink(here)
        at = "/" if target.startswith("/") else at
        rest += target.split("/")[::-1]


def _found(path: str, *, make: bool) -> os.stat_result:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):  # another mount was faster; the look tells whose it is
        os.mkdir(path, _PRIVATE)
    return os.lstat(path)


def check_directory(path: Path) -> None:
    """See that a directory is this user's, whatever its mode is.

    Raises:
        NotOwnError: It is not, or no directory.
        OSError: It cannot be looked at.
    """
    if fault := directory_fault(path.lstat(), os.getuid()):
        raise NotOwnError(path, fault)


def make_own(path: Path) -> None:
    """Give a directory of this user's mode 700, whatever is in it. Raises as `check_directory`."""
    with _private(path):
        pass


def make_private(path: Path, below: Collection[str] = (), many: str = "") -> None:
    """Give a directory of this user's mode 700, and see that all files in it are the user's.

    A file may have several names in it, but none elsewhere.

    Args:
        path: The directory.
        below: Names of directories that may be in it, whose files may have names elsewhere.
        many: How names of files end of which there may be a million. Where nobody else could enter
            the directory, their type is enough, which costs no system call.

    Raises:
        NotOwnError: Something in it is not; the directory has its old mode again.
        OSError: It cannot be read.
    """
    names: Counter[int] = Counter()
    linked: dict[int, tuple[Path, int]] = {}
    with _private(path) as (fd, was_open):
        for name, status in _entries(fd, "" if was_open else many):
            if name in below:
                names.update(_inodes_below(path / name))
                continue
            if fault := file_fault(status, os.getuid(), was_open=was_open):
                raise NotOwnError(path / name, fault)
            if status.st_nlink > 1:
                names[status.st_ino] += 1
                linked[status.st_ino] = (path / name, status.st_nlink)
        for inode, (file, count) in linked.items():
            if names[inode] < count:
                raise NotOwnError(file, "has another name elsewhere (a hard link)")


def _inodes_below(path: Path) -> Iterator[int]:
    with _private(path) as (fd, was_open):
        for name, status in _entries(fd):
            if fault := file_fault(status, os.getuid(), was_open=was_open):
                raise NotOwnError(path / name, fault)
            yield status.st_ino


@contextmanager
def _private(path: Path) -> Iterator[tuple[int, bool]]:
    """A directory with mode 700, and whether others could enter it before.

    What is wrong with it stays so if the body raises: a later look must find it, too.
    """
    check_directory(path)
    fd = os.open(path, _DIRECTORY)
    try:
        status = os.fstat(fd)
        if fault := directory_fault(status, os.getuid()):
            raise NotOwnError(path, fault)
        mode = stat.S_IMODE(status.st_mode)
        if mode == _PRIVATE:
            yield fd, False
            return
        os.fchmod(fd, _PRIVATE)
        try:
            yield fd, bool(mode & _OTHERS)
        except BaseException:
            os.fchmod(fd, mode)
            raise
    finally:
        os.close(fd)


def _entries(fd: int, many: str = "") -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(fd) as entries:
        for entry in entries:
            if many and entry.name.endswith(many) and entry.is_file(follow_symlinks=False):
                continue
            try:
                yield entry.name, entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # deleted meanwhile


def open_file(path: Path, flags: int) -> int:
    """Open a file of this user's; one that is made has mode 600.

    Raises:
        NotOwnError: It is another user's, or no regular file.
        OSError: It cannot be opened.
    """
    try:
        # without O_NONBLOCK a pipe would wait for its other end
        more = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(path, flags | more, 0o600)
    except OSError:
        if fault := file_fault(path.lstat(), os.getuid()):
            raise NotOwnError(path, fault) from None
        raise
    if fault := file_fault(os.fstat(fd), os.getuid()):
        os.close(fd)
        raise NotOwnError(path, fault)
    return fd


def is_closed(directory: Path) -> bool:
    """Whether only root and this user can put something into a directory."""
    try:
        status = directory.stat()
    except OSError:
        return False
    return status.st_uid in (0, os.getuid()) and not status.st_mode & _OTHERS_WRITE
