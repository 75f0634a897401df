"""Names: what a file may be called, what its key is then, and keys that cannot be names."""

from __future__ import annotations

import errno
import os

import pytest

from tests.conftest import Folder
from tests.harness.posix import refused
from tests.harness.witness import Witness

NAMES = [
    "plain",
    "with space",
    " leading and trailing ",
    "ünïcödé-日本語-🙂",
    "e\u0301 decomposed",
    "per%cent%20%2F",
    "plus+plus",
    "quote'\"`$;&|<>*?[]{}()!#~^=@,:",
    "back\\slash",
    "tab\there",
    ".hidden",
    "...",
    "~",
    "-dash",
    "a" * 255,
    "ü" * 127 + "x",
]


def short(name: str) -> str:
    return ascii(name)[1:25]


CONTROL = ["newline\nin it", "bell\x07", "escape\x1b[0m", "\x01", "del\x7f"]


def needs(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.needs("full_names")] if len(name.encode()) == 255 else []


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=short(name), marks=needs(name)) for name in NAMES]
)
def test_a_file_of_any_name(folder: Folder, module_bucket: Witness, name: str) -> None:
    path = folder / name
    path.write_bytes(b"content")
    assert os.listdir(folder.path) == [name]
    assert path.read_bytes() == b"content"
    if not folder.local:
        assert module_bucket.get(folder.prefix + name) == b"content"
    path.rename(folder / "renamed")
    assert os.listdir(folder.path) == ["renamed"]
    (folder / "renamed").rename(path)
    path.unlink()
    assert os.listdir(folder.path) == []


def test_names_with_control_characters(
    folder: Folder, module_bucket: Witness, request: pytest.FixtureRequest
) -> None:
    moto = module_bucket.endpoint.moto
    names = [name for name in CONTROL if not (moto and "\n" in name)]
    for name in names:
        (folder / name).write_text(name)
    assert sorted(os.listdir(folder.path)) == sorted(names)
    for name in names:
        assert (folder / name).read_text() == name


def test_control_characters_of_others_do_not_break_a_listing(
    foreign: Folder, module_bucket: Witness
) -> None:
    names = ["a\x01b", "c\x1fd", "e\x7ff", "plain"]
    for name in names:
        module_bucket.put(foreign.prefix + name, name.encode())
    assert sorted(os.listdir(foreign.path)) == sorted(names)
    assert (foreign / "plain").read_bytes() == b"plain"
    if module_bucket.endpoint.moto:
        # Ceph 16 answers 500 to every LIST whose prefix has a control character
        assert (foreign / "a\x01b").read_bytes() == b"a\x01b"


def test_directories_of_keys_with_control_characters(
    foreign: Folder, module_bucket: Witness
) -> None:
    """XML cannot name such keys: a batch deletion must find another way."""
    for name in ("d/plain", "d/a\x01b", "d/s/c\x02d"):
        module_bucket.put(foreign.prefix + name, b"x")
    (foreign / "d").rename(foreign / "e")
    assert sorted(os.listdir(foreign / "e")) == ["a\x01b", "plain", "s"]
    left = [key.removeprefix(foreign.prefix) for key in module_bucket.keys(foreign.prefix)]
    assert not [key for key in left if key.startswith("d")]
    assert {"e/plain", "e/a\x01b", "e/s/c\x02d"} <= set(left)


@pytest.mark.parametrize("name", ["dir with space", "dir%2F+", "ünï", "d" * 255], ids=short)
def test_a_directory_of_any_name(folder: Folder, module_bucket: Witness, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "file").write_text("x")
    assert os.listdir(folder / name) == ["file"]
    if not folder.local:
        assert module_bucket.get(f"{folder.prefix}{name}/file") == b"x"
    (folder / name).rename(folder / "moved")
    assert (folder / "moved" / "file").read_text() == "x"


def test_a_component_of_256_bytes_is_too_long(folder: Folder) -> None:
    for name in ("n" * 256, "ü" * 128):
        path = folder / name
        with refused(errno.ENAMETOOLONG):
            path.stat()
        with refused(errno.ENAMETOOLONG):
            path.write_text("x")
        with refused(errno.ENAMETOOLONG):
            path.mkdir()
        with refused(errno.ENAMETOOLONG):
            path.symlink_to("target")


