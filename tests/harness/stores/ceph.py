"""Ceph's RADOS Gateway, see `tests.harness.rgw`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.endpoint import Endpoint
from tests.harness.rgw import ACCESS_KEY, SECRET_KEY, Gateway
from tests.harness.stores.server import package_version


class Ceph:
    title = "Ceph RGW"

    def missing(self) -> str:
        lacking = [name for name in ("radosgw", "ceph-mon", "ceph-osd") if not shutil.which(name)]
        if os.geteuid() != 0:
            lacking.append("root, whom Ceph's daemons want")
        return ", ".join(lacking)

    def version(self) -> str:
        return package_version("radosgw")

    @contextmanager
    def serve(self, root: Path) -> Iterator[Endpoint]:
        server = Gateway(root)
        try:
            server.start()
            yield Endpoint(server.url, ACCESS_KEY, SECRET_KEY, moto=False)
        finally:
            server.stop()
