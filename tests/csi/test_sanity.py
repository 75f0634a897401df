"""csi-sanity, the tests of the Container Storage Interface for its drivers, whole."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from tests.harness.csi import Driver

#: Of this program, built by `make test-csi`.
SANITY = os.environ.get("BUCKETFS_TEST_SANITY", "")

#: Whose secrets csi-sanity hands over, by the names of its file.
CALLS = (
    "CreateVolumeSecret",
    "DeleteVolumeSecret",
    "ControllerValidateVolumeCapabilitiesSecret",
    "NodePublishVolumeSecret",
)


@pytest.mark.time_limit(900)
@pytest.mark.skipif(not SANITY, reason="csi-sanity is built and run by `make test-csi`")
def test_csi_sanity(driver: Driver) -> None:
    secrets = driver.scratch / "secrets.yaml"
    secrets.write_text(json.dumps(dict.fromkeys(CALLS, driver.secrets)))
    command = [
        os.path.abspath(SANITY),
        "--ginkgo.no-color",
        f"--csi.endpoint=unix://{driver.node_socket}",
        f"--csi.controllerendpoint=unix://{driver.controller_socket}",
        f"--csi.mountdir={driver.scratch / 'target'}",
        f"--csi.stagingdir={driver.scratch / 'staging'}",
        f"--csi.secrets={secrets}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (counts,) = re.findall(r"(\d+) Passed \| (\d+) Failed", done.stdout) or [("0", "0")]
    print(f"csi-sanity: {counts[0]} passed, {counts[1]} failed")
    assert done.returncode == 0, done.stdout[-8000:]
    assert int(counts[0]) >= 35
