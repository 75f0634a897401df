"""Mounts of the demo, made with the real command, so that it shows what a user gets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bucketfs.cli import mounts
from bucketfs.cli.commands import umount
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.process import unmounting


def bucketfs(*words: str) -> subprocess.CompletedProcess[str]:
    """Run one command of ours."""
    command = [sys.executable, "-m", "bucketfs", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@dataclass(frozen=True, slots=True)
class Mounter:
    """Mounts a bucket; each mount has a name, by which its cache and its log are called.

    Attributes:
        bucket: The bucket's name.
        url: Address of its server.
        work: Directory for caches, logs and mount points.
    """

    bucket: str
    url: str
    work: Path

    @contextmanager
    def mounted(
        self, name: str, *options: str, url: str = "", directory: Path | None = None
    ) -> Iterator[Path]:
        """A mount while this lasts, in `work` if no directory is named. Raises Failure."""
        path = directory or self.work / name
        self.mount(name, *options, url=url, directory=path)
        try:
            yield path
        finally:
            unmount(path)

    def mount(self, name: str, *options: str, directory: Path, url: str = "") -> None:
        """Mount the bucket. Raises Failure."""
        directory.mkdir(exist_ok=True)
        settings = (
            f"url={url or self.url}", f"use_cache={self.cache(name)}",
            f"logfile={self._log(name)}", "nonempty", *options,
        )  # fmt: skip
        done = bucketfs("mount", self.bucket, str(directory), "-o", ",".join(settings))
        if done.returncode:
            reason = done.stderr.strip().removeprefix("bucketfs: ")
            raise Failure(ExitCode(done.returncode), f"the demo's bucket: {reason}")

    def cache(self, name: str) -> Path:
        """Where a mount has its cache."""
        return self.work / f"{name}.cache"

    def _log(self, name: str) -> Path:
        return self.work / f"{name}.log"

    def names(self) -> list[str]:
        """The mounts that have logged something."""
        return sorted(path.stem for path in self.work.glob("*.log") if path.stat().st_size)

    def logged(self, name: str) -> list[str]:
        """What a mount has logged."""
        return self._log(name).read_text(errors="replace").splitlines()


def unmount(directory: Path) -> None:
    """Unmount and wait for it, lazily if a program still has files open there."""
    path = unmounting.absolute(str(directory))
    if mounts.mounted_at(path, mounts.current()) is None:
        return
    try:
        umount.run([path])  # the cache and the server go next: the mount must be done with them
    except Failure as failure:
        print(f"bucketfs: {failure.line}", file=sys.stderr)
        with suppress(Failure):
            unmounting.unmount(path, lazy=True)
