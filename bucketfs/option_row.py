"""A row of the option table, and the parsers of the values that rows hold.

`bucketfs.options` is the table. Every parser takes the text behind the equals sign and raises
`ValueError` with a reason that fits behind ``NAME=VALUE: ``.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

from bucketfs.units import MIB, format_size, parse_count, parse_size, parse_switch

#: Where nobody but this machine's users gets to.
_LOOPBACK = "127.0.0.1"

#: How a `Handover` is written.
_CONNECT, _LISTEN = "unix:", "unix-listen:"


class Group(StrEnum):
    """Headings of the help text, in its order."""

    ENDPOINT = "Endpoint"
    CREDENTIALS = "Credentials"
    NETWORK = "Network"
    OBJECTS = "Objects"
    VIEW = "Files as programs see them"
    CACHE = "Cache and transfers"
    LOG = "Logging and metrics"


@dataclass(frozen=True, slots=True)
class Encryption:
    """Server-side encryption asked for with ``use_sse``.

    Attributes:
        mode: ``s3`` (keys of the server), ``kms`` or ``custom`` (keys of the caller, SSE-C).
        source: Key id for ``kms``, path of the key file for ``custom``; "" means the environment
            (``AWSSSEKMSID``, ``AWSSSECKEYS``).
    """

    mode: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: an address of this machine, and a port; 0 lets the kernel choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Handover:
    """A Unix socket through which the descriptor of a mount comes.

    Attributes:
        path: Absolute.
        listens: Whether it is we who listen there; otherwise we connect.
    """

    path: str
    listens: bool

    def __str__(self) -> str:
        return f"{_LISTEN if self.listens else _CONNECT}{self.path}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: What stands behind ``-o``.
        attribute: Field of `Options` it fills.
        aliases: Other spellings (older s3fs names, rclone's).
        parse: Text to value; raises ValueError with the reason.
        metavar: Placeholder of the value; "" for a switch.
        low: Smallest value allowed, inclusive, in the value's own unit.
        high: Largest value allowed, inclusive.
        default: The value when the option is not given.
        shown_default: The default as the help prints it, "" when there is none worth printing.
        live: ``bucketfs set`` can change it under a mount.
    """

    name: str
    attribute: str
    aliases: tuple[str, ...]
    parse: Callable[[str], Any]
    metavar: str
    low: float | None
    high: float | None
    group: Group
    help: str
    default: Any
    shown_default: str
    live: bool

    @property
    def is_switch(self) -> bool:
        """Whether the bare name means on."""
        return not self.metavar or self.parse in (parse_switch, role, encryption)

    def value_of(self, text: str | None) -> Any:
        """The checked value of ``name=text``, or of the bare ``name`` when `text` is None.

        Raises ValueError with the reason, without the option's name.
        """
        if text is None:
            if not self.is_switch:
                raise ValueError(f"needs a value: {self.name}={self.metavar}")
            text = "1"
        value = self.parse(text)
        if self.low is not None and value is not None and value < self.low:
            raise ValueError(f"must be at least {self._show(self.low)}")
        if self.high is not None and value is not None and value > self.high:
            raise ValueError(f"must be at most {self._show(self.high)}")
        return value

    def _show(self, limit: float) -> str:
        return format_size(int(limit)) if self.metavar == "SIZE" else f"{limit:g}"


def row(
    group: Group,
    default: Any,
    parse: Callable[[str], Any],
    help: str,
    *,
    metavar: str = "",
    name: str = "",
    aliases: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    shown: str | None = None,
    live: bool = False,
) -> Any:
    """A field of `Options` that is a row of the table; the parameters are `Row`'s.

    `shown` replaces the default in the help; `name` is the field's own unless given.
    """
    if shown is None:
        shown = "" if default in (None, False, "") else ("on" if default is True else f"{default}")
    settings = {
        "name": name,
        "aliases": aliases,
        "parse": parse,
        "metavar": metavar,
        "low": low,
        "high": high,
        "group": group,
        "help": help,
        "shown_default": shown,
        "live": live,
    }
    return field(default=default, metadata=settings)


