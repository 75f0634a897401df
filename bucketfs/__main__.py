"""``python -m bucketfs``."""

import sys

from bucketfs.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
