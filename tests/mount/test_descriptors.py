"""Which close of a file that several descriptors stand for brings it to the bucket."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.harness.mounts import Mount, Mounts
from tests.harness.witness import Witness


@pytest.fixture
def good(mount: Mounts, bucket: Witness) -> Path:
    """A file of the bucket that is about to be replaced."""
    bucket.put("f", b"good")
    return mount(bucket).path / "f"


def test_a_program_that_is_started_meanwhile(good: Path, bucket: Witness) -> None:
    """The way to exec closes the child's copy: that publishes no half."""
    with good.open("wb", 0) as file:
        file.write(b"first half, ")
        subprocess.check_call(["true"])
        subprocess.check_call(["true"], pass_fds=[file.fileno()])
        assert bucket.get("f") == b"good"
        file.write(b"second half")
    assert bucket.get("f") == b"first half, second half"


def test_a_fork_that_ends(good: Path, bucket: Witness) -> None:
    with good.open("wb", 0) as file:
        file.write(b"half, ")
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert bucket.get("f") == b"good"
        file.write(b"whole")
    assert bucket.get("f") == b"half, whole"


def test_a_duplicate(good: Path, bucket: Witness) -> None:
    fd = os.open(good, os.O_WRONLY | os.O_TRUNC)
    copy = os.dup(fd)
    os.write(fd, b"1")
    os.close(copy)
    assert bucket.get("f") == b"good"
    copy = os.dup(fd)
    os.close(fd)
    os.write(copy, b"2")
    assert bucket.get("f") == b"good"
    os.close(copy)
    assert bucket.get("f") == b"12"


def test_opened_twice(good: Path, bucket: Witness) -> None:
    """Two descriptors that are no duplicates of each other: each close counts."""
    first = os.open(good, os.O_WRONLY)
    second = os.open(good, os.O_WRONLY)
    os.write(first, b"G")
    os.close(first)
    assert bucket.get("f") == b"Good"
    os.pwrite(second, b"d!", 3)
    os.close(second)
    assert bucket.get("f") == b"Good!"


def test_a_reader_in_the_same_process(good: Path, bucket: Witness) -> None:
    with good.open("rb"):
        good.write_bytes(b"new")
        assert bucket.get("f") == b"new"


def test_written_by_another_thread_than_opened_it(good: Path, bucket: Witness) -> None:
    opened: list[int] = []
    thread = threading.Thread(target=lambda: opened.append(os.open(good, os.O_WRONLY)))
    thread.start()
    thread.join()
    (fd,) = opened
    os.write(fd, b"half")
    subprocess.check_call(["true"])
    assert bucket.get("f") == b"good"
    os.write(fd, b" and half")
    os.close(fd)
    assert bucket.get("f") == b"half and half"


def test_a_child_that_writes_and_outlives_its_parent(good: Path, bucket: Witness) -> None:
    """When the opener is gone, each close stores what is there; the last one all of it."""
    program = (
        "import os, sys\n"
        f"fd = os.open({str(good)!r}, os.O_WRONLY | os.O_TRUNC)\n"
        "if os.fork(): os._exit(0)\n"
        "sys.stdin.readline(); os.write(fd, b'from the child'); os.close(fd)\n"
        "print('done', flush=True); sys.stdin.readline()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        child.wait()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"done\n"
        assert bucket.get("f") == b"from the child"


SCRIPTS = {
    "redirection": ("printf whole > f", b"whole"),
    "of a group": ("{ printf who; sleep 0; /bin/printf le; } > f", b"whole"),
    "of a subshell": ("( printf who; /bin/printf le ) > f", b"whole"),
    "exec": ("exec 3>f; printf who >&3; /bin/printf le >&3; exec 3>&-", b"whole"),
    "exec without a close": ("exec 3>f; /bin/printf whole >&3", b"whole"),
    "in the background": ("/bin/printf whole > f & wait", b"whole"),
    "pipe": ("printf whole | tee f > /dev/null", b"whole"),
    "append": ("printf more >> f; /bin/printf ' and more' >> f", b"goodmore and more"),
    "copy": ("printf whole | dd of=f 2> /dev/null", b"whole"),
}


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_shells(good: Path, bucket: Witness, name: str, shell: str) -> None:
    script, whole = SCRIPTS[name]
    subprocess.check_call([shell, "-c", script], cwd=good.parent)
    assert bucket.get("f") == whole


def test_a_shell_whose_commands_end_one_by_one(good: Path, bucket: Witness) -> None:
    """Nothing is published before the shell closes what it opened."""
    script = "exec 3>f; /bin/printf half >&3; echo; read line; /bin/printf ' more' >&3; exec 3>&-"
    shell = subprocess.Popen(
        ["sh", "-c", script], cwd=good.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert shell.stdout is not None
    assert shell.stdout.readline() == b"\n"
    assert bucket.get("f") == b"good"
    shell.communicate(b"\n")
    assert bucket.get("f") == b"half more"


def test_an_error_is_that_of_the_last_close(mount: Mounts, bucket: Witness) -> None:
    mounted: Mount = mount(bucket, "multipart_size=5")
    mounted.expected.append("f")
    fd = os.open(mounted.path / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    copy = os.dup(fd)
    os.write(fd, b"ours")
    bucket.put("f", b"theirs")
    os.close(fd)
    with pytest.raises(FileExistsError):
        os.close(copy)
    assert bucket.get("f") == b"theirs"
