"""A mount for the length of one sample, and what its process has used."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from benchmarks.systems import Place, System
from tests.harness.endpoint import REPOSITORY

#: Seconds until a mount must stand, if nothing else is said, and once unmounted have ended.
START, STOP = 90.0, 60.0

_TICKS = os.sysconf("SC_CLK_TCK")


class MountError(Exception):
    """A system did not mount; the text holds its last words."""


class Mounted:
    """One system at one place; a context manager.

    Args:
        log: Where its output goes.
        patience: Seconds until it must stand.
    """

    def __init__(self, system: System, place: Place, log: Path, *, patience: float = START) -> None:
        self.system, self.place, self.log = system, place, log
        self._patience = patience
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.place.mountpoint.mkdir(exist_ok=True)
        self.place.cache.mkdir(exist_ok=True)
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        environ |= self.system.environment(self.place)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.system.command(self.place),
                cwd=REPOSITORY,
                env=environ,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + self._patience
        # The mount table is asked, not the mount: a question to it might be its first request.
        while f" {self.place.mountpoint} " not in _mount_table():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                lines = self.log.read_text(errors="replace").splitlines() or ["it says nothing"]
                raise MountError(f"does not mount: {lines[-1]}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        mountpoint = str(self.place.mountpoint)
        done = subprocess.run(["umount", mountpoint], check=False, capture_output=True)
        if done.returncode:
            self.kill()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.kill()
        subprocess.run(["umount", "-l", mountpoint], check=False, capture_output=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it now; whoever waits for the mount gets an error."""
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Delete its cache."""
        shutil.rmtree(self.place.cache, ignore_errors=True)

    def peak_memory(self) -> int:
        """The most bytes its process had resident."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes, their threads included (proc(5), stat, 14 and 15)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def machine_seconds() -> float:
    """CPU time that all processes of the machine have used."""
    fields = [int(n) for n in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]]
    user, nice, system, _idle, _wait, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / _TICKS


def _mount_table() -> str:
    """What is mounted; the names of others' mount points may be any bytes."""
    return Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
