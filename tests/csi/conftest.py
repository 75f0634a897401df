"""The driver, started once for the tests of a module, as root, which mounts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.endpoint import Endpoint

if TYPE_CHECKING:
    from tests.harness.csi import Driver


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave everything out where the libraries are not installed, which `make setup` does."""
    try:
        import google.protobuf  # noqa: F401
        import grpc  # noqa: F401
    except ImportError:
        return True
    return None


@pytest.fixture(scope="module")
def driver(need_fuse: None, endpoint: Endpoint) -> Iterator[Driver]:
    """A driver that is running."""
    from tests.harness.csi import Driver

    if os.geteuid() != 0:
        pytest.skip("needs root: the driver mounts")
    # sockets' paths are short, and a mount is no place for the files of others
    scratch = Path(tempfile.mkdtemp(prefix="bucketfs-csi-"))
    scratch.chmod(0o755)  # pods' users get to their mounts
    found = Driver(endpoint, scratch)
    try:
        found.start()
        yield found
    finally:
        found.down()
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture
def pods(driver: Driver) -> Iterator[Path]:
    """A directory for the mount points of pods; what is mounted in it is unmounted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pods", dir=driver.scratch))
    folder.chmod(0o755)
    yield folder
    for target in sorted(folder.iterdir()):
        driver.unpublish(target)


@pytest.fixture
def refused(driver: Driver) -> Any:
    """Answers the code and the line of a call that is refused."""
    import grpc

    def call(*args: Any, **kwargs: Any) -> tuple[str, str]:
        action = args[0]
        with pytest.raises(grpc.RpcError) as found:
            action(*args[1:], **kwargs)
        return found.value.code().name, found.value.details()

    return call
