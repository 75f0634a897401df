"""The command ``bucketfs-csi`` where its libraries are not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("library", ["grpc", "google.protobuf"])
def test_what_is_missing_is_named(library: str) -> None:
    code = (
        f"import sys; sys.modules[{library!r}] = None;"
        "from bucketfs.csi.entry import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert library in done.stderr
    assert done.stderr.endswith("is missing; run: pip install 'bucketfs[csi]'\n")
    assert len(done.stderr.splitlines()) == 1
