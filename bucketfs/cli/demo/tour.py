"""Ordinary file work in the mount, each step checked on the server.

The witness is boto3, which knows nothing of the mount: what a step claims must be in the bucket.
"""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucketfs.cli.demo.narrator import Narrator

#: Seconds within which a change of mode must have reached the bucket.
_MOMENTS = 10.0


@dataclass(slots=True)
class Tour:
    """One walk through the mount.

    Attributes:
        root: The mount point.
        client: A boto3 client of the server.
        bucket: The bucket that is mounted.
        tell: Who tells what is done.
    """

    root: Path
    client: Any
    bucket: str
    tell: Narrator

    def step(self, title: str, action: Callable[[], bool]) -> None:
        """Do one thing and tell whether it did what it should."""
        try:
            good = action()
            why = ""
        except (OSError, self.client.exceptions.ClientError) as error:
            good, why = False, str(error)
        self.tell.checked(title, good=good, why=why)

    def stored(self, key: str) -> bytes:
        """The bytes of an object, asked of the server."""
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def keys(self, prefix: str = "") -> set[str]:
        """The keys in the bucket, asked of the server."""
        page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return {entry["Key"] for entry in page.get("Contents", [])}

    def list_tree(self) -> bool:
        """The files put there over S3 are in the tree."""
        found = {str(path.relative_to(self.root)) for path in (self.root / "data").rglob("*.csv")}
        return found == {"data/2025/measurements.csv", "data/2026/measurements.csv"}

    def read(self) -> bool:
        """Bytes read through the mount are the object's."""
        return (self.root / "images/pixel.png").read_bytes() == self.stored("images/pixel.png")

    def write(self) -> bool:
        """A closed file is an object."""
        (self.root / "hello.txt").write_bytes(b"hello\n")
        return self.stored("hello.txt") == b"hello\n"

    def read_over_http(self) -> bool:
        """A presigned URL shows the same bytes."""
        where = {"Bucket": self.bucket, "Key": "hello.txt"}
        url = self.client.generate_presigned_url("get_object", Params=where)
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - our own server
            return bool(answer.read() == b"hello\n")

    def append(self) -> bool:
        """Appending keeps what was there."""
        with (self.root / "hello.txt").open("ab") as file:
            file.write(b"again\n")
        return self.stored("hello.txt") == b"hello\nagain\n"

    def patch(self) -> bool:
        """Bytes in the middle can be replaced."""
        with (self.root / "hello.txt").open("r+b") as file:
            file.seek(1)
            file.write(b"ELL")
        return self.stored("hello.txt") == b"hELLo\nagain\n"

    def large(self) -> bool:
        """A file of several parts arrives whole."""
        data = os.urandom(1 << 20) * 20
        (self.root / "large.bin").write_bytes(data)
        return self.stored("large.bin") == data

    def rename_file(self) -> bool:
        """A renamed file is an object under its new key only."""
        (self.root / "hello.txt").rename(self.root / "notes/greeting.txt")
        return "hello.txt" not in self.keys() and "notes/greeting.txt" in self.keys()

    def rename_directory(self) -> bool:
        """A renamed directory takes all its objects along."""
        (self.root / "data").rename(self.root / "archive")
        return not self.keys("data/") and "archive/2026/measurements.csv" in self.keys("archive/")

    def symlink(self) -> bool:
        """A symlink is kept in the bucket and leads to its target."""
        link = self.root / "link"
        link.symlink_to("README.txt")
        return link.read_bytes() == self.stored("README.txt") and "link" in self.keys()

    def mode(self) -> bool:
        """Permissions are kept in s3fs's form, within moments; several changes are one request."""
        path = self.root / "README.txt"
        path.chmod(0o640)
        end = time.monotonic() + _MOMENTS
        while self._stored_mode("README.txt") != "33184":
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return path.stat().st_mode & 0o777 == 0o640

    def _stored_mode(self, key: str) -> str:
        head = self.client.head_object(Bucket=self.bucket, Key=key)
        return str(head["Metadata"].get("mode"))

    def foreign(self) -> bool:
        """A file another client has replaced shows its new bytes when it is opened."""
        key = next(key for key in self.keys("notes/") if "spaces" in key)
        self.client.put_object(Bucket=self.bucket, Key=key, Body=b"replaced over S3\n")
        return (self.root / key).read_bytes() == b"replaced over S3\n"

    def remove(self) -> bool:
        """Removed files are gone from the bucket, and the emptied directory with them."""
        for name in ("2025/measurements.csv", "2026/measurements.csv"):
            (self.root / "archive" / name).unlink()
        for name in ("archive/2025", "archive/2026", "archive"):
            (self.root / name).rmdir()
        return not self.keys("archive")


def tour(root: Path, client: Any, bucket: str, tell: Narrator) -> None:
    """Walk through all steps."""
    walk = Tour(root, client, bucket, tell)
    walk.step("list the tree", walk.list_tree)
    walk.step("read a file", walk.read)
    walk.step("write a file: it is in the bucket when close() returns", walk.write)
    walk.step("read it over HTTP", walk.read_over_http)
    walk.step("append to it", walk.append)
    walk.step("change bytes in the middle", walk.patch)
    walk.step("write 20 MiB", walk.large)
    walk.step("rename a file", walk.rename_file)
    walk.step("rename a directory", walk.rename_directory)
    walk.step("make a symlink and follow it", walk.symlink)
    walk.step("change a mode", walk.mode)
    walk.step("open a file another client has replaced", walk.foreign)
    walk.step("remove files and directories", walk.remove)
