"""OpenStack Swift with its S3 API: a proxy, one server each for accounts, containers and objects.

All from Debian's packages, with one replica. Swift wants user extended attributes of the
filesystem where its data is.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from getpass import getuser
from pathlib import Path

from tests.harness.endpoint import Endpoint
from tests.harness.stores.ports import free_ports
from tests.harness.stores.server import await_answer, package_version, process

_KINDS = ("account", "container", "object")

#: Hashes of keys decide among partitions, of which one disk needs few.
_PART_POWER = 4

_COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {root}
devices = {root}/devices
mount_check = false
fallocate_reserve = 0
log_level = WARNING
"""

#: A busy cluster may list what was stored later; here a test looks at once.
_STORAGE = """
[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
container_update_timeout = 60
"""

#: The proxy's pipeline, and what its members are told beside their names.
_FILTERS = {
    "catch_errors": "",
    "gatekeeper": "",
    "memcache": "memcache_servers = 127.0.0.1:{memory}",
    "listing_formats": "",
    "s3api": "location = us-east-1\ns3_acl = false",
    "tempauth": "user_test_tester = testing .admin",
    "bulk": "",
    "copy": "",
    "slo": "",
    "dlo": "",
    "versioned_writes": "allow_object_versioning = true",
    "symlink": "",
}

_PROXY = f"""
[pipeline:main]
pipeline = {" ".join(_FILTERS)} proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
node_timeout = 60
conn_timeout = 5
""" + "".join(
    f"\n[filter:{name}]\nuse = egg:swift#{name}\n{told}\n" for name, told in _FILTERS.items()
)


class Swift:
    title = "OpenStack Swift, s3api"

    def missing(self) -> str:
        programs = [*(f"swift-{kind}-server" for kind in ("proxy", *_KINDS)), "memcached"]
        return ", ".join(name for name in programs if not shutil.which(name))

    def version(self) -> str:
        return package_version("swift-proxy")

    @contextmanager
    def serve(self, root: Path) -> Iterator[Endpoint]:
        memory, proxy, *ports = free_ports(2 + len(_KINDS))
        endpoint = Endpoint(f"http://127.0.0.1:{proxy}", "test:tester", "testing", moto=False)
        (root / "devices" / "disk").mkdir(parents=True)
        with ExitStack() as running:
            user = getuser()
            cache = ["memcached", "-l", "127.0.0.1", "-p", memory, "-u", user]
            running.enter_context(process(cache, root))
            for kind, port in zip(_KINDS, ports, strict=True):
                _ring(root, kind, port)
                _configure(root, kind, _COMMON + _STORAGE, port=port, kind=kind, user=user)
                running.enter_context(_server(kind, root))
            _configure(root, "proxy", _COMMON + _PROXY, port=proxy, memory=memory, user=user)
            child = running.enter_context(_server("proxy", root))
            await_answer(endpoint, child, root)
            yield endpoint


def _server(kind: str, root: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return process([f"swift-{kind}-server", root / f"{kind}-server.conf"], root)


def _configure(root: Path, name: str, text: str, **values: object) -> None:
    (root / f"{name}-server.conf").write_text(text.format(root=root, **values))


def _ring(root: Path, kind: str, port: int) -> None:
    """Write the ring that says where this kind of data is: on one disk."""
    builder = f"{kind}.builder"
    for words in (
        ("create", _PART_POWER, 1, 1),
        ("add", f"r1z1-127.0.0.1:{port}/disk", 1),
        ("rebalance",),
    ):
        command = ["swift-ring-builder", builder, *map(str, words)]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
