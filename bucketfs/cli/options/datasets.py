"""Where datasets are, and whose they may be: finding, reading and writing their files.

``NAME.toml`` in ``~/.config/bucketfs`` (or ``$XDG_CONFIG_HOME/bucketfs``) hides that in
``/etc/bucketfs``. Who may write such a file decides what is mounted and with which keys, so a file
is believed only if nobody but root, or the user in whose home it is, can have written it.
Keys stand in ``NAME.passwd`` beside it, or in the user's directory.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bucketfs import owned
from bucketfs.cli.options import dataset_file
from bucketfs.cli.options.arguments import ParseError
from bucketfs.cli.options.dataset_file import Dataset, DatasetError
from bucketfs.credentials import home_directories
from bucketfs.owned import NotOwnError

ETC = Path("/etc/bucketfs")
SCHEME = "dataset://"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_SUFFIX, _KEYS = ".toml", ".passwd"
_FILE_MODE, _KEYS_MODE = 0o644, 0o600
#: Bytes of a file at most; none that makes sense comes near.
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """A dataset's name and where its file is; nothing of the file is known yet.

    Attributes:
        directory: `ETC`, or the user's.
    """

    name: str
    directory: Path

    @property
    def file(self) -> Path:
        """The dataset's file."""
        return self.directory / (self.name + _SUFFIX)

    @property
    def keys(self) -> Path:
        """The file of its keys, unless it names another."""
        return self.directory / (self.name + _KEYS)

    @property
    def is_system(self) -> bool:
        return self.directory == ETC


def user_directory(environ: Mapping[str, str]) -> Path | None:
    """Where this user's datasets are; None: nobody knows the user's home."""
    config = environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(config):  # others count as not given, says the XDG specification
        return Path(config, "bucketfs")
    homes = home_directories(environ)
    return Path(homes[0], ".config", "bucketfs") if homes else None


def directories(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where datasets are looked for, in this order."""
    user = user_directory(environ)
    return (user, ETC) if user and user != ETC else (ETC,)


def is_name(text: str) -> bool:
    """Whether a dataset may be called so."""
    return _NAME.fullmatch(text) is not None


def find(name: str, environ: Mapping[str, str]) -> Place | None:
    """The dataset of a name, if there is a file of it."""
    places = (Place(name, directory) for directory in directories(environ))
    return next((place for place in places if os.path.lexists(place.file)), None)


def named(text: str, environ: Mapping[str, str]) -> tuple[Place, str] | None:
    """The dataset that the first word of a command line means, and the path in it.

    ``dataset://NAME/PATH`` always means one, a bare name only if there is a file of it, and
    nothing else does.

    Raises:
        ParseError: There is no such dataset.
    """
    if not text.startswith(SCHEME):
        place = find(text, environ) if is_name(text) else None
        return (place, "") if place else None
    name, _, below = text.removeprefix(SCHEME).partition("/")
    if not is_name(name):
        raise ParseError(f"{text}: write dataset://NAME[/PATH] (letters, digits, '.', '-', '_')")
    place = find(name, environ)
    if place is None:
        where = " or ".join(map(str, directories(environ)))
        raise ParseError(f"{text}: there is no {name}{_SUFFIX} in {where}; see: bucketfs dataset")
    return place, below


def every(environ: Mapping[str, str]) -> Iterator[Place]:
    """All datasets, by name; hidden ones are left out."""
    found: dict[str, Place] = {}
    for directory in directories(environ):
        with suppress(OSError):
            for file in sorted(directory.iterdir()):
                if file.suffix == _SUFFIX and is_name(file.stem):
                    found.setdefault(file.stem, Place(file.stem, directory))
    yield from (found[name] for name in sorted(found))


def read(place: Place) -> Dataset:
    """What a dataset's file says.

    Raises:
        DatasetError: It makes no sense, cannot be read, or somebody else may have written it. The
            line names the file.
    """
    try:
        return dataset_file.parse(_believed(place.file, {0} if place.is_system else _ours()))
    except DatasetError as error:
        raise DatasetError(f"{place.file}: {error}") from None
    except NotOwnError as error:
        raise DatasetError(f"{place.file}: {error.why}") from None
    except OSError as error:
        raise DatasetError(f"{place.file}: {error.strerror}") from None


def _ours() -> set[int]:
    return {0, os.getuid()}


def _believed(path: Path, owners: set[int]) -> str:
    """The text of a file that nobody but the owners can have written."""
    owned.check_above(path.parent)
    real = Path(os.path.realpath(path))
    owned.check_above(real.parent)
    fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if fault := _fault(os.fstat(fd), owners, real):
            raise DatasetError(fault)
        raw = file.read(_LONGEST + 1)
    if len(raw) > _LONGEST:
        raise DatasetError("is too large")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError("is not UTF-8") from None


def _fault(status: os.stat_result, owners: set[int], path: Path) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_uid not in owners:
        owner = max(owners)
        return f"belongs to another user, who decides what is mounted; run: chown {owner} {path}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others, who decide what is mounted; run: chmod go-w {path}"
    return ""


def keys_of(place: Place, dataset: Dataset, environ: Mapping[str, str]) -> tuple[str, str]:
    """The file of keys, and a remark for the log.

    The file is "" if the keys are left to the usual places. What the dataset names is always used,
    else what is there: the user's own, then the one beside the dataset, which may be root's alone.
    """
    if dataset.passwd_file:
        path = os.path.expanduser(dataset.passwd_file)
        return os.path.join(place.directory, path), ""
    user = user_directory(environ)
    if user and os.path.exists(own := user / place.keys.name):
        return str(own), ""
    if not os.path.exists(place.keys):
        return "", ""
    if place.is_system and not os.access(place.keys, os.R_OK):
        return "", f"{place.keys} is not for this user; keys are looked for in the usual places"
    return str(place.keys), ""


def write(place: Place, dataset: Dataset, keys: str, *, replace: bool) -> None:
    """Write a dataset's file and, unless "", its file of keys: each whole or not at all.

    Raises:
        FileExistsError: One of them is there, and `replace` is not given.
        NotOwnError: Others could write to the directory.
        OSError: It cannot be written.
    """
    _make_directory(place)
    if not replace and os.path.lexists(place.file):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place.file))
    if keys:
        _put(place.keys, keys, _KEYS_MODE, replace=replace)
    try:
        _put(place.file, dataset_file.text_of(dataset), _FILE_MODE, replace=replace)
    except OSError:
        if keys and not replace:
            place.keys.unlink()
        raise


def _make_directory(place: Place) -> None:
    if place.is_system and not place.directory.exists():
        place.directory.mkdir()
        place.directory.chmod(0o755)  # whatever the umask is: all users read it
    owned.check_above(place.directory, make=True)


def _put(path: Path, text: str, mode: int, *, replace: bool) -> None:
    fd, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(fd, mode)
            file.flush()
            os.fsync(fd)
        if replace:
            os.replace(beside, path)
        else:
            os.link(beside, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside)


def remove(place: Place) -> list[Path]:
    """Delete a dataset's file and the keys beside it; what was deleted. Raises OSError."""
    place.file.unlink()
    try:
        place.keys.unlink()
    except FileNotFoundError:
        return [place.file]
    return [place.file, place.keys]
