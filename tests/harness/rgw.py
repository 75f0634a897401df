"""A Ceph RADOS Gateway of our own: a second, real S3 server for the tests.

    python -m tests.harness.rgw COMMAND…    run a command with BUCKETFS_TEST_URL set to a fresh one

One monitor, one OSD in memory and one gateway, all on 127.0.0.1, without authentication between
them; they end with the command. Needs root (Ceph's daemons want it) and Debian's packages radosgw,
ceph-mon, ceph-osd and ceph-common.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "AKIATEST", "SECRETTEST"

#: A user who may do nothing but what the first one allows (`tests.harness.rights`).
SECOND_ACCESS_KEY, SECOND_SECRET_KEY = "AKIASECOND", "SECRETSECOND"
#: That user, and the first one, as policies name them.
ARNS = "arn:aws:iam:::user/second arn:aws:iam:::user/test"

#: The first user as Swift's API knows it (`tests.harness.swift`).
SWIFT_USER, SWIFT_KEY = "test:swift", "SWIFTTEST"

#: What the OSD may hold in memory.
_CAPACITY = 6 << 30

#: An OSD that asks the monitor before it has its map ends with "wrong fsid".
_OSD_ATTEMPTS = 10

#: Seconds for one command of Ceph's, and for the gateway's first answer.
_COMMAND, _ANSWER = 90.0, 120.0

_CONFIG = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
public addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail warn = 1
mon data avail crit = 0
run dir = {root}/run
log file = {root}/$name.log
pid file = {root}/run/$name.pid
admin socket = {root}/run/$name.$pid.asok
rgw gc obj min wait = 5
rgw gc processor period = 10
rgw gc processor max time = 10

[mon.a]
mon data = {root}/mon

[osd.0]
osd data = {root}/osd
osd objectstore = memstore
memstore device bytes = {capacity}

[client.rgw.a]
rgw data = {root}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
"""


class Gateway:
    """The three daemons under one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = root / "ceph.conf"

    def start(self) -> None:
        """Return when the gateway answers and the user exists."""
        for name in ("mon", "osd", "rgw", "run"):
            (self.root / name).mkdir()
        fsid, mon_port = uuid.uuid4(), _free_port()
        self._config.write_text(
            _CONFIG.format(
                fsid=fsid, mon_port=mon_port, port=self.port, root=self.root, capacity=_CAPACITY
            )
        )
        monmap, address = self.root / "monmap", f"[v1:127.0.0.1:{mon_port}]"
        _run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", address, monmap)
        self._ceph("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._ceph("ceph-mon", "-i", "a")
        self._ceph("ceph", "--connect-timeout", "60", "osd", "create")
        self._ceph("ceph-osd", "-i", "0", "--mkfs")
        self._start_osd()
        self._ceph("radosgw", "-n", "client.rgw.a")
        self._await_answer()
        user = ("--uid=test", "--display-name=Test")
        keys = (f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        self._ceph("radosgw-admin", "user", "create", *user, *keys)
        swift = ("--uid=test", f"--subuser={SWIFT_USER}")
        self._ceph("radosgw-admin", "subuser", "create", *swift, "--access=full")
        key = ("--key-type=swift", f"--secret-key={SWIFT_KEY}")
        self._ceph("radosgw-admin", "key", "create", f"--subuser={SWIFT_USER}", *key)
        user = ("--uid=second", "--display-name=Second")
        keys = (f"--access-key={SECOND_ACCESS_KEY}", f"--secret-key={SECOND_SECRET_KEY}")
        self._ceph("radosgw-admin", "user", "create", *user, *keys)

    def _start_osd(self) -> None:
        """Start it, again if need be: it may ask the monitor before it has got its map."""
        for _ in range(_OSD_ATTEMPTS - 1):
            with suppress(RuntimeError):
                return self._ceph("ceph-osd", "-i", "0")
        return self._ceph("ceph-osd", "-i", "0")

    def stop(self) -> None:
        """End the daemons this object started."""
        for file in (self.root / "run").glob("*.pid"):
            with suppress(OSError, ValueError):
                os.kill(int(file.read_text()), signal.SIGKILL)

    def _ceph(self, program: str, *words: object) -> None:
        _run(program, "-c", self._config, *words)

    def _await_answer(self) -> None:
        end = time.monotonic() + _ANSWER
        while True:
            try:
                with urllib.request.urlopen(self.url, timeout=2):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if time.monotonic() > end:
                    raise
                # Nothing signals that a daemon has begun to listen.
                time.sleep(0.2)


def _run(*words: object) -> None:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=_COMMAND, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.stderr.strip() or done.stdout.strip()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def gateway() -> Iterator[Gateway]:
    """A running gateway for the length of the block."""
    root = Path(tempfile.mkdtemp(prefix="bucketfs-rgw-"))
    server = Gateway(root)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)


def main(command: Sequence[str]) -> int:
    """Run `command` against a fresh gateway; its exit code is ours."""
    with gateway() as server:
        environment = {
            "BUCKETFS_TEST_URL": server.url,
            "BUCKETFS_TEST_ACCESS_KEY": ACCESS_KEY,
            "BUCKETFS_TEST_SECRET_KEY": SECRET_KEY,
            "BUCKETFS_TEST_SECOND": f"{SECOND_ACCESS_KEY} {SECOND_SECRET_KEY} {ARNS}",
            "BUCKETFS_TEST_SWIFT": f"{server.url}/auth/v1.0 {SWIFT_USER} {SWIFT_KEY}",
        }
        print(f"Ceph RGW answers at {server.url}", flush=True)
        return subprocess.run(command, env=os.environ | environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
