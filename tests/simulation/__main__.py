"""The command line: run seeds, replay one."""

from __future__ import annotations

import argparse
import os
import sys


def main() -> int:
    """Run what was asked for; 1 when a seed fails."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay one seed and print what happens")
    parser.add_argument("--first", type=int, default=0, help="first seed of many")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--sums", action="store_true", help="print a sum of each seed's trace")
    parser.add_argument("--keep-going", type=int, default=10, help="failing seeds to look for")
    from tests.simulation.many import replay, run_many

    arguments = parser.parse_args()
    if arguments.seed is not None:
        return replay(arguments.seed)
    return run_many(arguments)


if __name__ == "__main__":
    sys.exit(main())
