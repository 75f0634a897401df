"""The small process that keeps a mount, with programs that are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bucketfs.cli.failure import ExitCode
from bucketfs.cli.process import supervisor

#: Counts its lives, keeps a device as a mount would be, or one that ends with it, or none, and ends
#: by a signal or with a code.
_PROGRAM = """
import os, signal, socket, sys
folder, device, end = sys.argv[1:]
with open(f"{folder}/lives", "a") as lives:
    lives.write(os.environ.get("LISTEN_FDNAMES", "-") + "\\n")
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    sender.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
    if device and "LISTEN_FDS" not in os.environ:
        number = os.open(device, os.O_RDWR) if device != "tty" else os.openpty()[1]
        socket.send_fds(sender, [b"FDSTORE=1\\nFDNAME=device"], [number])
    reading, writing = os.pipe()
    socket.send_fds(sender, [b"BARRIER=1"], [writing])
    os.close(writing)
    os.read(reading, 1)
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(end))
"""


def lives(folder: Path, device: str, end: str) -> tuple[int, list[str]]:
    """The supervisor's exit code, and what each life of its program was handed."""
    code = f"""
import sys
from bucketfs.cli.process.supervisor import Supervisor
words = [sys.executable, "-I", "-S", "-c", {_PROGRAM!r}, {str(folder)!r}, {device!r}, {end!r}]
sys.exit(Supervisor({str(folder)!r}, -1, words, pause=0.0).run() % 256)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    return done.returncode, (folder / "lives").read_text().splitlines()


def test_who_keeps_nothing_is_not_started_again(tmp_path: Path) -> None:
    assert lives(tmp_path, "", "7") == (7, ["-"])


def test_whose_mount_has_ended_is_not_started_again(tmp_path: Path) -> None:
    """A terminal ends with its other end, as a mount does that is unmounted."""
    assert lives(tmp_path, "tty", "1") == (1, ["-"])


def test_it_gives_up(tmp_path: Path) -> None:
    most = supervisor._MOST
    assert lives(tmp_path, "/dev/null", "killed") == (256 - 9, ["-", *["device"] * most])


def test_what_another_start_does_not_mend(tmp_path: Path) -> None:
    assert lives(tmp_path, "/dev/null", str(int(ExitCode.CREDENTIALS))) == (4, ["-"])
    mended = {int(code) for code in ExitCode} - supervisor._FINAL
    assert mended == {ExitCode.OK, ExitCode.FAILED, ExitCode.NETWORK}
