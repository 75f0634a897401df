"""What another user may have put there is not believed: decisions, and the way to a directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs import owned
from bucketfs.owned import NotOwnError

TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR)
ME, ROOT, OTHER = 1000, 0, 1001
OWN_GROUP, GROUP = 100, 200


def status(kind: int, mode: int, uid: int, gid: int = GROUP) -> os.stat_result:
    return os.stat_result((kind | mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))


kinds = st.sampled_from(TYPES)
modes = st.integers(0, 0o7777)
users = st.sampled_from([ME, ROOT, OTHER])
groups = st.sampled_from([OWN_GROUP, GROUP])


@given(kinds, modes, users)
def test_a_directory_is_ours_or_not_whatever_its_mode(kind: int, mode: int, uid: int) -> None:
    is_ours = kind == stat.S_IFDIR and uid == ME
    assert (owned.directory_fault(status(kind, mode, uid), ME) == "") is is_ours


@given(kinds, modes, users, st.booleans())
def test_a_file_that_another_user_had_in_hand(
    kind: int, mode: int, uid: int, was_open: bool
) -> None:
    fault = owned.file_fault(status(kind, mode, uid), ME, was_open=was_open)
    is_ours = kind == stat.S_IFREG and uid == ME
    assert (fault == "") is (is_ours and not (was_open and mode & 0o022))


@given(kinds, modes, users, groups)
def test_who_can_replace_what_is_below(kind: int, mode: int, uid: int, gid: int) -> None:
    fault = owned.above_fault(status(kind, mode, uid, gid), {ME, ROOT}, {OWN_GROUP})
    group_writes = mode & stat.S_IWGRP and gid != OWN_GROUP
    can_write = (group_writes or mode & stat.S_IWOTH) and not mode & stat.S_ISVTX
    if kind == stat.S_IFLNK:
        assert (fault == "") is (uid != OTHER)
    else:
        assert (fault == "") is (kind == stat.S_IFDIR and uid != OTHER and not can_write)


def test_directories_above_are_made_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        owned.check_above(tmp_path / "a" / "b", make=True)
    finally:
        os.umask(old)
    for made in (tmp_path / "a", tmp_path / "a" / "b"):
        assert made.stat().st_mode & 0o777 == 0o700


def test_the_way_goes_through_links(tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    (loose / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("loose/below/../below")
    (tmp_path / "twice").symlink_to(tmp_path / "link")
    owned.check_above(tmp_path / "twice")
    loose.chmod(0o777)
    with pytest.raises(NotOwnError, match="loose can be written by other users"):
        owned.check_above(tmp_path / "twice")
    loose.chmod(0o1777)
    owned.check_above(tmp_path / "twice")
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="symbolic links"):
        owned.check_above(tmp_path / "round")


@pytest.mark.needs_root("changes the owner")
def test_a_link_of_another_user_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "link").symlink_to("ours")
    os.chown(tmp_path / "link", 4711, 4711, follow_symlinks=False)
    with pytest.raises(NotOwnError, match="link belongs to user 4711"):
        owned.check_above(tmp_path / "link" / "more", make=True)
    assert not list((tmp_path / "ours").iterdir())


def test_names_in_the_directory_and_below_count_together(tmp_path: Path) -> None:
    place, below = tmp_path / "place", tmp_path / "place" / "below"
    below.mkdir(parents=True)
    (place / "file").write_text("")
    os.link(place / "file", below / "file")
    owned.make_private(place, {"below"})
    os.link(place / "file", tmp_path / "file")
    with pytest.raises(NotOwnError, match="hard link"):
        owned.make_private(place, {"below"})


def test_what_is_refused_is_refused_again(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o770)
    (place / "file").write_text("")
    (place / "file").chmod(0o660)
    for _ in range(2):
        with pytest.raises(NotOwnError, match="could be written by other users"):
            owned.make_private(place)
    (place / "file").chmod(0o640)
    owned.make_private(place)
    assert place.stat().st_mode & 0o777 == 0o700


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotOwnError, match="special file"):
        owned.open_file(tmp_path / "pipe", os.O_RDONLY)