def test_a_key_of_more_than_1024_bytes_is_too_long(here: Folder) -> None:
    deep = here.path
    for letter in "abcd":
        deep = deep / (letter * 240)
        deep.mkdir()
    left = 1024 - len(str(deep.relative_to(here.path.parent))) - 1
    fits, over = deep / ("f" * left), deep / ("f" * (left + 1))
    fits.write_text("x")
    assert fits.read_text() == "x"
    with refused(errno.ENAMETOOLONG):
        over.write_text("x")
    with refused(errno.ENAMETOOLONG):
        over.stat()
    with refused(errno.ENAMETOOLONG):
        os.rename(fits, over)
    with refused(errno.ENAMETOOLONG):
        over.mkdir()
    assert os.listdir(deep) == [fits.name]


def test_names_that_are_not_utf8(here: Folder) -> None:
    path = os.fsencode(here.path) + b"/bad\xff\xfename"
    with refused(errno.EILSEQ):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    with refused(errno.EILSEQ):
        os.mkdir(path)
    with refused(errno.EILSEQ):
        os.symlink("x", path)
    (here / "good").write_text("x")
    with refused(errno.EILSEQ):
        os.rename(os.fsencode(here / "good"), path)
    with refused(errno.EILSEQ, errno.ENOENT):
        os.stat(path)
    assert os.listdir(here.path) == ["good"]


HIDDEN = ["a//b", "c/./d", "e/../f", "./g", "../h", "/i", "n" * 256, "x/" + "n" * 300 + "/y"]


@pytest.mark.needs("any_key")
def test_keys_that_cannot_be_names_are_hidden(foreign: Folder, module_bucket: Witness) -> None:
    for key in HIDDEN:
        module_bucket.put(foreign.prefix + key, b"hidden")
    module_bucket.put(foreign.prefix + "seen", b"seen")
    names = set(os.listdir(foreign.path))
    assert "seen" in names
    assert names <= {"seen", "a", "c", "e", "x"}
    for name in names - {"seen"}:
        assert os.listdir(foreign / name) == []
    assert (foreign / "seen").read_bytes() == b"seen"


@pytest.mark.needs("any_key")
def test_a_directory_of_hidden_keys_is_not_empty(foreign: Folder, module_bucket: Witness) -> None:
    module_bucket.put(foreign.prefix + "a/")
    module_bucket.put(foreign.prefix + "a//b", b"hidden")
    with refused(errno.ENOTEMPTY):
        os.rmdir(foreign / "a")
    assert module_bucket.exists(foreign.prefix + "a//b")


@pytest.mark.needs("beside")
def test_a_directory_shadows_the_object_beside_it(foreign: Folder, module_bucket: Witness) -> None:
    module_bucket.put(foreign.prefix + "a", b"object")
    module_bucket.put(foreign.prefix + "a/inside", b"inside")
    assert os.listdir(foreign.path) == ["a"]
    assert (foreign / "a").is_dir()
    assert (foreign / "a/inside").read_bytes() == b"inside"
    (foreign / "a/inside").unlink()
    assert module_bucket.get(foreign.prefix + "a") == b"object"


def test_names_that_sort_around_the_slash(foreign: Folder, module_bucket: Witness) -> None:
    """``a!`` and ``a-b`` sort before ``a/``, ``a0`` after: none may be lost or doubled."""
    for key in ("a!", "a-b", "a/x", "a0", "a.txt"):
        module_bucket.put(foreign.prefix + key, b"")
    assert sorted(os.listdir(foreign.path)) == ["a", "a!", "a-b", "a.txt", "a0"]


def test_a_missing_name_below_a_file_is_not_a_directory(folder: Folder) -> None:
    (folder / "file").write_text("x")
    with refused(errno.ENOTDIR):
        (folder / "file" / "below").stat()
    with refused(errno.ENOENT):
        (folder / "absent" / "below").stat()
    with refused(errno.ENOENT):
        (folder / "absent" / "below").write_text("x")
