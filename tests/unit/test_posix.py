"""Attributes in metadata: the round trip, and what other tools write."""

from __future__ import annotations

import stat
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.store.base import Headers
from bucketfs.tree.core.posix import (
    DIRECTORY_TYPE,
    NANO,
    Defaults,
    Posix,
    decode,
    encode,
    format_time,
    is_told,
    metadata_size,
    parse_time,
)

DEFAULTS = Defaults(uid=11, gid=22)
MODIFIED = 1_700_000_000
KINDS = [
    stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK,
]  # fmt: skip
NAMES = [
    "mode", "uid", "gid", "mtime", "atime", "ctime", "xattr", "rdev", "permissions", "owner",
    "group", "goog-reserved-posix-mode", "goog-reserved-posix-uid", "goog-reserved-file-mtime",
    "file-permissions", "file-owner", "file-group", "file-mtime", "file-atime",
]  # fmt: skip


def decoded(
    metadata: dict[str, str],
    *,
    size: int = 1,
    directory: bool = False,
    content_type: str = "",
) -> Posix:
    headers = Headers(metadata=metadata, content_type=content_type)
    return decode(headers, size=size, modified=MODIFIED, directory=directory, defaults=DEFAULTS)


times = st.integers(-(10**11) * NANO, 10**12 * NANO - 1)
ids = st.integers(0, 2**32 - 1)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
posixes = st.builds(
    Posix,
    mode=st.builds(int.__or__, st.sampled_from(KINDS), st.integers(0, 0o7777)),
    uid=ids,
    gid=ids,
    mtime_ns=times,
    atime_ns=times,
    ctime_ns=times,
    rdev=ids,
    xattrs=st.dictionaries(names, st.binary(max_size=30), max_size=3),
    foreign=st.builds(
        Headers,
        metadata=st.dictionaries(st.sampled_from(["color", "md5"]), st.text(max_size=5)),
        content_type=st.just("text/plain"),
        other=st.dictionaries(st.just("cache-control"), st.just("no-store")),
    ),
)


@given(posixes)
def test_what_is_written_is_read(posix: Posix) -> None:
    headers = encode(posix, "unused/type")
    again = decode(headers, size=1, modified=MODIFIED, directory=False, defaults=DEFAULTS)
    assert again == posix
    assert encode(again, "unused/type") == headers


@given(posixes)
def test_a_directory_stays_one(posix: Posix) -> None:
    posix = replace(posix, mode=stat.S_IFDIR | stat.S_IMODE(posix.mode))
    headers = encode(posix, DIRECTORY_TYPE)
    again = decode(headers, size=0, modified=MODIFIED, directory=True, defaults=DEFAULTS)
    assert again == posix


@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.one_of(
            st.text(max_size=20),
            st.from_regex(r"[-+0-9.eTZ: ]{0,25}", fullmatch=True),
            st.from_regex(r"%7B%22.*%22%3A%22.*%22%7D", fullmatch=True),
        ),
    ),
    st.integers(0, 10),
    st.booleans(),
    st.sampled_from(["", DIRECTORY_TYPE, "text/plain", "httpd/unix-directory; charset=UTF-8"]),
)
def test_no_object_is_unreadable(
    metadata: dict[str, str], size: int, directory: bool, content_type: str
) -> None:
    posix = decoded(metadata, size=size, directory=directory, content_type=content_type)
    assert 0 <= posix.mode < 1 << 16
    assert stat.S_IFMT(posix.mode)
    for value in (posix.uid, posix.gid, posix.rdev):
        assert 0 <= value < 1 << 32
    for time in (posix.mtime_ns, posix.atime_ns, posix.ctime_ns):
        assert abs(time) < 10**12 * NANO
    for name in posix.xattrs:
        assert name.encode()
    assert metadata_size(encode(posix, "")) > 0


@pytest.mark.parametrize(
    "text", ["--5", "%5B" * 600, "%7B%22%5Cud800%22:%22%22%7D", "%7B%22%22:%22eA==%22%7D", "[1]"]
)
def test_nonsense_is_passed_over(text: str) -> None:
    posix = decoded({"mtime": text, "xattr": text})
    assert (posix.mtime_ns, posix.xattrs) == (MODIFIED * NANO, {})


@given(times)
def test_times_come_through(ns: int) -> None:
    assert parse_time(format_time(ns)) == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("1700000000", 1_700_000_000 * NANO),
        ("1700000000.5", 1_700_000_000 * NANO + 500_000_000),
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("1700000000.1234567891", 1_700_000_000_123_456_789),
        (" 5. ", 5 * NANO),
        ("-1", -NANO),
        ("-2.5", -2 * NANO + 500_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * NANO),
        ("2023-11-14T23:13:20.25+01:00", 1_700_000_000 * NANO + 250_000_000),
        ("1969-12-31T23:59:59.75Z", -250_000_000),
        ("2023-11-14T22:13:20", None),
        ("", None),
        (".5", None),
        ("1e9", None),
        ("--5", None),
        ("٣", None),
        ("9" * 13, None),
        ("5.x", None),
    ],
)
def test_time_formats(text: str, ns: int | None) -> None:
    assert parse_time(text) == ns


