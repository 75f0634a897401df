"""SeaweedFS as a cache in front of a bucket: the recipe of docs/shared-cache.md, carried out."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.endpoint import Endpoint
from tests.harness.hosts import Hosts, at
from tests.harness.stores.seaweedfs import PROGRAM
from tests.harness.stores.server import process
from tests.harness.waiting import until

#: SeaweedFS's own ports: of its master, its filer, and S3.
_MASTER, _FILER, _S3 = 9333, 8888, 8333
#: Seconds for one command of its shell, and for its first answer.
_COMMAND, _ANSWER = 120, 120.0


@dataclass(frozen=True)
class SharedCache:
    """A running one.

    Attributes:
        hosts: It runs at the third of these.
        endpoint: Where it speaks S3.
        environ: Of its programs.
    """

    hosts: Hosts
    endpoint: Endpoint
    environ: dict[str, str]

    def shell(self, line: str) -> str:
        """One command of `weed shell`; what it prints."""
        address = self.hosts.cache_address
        where = [f"-master={address}:{_MASTER}", f"-filer={address}:{_FILER}"]
        done = subprocess.run(
            at(self.hosts.cache, PROGRAM, "shell", *where),
            input=line + "\n",
            capture_output=True,
            text=True,
            env=self.environ,
            timeout=_COMMAND,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "error" not in done.stderr, done.stderr
        return done.stdout

    def stand_before(self, bucket: str, behind: Endpoint) -> None:
        """Show a bucket of another endpoint as a bucket of the same name."""
        self.shell(
            f"remote.configure -name=store -type=s3 -s3.endpoint={behind.url}"
            f" -s3.region={behind.region} -s3.force_path_style=true"
            f" -s3.access_key={behind.access_key} -s3.secret_key={behind.secret_key}"
        )
        self.shell(f"remote.mount -dir=/buckets/{bucket} -remote=store/{bucket}")

    def fill(self, bucket: str) -> None:
        """Fetch all bytes.

        SeaweedFS 4.48 drops what it has of a file when it finds its metadata different, which it
        does of each that a reader has brought, and then takes it for cached: so it forgets first.
        """
        self.empty(bucket)
        self.shell(f"remote.cache -dir=/buckets/{bucket} -deleteLocalExtra=false")

    def empty(self, bucket: str) -> None:
        """Forget all bytes, not the names."""
        self.shell(f"remote.uncache -dir=/buckets/{bucket}")

    def look_again(self, bucket: str) -> None:
        """See what others have changed in the bucket itself."""
        self.shell(f"remote.meta.sync -dir=/buckets/{bucket}")

    @contextmanager
    def writing_back(self, bucket: str) -> Iterator[None]:
        """Bring what is written to the cache to the bucket, during the block."""
        filer = f"{self.hosts.cache_address}:{_FILER}"
        sync = [PROGRAM, "filer.remote.sync", f"-filer={filer}", f"-dir=/buckets/{bucket}"]
        root = Path(self.environ["HOME"])
        with process(at(self.hosts.cache, *sync), root, environ=self.environ):
            yield


@contextmanager
def shared_cache(hosts: Hosts, root: Path) -> Iterator[SharedCache]:
    """Run one at the third host, with its data below `root`; once it answers."""
    endpoint = Endpoint(f"http://{hosts.cache_address}:{_S3}", moto=False)
    key = {"accessKey": endpoint.access_key, "secretKey": endpoint.secret_key}
    user = {"name": "us", "credentials": [key], "actions": ["Admin", "Read", "Write", "List"]}
    (root / "s3.json").write_text(json.dumps({"identities": [user]}))
    (root / "data").mkdir()
    command = [
        PROGRAM,
        "server",
        f"-ip={hosts.cache_address}",
        "-ip.bind=0.0.0.0",
        f"-dir={root / 'data'}",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=100",
        "-filer",
        "-s3",
        f"-s3.config={root / 's3.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    environ = os.environ | {"HOME": str(root), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    asked = ["curl", "-s", "-o", "/dev/null", f"{endpoint.url}/"]
    with process(at(hosts.cache, *command), root, environ=environ) as child:

        def answers() -> bool:
            assert child.poll() is None, (root / "nsenter.log").read_text()[-2000:]
            return subprocess.run(at(hosts.cache, *asked), check=False).returncode == 0

        until(answers, "SeaweedFS answers", timeout=_ANSWER)
        yield SharedCache(hosts, endpoint, environ)
