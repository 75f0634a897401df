"""The command ``bucketfs-csi``, which is installed also where what it needs is not."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the driver, or say in one line what it lacks; the exit code."""
    try:
        from bucketfs.csi import driver  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("bucketfs"):
            raise
        print(
            f"bucketfs-csi: {error.name} is missing; run: pip install 'bucketfs[csi]'",
            file=sys.stderr,
        )
        return 1
    return driver.main()
