"""s3s-fs, the server of the Rust library s3s: objects are files of a directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.endpoint import Endpoint
from tests.harness.stores.ports import free_ports
from tests.harness.stores.server import INSTALLED, await_answer, first_line, process

_PROGRAM = INSTALLED / "s3s" / "bin" / "s3s-fs"


class S3s:
    title = "s3s-fs"

    def missing(self) -> str:
        return "" if _PROGRAM.exists() else "s3s-fs (crates.io, compiles for minutes)"

    def version(self) -> str:
        return first_line(_PROGRAM, "--version").split()[1]

    @contextmanager
    def serve(self, root: Path) -> Iterator[Endpoint]:
        (port,) = free_ports(1)
        endpoint = Endpoint(url=f"http://127.0.0.1:{port}", moto=False)
        (root / "data").mkdir()
        keys = ("--access-key", endpoint.access_key, "--secret-key", endpoint.secret_key)
        command = [_PROGRAM, *keys, "--host", "127.0.0.1", "--port", port, root / "data"]
        with process(command, root) as child:
            await_answer(endpoint, child, root)
            yield endpoint
