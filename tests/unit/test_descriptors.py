"""Page files take turns in having a descriptor."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketfs.cache import pages as module
from bucketfs.cache.pages import Descriptors, PageFile, share


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> Iterator[Descriptors]:
    few = Descriptors(lambda: 8)
    monkeypatch.setattr(module, "_descriptors", few)
    yield few
    assert len(few) <= 8


def files(directory: Path, count: int) -> list[PageFile]:
    return [PageFile(directory / f"{n}.pages", size=0, identity=None) for n in range(count)]


def test_more_files_than_descriptors(eight: Descriptors, tmp_path: Path) -> None:
    many = files(tmp_path, 30)
    for turn in range(3):
        for number, file in enumerate(many):
            file.write(turn * 3, b"%3d" % number)
    for number, file in enumerate(many):
        assert file.read(0, 9) == b"%3d" % number * 3
        assert file.held > 0
    assert len(eight) == 8
    for file in many:
        file.unlink()
    assert len(eight) == 0
    assert not list(tmp_path.iterdir())


def test_the_longest_unused_is_closed(eight: Descriptors, tmp_path: Path) -> None:
    first, *others = files(tmp_path, 9)
    kept = first.fd
    for file in others:
        assert file.fd
        assert first.fd == kept
    first.close()


def test_a_file_that_somebody_removed_is_no_empty_file(eight: Descriptors, tmp_path: Path) -> None:
    file = files(tmp_path, 1)[0]
    file.write(0, b"data")
    file.close()
    file.path.unlink()
    with pytest.raises(OSError, match="removed"):
        file.read(0, 4)
    assert not file.path.exists()


def test_a_process_without_descriptors_takes_one_of_its_own(
    eight: Descriptors, tmp_path: Path
) -> None:
    one, two = files(tmp_path, 2)
    one.write(0, b"1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        two.write(0, b"2")
        assert one.read(0, 1) == b"1"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    one.close()
    two.close()


def test_half_of_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, expected in ((256, 128), (10, 16), (resource.RLIM_INFINITY, 1 << 19)):
        monkeypatch.setattr(module.resource, "getrlimit", lambda _, now=limit: (now, now))
        assert share() == expected
