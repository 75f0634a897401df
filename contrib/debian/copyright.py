"""The copyright file of the package: ours, and what each library in its environment says of itself.

Run by the environment's own interpreter; the argument is the file that the rest is added to.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path


def licence(found: metadata.Distribution) -> str:
    """What a distribution calls its licence, in one line."""
    told = found.metadata
    classifiers = told.get_all("Classifier") or []
    named = [line.rpartition("::")[2].strip() for line in classifiers if line.startswith("License")]
    stated = (
        told.get("License-Expression") or (named or [told.get("License") or "see its files"])[0]
    )
    return stated.splitlines()[0]


def author(found: metadata.Distribution) -> str:
    """Who wrote a distribution, in one line."""
    told = found.metadata
    return told.get("Author") or told.get("Author-email") or f"the authors of {found.name}"


def main() -> None:
    """Print the file."""
    print(Path(sys.argv[1]).read_text(), end="")
    for found in sorted(metadata.distributions(), key=lambda one: one.name.lower()):
        if found.name == "bucketfs":
            continue
        print(
            f"\nFiles: usr/lib/bucketfs/lib/python3*/site-packages/{found.name.replace('-', '_')}*"
        )
        print(f"Copyright: {author(found).splitlines()[0]}")
        print(f"License: {licence(found).replace(' ', '-')}-of-{found.name}")
        print(
            f" {found.name} {found.version}, {licence(found)}; its text lies in the directory above"
        )
        print(" whose name ends in dist-info.")


if __name__ == "__main__":
    main()
