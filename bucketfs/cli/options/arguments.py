r"""argv → `Options`: positions, flags, option lists, and every check a pure function can make.

The grammar is s3fs's: ``BUCKET[:/PREFIX]`` and ``MOUNTPOINT`` in that order, options before,
between and after them, ``-o`` repeated at will, each with a comma list in which ``\\,`` and
``"…"`` protect a comma. Options of rclone may stand alone (``--NAME=VALUE``). Whatever is wrong
raises `ParseError` with one line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bucketfs.cli.options import compat, rclone
from bucketfs.options import ALL_BUCKETS, BY_NAME, HANDED_OVER, IMMUTABLE, Options, Row
from bucketfs.units import Commit, VersionOf


class ParseError(Exception):
    """The command line makes no sense; the text says in one line which part and why."""


@dataclass(slots=True)
class Arguments:
    """The command line taken apart, nothing checked yet.

    Attributes:
        positions: Arguments that are not options.
        options: ``(name, value)`` of each ``-o`` word; the value is None without an equals sign.
        flags: Names of the single switches given: foreground, debug, help, version …
    """

    positions: list[str] = field(default_factory=list)
    options: list[tuple[str, str | None]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)


_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "-f": "foreground",
        "--foreground": "foreground",
        "-d": "debug",
        "--debug": "debug",
        "-s": "single",
        "-h": "help",
        "--help": "help",
        "-V": "version",
        "--version": "version",
    }
)

#: rclone's single letters.
_RCLONE_SHORT = frozenset({"-v", "-vv", "-q"})

_UPLOAD_TOOLS = ("-u", "--incomplete-mpu-list", "--incomplete-mpu-abort")


def split_list(text: str) -> Iterator[str]:
    """The items of one comma list; a backslash or double quotes protect commas."""
    item: list[str] = []
    quoted = False
    letters = iter(text)
    for letter in letters:
        if letter == "\\":
            item.append(next(letters, "\\"))
        elif letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            yield "".join(item)
            item = []
        else:
            item.append(letter)
    if quoted:
        raise ParseError(f'-o {text}: the closing " is missing')
    yield "".join(item)


def tokenise(argv: Sequence[str]) -> Arguments:
    """Sort the words of a command line, without the program's name, into `Arguments`."""
    found = Arguments()
    words = iter(argv)
    for word in words:
        if word == "--":
            found.positions.extend(words)
        elif word == "-o":
            _add_list(found, _value_after(word, words))
        elif word.startswith("-o"):
            _add_list(found, word[2:])
        elif word in _FLAGS:
            found.flags.add(_FLAGS[word])
        elif word.startswith(_UPLOAD_TOOLS):
            raise ParseError(f"{word}: not supported; bucketfs mounts, it does not manage uploads")
        elif word.startswith("--") or word in _RCLONE_SHORT:
            found.options.append(_of_rclone(word, words))
        elif word.startswith("-") and len(word) > 1:
            raise ParseError(f"{word}: unknown option; options are written -o name=value")
        else:
            found.positions.append(word)
    if any(name.replace("-", "_") == "fuse_fd" for name, _ in found.options):
        found.positions.append(HANDED_OVER)
    return found


def _value_after(flag: str, words: Iterator[str]) -> str:
    value = next(words, None)
    if value is None:
        raise ParseError(f"{flag}: a list of options must follow")
    return value


def _of_rclone(word: str, words: Iterator[str]) -> tuple[str, str | None]:
    """``--name``, ``--name=value`` or ``--name value`` as a word of ``-o``."""
    name, equals, value = word.lstrip("-").partition("=")
    spelling = rclone.find(name)
    if spelling is None:
        # a value that is not understood may be a secret
        hint = "; options are written -o name=value"
        close = difflib.get_close_matches(name, rclone.SPELLINGS, n=1, cutoff=0.8)
        hint = f"; did you mean --{close[0]}?" if close else hint
        raise ParseError(f"--{name}: unknown option{hint}")
    if equals:
        return name, value
    if not spelling.takes_value:
        return name, None
    following = next(words, None)
    if following is None:
        raise ParseError(f"--{name}: needs a value")
    return name, following


def _add_list(found: Arguments, text: str) -> None:
    for item in split_list(text):
        name, equals, value = item.strip().partition("=")
        if name:
            found.options.append((name.strip(), value if equals else None))


