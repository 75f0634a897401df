"""The S3 endpoint tests run against: an embedded moto server, or the one the environment names.

``BUCKETFS_TEST_URL``, ``BUCKETFS_TEST_ACCESS_KEY``, ``BUCKETFS_TEST_SECRET_KEY`` and
``BUCKETFS_TEST_REGION`` choose a real endpoint; its key must be allowed to make buckets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.harness.waiting import until

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Endpoint:
    """Where the buckets are and who we are there.

    Attributes:
        moto: Whether it is the embedded server, which ignores signatures and some conditions.
    """

    url: str
    access_key: str = "AKIATEST"
    secret_key: str = field(default="SECRETTEST", repr=False)
    region: str = "us-east-1"
    moto: bool = True

    def at(self, url: str) -> Endpoint:
        """The same endpoint as seen through another address (a proxy's)."""
        return replace(self, url=url)

    def client(self) -> Any:
        """A boto3 client, independent of everything bucketfs configures for itself."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                # also for URLs: Ceph refuses the older one for listings
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                max_pool_connections=32,
                retries={"total_max_attempts": 3},
            ),
        )


def configured() -> Endpoint | None:
    """The endpoint the environment names, if it names one."""
    url = os.environ.get("BUCKETFS_TEST_URL")
    if not url:
        return None
    return Endpoint(
        url=url.rstrip("/"),
        access_key=os.environ.get("BUCKETFS_TEST_ACCESS_KEY", "AKIATEST"),
        secret_key=os.environ.get("BUCKETFS_TEST_SECRET_KEY", "SECRETTEST"),
        region=os.environ.get("BUCKETFS_TEST_REGION", "us-east-1"),
        moto=False,
    )


@contextmanager
def embedded(scratch: Path) -> Iterator[Endpoint]:
    """A moto server for the length of the block."""
    port_file, log = scratch / "moto-port", scratch / "moto-log"
    command = [sys.executable, "-m", "tests.harness.moto_server", str(port_file)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output)
    try:
        until(lambda: port_file.exists() or process.poll() is not None, "moto listens", timeout=60)
        assert process.poll() is None, log.read_text()
        yield Endpoint(url=f"http://127.0.0.1:{port_file.read_text()}")
    finally:
        process.kill()
        process.wait()
