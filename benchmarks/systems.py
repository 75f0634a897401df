"""The file systems that are compared: how each is started, and nothing else.

A further one is a class with a command line and an entry in `SYSTEMS`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from tests.harness.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Place:
    """What to mount where.

    Attributes:
        endpoint: With the address that the mount is to use.
        passwd: A file in s3fs's format with the endpoint's keys.
        cache: An empty directory for the mount's cache.
    """

    endpoint: Endpoint
    bucket: str
    passwd: Path
    cache: Path
    mountpoint: Path


class System(ABC):
    """One way to mount a bucket, as a process in the foreground."""

    name: str

    @abstractmethod
    def command(self, place: Place) -> list[str]:
        """The command line. It must hold no secrets."""

    def environment(self, place: Place) -> dict[str, str]:  # noqa: ARG002
        """Variables it needs beside ours, of which all ``AWS_*`` are taken away."""
        return {}

    @abstractmethod
    def version(self) -> str:
        """The program's version, "" when it cannot run here."""


def _first_line(*command: str) -> str:
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).partition("\n")[0].strip()


class Bucketfs(System):
    """This checkout."""

    def __init__(self, name: str = "bucketfs", *options: str) -> None:
        self.name = name
        self._options = options

    def command(self, place: Place) -> list[str]:
        options = (
            f"url={place.endpoint.url}",
            f"region={place.endpoint.region}",
            "use_path_request_style",
            f"passwd_file={place.passwd}",
            f"use_cache={place.cache}",
            *self._options,
        )
        program = [sys.executable, "-m", "bucketfs", place.bucket, str(place.mountpoint), "-f"]
        return [*program, "-o", ",".join(options)]

    def version(self) -> str:
        program = (sys.executable, "-m", "bucketfs")
        usage = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True)
        if not all(f"  {option.partition('=')[0]}" in usage.stdout for option in self._options):
            return ""
        return _first_line(*program, "--version")


class S3fs(System):
    """s3fs-fuse with its defaults and a cache directory."""

    name = "s3fs"

    def command(self, place: Place) -> list[str]:
        options = (
            f"url={place.endpoint.url}",
            "use_path_request_style",
            f"passwd_file={place.passwd}",
            f"use_cache={place.cache}",
        )
        return ["s3fs", place.bucket, str(place.mountpoint), "-f", "-o", ",".join(options)]

    def version(self) -> str:
        return _first_line("s3fs", "--version")


class Rclone(System):
    """rclone mount with the only cache mode that lets programs write as they like.

    Uploads begin at once (its default waits for five seconds), which is its fastest.
    """

    def __init__(self, name: str = "rclone", *flags: str) -> None:
        self.name = name
        self._flags = flags

    def command(self, place: Place) -> list[str]:
        fixed = ["--vfs-cache-mode", "full", "--vfs-write-back", "0s", "--config", "/dev/null"]
        where = [f"bench:{place.bucket}", str(place.mountpoint), "--cache-dir", str(place.cache)]
        return ["rclone", "mount", *where, *fixed, *self._flags]

    def environment(self, place: Place) -> dict[str, str]:
        settings = {
            "TYPE": "s3",
            "PROVIDER": "Ceph",
            "ENDPOINT": place.endpoint.url,
            "REGION": place.endpoint.region,
            "ACCESS_KEY_ID": place.endpoint.access_key,
            "SECRET_ACCESS_KEY": place.endpoint.secret_key,
        }
        return {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in settings.items()}

    def version(self) -> str:
        return _first_line("rclone", "version")


_ALL: tuple[System, ...] = (
    Bucketfs(),
    Bucketfs("bucketfs-list", "metadata=list"),
    Bucketfs("bucketfs-writeback", "writeback"),
    S3fs(),
    Rclone(),
    Rclone("rclone-modtime", "--use-server-modtime"),
)
SYSTEMS: dict[str, System] = {system.name: system for system in _ALL}

#: Those that bucketfs is compared with.
PEERS = tuple(system.name for system in _ALL if not isinstance(system, Bucketfs))