def text(text: str) -> str | None:
    """A text; nothing behind the equals sign means "not given", as in s3fs."""
    return text or None


def url(text: str) -> str:
    """An http or https address, without a slash at its end."""
    if not text.lower().startswith(("http://", "https://")) or not text.split("://", 1)[1]:
        raise ValueError("must begin with http:// or https://")
    return text.rstrip("/")


def address(text: str) -> Address:
    """``PORT``, ``ADDR:PORT`` or ``[ADDR]:PORT``; without an address: this machine alone."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or _LOOPBACK
    if not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError("must be PORT or ADDR:PORT, such as 9110 or 127.0.0.1:9110")
    try:
        return Address(str(ip_address(_LOOPBACK if host == "localhost" else host)), int(port))
    except ValueError:
        raise ValueError(f"{host} is no address (IPv4, or IPv6 in brackets)") from None


def handover(text: str) -> Handover:
    """``unix:PATH`` to connect to a socket, ``unix-listen:PATH`` to listen at one."""
    for scheme in (_LISTEN, _CONNECT):
        path = text.removeprefix(scheme)
        if path != text and path.startswith("/") and not path.endswith("/"):
            return Handover(path, scheme == _LISTEN)
    raise ValueError("must be unix:/PATH (connect to it) or unix-listen:/PATH (listen there)")


def region(text: str) -> str | None:
    """A region's name; s3fs calls it endpoint, which invites an address."""
    if "://" in text:
        raise ValueError("is the region's name; the address goes into url=")
    return text or None


def user(text: str) -> int:
    """A user by number or by name."""
    return _account(text, "user", lambda name: pwd.getpwnam(name).pw_uid)


def group(text: str) -> int:
    """A group by number or by name."""
    return _account(text, "group", lambda name: grp.getgrnam(name).gr_gid)


def _account(text: str, what: str, find: Callable[[str], int]) -> int:
    if text[:1].isdecimal():
        return parse_count(text)
    try:
        return find(text)
    except KeyError:
        raise ValueError(f"this machine has no {what} of that name") from None


def upper(text: str) -> str | None:
    """A text in capitals."""
    return text.upper() or None


def choice(*words: str) -> Callable[[str], str]:
    """A parser that takes one of these words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text.lower()

    return parse


def role(text: str) -> bool:
    """On, unless the value is 0; the name of a role is the AWS library's business."""
    return text != "0"


def megabytes(text: str) -> int:
    """Bytes; a bare number counts MiB, as in s3fs."""
    return parse_size(text, bare=MIB)


def size_in_bytes(text: str) -> int:
    """Bytes; a bare number counts bytes, as in s3fs."""
    return parse_size(text, bare=1)


def encryption(text: str) -> Encryption | None:
    """The forms of s3fs: ``1``, ``custom[:FILE]``, ``c``, ``kmsid[:ID]``, ``k``."""
    kind, _, source = text.partition(":")
    match kind.lower():
        case "0":
            return None
        case "1" | "":
            return Encryption("s3")
        case "custom" | "c":
            return Encryption("custom", source)
        case "kmsid" | "k":
            return Encryption("kms", source)
    raise ValueError("must be 1, custom[:FILE] or kmsid[:ID]")


_LEVELS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("silent", "crit", "critical"), "critical"),
        **dict.fromkeys(("err", "error"), "error"),
        **dict.fromkeys(("wan", "warn", "warning"), "warning"),
        **dict.fromkeys(("inf", "info", "information"), "info"),
        **dict.fromkeys(("dbg", "debug"), "debug"),
    }
)


def level(text: str) -> str:
    """A severity of s3fs's dbglevel as the logging module calls it."""
    try:
        return _LEVELS[text.lower()]
    except KeyError:
        raise ValueError("must be one of crit, err, warn, info, dbg") from None


#: What Amazon takes in PutObject (API reference, x-amz-storage-class). Others have names of their
#: own, which Ceph's operators even choose.
STORAGE_CLASSES = (
    "STANDARD",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "REDUCED_REDUNDANCY",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
    "EXPRESS_ONEZONE",
    "OUTPOSTS",
    "SNOW",
)

CANNED_ACLS = (
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
)
