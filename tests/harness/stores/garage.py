"""Garage, one node that keeps everything once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.endpoint import Endpoint
from tests.harness.stores.ports import free_ports
from tests.harness.stores.server import INSTALLED, await_answer, first_line, process

_PROGRAM = INSTALLED / "garage" / "bin" / "garage"

#: It takes no other forms of keys.
_ACCESS_KEY, _SECRET_KEY = f"GK{'0123456789ab' * 2}", "0123456789abcdef" * 4

_CONFIG = """\
metadata_dir = "{root}/meta"
data_dir = "{root}/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{secret}"

[s3_api]
s3_region = "{region}"
api_bind_addr = "127.0.0.1:{s3}"
"""


class Garage:
    title = "Garage"

    def missing(self) -> str:
        return "" if _PROGRAM.exists() else "garage (crates.io, compiles for a quarter of an hour)"

    def version(self) -> str:
        return first_line(_PROGRAM, "--version").split()[1].removeprefix("cargo:")

    @contextmanager
    def serve(self, root: Path) -> Iterator[Endpoint]:
        s3, rpc = free_ports(2)
        endpoint = Endpoint(f"http://127.0.0.1:{s3}", _ACCESS_KEY, _SECRET_KEY, moto=False)
        config = root / "garage.toml"
        config.write_text(
            _CONFIG.format(root=root, rpc=rpc, s3=s3, secret=_SECRET_KEY, region=endpoint.region)
        )
        environ = os.environ | {
            "GARAGE_DEFAULT_ACCESS_KEY": _ACCESS_KEY,
            "GARAGE_DEFAULT_SECRET_KEY": _SECRET_KEY,
            "RUST_LOG": "warn",
        }
        command = [_PROGRAM, "-c", config, "server", "--single-node", "--default-access-key"]
        with process(command, root, environ=environ) as child:
            await_answer(endpoint, child, root)
            yield endpoint