@pytest.mark.parametrize(
    ("metadata", "mode"),
    [
        ({}, 0o100644),
        ({"mode": "33188"}, 0o100644),  # s3fs
        ({"mode": "420"}, 0o100644),  # without type bits
        ({"mode": "41471"}, 0o120777),
        ({"mode": "100640"}, 0o100640),  # rclone: octal
        ({"permissions": "33216"}, 0o100700),
        ({"goog-reserved-posix-mode": "0755"}, 0o100755),
        ({"file-permissions": "0100664"}, 0o100664),  # AWS DataSync, FSx for Lustre: octal
        ({"file-permissions": "0120777"}, 0o120777),
        ({"mode": str(0o100600), "file-permissions": "0100664"}, 0o100600),
        ({"mode": "junk", "permissions": "33216"}, 0o100700),
        ({"mode": "-1"}, 0o100644),
        ({"mode": "99999999"}, 0o100644),
    ],
)
def test_modes_of_other_tools(metadata: dict[str, str], mode: int) -> None:
    assert decoded(metadata).mode == mode


@pytest.mark.parametrize(
    ("size", "content_type", "metadata", "is_directory"),
    [
        (0, DIRECTORY_TYPE, {}, True),
        (0, "httpd/unix-directory; charset=utf-8", {}, True),
        (0, DIRECTORY_TYPE, {"mode": "16877"}, True),
        (0, DIRECTORY_TYPE, {"mode": "33188"}, False),
        (9, DIRECTORY_TYPE, {}, False),
        (0, "text/plain", {}, False),
    ],
)
def test_directories_without_a_slash(
    size: int, content_type: str, metadata: dict[str, str], is_directory: bool
) -> None:
    posix = decoded(metadata, size=size, content_type=content_type)
    assert stat.S_ISDIR(posix.mode) == is_directory


def test_owners_and_defaults() -> None:
    assert (decoded({}).uid, decoded({}).gid) == (11, 22)
    assert decoded({"uid": "0", "gid": "7"}).uid == 0
    assert decoded({"owner": "5", "group": "6"}).gid == 6
    assert decoded({"uid": "-1"}).uid == 11
    assert decoded({}, directory=True).mode == stat.S_IFDIR | 0o755
    assert decode(None, size=0, modified=5, directory=False, defaults=DEFAULTS).mtime_ns == 5 * NANO


def test_times_fall_back_on_each_other() -> None:
    posix = decoded({"mtime": "5"})
    assert (posix.mtime_ns, posix.atime_ns, posix.ctime_ns) == (5 * NANO,) * 3
    assert decoded({}).ctime_ns == MODIFIED * NANO
    assert decoded({"goog-reserved-file-mtime": "9"}).mtime_ns == 9 * NANO
    fsx = decoded(
        {
            "file-owner": "537",
            "file-group": "500",
            "file-mtime": "1595002920000000123ns",
            "file-atime": "1595002921000000000ns",
        }
    )
    assert (fsx.uid, fsx.gid) == (537, 500)
    assert (fsx.mtime_ns, fsx.atime_ns) == (1595002920000000123, 1595002921000000000)


def test_an_xattr_of_s3fs() -> None:
    posix = decoded({"xattr": "%7B%22user.a%22:%22eA==%22%7D"})
    assert posix.xattrs == {"user.a": b"x"}


def test_a_change_moves_ctime_alone() -> None:
    before = decoded({"mtime": "5"})
    after = before.changed(7, mode=0o100600)
    assert (after.mode, after.ctime_ns, after.mtime_ns) == (0o100600, 7, 5 * NANO)
    assert before.mode == 0o100644


@pytest.mark.parametrize(
    ("metadata", "size", "directory", "told"),
    [
        ({}, 1, False, True),
        ({}, 0, True, True),
        ({}, 0, False, False),
        ({"mode": "420"}, 0, False, False),
        ({"mode": str(0o040755)}, 0, False, False),
        ({"mode": str(0o100644)}, 0, False, True),
        ({"mode": str(0o010644)}, 0, False, True),
    ],
)
def test_what_metadata_alone_tells(
    metadata: dict[str, str], size: int, directory: bool, told: bool
) -> None:
    """The type of an object, unless its content type may make it a directory."""
    assert is_told(Headers(metadata, partial=True), size, directory=directory) == told
    assert is_told(Headers(metadata), size, directory=directory)
