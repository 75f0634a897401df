"""What a daemon writes down of open files, as the next one reads it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bucketfs.file.content import Content
from bucketfs.file.context import Version
from bucketfs.fuse import diary
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.core.inode import Directory, Inode, OpenState

#: A file in two directories, with two handles.
LINES = [
    ["m"],
    ["d", 20, 1, "a"],
    ["d", 21, 20, "b"],
    ["o", 1, 30, False, 7],
    ["f", 30, 21, "n", "etag", 5, 99],
    ["o", 2, 30, True, 8],
]
BOTH = [
    [1, 30, {"writable": False, "pid": 7, "untold": 0}],
    [2, 30, {"writable": True, "pid": 8, "untold": 0}],
]
NODES = [
    [1, 0, "", "d", 1, {}],
    [20, 1, "a", "d", 1, {}],
    [21, 20, "b", "d", 1, {}],
    [30, 21, "n", "f", 1, {"etag": "etag", "size": 5, "modified": 99}],
]


def found(folder: Path, *more: object, leaving: str = "") -> tuple[list[object], int]:
    """The handles that go on, and how many are stale."""
    text = "".join(json.dumps(line) + "\n" for line in (*LINES, *more))
    path = folder / "diary"
    path.touch(0o600)
    path.write_text(text)
    picture, stale = diary.find(folder, "m", lambda path: path == leaving)
    assert picture is not None
    assert (len(picture["nodes"]) > 1) == bool(picture["handles"])
    return picture["handles"], stale


def test_all_goes_on(tmp_path: Path) -> None:
    assert found(tmp_path) == (BOTH, 0)
    picture, _ = diary.find(tmp_path, "m", lambda _path: False)
    assert picture == {"nodes": NODES, "unfinished": [], "handles": BOTH}


@pytest.mark.parametrize(
    ("line", "handles", "stale"),
    [
        (["c", 1], BOTH[1:], 0),
        (["x", 30], [], 2),
        (["d", 20, 0, "a"], [], 2),
        (["d", 20, 21, "a"], [], 2),
        (["o", 3, 31, False, 9], BOTH, 1),
    ],
    ids=["closed", "changes", "lost its place", "a circle", "never at rest"],
)
def test_what_has_happened_since(
    tmp_path: Path, line: list[object], handles: list[object], stale: int
) -> None:
    assert found(tmp_path, line) == (handles, stale)


def test_what_is_opened_again_is_not_at_rest_by_that(tmp_path: Path) -> None:
    lines = [["c", 1], ["c", 2], ["o", 3, 30, False, 9]]
    assert found(tmp_path, *lines) == ([], 1)


def test_what_was_on_its_way(tmp_path: Path) -> None:
    assert found(tmp_path, leaving="a/b/n") == ([], 2)
    assert found(tmp_path, leaving="a/b") == (BOTH, 0)


def test_a_line_that_was_cut_short(tmp_path: Path) -> None:
    found(tmp_path)
    with (tmp_path / "diary").open("a") as file:
        file.write('["c",')
    assert diary.find(tmp_path, "m", lambda _path: False)[1] == 0


@pytest.mark.parametrize("text", ["", "x\n", '["m"]\n["?", 1]\n', '["m"]\n["c", 1]\n', "[]\n"])
def test_nonsense(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "diary").touch(0o600)
    (tmp_path / "diary").write_text(text)
    assert diary.find(tmp_path, "m", lambda _path: False) == (None, 0)
    assert ("cannot be read" in caplog.text) == (text != "[]\n")


def test_another_mount(tmp_path: Path) -> None:
    found(tmp_path)
    assert diary.find(tmp_path, "another", lambda _path: False) == (None, 0)


def test_what_cannot_be_written_is_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = diary.Diary(tmp_path, "m", {})
    assert (tmp_path / "diary").read_text() == '["m"]\n'
    written.close()
    assert not (tmp_path / "diary").exists()
    (tmp_path / "diary.new").mkdir()
    diary.Diary(tmp_path, "m", {})
    assert "stale after a crash" in caplog.text


def opened(etag: str = "etag") -> Handle:
    """A handle of a file at rest, d/f."""
    root = Directory(1, None, "")
    inode = Inode(30, Directory(20, root, "d"), "f")
    inode.etag = etag
    content = SimpleNamespace(unsaved=False, base=Version("d/f", etag, 5))
    inode.open_state = OpenState(content=cast("Content", content))
    return Handle(inode, cast("Content", content), False, False, 7)


def test_what_is_open_for_a_moment_is_written_down(tmp_path: Path) -> None:
    written, handle, brief = diary.Diary(tmp_path, "m", {}), opened(), opened()
    written.opened(1, handle)
    written.opened(2, brief)
    written.closed(2, brief.inode)
    written.changed(handle.inode)
    assert (tmp_path / "diary").read_text() == '["m"]\n'
    written.catch_up()
    lines = (tmp_path / "diary").read_text().splitlines()
    assert lines == [
        '["m"]',
        '["o",1,30,false,7]',
        '["d",20,1,"d"]',
        '["f",30,20,"f","etag",5,0]',
    ]
    handle.inode.etag = "other"
    written.changed(handle.inode)
    written.changed(handle.inode)
    written.closed(1, handle.inode)
    assert (tmp_path / "diary").read_text().splitlines()[4:] == ['["x",30]', '["c",1]']
    written.close()


def test_it_is_written_anew_when_it_is_long(tmp_path: Path) -> None:
    written, handle, brief = diary.Diary(tmp_path, "m", {}), opened(), opened()
    written.opened(1, handle)
    written.catch_up()
    for _ in range(10_000):
        written.opened(2, brief)
        written.catch_up()
        written.closed(2, brief.inode)
    assert len((tmp_path / "diary").read_text().splitlines()) < 11_000
    assert diary.find(tmp_path, "m", lambda _path: False)[0] is not None
    written.close()


def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is better than what is out of date."""
    written, handle = diary.Diary(tmp_path, "m", {}), opened()
    written.opened(1, handle)
    written.catch_up()
    with monkeypatch.context() as patched:
        patched.setattr(diary.os, "write", lambda _fd, _text: 0)
        handle.inode.etag = "other"
        written.changed(handle.inode)
    assert "no space left for a whole line" in caplog.text
    assert diary.find(tmp_path, "m", lambda _path: False) == (None, 0)
    written.closed(1, handle.inode)
