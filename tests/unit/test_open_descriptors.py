"""Whether a process still holds a descriptor of a file, as far as /proc is looked at."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from bucketfs.fuse import open_descriptors as holders
from bucketfs.fuse.open_descriptors import is_open_for_writing, process_of, writable_descriptors


def test_a_descriptor_of_this_process_is_found(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with path.open("wb") as file:
        ino = os.fstat(file.fileno()).st_ino
        assert is_open_for_writing(os.getpid(), ino, "f")
        assert not is_open_for_writing(os.getpid(), ino, "g")
        path.unlink()
        assert is_open_for_writing(os.getpid(), ino, "f")
    assert not is_open_for_writing(os.getpid(), ino, "f")


def test_a_descriptor_of_a_child_is_found(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with path.open("wb") as file:
        ino = os.fstat(file.fileno()).st_ino
        program = "import sys; print('ready', flush=True); sys.stdin.read()"
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[file.fileno()],
        )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert is_open_for_writing(os.getpid(), ino, "f")
        child.communicate()
    assert not is_open_for_writing(os.getpid(), ino, "f")


def test_of_very_many_descriptors_only_the_lowest_are_looked_at(tmp_path: Path) -> None:
    """Each close of an empty file costs this look: it must not grow with the files open."""
    with ExitStack() as stack:
        for number in range(holders._MOST_DESCRIPTORS):
            stack.enter_context((tmp_path / str(number)).open("wb"))
        file = stack.enter_context((tmp_path / "f").open("wb"))
        assert not is_open_for_writing(os.getpid(), os.fstat(file.fileno()).st_ino, "f")


def test_descriptors_that_may_write(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with path.open("wb") as file, path.open("rb"):
        ino = os.fstat(file.fileno()).st_ino
        assert writable_descriptors(os.getpid(), ino, "f") == 1
        with path.open("r+b"):
            assert writable_descriptors(os.getpid(), ino, "f") == 2
        assert writable_descriptors(os.getpid(), ino + 1, "f") == 0
        assert writable_descriptors(os.getpid(), ino, "g") == 0
        path.unlink()
        assert writable_descriptors(os.getpid(), ino, "f") == 1


def test_a_process_that_is_not_there() -> None:
    assert writable_descriptors(0, 1, "f") == 0
    assert process_of(0) == 0


def test_the_process_of_a_thread() -> None:
    found: list[tuple[int, int]] = []

    def look() -> None:
        thread = threading.get_native_id()
        found.append((thread, process_of(thread)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found[0][0] != os.getpid()
    assert found[0][1] == os.getpid()
    assert process_of(os.getpid()) == os.getpid()
