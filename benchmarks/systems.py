"""The file systems that are compared: how each is started, and nothing else.

A further one is a class with a command line and an entry in `SYSTEMS`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from tests.harness.endpoint import Endpoint
from tests.harness.stores.server import INSTALLED


@dataclass(frozen=True, slots=True)
class Place:
    """What to mount where.

    Attributes:
        endpoint: With the address that the mount is to use.
        passwd: A file in s3fs's format with the endpoint's keys.
        cache: An empty directory for the mount's cache.
        ceph: Whether the server is a Ceph RGW, which rclone wants to know.
    """

    endpoint: Endpoint
    bucket: str
    passwd: Path
    cache: Path
    mountpoint: Path
    ceph: bool = True


class System(ABC):
    """One way to mount a bucket, as a process in the foreground.

    Attributes:
        name: What a workload asks for.
        family: The program; variants of it share a column.
        lacks: Workloads it refuses by design.
    """

    name: str
    family: str
    lacks: frozenset[str] = frozenset()

    @abstractmethod
    def command(self, place: Place) -> list[str]:
        """The command line. It must hold no secrets."""

    def environment(self, place: Place) -> dict[str, str]:  # noqa: ARG002
        """Variables it needs beside ours, of which all ``AWS_*`` are taken away."""
        return {}

    @abstractmethod
    def version(self) -> str:
        """The program's version, "" when it is not installed."""


def _first_line(*command: str) -> str:
    if not shutil.which(command[0]):
        return ""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _keys(place: Place) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": place.endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": place.endpoint.secret_key,
    }


class Bucketfs(System):
    """This checkout."""

    family = "bucketfs"

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
        return _first_line(sys.executable, "-m", "bucketfs", "--version")


class S3fs(System):
    """s3fs-fuse with its defaults and a cache directory."""

    name = family = "s3fs"

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

    Uploads begin at once (its default waits for five seconds), which is its fastest. Taken is the
    one of PyPI that ``.ci/store-servers rclone`` installs, else the one on PATH.
    """

    family = "rclone"

    def __init__(self, name: str = "rclone", *flags: str) -> None:
        self.name = name
        self._flags = flags
        own = INSTALLED / "rclone" / "bin" / "rclone"
        self._program = str(own) if own.exists() else "rclone"

    def command(self, place: Place) -> list[str]:
        fixed = ["--vfs-cache-mode", "full", "--vfs-write-back", "0s", "--config", "/dev/null"]
        where = [f"bench:{place.bucket}", str(place.mountpoint), "--cache-dir", str(place.cache)]
        return [self._program, "mount", *where, *fixed, *self._flags]

    def environment(self, place: Place) -> dict[str, str]:
        settings = {
            "TYPE": "s3",
            "PROVIDER": "Ceph" if place.ceph else "Other",
            "ENDPOINT": place.endpoint.url,
            "REGION": place.endpoint.region,
            "ACCESS_KEY_ID": place.endpoint.access_key,
            "SECRET_ACCESS_KEY": place.endpoint.secret_key,
        }
        return {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in settings.items()}

    def version(self) -> str:
        return _first_line(self._program, "version")


class Geesefs(System):
    """geesefs with its defaults: up to 1,000 MB of memory as its cache, and none on the disk."""

    family = "geesefs"

    def __init__(self, name: str = "geesefs", *flags: str) -> None:
        self.name = name
        self._flags = flags

    def command(self, place: Place) -> list[str]:
        where = ["--endpoint", place.endpoint.url, "--region", place.endpoint.region]
        return ["geesefs", "-f", *where, *self._flags, place.bucket, str(place.mountpoint)]

    def environment(self, place: Place) -> dict[str, str]:
        return _keys(place)

    def version(self) -> str:
        return _first_line("geesefs", "--version")


class Mountpoint(System):
    """Mountpoint for S3 with a cache directory, allowed to do all it can."""

    name = family = "mount-s3"
    lacks = frozenset({"rename", "append", "patch"})

    def command(self, place: Place) -> list[str]:
        where = ["--endpoint-url", place.endpoint.url, "--region", place.endpoint.region]
        allowed = ["--allow-delete", "--allow-overwrite", "--cache", str(place.cache)]
        words = ["--foreground", "--force-path-style", *where, *allowed]
        return ["mount-s3", place.bucket, str(place.mountpoint), *words]

    def environment(self, place: Place) -> dict[str, str]:
        return _keys(place)

    def version(self) -> str:
        return _first_line("mount-s3", "--version")


class BareSockets(System):
    """No file system: the requests that a workload needs, see `benchmarks.floor`."""

    name = family = "floor"

    def command(self, place: Place) -> list[str]:
        raise NotImplementedError("nothing is mounted")

    def version(self) -> str:
        return "the floor by bare sockets"


_ALL: tuple[System, ...] = (
    Bucketfs(),
    Bucketfs("bucketfs-list", "metadata=list"),
    Bucketfs("bucketfs-writeback", "writeback"),
    BareSockets(),
    S3fs(),
    Rclone(),
    Rclone("rclone-modtime", "--use-server-modtime"),
    Geesefs("geesefs", "--fsync-on-close"),
    Geesefs("geesefs-later"),
    Mountpoint(),
)
SYSTEMS: dict[str, System] = {system.name: system for system in _ALL}

#: The columns of a table, in their order.
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(system.family for system in _ALL))

#: The programs that bucketfs is compared with.
PEERS = tuple(family for family in FAMILIES if family not in ("bucketfs", "floor"))
