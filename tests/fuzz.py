"""The property tests of what servers answer, led by the code they reach: ``make fuzz``.

Each is run by atheris (libFuzzer) in a process of its own, which prints what it finds with a
traceback. What was wrong gets a test of its own, beside the properties.
"""

from __future__ import annotations

import logging
import subprocess
import sys

PROPERTIES = (
    "test_any_listing",
    "test_any_error",
    "test_any_headers_of_an_object",
    "test_any_date_of_a_server",
    "test_no_dates",
    "test_any_bytes_from_a_connection",
)


def fuzz(name: str, seconds: str) -> None:
    """Run one property; ends the process."""
    import atheris

    from tests.harness.examples import load_profile

    load_profile()
    logging.disable()
    with atheris.instrument_imports(include=["bucketfs.store", "bucketfs.tree.core.posix"]):
        from tests.store import test_any_answer
    once = getattr(test_any_answer, name).hypothesis.fuzz_one_input
    atheris.Setup([name, f"-max_total_time={seconds}", "-verbosity=0"], once)
    atheris.Fuzz()


def main(seconds: str = "600") -> int:
    """Run all, one after the other, each for so long. Answers 1 when one of them failed."""
    failed = [
        name
        for name in PROPERTIES
        if subprocess.run(
            [sys.executable, "-m", "tests.fuzz", seconds, name], check=False
        ).returncode
    ]
    print("failed:", *failed) if failed else print("nothing found")
    return bool(failed)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        fuzz(sys.argv[2], sys.argv[1])
    sys.exit(main(*sys.argv[1:2]))
