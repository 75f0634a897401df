"""Access control lists against the kernel's own rules."""

from __future__ import annotations

import errno
import os
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.tree.core import acl
from bucketfs.tree.core.acl import Entry, Tag

bits = st.integers(0, 7)
modes = st.integers(0, 0o7777)
ids = st.lists(st.integers(0, 100_000), max_size=3, unique=True).map(sorted)


@st.composite
def acls(draw: st.DrawFn) -> acl.Acl:
    """Lists as the kernel takes them."""
    users, groups = draw(ids), draw(ids)
    entries = [Entry(Tag.USER_OBJ, draw(bits))]
    entries += [Entry(Tag.USER, draw(bits), uid) for uid in users]
    entries += [Entry(Tag.GROUP_OBJ, draw(bits))]
    entries += [Entry(Tag.GROUP, draw(bits), gid) for gid in groups]
    if draw(st.booleans()) or users or groups:
        entries += [Entry(Tag.MASK, draw(bits))]
    return [*entries, Entry(Tag.OTHER, draw(bits))]


@pytest.fixture(scope="module")
def local() -> Iterator[Path]:
    """A directory of a local file system that keeps lists."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        try:
            os.setxattr(name, acl.DEFAULT, acl.encode(SIMPLE))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip("the local file system has no access control lists")
        os.removexattr(name, acl.DEFAULT)
        yield Path(name)


SIMPLE = [Entry(Tag.USER_OBJ, 7), Entry(Tag.GROUP_OBJ, 5), Entry(Tag.OTHER, 0)]


def attribute(path: Path, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return None


@given(acls())
def test_what_is_encoded_is_decoded(entries: acl.Acl) -> None:
    assert acl.decode(acl.encode(entries)) == entries


@given(st.binary(max_size=60))
def test_anything_may_be_stored(value: bytes) -> None:
    entries = acl.decode(value)
    assert entries is None or acl.encode(entries) == value


@pytest.mark.parametrize(
    "value",
    [
        b"",
        struct.pack("<I", 2),
        struct.pack("<I", 1) + acl.encode(SIMPLE)[4:],
        acl.encode(SIMPLE[:2]),
        acl.encode(SIMPLE[::-1]),
        acl.encode([*SIMPLE[:1], Entry(Tag.USER, 7, 1), *SIMPLE[1:]]),  # needs a mask
        acl.encode([Entry(Tag.USER_OBJ, 8), *SIMPLE[1:]]),
    ],
)
def test_what_is_no_list(value: bytes) -> None:
    assert acl.decode(value) is None


@given(acls(), modes)
def test_chmod(local: Path, entries: acl.Acl, mode: int) -> None:
    """As a local file has it after setxattr and chmod."""
    path = local / "f"
    path.touch()
    os.setxattr(path, acl.ACCESS, acl.encode(entries))
    assert stat.S_IMODE(path.stat().st_mode) == acl.mode_of(entries)
    assert (attribute(path, acl.ACCESS) is None) == acl.is_minimal(entries)
    path.chmod(mode)
    changed = acl.with_mode(entries, mode)
    assert acl.mode_of(changed) == mode & 0o777
    if not acl.is_minimal(entries):
        assert attribute(path, acl.ACCESS) == acl.encode(changed)
        stored = acl.after_chmod({acl.ACCESS: acl.encode(entries), "user.a": b""}, mode)
        assert stored == {acl.ACCESS: acl.encode(changed), "user.a": b""}
    path.unlink()


@given(acls(), st.integers(0, 0o777), st.booleans())
def test_inheritance(local: Path, entries: acl.Acl, mode: int, directory: bool) -> None:
    """As what is made in a local directory with this default list."""
    parent, path = local / "d", local / "d" / "made"
    parent.mkdir()
    os.setxattr(parent, acl.DEFAULT, acl.encode(entries))
    before = os.umask(0o077)  # which does not apply
    try:
        if directory:
            path.mkdir(mode)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_RDONLY, mode))
    finally:
        os.umask(before)
    made, xattrs = acl.made_in({acl.DEFAULT: acl.encode(entries)}, mode, directory=directory)
    assert made == stat.S_IMODE(path.stat().st_mode)
    names = (acl.ACCESS, acl.DEFAULT)
    kept = {name: value for name in names if (value := attribute(path, name)) is not None}
    assert xattrs == kept
    path.rmdir() if directory else path.unlink()
    parent.rmdir()


def test_nothing_is_inherited_of_nothing() -> None:
    assert acl.made_in({}, 0o640, directory=True) == (0o640, {})


@pytest.mark.parametrize("umask", [0o002, 0o007, 0o022, 0o027])
@pytest.mark.parametrize("mode", [0o600, 0o666, 0o700, 0o777, 0o4777])
def test_what_the_umask_took_is_given_back(mode: int, umask: int) -> None:
    wanted = mode if umask & 0o7 != 0o7 else mode & ~0o7
    assert acl.unmasked(mode & ~umask, umask) == wanted


@given(modes, st.integers(0, 0o777))
def test_no_class_gets_more_than_the_owner(mode: int, umask: int) -> None:
    came = mode & ~umask
    told = acl.unmasked(came, umask)
    assert told & ~umask == came  # a mode of which the kernel makes the same
    assert told & ~came & ~umask == 0
    for shift in (3, 0):
        assert (told & ~came) >> shift & 7 & ~(came >> 6) == 0
        assert came >> shift & 7 or not told >> shift & 7