def without_additions(options: Sequence[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """The words that somebody asked for: without those that mount.fuse3 puts at the end."""
    added = [(name, None) for name in compat.MOUNT_FUSE3_ADDS]
    return list(options[: -len(added)] if list(options[-len(added) :]) == added else options)


def parse(argv: Sequence[str]) -> Options:
    """The whole way from a command line to checked `Options`. Raises ParseError."""
    return build(tokenise(argv))


def build(arguments: Arguments) -> Options:
    """Check and join what `tokenise` found. Raises ParseError."""
    gathered = _Gathered()
    for name, value in arguments.options:
        gathered.take(name, value)
    values = gathered.values
    if is_all_buckets(arguments):
        values["all_buckets"] = True
        bucket, prefix, mountpoint = "", "", _only_mountpoint(arguments.positions, gathered.bucket)
    else:
        bucket, prefix, mountpoint = _positions(arguments.positions, gathered.bucket)
    if gathered.servicepath.strip("/") and values.get("url"):
        values["url"] = f"{values['url']}/{gathered.servicepath.strip('/')}"
    if "single" in arguments.flags:
        gathered.notes.append("-s: without effect; requests are served side by side")
    _check_together(bucket, values)
    if values.get("fuse_fd") is not None and mountpoint != HANDED_OVER:
        raise ParseError(f"fuse_fd stands for the mount point: leave {mountpoint} out")
    if values.get("immutable") or values.get("at") is not None:
        values = {**IMMUTABLE, **values}
    if values.get("at") is not None:
        values["read_only"] = True
    return Options(
        bucket=bucket,
        prefix=prefix,
        mountpoint=mountpoint,
        foreground="foreground" in arguments.flags,
        debug="debug" in arguments.flags,
        nonempty=gathered.nonempty,
        fuse_options=tuple(gathered.fuse.values()),
        notes=tuple(gathered.notes),
        **values,
    )


class _Gathered:
    """What the option words of one command line add up to; a later word beats an earlier one."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.fuse: dict[str, str] = {}
        self.notes: list[str] = []
        self.nonempty = False
        self.bucket: str | None = None
        self.servicepath = ""

    def take(self, name: str, value: str | None, shown: str = "") -> None:
        """Sort in one word; `shown` is how the user has written it. Raises ParseError."""
        if self._take_word(name, value):
            return
        if name in BY_NAME:
            self._set(BY_NAME[name], shown or name, value)
        elif name in compat.FUSE_WORDS or name in compat.FUSE_VALUES:
            self.fuse[name] = name if value is None else f"{name}={_escape(value)}"
            if compat.CONTRARY.get(name[2:]) == name:
                self.fuse.pop(name[2:], None)
        elif name in compat.CONTRARY:
            self.fuse.pop(compat.CONTRARY[name], None)
            if name in compat.PRIVILEGED_WORDS:
                self.fuse[name] = name
        elif name in compat.IGNORED:
            self.notes.append(f"option {name} is without effect: {compat.IGNORED[name]}")
        elif name in compat.REFUSED:
            raise ParseError(f"{name}: {compat.REFUSED[name]}")
        elif (spelling := rclone.find(name)) is not None:
            self._take_from_rclone(spelling, name, value)
        elif "-" in name:
            # a name of ours as rclone would write it
            self.take(name.replace("-", "_"), value, name)
        else:
            raise ParseError(_unknown(shown or name))

    def _take_word(self, name: str, value: str | None) -> bool:
        """Whether it is one of those that are no rows of the table."""
        match name:
            case "rw":
                self.values["read_only"] = False
            case "nonempty":
                self.nonempty = True
            case "bucket":
                self.bucket = value or ""
            case "servicepath":
                self.servicepath = value or ""
            case "use_rrs":
                self.values["storage_class"] = None if value == "0" else "REDUCED_REDUNDANCY"
            case _:
                return compat.is_dropped(name)
        return True

    def _take_from_rclone(self, spelling: rclone.Spelling, name: str, value: str | None) -> None:
        try:
            is_off = spelling.is_off(value)
            ours = spelling.ours(value) if spelling.kind is rclone.Kind.OURS else None
        except ValueError as error:
            raise ParseError(f"{_as_given(name, value)}: {error}") from None
        match spelling.kind:
            case rclone.Kind.OURS:
                if ours is not None:
                    self.take(*ours, name)
            case rclone.Kind.ANYWAY:
                if is_off:
                    raise ParseError(f"{_as_given(name, value)}: {spelling.text}")
            case rclone.Kind.REFUSED:
                if not is_off:
                    raise ParseError(f"{name}: {spelling.text}")
            case rclone.Kind.IGNORED:
                self.notes.append(f"option {name} is without effect: {spelling.text}")

    def _set(self, row: Row, name: str, value: str | None) -> None:
        try:
            self.values[row.attribute] = row.value_of(value)
        except ValueError as error:
            raise ParseError(f"{_as_given(name, value)}: {error}") from None


def _as_given(name: str, value: str | None) -> str:
    return name if value is None else f"{name}={value}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _unknown(name: str) -> str:
    known = [*BY_NAME, *compat.IGNORED, *compat.FUSE_WORDS, *rclone.SPELLINGS, "nonempty", "rw"]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = f"; did you mean {close[0]}?" if close else "; bucketfs --help lists all options"
    return f"{name}: unknown option{hint}"


def is_all_buckets(arguments: Arguments) -> bool:
    """Whether a command line names all buckets: by ``:/``, or by ``-o all_buckets``."""
    said = [value for name, value in arguments.options if name.replace("-", "_") == "all_buckets"]
    row = BY_NAME["all_buckets"]
    try:
        asked = bool(said) and bool(row.value_of(said[-1]))
    except ValueError:
        return False  # `build` says what is wrong with it
    return asked or (len(arguments.positions) == 2 and arguments.positions[0] == ALL_BUCKETS)


def _only_mountpoint(positions: Sequence[str], named: str | None) -> str:
    """The mount point of all buckets."""
    if named is not None:
        raise ParseError("all_buckets and bucket= exclude each other; give one")
    if len(positions) == 2 and positions[0] == ALL_BUCKETS:
        positions = positions[1:]
    if len(positions) != 1 or not positions[0]:
        raise ParseError("with all_buckets exactly one argument is expected: MOUNTPOINT")
    return positions[0]


def _positions(positions: Sequence[str], named: str | None) -> tuple[str, str, str]:
    """Bucket, prefix and mount point from the positions and from ``-o bucket=``."""
    if named is not None:
        if len(positions) != 1:
            raise ParseError("with -o bucket= exactly one argument is expected: MOUNTPOINT")
        return (*split_bucket(named), positions[0])
    if len(positions) < 2:
        missing = "BUCKET and MOUNTPOINT" if not positions else "MOUNTPOINT"
        raise ParseError(f"{missing} missing; usage: bucketfs BUCKET[:/PREFIX] MOUNTPOINT [-o …]")
    if len(positions) == 3 and positions[2] == HANDED_OVER:
        raise ParseError(f"fuse_fd stands for the mount point: leave {positions[1]} out")
    if len(positions) > 2:
        raise ParseError(f"{positions[2]}: one argument too many; quote names with spaces")
    if not positions[1]:
        raise ParseError("MOUNTPOINT is empty")
    return (*split_bucket(positions[0]), positions[1])


def split_bucket(text: str) -> tuple[str, str]:
    """``BUCKET[:/PREFIX]`` or ``s3://BUCKET[/PREFIX]`` → name and prefix (``""`` or ``a/b/``).

    Raises ParseError.
    """
    if text.startswith("s3://"):
        name, slash, path = text.removeprefix("s3://").partition("/")
        if name and ":" not in name:
            return split_bucket(f"{name}:{slash}{path}")
    if "://" in text:
        raise ParseError(f"{text}: write BUCKET[:/PREFIX], and the address into -o url=")
    if text.startswith(":s3"):
        raise ParseError(f"{text}: write BUCKET[:/PREFIX], and rclone's settings into -o")
    if text == ALL_BUCKETS:
        raise ParseError(":/ stands for all buckets, which can only be mounted; name one of them")
    bucket, _, path = text.partition(":")
    if not bucket:
        raise ParseError(
            f"{text or chr(39) * 2}: names no bucket; write BUCKET[:/PREFIX], or :/ for all"
        )
    if "/" in bucket:
        name, _, rest = bucket.strip("/").partition("/")
        raise ParseError(f"{text}: a prefix is written with a colon: {name}:/{rest}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", bucket):
        raise ParseError(f"{bucket}: not a bucket name (letters, digits, '.', '-', '_')")
    if path and not path.startswith("/"):
        raise ParseError(_without_slash(text, bucket, path))
    parts = [part for part in path.split("/") if part]
    if "." in parts or ".." in parts:
        raise ParseError(f"{text}: '.' and '..' cannot stand in a prefix")
    if any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        raise ParseError(f"{text}: a part of the prefix is longer than 255 bytes")
    return bucket, "".join(f"{part}/" for part in parts)


def _without_slash(text: str, bucket: str, path: str) -> str:
    """The line about ``NAME:PATH``; what rclone calls NAME is an endpoint with its keys."""
    line = f"{text}: the prefix must begin with a slash: {bucket}:/{path}"
    first, _, rest = path.partition("/")
    if not first:
        return line
    meant = f"{first}:/{rest}" if rest else first
    return f"{line}; if {bucket} is a remote of rclone: {meant}, with its endpoint in -o url="


def _check_together(bucket: str, values: Mapping[str, Any]) -> None:
    """Rules that bind two options, or an option and the bucket's name. Raises ParseError."""
    if values.get("enable_acl") and values.get("use_xattr") is False:
        raise ParseError("enable_acl needs extended attributes: leave use_xattr=0 out")
    if "free_space_ratio" in values and values.get("ensure_diskfree") is not None:
        raise ParseError("free_space_ratio and ensure_diskfree exclude each other; give one")
    if values.get("public_bucket"):
        if values.get("all_buckets"):
            raise ParseError(
                "public_bucket and all_buckets exclude each other: nobody has them all"
            )
        for name in ("passwd_file", "profile", "iam_role"):
            if values.get(name):
                raise ParseError(f"public_bucket and {name} exclude each other: nothing is signed")
    if values.get("passwd_file") and values.get("iam_role"):
        raise ParseError("passwd_file and iam_role exclude each other; give one")
    if values.get("no_check_certificate") and values.get("ca_bundle"):
        raise ParseError("no_check_certificate and ca_bundle exclude each other; give one")
    if values.get("publish") == "unmount" and values.get("exclusive_create") == "open":
        raise ParseError("publish=unmount and exclusive_create=open exclude each other; give one")
    if values.get("follow") and values.get("at") is not None:
        raise ParseError("follow and at exclude each other: what was does not change any more")
    _check_locks(values)
    encryption = values.get("use_sse")
    url = values.get("url") or ""
    if encryption is not None and encryption.mode == "custom" and url.startswith("http://"):
        raise ParseError("use_sse=custom sends the key itself and so needs an https:// url")
    _check_past(values)
    _check_host_name(bucket, values)


def _check_locks(values: Mapping[str, Any]) -> None:
    """Rules for locks that are kept in the bucket."""
    if values.get("locks") != "bucket":
        return
    for name, why in (
        ("read_only", "a lock is written to the bucket"),
        ("at", "what was does not change any more"),
        ("all_buckets", "mount the bucket by its name"),
        ("versions", "old versions do not change any more"),
        ("plain_fuse", "libfuse alone does not ask for locks"),
    ):
        if values.get(name):
            shown = "ro" if name == "read_only" else name
            raise ParseError(f"locks=bucket and {shown} exclude each other: {why}")
    for name, value, why in (
        ("publish", "unmount", "the end of a lock publishes"),
        ("conflict", "overwrite", "who has lost a lock would overwrite what the next one stores"),
    ):
        if values.get(name) == value:
            raise ParseError(f"locks=bucket and {name}={value} exclude each other: {why}")


def _check_past(values: Mapping[str, Any]) -> None:
    """Rules for showing what was."""
    if values.get("versions") and values.get("at") is not None:
        raise ParseError("versions and at exclude each other: what was is all that at= shows")
    if values.get("all_buckets") and isinstance(values.get("at"), VersionOf | Commit):
        raise ParseError("at: versions and commits are those of one bucket: name it, or a time")


def _check_host_name(bucket: str, values: Mapping[str, Any]) -> None:
    """A bucket that becomes part of the host name must be one; as in s3fs."""
    in_host = values.get("use_path_request_style") is False or not values.get("url")
    if not bucket:
        return  # the AWS library puts those into the path that cannot be a host
    if not in_host or values.get("use_path_request_style"):
        return
    if bucket != bucket.lower() or "_" in bucket:
        raise ParseError(
            f"{bucket}: capitals and '_' cannot stand in a host name;"
            " add -o use_path_request_style, or the endpoint's url="
        )
    is_https = (values.get("url") or "https:").startswith("https:")
    if "." in bucket and is_https and values.get("use_path_request_style") is False:
        raise ParseError(
            f"{bucket}: no https certificate covers a bucket with dots in its name;"
            " use -o use_path_request_style"
        )
