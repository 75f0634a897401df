"""The commands of this package; see there."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.harness.endpoint import Endpoint
from tests.harness.stores.ceph import Ceph
from tests.harness.stores.garage import Garage
from tests.harness.stores.moto import Moto
from tests.harness.stores.rclone import Rclone
from tests.harness.stores.s3proxy import S3Proxy
from tests.harness.stores.s3s import S3s
from tests.harness.stores.seaweedfs import SeaweedFS
from tests.harness.stores.server import Server
from tests.harness.stores.swift import Swift
from tests.harness.stores.table import Row, counted, table

SERVERS: dict[str, Server] = {
    "moto": Moto(),
    "ceph": Ceph(),
    "seaweedfs": SeaweedFS(),
    "swift": Swift(),
    "s3proxy": S3Proxy(),
    "rclone": Rclone(),
    "garage": Garage(),
    "s3s": S3s(),
}


@contextmanager
def _serving(server: Server) -> Iterator[tuple[Endpoint, Path]]:
    """A fresh server, and a directory for what is said of it."""
    root = Path(tempfile.mkdtemp(prefix="bucketfs-store-"))
    try:
        with server.serve(root) as endpoint:
            yield endpoint, root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _environment(endpoint: Endpoint) -> dict[str, str]:
    return os.environ | {
        "BUCKETFS_TEST_URL": "" if endpoint.moto else endpoint.url,
        "BUCKETFS_TEST_ACCESS_KEY": endpoint.access_key,
        "BUCKETFS_TEST_SECRET_KEY": endpoint.secret_key,
        "BUCKETFS_TEST_REGION": endpoint.region,
    }


def run(server: Server, command: Sequence[str]) -> int:
    """Run a command against a fresh server; its exit code is ours."""
    missing = server.missing()
    if missing:
        print(f"{server.title}: please install {missing}", file=sys.stderr)
        return 2
    with _serving(server) as (endpoint, _):
        print(f"{server.title} answers at {endpoint.url}", flush=True)
        return subprocess.run(command, env=_environment(endpoint), check=False).returncode


def tested(server: Server, arguments: Sequence[str]) -> Row:
    """What pytest counts against a fresh server."""
    missing = server.missing()
    if missing:
        return Row(server.title, missing=missing)
    version = server.version()
    print(f"== {server.title} {version}", flush=True)
    with _serving(server) as (endpoint, root):
        report = root / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments]
        subprocess.run(command, env=_environment(endpoint), check=False)
        return counted(report, Row(server.title, version))


def main(argv: Sequence[str]) -> int:
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="python -m tests.harness.stores")
    parser.add_argument("names", nargs="*", choices=[[], *SERVERS], default=[])
    parser.add_argument("--table", action="store_true")
    chosen, rest = parser.parse_args(words[:at]), words[at + 1 :]
    # so that a server never outlives us
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if chosen.table:
        rows = [tested(SERVERS[name], rest) for name in chosen.names or SERVERS]
        print(table(rows), flush=True)
        return int(not all(row.good for row in rows))
    if len(chosen.names) != 1 or not rest:
        parser.error("one NAME, and after -- a command")
    return run(SERVERS[chosen.names[0]], rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
